//! The processors that run on this host: begun, given other code, ended, each apart from the others.
//!
//! It decides nothing: the [reconciler](super::reconciler) says what is to run, or whoever has code of its own. A processor ends by draining; only one that begins
//! again under the same id waits for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    dry_runs::{DryRunContext, DryRuns, RunningVersion},
    manifest::Manifest,
};
use crate::{
    db::{Error, Session, describe},
    model::{
        handler::{Descriptor, Handler},
        ids::{LaneKey, ProcessorId, TenantId},
        text,
    },
    processor::{
        Processor, ProcessorState, Shared,
        code::{CodeVersion, SwappableCode, VersionStats},
        lane::Runner,
        lane_checkpoints, pressure,
        registration::{self, Registration, RegistrationError},
    },
    rollout::dry_run::DryRunSession,
    scheduler::Scheduler,
    supervisor::{Group, Stop},
    tenants::replacements::Replacements,
};

/// A handler that is to follow the log.
pub struct RunnableVersion {
    /// What it is.
    pub descriptor: Descriptor,
    /// Where it comes from, for people: a plugin's file without its ending, or `native`.
    pub plugin: String,
    /// The version of its code.
    pub digest: String,
    /// Its code.
    pub handler: Arc<dyn Handler>,
    /// What an operator says about it; nothing for code of this process's own.
    pub manifest: Manifest,
    /// What else is known of its file.
    pub provenance: Provenance,
}

/// What is known of a plugin's file besides what it says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The contract that it keeps; empty where that is not known.
    pub contract: String,
    /// The public key that it is signed with; empty where none was asked for.
    pub signed_by: String,
    /// That signature, in hexadecimal.
    pub signature: String,
}

impl RunnableVersion {
    /// Code of this process's own.
    pub fn native(descriptor: Descriptor, handler: Arc<dyn Handler>) -> Self {
        let native = || "native".to_string();
        let (manifest, provenance) = (Manifest::default(), Provenance::default());
        RunnableVersion { descriptor, plugin: native(), digest: native(), handler, manifest, provenance }
    }

    fn registration(&self) -> Registration<'_> {
        let RunnableVersion { descriptor, plugin, digest, manifest, .. } = self;
        Registration { descriptor, plugin, digest, adopts: manifest.adopts() }
    }

    fn version(&self) -> CodeVersion {
        CodeVersion::new(&*self.digest, self.handler.clone(), self.descriptor.max_batch_size)
    }
}

/// A processor that runs.
pub struct Member {
    /// The plugin's name.
    pub plugin: String,
    /// What its code says it is, with what its manifest says about it.
    pub descriptor: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
    /// What else is known of its file.
    pub provenance: Provenance,
    /// How it stands.
    pub state: watch::Receiver<ProcessorState>,
    code: Arc<SwappableCode>,
    /// The version that can take its place back.
    before: Option<Before>,
    /// Versions that were replaced, which may still be under way in some lanes, or whose failures are not committed yet; and since when they are idle.
    retired: Vec<(Arc<CodeVersion>, Option<Instant>)>,
}

/// For how long a version that was replaced is watched after its last call: until then what it led to is committed.
const RETIRES: Duration = Duration::from_secs(10);

/// The version that another one has replaced.
#[derive(Clone)]
struct Before {
    version: Arc<CodeVersion>,
    descriptor: Descriptor,
    manifest: Manifest,
    provenance: Provenance,
    since: Instant,
    /// Whether the version that replaced it has passed its trial.
    trusted: bool,
}

/// The processors that run.
pub struct Registry {
    shared: Shared,
    scheduler: Scheduler,
    pressures: BTreeMap<String, pressure::PressureSettings>,
    members: BTreeMap<ProcessorId, Member>,
    tasks: Group,
    dry_run_session: Arc<Mutex<Option<DryRunSession>>>,
}

/// What another version of a processor's code found when it took over.
#[derive(Clone, Debug)]
pub struct SwapReport {
    /// The version that it replaced.
    pub replaced: Arc<str>,
    /// What that had done.
    pub done: VersionStats,
}

impl Registry {
    /// Nobody yet. `pressures` are how single processors treat lanes that cannot keep up.
    pub fn new(shared: Shared, scheduler: Scheduler, pressures: BTreeMap<String, pressure::PressureSettings>) -> Self {
        Registry {
            shared,
            scheduler,
            pressures,
            members: BTreeMap::new(),
            tasks: Group::default(),
            dry_run_session: Arc::default(),
        }
    }

    /// Those who run, by their ids.
    pub fn members(&self) -> &BTreeMap<ProcessorId, Member> {
        &self.members
    }

