//! The registry of the running processors of this host.
//!
//! The registry starts processors, replaces their code and ends them. The
//! [reconciler](super::reconciler) decides what runs. A processor ends by draining. A start under
//! the same id waits for that. This also delays the other processors of that start, and the later
//! steps of its plan. Apart from the end of the host, nothing else waits.

mod blocked;
mod member;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

pub use member::Member;
use member::MemberVersion;

use super::dry_runs::{DryRunContext, DryRuns, RunningVersion};
pub use super::version::{Provenance, RunnableVersion};
use crate::{
    db::Session,
    model::{
        ids::{ProcessorId, TenantId},
        text,
    },
    processor::{
        Processor, Shared,
        budgets::Budgets,
        code::{SwappableCode, VersionStats},
        lane::Runner,
        lane_checkpoints, pressure,
        registration::{self, Registration, RegistrationError},
        settings::ProcessorSettings,
    },
    rollout::{dry_run::DryRunSession, state::RolloutEvent},
    scheduler::Scheduler,
    supervisor::{Group, Stop},
    tenants::replacements::Replacements,
};

/// The running processors.
pub struct Registry {
    shared: Shared,
    scheduler: Scheduler,
    settings: BTreeMap<String, ProcessorSettings>,
    members: BTreeMap<ProcessorId, Member>,
    tasks: Group,
    dry_run_session: Arc<Mutex<Option<DryRunSession>>>,
}

/// The version that a swap replaced.
#[derive(Clone, Debug)]
pub struct SwapReport {
    /// SHA-256 of the replaced version.
    pub replaced: Arc<str>,
    /// The activity of the replaced version.
    pub stats: VersionStats,
}

impl Registry {
    /// An empty registry. `settings` are those of individual processors.
    pub fn new(shared: Shared, scheduler: Scheduler, settings: BTreeMap<String, ProcessorSettings>) -> Self {
        Registry {
            shared,
            scheduler,
            settings,
            members: BTreeMap::new(),
            tasks: Group::default(),
            dry_run_session: Arc::default(),
        }
    }

    /// The running processors, by id.
    pub fn members(&self) -> &BTreeMap<ProcessorId, Member> {
        &self.members
    }