    /// Settings for processors that do not run here.
    pub fn idle_settings(&self) -> impl Iterator<Item = &str> {
        self.pressures.keys().map(String::as_str).filter(|name| !self.members.keys().any(|id| id.as_str() == *name))
    }

    /// Sets the tenants' own processors. While one is in the set, its tenant's lanes wait in the
    /// shared processor of its family.
    pub fn replace(&self, own: BTreeSet<ProcessorId>) {
        let replacements = self.shared.tenants.replacements();
        let before = replacements.borrow().clone();
        if !self.shared.tenants.replace(own) {
            return;
        }
        let now = replacements.borrow();
        for processor in self.members.keys() {
            let is_news =
                |(tenant, _): &(&TenantId, _), in_: &Replacements| in_.of(processor).all(|(other, _)| other != *tenant);
            for (tenant, own) in now.of(processor).filter(|of| is_news(of, &before)) {
                tracing::info!(%processor, %tenant, "{own} handles the tenant's events instead");
            }
            for (tenant, own) in before.of(processor).filter(|of| is_news(of, &now)) {
                tracing::info!(%processor, %tenant, "handles the tenant's events again, as {own} has ended");
            }
        }
    }

    /// Resumes the lanes that the shared processor has blocked for the tenant. They wait for the
    /// tenant's own processor, which replaces it now, and no longer for a person.
    pub async fn resume_replaced(&self, session: &Session, own: &ProcessorId) {
        let Some(tenant) = own.owner() else { return };
        let family = ProcessorId::from(own.family().clone());
        if self.members.contains_key(&family) {
            said(&family, lane_checkpoints::resume_replaced(session, &family, tenant).await);
        }
    }

    /// Whether a processor of this id keeps in step with others.
    pub fn is_lockstep(&self, id: &str) -> bool {
        self.pressures.get(id).is_some_and(|settings| settings.back_pressure == pressure::Strategy::Lockstep)
    }

    /// What is needed to try others in the places of those that run, each on so many events. `there` are the files that there are.
    pub fn dry_runs(&self, files: BTreeSet<String>, events: usize) -> DryRuns {
        let runs = |(id, member): (&ProcessorId, &Member)| {
            let (version, descriptor, manifest) =
                (member.code.current(), member.descriptor.clone(), member.manifest.clone());
            (id.clone(), RunningVersion { plugin: member.plugin.clone(), version, descriptor, manifest })
        };
        let known = DryRunContext {
            shared: self.shared.clone(),
            scheduler: self.scheduler.clone(),
            session: self.dry_run_session.clone(),
            running: self.members.iter().map(runs).collect(),
            files,
            events,
        };
        DryRuns::new(known)
    }

    /// Registers processors, and then begins them: whoever waits for others must know all of them. Gives back those that cannot run.
    pub async fn start(
        &mut self,
        session: &Session,
        followers: Vec<RunnableVersion>,
    ) -> Vec<(RunnableVersion, RegistrationError)> {
        for follower in &followers {
            // Whoever begins takes the place of whoever runs under its id, if somebody still does.
            self.stop(&follower.descriptor.id);
            self.tasks.ended(follower.descriptor.id.as_str()).await;
        }
        let registrations: Vec<Registration<'_>> = followers.iter().map(RunnableVersion::registration).collect();
        let registered = registration::register_all(session, &self.shared.tenants, &registrations).await;
        let mut refused = Vec::new();
        let mut processors = Vec::new();
        for (follower, registered) in followers.into_iter().zip(registered) {
            if let Err(error) = registered {
                refused.push((follower, error));
                continue;
            }
            announce(&follower);
            let id = follower.descriptor.id.clone();
            let code = Arc::new(SwappableCode::new(follower.version()));
            let runner = Runner {
                deferred: Some(self.shared.pages.deferred()),
                ..Runner::new(&follower.descriptor, code.clone(), self.scheduler.clone())
            };
            let pressure = self.pressures.get(id.as_str()).cloned().unwrap_or_default();
            let RunnableVersion { descriptor, plugin, manifest, provenance, .. } = follower;
            let (processor, state) = Processor::new(descriptor.clone(), runner, self.shared.clone(), pressure);
            processors.push((id.clone(), processor));
            let member =
                Member { plugin, descriptor, manifest, provenance, state, code, before: None, retired: Vec::new() };
            self.members.insert(id, member);
            self.shared.metrics.plugin_changed("started");
        }
        for (id, processor) in processors {
            self.tasks.spawn(id.as_str(), |stop| processor.run(stop));
        }
        refused
    }

    /// Lets a processor go on with other code, each lane at the end of its batch, and lanes that are blocked try again with it.
    pub async fn swap(
        &mut self,
        session: &Session,
        follower: RunnableVersion,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        if !self.members.contains_key(&follower.descriptor.id) {
            return Ok(None);
        }
        registration::register(session, &self.shared.tenants, follower.registration()).await?;
        announce(&follower);
        let version = Arc::new(follower.version());
        let RunnableVersion { descriptor, manifest, provenance, .. } = follower;
        Ok(self.exchange(session, version, descriptor, manifest, provenance).await)
    }

    /// Brings the version back that ran before the one that runs now, if it is known.
    pub async fn roll_back(
        &mut self,
        session: &Session,
        id: &ProcessorId,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        let Some(member) = self.members.get(id) else { return Ok(None) };
        let Some(Before { version, descriptor, manifest, provenance, .. }) = member.before.clone() else {
            return Ok(None);
        };
        // It has built documents here before.
        let (plugin, digest) = (&*member.plugin, &*version.digest);
        registration::register(
            session,
            &self.shared.tenants,
            Registration { descriptor: &descriptor, plugin, digest, adopts: true },
        )
        .await?;
        let swapped = self.exchange(session, version, descriptor, manifest, provenance).await;
        if let Some(member) = self.members.get_mut(id) {
            // It would only fail again.
            member.before = None;
        }
        Ok(swapped)
    }

    /// Brings a version back that ran before the one that runs now, from where it was kept. Nothing
    /// where the processor does not run.
    pub async fn swap_back(
        &mut self,
        session: &Session,
        former: RunnableVersion,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        let id = former.descriptor.id.clone();
        if !self.members.contains_key(&id) {
            return Ok(None);
        }
        // It has built documents here before.
        let registration = Registration { adopts: true, ..former.registration() };
        registration::register(session, &self.shared.tenants, registration).await?;
        let version = Arc::new(former.version());
        let RunnableVersion { descriptor, manifest, provenance, .. } = former;
        let swapped = self.exchange(session, version, descriptor, manifest, provenance).await;
        if let Some(member) = self.members.get_mut(&id) {
            // The version that was taken back would only fail again.
            member.before = None;
        }
        Ok(swapped)
    }

    async fn exchange(
        &mut self,
        session: &Session,
        version: Arc<CodeVersion>,
        descriptor: Descriptor,
        manifest: Manifest,
        provenance: Provenance,
    ) -> Option<SwapReport> {
        let member = self.members.get_mut(&descriptor.id)?;
        self.shared.metrics.plugin_changed("swapped");
        let replaced = member.code.swap(version);
        let swapped = SwapReport { replaced: replaced.digest.clone(), done: replaced.stats() };
        let descriptor = std::mem::replace(&mut member.descriptor, descriptor);
        let manifest = std::mem::replace(&mut member.manifest, manifest);
        let provenance = std::mem::replace(&mut member.provenance, provenance);
        let current = member.code.current();
        member.before = match member.before.take() {
            // One that never passed its trial is nothing to go back to.
            Some(before) if !before.trusted && before.version.digest != current.digest => {
                Some(Before { since: Instant::now(), ..before })
            }
            // The same code with another manifest is no version that could be taken back: then the manifest is changed back.
            _ if replaced.digest == current.digest => None,
            _ => {
                let version = replaced.clone();
                Some(Before { version, descriptor, manifest, provenance, since: Instant::now(), trusted: false })
            }
        };
        member.retired.retain(|(version, _)| !Arc::ptr_eq(version, &current));
        member.retired.push((replaced, None));
        try_again(session, &member.descriptor.id, Some(&current)).await;
        Some(swapped)
    }

    /// Lanes that are blocked try again, though nothing but somebody's wish has changed.
    pub async fn try_again(&mut self, session: &Session, id: &ProcessorId) {
        if self.members.contains_key(id) {
            try_again(session, id, None).await;
        }
    }

    /// Lanes that a version blocked although another one has its place, being under way in them or not committed yet: they try again as well. To be asked now and
    /// then.
    pub async fn tidy(&mut self, session: &Session) {
        for (id, member) in &mut self.members {
            let current = member.code.current();
            for (version, idle_since) in &mut member.retired {
                let lanes = version.blocked_unlike(&current);
                if !lanes.is_empty() {
                    let resumed = try_these_again(session, id, &lanes, &current);
                    said(id, within_a_transaction(session, resumed).await);
                }
                if version.stats().calls > 0 {
                    *idle_since = None;
                } else {
                    idle_since.get_or_insert_with(Instant::now);
                }
            }
            member.retired.retain(|(_, idle_since)| idle_since.is_none_or(|since| since.elapsed() < RETIRES));
        }
    }