    /// Ids that have settings but no running processor.
    pub fn idle_settings(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str).filter(|name| !self.members.keys().any(|id| id.as_str() == *name))
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
            let is_new =
                |(tenant, _): &(&TenantId, _), to: &Replacements| to.of(processor).all(|(other, _)| other != *tenant);
            for (tenant, own) in now.of(processor).filter(|of| is_new(of, &before)) {
                tracing::info!(%processor, %tenant, "{own} handles the tenant's events instead");
            }
            for (tenant, own) in before.of(processor).filter(|of| is_new(of, &now)) {
                tracing::info!(%processor, %tenant, "handles the tenant's events again, as {own} has ended");
            }
        }
    }

    /// Resumes the tenant's blocked lanes in the shared processor. They need no attention any more:
    /// they wait for the tenant's own processor, which now replaces the shared one.
    pub async fn resume_replaced(&self, session: &Session, own: &ProcessorId) {
        let Some(tenant) = own.owner() else { return };
        let family = ProcessorId::from(own.family().clone());
        if self.members.contains_key(&family) {
            blocked::log_outcome(&family, lane_checkpoints::resume_replaced(session, &family, tenant).await);
        }
    }

    /// Whether the settings keep the processor of this id in lockstep with others.
    pub fn is_lockstep(&self, id: &str) -> bool {
        self.settings.get(id).is_some_and(|settings| settings.back_pressure == pressure::Strategy::Lockstep)
    }

    /// Dry runs of candidates against the running versions, on `events` events each. `files` are
    /// the plugins that have a file.
    pub fn dry_runs(&self, files: BTreeSet<String>, events: usize) -> DryRuns {
        let running = |(id, member): (&ProcessorId, &Member)| {
            let (version, spec, manifest) = (member.code.current(), member.spec.clone(), member.manifest.clone());
            (id.clone(), RunningVersion { plugin: member.plugin.clone(), version, spec, manifest })
        };
        let context = DryRunContext {
            shared: self.shared.clone(),
            scheduler: self.scheduler.clone(),
            session: self.dry_run_session.clone(),
            running: self.members.iter().map(running).collect(),
            files,
            events,
        };
        DryRuns::new(context)
    }

    /// Registers all processors and then starts them, because those in lockstep must know all
    /// others when they start. Returns those that cannot run.
    pub async fn start(
        &mut self,
        session: &Session,
        versions: Vec<RunnableVersion>,
    ) -> Vec<(RunnableVersion, RegistrationError)> {
        for version in &versions {
            // A processor that still runs under the id ends first.
            self.stop(&version.spec.id);
            self.tasks.ended(version.spec.id.as_str()).await;
        }
        let registrations: Vec<Registration<'_>> = versions.iter().map(RunnableVersion::registration).collect();
        let registered = registration::register_all(session, &self.shared.tenants, &registrations).await;
        let mut rejected = Vec::new();
        let mut processors = Vec::new();
        for (version, registered) in versions.into_iter().zip(registered) {
            if let Err(error) = registered {
                rejected.push((version, error));
                continue;
            }
            announce(&version);
            let id = version.spec.id.clone();
            let settings = self.settings.get(id.as_str()).cloned().unwrap_or_default();
            let code = Arc::new(SwappableCode::new(version.version(&settings)));
            let runner = Runner {
                deferred: Some(self.shared.pages.deferred()),
                budgets: Arc::new(Budgets::of(self.shared.tenants.clone())),
                ..Runner::new(&version.spec, code.clone(), self.scheduler.clone())
            };
            let RunnableVersion { spec, plugin, manifest, provenance, .. } = version;
            let (processor, state) = Processor::new(spec.clone(), runner, self.shared.clone(), settings.pressure());
            processors.push((id.clone(), processor));
            let member = Member::new(plugin, spec, (manifest, provenance), state, code);
            self.members.insert(id, member);
            self.shared.metrics.plugin_changed("started");
        }
        for (id, processor) in processors {
            self.tasks.spawn(id.as_str(), |stop| processor.run(stop));
        }
        rejected
    }

    /// Replaces the code of a running processor, each lane at the end of its batch, and retries its
    /// blocked lanes. None if the processor does not run.
    pub async fn swap(
        &mut self,
        session: &Session,
        next: RunnableVersion,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        if !self.members.contains_key(&next.spec.id) {
            return Ok(None);
        }
        registration::register(session, &self.shared.tenants, next.registration()).await?;
        announce(&next);
        let next = self.member_version(next);
        Ok(self.exchange(session, next, false).await)
    }

    /// Restores the previous version of a processor from memory. None if there is none.
    pub async fn roll_back(
        &mut self,
        session: &Session,
        id: &ProcessorId,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        let Some(member) = self.members.get(id) else { return Ok(None) };
        let Some(previous) = member.rollout.previous().cloned() else { return Ok(None) };
        let plugin = member.plugin.clone();
        self.restore(session, &plugin, previous).await
    }

    /// Restores a former version of a processor that was loaded again. None if the processor does
    /// not run.
    pub async fn swap_back(
        &mut self,
        session: &Session,
        former: RunnableVersion,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        if !self.members.contains_key(&former.spec.id) {
            return Ok(None);
        }
        let plugin = former.plugin.clone();
        let former = self.member_version(former);
        self.restore(session, &plugin, former).await
    }

    /// A version under the settings of its processor.
    fn member_version(&self, version: RunnableVersion) -> MemberVersion {
        let settings = self.settings.get(version.spec.id.as_str()).cloned().unwrap_or_default();
        MemberVersion::new(version, &settings)
    }

    async fn restore(
        &mut self,
        session: &Session,
        plugin: &str,
        former: MemberVersion,
    ) -> Result<Option<SwapReport>, RegistrationError> {
        let MemberVersion { version, spec, .. } = &former;
        // A version that built documents here before may always continue them.
        let registration = Registration { spec, plugin, digest: &version.digest, adopts: true };
        registration::register(session, &self.shared.tenants, registration).await?;
        Ok(self.exchange(session, former, true).await)
    }

    async fn exchange(&mut self, session: &Session, next: MemberVersion, rolls_back: bool) -> Option<SwapReport> {
        let member = self.members.get_mut(&next.spec.id)?;
        self.shared.metrics.plugin_changed("swapped");
        let report = member.exchange(next, rolls_back);
        blocked::retry_all(session, &member.spec.id, Some(&member.code.current())).await;
        Some(report)
    }

    /// Retries the blocked lanes of a processor on request.
    pub async fn retry_blocked(&self, session: &Session, id: &ProcessorId) {
        if self.members.contains_key(id) {
            blocked::retry_all(session, id, None).await;
        }
    }

    /// Retries lanes that a retired version blocked after its replacement, from a call or a commit
    /// that was still under way. Call this regularly.
    pub async fn retry_blocked_by_retired(&mut self, session: &Session) {
        for (id, member) in &mut self.members {
            let current = member.code.current();
            for retired in member.retired() {
                let lanes = retired.blocked_unlike(&current);
                if !lanes.is_empty() {
                    blocked::retry(session, id, &lanes, &current).await;
                }
            }
            member.drop_idle();
        }
    }

    /// Ends the trial of the current version, which has passed.
    pub fn trust(&mut self, id: &ProcessorId) {
        if let Some(member) = self.members.get_mut(id) {
            member.advance(RolloutEvent::Passed);
        }
    }

    /// Registers a version without starting it. Fails if it could not start.
    pub async fn could_start(&self, session: &Session, version: &RunnableVersion) -> Result<(), RegistrationError> {
        registration::register(session, &self.shared.tenants, version.registration()).await
    }

    /// Records that a processor runs from a file of another name.
    pub async fn rename(&mut self, session: &Session, id: &ProcessorId, plugin: &str) -> Result<(), RegistrationError> {
        let Some(member) = self.members.get_mut(id) else { return Ok(()) };
        let (digest, adopts) = (member.code.current().digest.clone(), member.manifest.adopts());
        let spec = &member.spec;
        registration::register(session, &self.shared.tenants, Registration { spec, plugin, digest: &digest, adopts })
            .await?;
        member.plugin = plugin.into();
        Ok(())
    }

    /// Ends a processor without waiting for it.
    pub fn stop(&mut self, id: &ProcessorId) {
        if self.members.remove(id).is_some() {
            self.tasks.drain(id.as_str());
        }
    }

    /// Waits until a processor fails. It fails only if it cannot continue. Cancel safe.
    pub async fn failed(&mut self) -> anyhow::Error {
        self.tasks.failed().await
    }

    /// Ends all processors and waits for them.
    pub async fn end(self) -> anyhow::Result<()> {
        self.tasks.end().await
    }

    /// Runs the processors until the host stops or one fails.
    pub async fn run(mut self, mut stop: Stop) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.drain() => self.end().await,
            error = self.tasks.failed() => {
                // The others still end in order; their errors matter less than this one.
                let _ = self.end().await;
                Err(error)
            }
        }
    }
}

fn announce(RunnableVersion { spec, plugin, digest, .. }: &RunnableVersion) {
    tracing::info!(
        processor = %spec.id,
        version = spec.descriptor.version,
        plugin,
        digest = digest.get(..12),
        event_types = spec.descriptor.event_types.as_ref().map_or_else(|| "all".into(), |types| text::some_of(types, " ")),
        "running"
    );
}