    /// The version that runs has passed its trial.
    pub fn trust(&mut self, id: &ProcessorId) {
        if let Some(before) = self.members.get_mut(id).and_then(|member| member.before.as_mut()) {
            before.trusted = true;
        }
    }

    /// Registers a processor that does not begin yet, to see whether it could.
    pub async fn could_start(&self, session: &Session, follower: &RunnableVersion) -> Result<(), RegistrationError> {
        registration::register(session, &self.shared.tenants, follower.registration()).await
    }

    /// A processor goes by another file's name from now on.
    pub async fn rename(&mut self, session: &Session, id: &ProcessorId, plugin: &str) -> Result<(), RegistrationError> {
        let Some(member) = self.members.get_mut(id) else { return Ok(()) };
        let (digest, adopts) = (member.code.current().digest.clone(), member.manifest.adopts());
        let descriptor = &member.descriptor;
        registration::register(
            session,
            &self.shared.tenants,
            Registration { descriptor, plugin, digest: &digest, adopts },
        )
        .await?;
        member.plugin = plugin.into();
        Ok(())
    }

    /// Ends a processor, and does not wait for it.
    pub fn stop(&mut self, id: &ProcessorId) {
        if self.members.remove(id).is_some() {
            self.tasks.drain(id.as_str());
        }
    }

    /// Waits until a processor has failed, which none does that could go on. Cancel safe.
    pub async fn failed(&mut self) -> anyhow::Error {
        self.tasks.failed().await
    }

    /// Ends all of them and waits for that.
    pub async fn end(self) -> anyhow::Result<()> {
        self.tasks.end().await
    }

    /// Lets them run until told to stop, or one fails.
    pub async fn run(mut self, mut stop: Stop) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.drain() => self.end().await,
            error = self.tasks.failed() => {
                // The others end in order, and what they say of it is less than this.
                let _ = self.end().await;
                Err(error)
            }
        }
    }
}

impl Member {
    /// SHA-256 of the file that it runs.
    pub fn digest(&self) -> Arc<str> {
        self.code.current().digest.clone()
    }

    /// What the version that it runs has done.
    pub fn done(&self) -> VersionStats {
        self.code.current().stats()
    }

    /// For how long that version has been on trial, if another one ran before it and could again.
    pub fn on_trial_for(&self) -> Option<Duration> {
        self.before.as_ref().filter(|before| !before.trusted).map(|before| before.since.elapsed())
    }

    /// Whether another version could take its place back.
    pub fn can_go_back(&self) -> bool {
        self.before.is_some()
    }
}

/// Lanes that were blocked go on, as a person would let them. Where it is for another version, it is excused from what they do: before they can begin, as they begin
/// when this is committed.
async fn try_again(session: &Session, id: &ProcessorId, excused: Option<&CodeVersion>) {
    let resumed = lane_checkpoints::resume_blocked(session, id.as_str(), |lane| {
        if let Some(version) = excused {
            version.excuse([lane]);
        }
    });
    said(id, within_a_transaction(session, resumed).await);
}

/// The same for those of these lanes that are blocked.
async fn try_these_again(
    session: &Session,
    id: &ProcessorId,
    lanes: &[LaneKey],
    excused: &CodeVersion,
) -> Result<u64, Error> {
    let resumed = lane_checkpoints::resume_these(session, id, lanes).await?;
    let lanes = resumed.len() as u64;
    excused.excuse(resumed);
    Ok(lanes)
}

async fn within_a_transaction<T>(session: &Session, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    session.batch_execute("begin").await?;
    match work.await {
        Ok(done) => session.batch_execute("commit").await.map(|()| done),
        Err(error) => {
            // Without a connection there is nothing left to roll back.
            let _ = session.batch_execute("rollback").await;
            Err(error)
        }
    }
}

fn said(id: &ProcessorId, resumed: Result<u64, Error>) {
    match resumed {
        Ok(0) => {}
        Ok(lanes) => tracing::info!(processor = %id, lanes, "blocked lanes try again"),
        Err(error) => {
            tracing::warn!(processor = %id, "could not let blocked lanes try again: {}", describe(&error));
        }
    }
}

fn announce(RunnableVersion { descriptor, plugin, digest, .. }: &RunnableVersion) {
    tracing::info!(
        processor = %descriptor.id,
        version = descriptor.version,
        plugin,
        digest = digest.get(..12),
        event_types = descriptor.event_types.as_ref().map_or_else(|| "all".into(), |types| text::some_of(types, " ")),
        "running"
    );
}
