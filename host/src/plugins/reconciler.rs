//! What runs is what the folder says: the loop that carries plans out.
//!
//! It looks at the folder, checks each file that came or changed (apart, since that may compile for seconds), makes a [`ReconcilePlan`] of what was found, and tells the
//! [`Registry`]. It watches new versions while they are on [trial](crate::rollout::probation), and takes those back that fail it, or that a person takes back. Whatever becomes
//! of a file is written down ([`history`]) and said beside it, in `NAME.wasm.error`.
//!
//! A start (`start`) runs what the folder says then, from where each processor's cursor stands. A database that is away keeps nobody
//! from running, and what it kept from being done is tried again; of what could not be written down, what runs is written later, and the rest is in the log alone.

mod back;
mod jobs;
mod places;
mod shortage;
mod start;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

pub use self::start::StartReport;
use self::{
    back::NoWayBack,
    jobs::{Finished, Jobs, Tools},
    places::Unread,
    shortage::Shortages,
    start::Start,
};
use super::{
    archive::Archive,
    check::{CheckedFile, Unfinished},
    config::Config,
    dry_runs::DryRuns,
    error_files::ErrorFiles,
    folder::{self, Listing, PluginFile, Settling},
    hints::Hints,
    history::{self, HistoryNote, PluginEvent, RunNote, VersionHold},
    notes::{OfRunning, Swaps},
    plan::{Desired, Rank, ReconcilePlan, Step, VersionSpec},
    registry::{Member, Registry, RunnableVersion, SwapReport},
    reports::ProblemReports,
};
use crate::{
    db::{Db, Session, describe},
    model::{ids::ProcessorId, text},
    processor::registration::RegistrationError,
    sandbox::{
        Sandbox,
        compile::{self, Effort},
    },
    supervisor::Stop,
};

/// Between two looks at the folder where the file system tells of changes, in case it did not.
const LOOK: Duration = Duration::from_secs(1);
/// Where it does not, unless the settings say otherwise. Looking costs a few microseconds a file.
const LOOK_OFTEN: Duration = Duration::from_millis(100);
/// Between two looks at how new versions do, and at what people took back.
const WATCH: Duration = Duration::from_millis(250);
/// Before something is tried again that the database kept from being done.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two times that calls under way are told.
const TELL: Duration = Duration::from_secs(2);

/// How long what was found out waits for further small files at most, so that many of them begin
/// together.
const TOGETHER: Duration = Duration::from_millis(100);
/// How long a step that is under way may take once the host is to end. Default 300 ms: a step is a
/// few statements, and what is cut off is found again at the next start.
const LAST_STEP: Duration = Duration::from_millis(300);
/// Why a file is refused, bytes. Default 16 KiB: what a plugin says of itself may be long, and
/// nobody reads more of it.
const REASON_BYTES: usize = 16 << 10;

/// The plugins of a host.
pub struct Reconciler {
    folder: PathBuf,
    tools: Tools,
    db: Db,
    session: Option<Session>,
    registry: Registry,
    config: Config,
    hints: Hints,
    settling: Settling,
    /// Whether later changes of the folder are followed, and not only what is there at the start.
    follows: bool,
    /// The start, until it is over; and who waits for that.
    start: Option<Start>,
    begun: Option<oneshot::Sender<StartReport>>,
    jobs: Jobs,
    archive: Archive,
    /// What each file that is there is good for.
    checked: BTreeMap<String, CheckedFile>,
    /// Of those that do not run, what ran last under their names and has not begun yet.
    former: BTreeMap<String, CheckedFile>,
    /// Files that have changed and are not checked yet.
    waiting: BTreeSet<String>,
    /// Small files that take long to compile all the same.
    slow: BTreeSet<String>,
    /// Files that the machine was too short of something to compile.
    short: Shortages,
    /// Files that are checked once more when what runs in their place has begun.
    recheck: BTreeSet<String>,
    /// Files that were put there once more as they were.
    once_more: BTreeSet<String>,
    /// Since when something was found out that nothing follows from yet.
    uncarried: Option<Instant>,
    /// What dry runs are held against, until something else runs.
    dry_runs: Option<DryRuns>,
    /// Where no former version can run either.
    no_way_back: NoWayBack,
    /// Tenants' folders that cannot be read, and what ran from them.
    unread: Unread,
    /// What is wrong with the folder's other entries.
    reports: ProblemReports,
    errors: ErrorFiles,
    /// Files of which it was said that they are not run, and why.
    refused: BTreeMap<String, String>,
    /// Files that were there, of which nothing is to be said any more.
    gone: BTreeSet<String>,
    held: BTreeSet<VersionHold>,
    /// Of those, the ones that the database does not know yet.
    unwritten: BTreeSet<VersionHold>,
    /// What came to run and could not be written down: how, why, and instead of what.
    untold: BTreeMap<String, (PluginEvent, String, Option<SwapReport>)>,
    /// Swaps of which more is to be written down.
    swaps: Swaps,
    /// What was done could not be written down, or something could not be done: it is to be looked at again.
    again: bool,
    looked: Instant,
    tried: Instant,
    watched: Instant,
    told: Instant,
}

impl Reconciler {
    /// The plugins of a folder, none of which runs yet.
    pub fn new(folder: &Path, sandbox: Sandbox, db: Db, registry: Registry, config: &Config) -> Self {
        Reconciler {
            folder: folder.into(),
            archive: Archive::new(db.clone(), config.retained_versions, sandbox.limits().component_bytes()),
            // Settings that do not parse end before this.
            tools: Tools { sandbox, keys: config.keys().unwrap_or_default().into(), db: db.clone(), stop: None },
            db,
            session: None,
            registry,
            config: config.clone(),
            hints: Hints::new(config.poll_ms == 0),
            settling: Settling::default(),
            follows: true,
            start: None,
            begun: None,
            jobs: Jobs::default(),
            checked: BTreeMap::new(),
            former: BTreeMap::new(),
            waiting: BTreeSet::new(),
            slow: BTreeSet::new(),
            short: Shortages::default(),
            recheck: BTreeSet::new(),
            once_more: BTreeSet::new(),
            uncarried: None,
            dry_runs: None,
            no_way_back: NoWayBack::default(),
            unread: Unread::default(),
            reports: ProblemReports::default(),
            errors: ErrorFiles::new(folder),
            refused: BTreeMap::new(),
            gone: BTreeSet::new(),
            held: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            untold: BTreeMap::new(),
            swaps: Swaps::default(),
            again: false,
            looked: Instant::now(),
            tried: Instant::now(),
            watched: Instant::now(),
            told: Instant::now(),
        }
    }

    /// The same for a host that ends when all is handled: later files are nothing to it.
    pub fn of_one_start(self) -> Self {
        Reconciler { follows: false, ..self }
    }

    /// Runs what is in the folder, and follows its changes, until told to stop. Tells `begun` when
    /// all that was there has begun or was refused. Fails when a processor does, as none can that
    /// could go on.
    pub async fn run(mut self, mut stop: Stop, begun: oneshot::Sender<StartReport>) -> anyhow::Result<()> {
        self.begun = Some(begun);
        self.tools.stop = Some(stop.clone());
        let (sandbox, mut at_rest) = (self.tools.sandbox.clone(), stop.clone());
        let failed = loop {
            let mut turn = std::pin::pin!(self.turn(&mut at_rest));
            tokio::select! {
                ended = &mut turn => if let Err(error) = ended { break Some(error) },
                () = stop.drain() => {
                    // Nobody needs what is compiled from now on.
                    sandbox.stop_compiling();
                    let _ = timeout(LAST_STEP, turn).await;
                    break None;
                }
            }
        };
        sandbox.stop_compiling();
        // Processors end in order, and what they say of it is less than why one failed.
        let ended = self.registry.end().await;
        failed.map_or(ended, Err)
    }

    /// Does what is due, and then waits for something to happen. Fails when a processor has failed.
    async fn turn(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        self.check();
        let known = self.read_ran().await;
        if known && self.is_due() {
            self.carry_out().await;
        }
        if known {
            self.replace_shared(&[]);
            self.end_start().await;
            self.recall_due();
            self.jobs.begin_recalls(&self.tools, &self.held);
        }
        let look = self.until_look();
        tokio::select! {
            () = stop.drain() => return Ok(()),
            error = self.registry.failed() => return Err(error),
            // At the end compilers are killed, which says nothing about their files.
            finished = self.jobs.next(), if known => if !stop.is_draining() {
                self.take(finished).await
            },
            () = self.archive.work() => {}
            () = self.hints.next(), if self.follows => self.look().await,
            () = tokio::time::sleep(look) => {
                if self.follows {
                    self.look().await;
                }
            }
        }
        if known && self.is_due() {
            self.carry_out().await;
        }
        if self.watched.elapsed() >= WATCH {
            self.watched = Instant::now();
            self.watch().await;
        }
        Ok(())
    }

    /// Whether something is to be carried out now: no small file is about to be known, or it has
    /// waited for that long enough.
    fn is_due(&self) -> bool {
        let soon = || self.jobs.is_checking_small() || self.waiting.iter().any(|name| !self.is_slow_name(name));
        let now = Instant::now();
        self.uncarried.is_some_and(|since| since <= now && (now - since >= TOGETHER || !soon()))
    }

    /// How long until it is time to look again, at the folder or at what runs.
    fn until_look(&mut self) -> Duration {
        let every = match (self.config.poll_ms, self.hints.are_complete()) {
            (0, true) => LOOK,
            (0, false) => LOOK_OFTEN,
            (poll_ms, _) => Duration::from_millis(poll_ms),
        };
        let settled = self.settling.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        let look = (self.looked + every).saturating_duration_since(Instant::now());
        let due = self.uncarried.map(|since| (since + TOGETHER).saturating_duration_since(Instant::now()));
        look.min(settled.unwrap_or(look)).min(due.unwrap_or(look)).min(WATCH)
    }

    /// Looks at the folder for what has changed.
    async fn look(&mut self) {
        self.looked = Instant::now();
        let Listing { files, unread, problems, folders, .. } = match folder::scan(&self.folder) {
            Ok(listing) => listing,
            // A folder that is gone is an empty one: it may come back, or another one in its place.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Listing::default(),
            // What cannot be read says nothing about what is in it.
            Err(error) => return self.reports.scan_failed(&self.folder, &error),
        };
        self.hints.follow(folders);
        self.reports.update(&self.folder, problems);
        self.unread.folders.clone_from(&unread);
        let changed = self.settling.update(files, &unread, Instant::now());
        let gone: Vec<&String> = changed.iter().filter(|name| !self.settling.known().contains_key(*name)).collect();
        let any_gone = !gone.is_empty();
        for name in &changed {
            self.former.remove(name);
            self.slow.remove(name);
            self.recheck.remove(name);
            self.no_way_back.forget(name);
            self.jobs.forget_recalls(name);
            if let Some(start) = self.start.as_mut() {
                start.allow_recall(name);
            }
            if self.short.remove(name) {
                self.errors.remove(name);
            }
        }
        if !changed.is_empty() {
            self.dry_runs = None;
        }
        let came: Vec<&PluginFile> = changed.iter().filter_map(|name| self.new_file(name)).collect();
        if !came.is_empty() {
            let came = came.into_iter().map(|file| (file.name.clone(), (file.tenant.clone(), self.is_slow(file))));
            let came = came.collect();
            self.start.get_or_insert_default().add(came, unread);
        }
        for name in gone {
            self.checked.remove(name);
            self.waiting.remove(name);
            self.gone.insert(name.clone());
            self.close(name);
        }
        self.waiting.extend(changed.into_iter().filter(|name| self.settling.known().contains_key(name)));
        // A file that is gone may have come back under another name, which is not checked yet.
        if any_gone {
            self.uncarried.get_or_insert_with(Instant::now);
        }
    }

    /// A file that was not there before.
    fn new_file(&self, name: &str) -> Option<&PluginFile> {
        let is_known = self.checked.contains_key(name) || self.waiting.contains(name) || self.jobs.is_checking(name);
        self.settling.known().get(name).filter(|_| !is_known && self.running_id(name).is_none())
    }

    /// Whether compiling a file takes long enough for others not to wait for it.
    fn is_slow(&self, file: &PluginFile) -> bool {
        file.bytes() >= compile::LARGE as u64 || self.slow.contains(&file.name) || self.short.contains(&file.name)
    }

    fn is_slow_name(&self, plugin: &str) -> bool {
        self.settling.known().get(plugin).is_some_and(|file| self.is_slow(file))
    }

    /// Begins to check what waits for it, as far as there are places.
    fn check(&mut self) {
        for plugin in self.short.due() {
            self.waiting.insert(plugin);
        }
        let known = self.settling.known();
        let free = |name: &&String| !self.jobs.is_checking(name);
        let waiting: Vec<PluginFile> =
            self.waiting.iter().filter(free).filter_map(|name| known.get(name)).cloned().collect();
        for file in waiting {
            let effort = match self.is_slow(&file) {
                _ if self.short.contains(&file.name) => Effort::Alone,
                true => Effort::Full,
                false => Effort::Quick,
            };
            if !self.jobs.has_place(&file.name, effort != Effort::Quick) {
                continue;
            }
            self.waiting.remove(&file.name);
            let (registry, settling, events) = (&self.registry, &self.settling, self.config.dry_run_events);
            let there = || settling.known().keys().cloned().collect();
            let dry_runs = self.dry_runs.get_or_insert_with(|| registry.dry_runs(there(), events)).clone();
            self.jobs.check(&self.tools, file, effort, dry_runs);
        }
    }

    /// Takes what a job came to.
    async fn take(&mut self, finished: Finished) {
        match finished {
            Finished::Check(checked) => self.take_checked(*checked),
            Finished::Recall(recalled) => self.take_recalled(*recalled).await,
        }
    }

    /// Takes what was found of a file; something follows from it soon.
    fn take_checked(&mut self, checked: CheckedFile) {
        let name = checked.file.name.clone();
        // Another one by now is checked next.
        if self.settling.known().get(&name) != Some(&checked.file) {
            return;
        }
        if let Some(start) = self.start.as_mut() {
            start.found(&name, &checked.digest);
        }
        match (checked.unfinished, &checked.outcome) {
            (Some(Unfinished::Slow), _) => {
                self.slow.insert(name.clone());
                if let Some(start) = self.start.as_mut() {
                    start.is_slow(&name);
                }
                self.waiting.insert(name);
                return;
            }
            (Some(Unfinished::Shortage), Err(why)) if self.is_short(&name, why) => {
                if let Some(start) = self.start.as_mut() {
                    start.is_slow(&name);
                }
                // Others do not wait for it, and neither does what ran last.
                let same = self.start.as_ref().and_then(|start| start.ran(&name)).map(|ran| &ran.digest);
                if same == Some(&checked.digest) || !self.recall_for_start(&name) {
                    self.close(&name);
                }
                self.uncarried.get_or_insert_with(Instant::now);
                return;
            }
            _ => {}
        }
        if self.short.remove(&name) {
            self.errors.remove(&name);
        }
        let digest = checked.digest.clone();
        let before = self.checked.insert(name.clone(), checked);
        if before.is_some_and(|before| before.digest == digest && !before.retry) {
            self.once_more.insert(name.clone());
        }
        self.close_or_recall(&name);
        self.uncarried.get_or_insert_with(Instant::now);
    }

    /// Whoever puts the same file there once more wants lanes to try again that it has blocked.
    async fn try_again(&mut self, plugins: BTreeSet<String>) {
        let ids: Vec<ProcessorId> = plugins.iter().filter_map(|plugin| self.running_id(plugin)).collect();
        if ids.is_empty() {
            return;
        }
        let Some(session) = self.session().await else { return };
        for id in ids {
            self.registry.try_again(&session, &id).await;
        }
        self.session = Some(session);
    }

    /// Makes what runs what the folder says.
    async fn carry_out(&mut self) {
        self.again = false;
        let plan = ReconcilePlan::by_rank(&self.running(), &self.desired(), |plugin, id| self.rank(plugin, id));
        if !plan.0.is_empty() {
            tracing::info!("plugins: {plan}");
        }
        let Some(session) = self.session().await else {
            self.again = true;
            // A start is not over before the database was there for it.
            self.uncarried = self.start.as_ref().map(|_| Instant::now() + AGAIN);
            return;
        };
        self.uncarried = None;
        let mut refused = self.refused_alone();
        let mut cannot = BTreeSet::new();
        let mut starts: Vec<String> = Vec::new();
        for step in &plan.0 {
            // Whatever ends for it goes on until it is known that it can begin.
            let begins = match step {
                Step::Start { plugin } if self.running_id(plugin).is_some() => plugin,
                Step::Restart { plugin } => plugin,
                _ => continue,
            };
            let Some(follower) = self.follower(begins) else { continue };
            if let Err(error) = self.registry.could_start(&session, &follower).await {
                self.again |= is_passing(&error);
                refused.insert(begins.clone(), error.to_string());
                cannot.insert(begins.clone());
            }
        }
        for step in plan.0 {
            match step {
                Step::Refuse { plugin, reason } => _ = refused.insert(plugin, reason),
                Step::Rename { from, to } => self.rename(&session, &from, &to).await,
                Step::Start { plugin } | Step::Stop { plugin } | Step::Restart { plugin }
                    if cannot.contains(&plugin) && self.settling.known().contains_key(&plugin) => {}
                Step::Start { plugin } => starts.push(plugin),
                Step::Stop { plugin } => self.stop(&session, &plugin).await,
                Step::Swap { plugin } => {
                    if let Err(why) = self.swap(&session, &plugin).await {
                        refused.insert(plugin, why);
                    }
                }
                Step::Restart { plugin } => {
                    if let Some(id) = self.running_id(&plugin) {
                        self.registry.stop(&id);
                    }
                    refused.extend(self.start(&session, vec![plugin], PluginEvent::Restarted).await);
                }
            }
        }
        refused.extend(self.start(&session, starts, PluginEvent::Started).await);
        // Whatever begins in its place from now on is what the file is.
        let running: Vec<String> = self.registry.members().values().map(|member| member.plugin.clone()).collect();
        for plugin in running {
            // A file that was checked before that was held against nothing.
            let candidate = self.candidate(&plugin).is_some();
            if self.former.remove(&plugin).is_some() && (self.recheck.remove(&plugin) || candidate) && self.follows {
                if candidate {
                    self.checked.remove(&plugin);
                }
                self.waiting.insert(plugin);
            }
        }
        self.dry_runs = None;
        self.tell_refused(&session, &refused).await;
        self.tell_short();
        self.session = Some(session);
        self.recall_refused();
        let once_more = std::mem::take(&mut self.once_more);
        self.try_again(once_more).await;
    }

    fn running(&self) -> BTreeMap<String, VersionSpec> {
        let members = self.registry.members().values();
        let version = |member: &Member| VersionSpec {
            digest: member.digest().to_string(),
            descriptor: member.descriptor.clone(),
            manifest: member.manifest.clone(),
        };
        members.map(|member| (member.plugin.clone(), version(member))).collect()
    }

    fn running_id(&self, plugin: &str) -> Option<ProcessorId> {
        self.registry.members().iter().find(|(_, member)| member.plugin == plugin).map(|(id, _)| id.clone())
    }

    fn desired(&self) -> BTreeMap<String, Desired> {
        let known = self.settling.known().keys();
        let wanted = |name: &String| match self.follower(name).filter(|follower| !self.is_held_back(follower)) {
            Some(RunnableVersion { descriptor, manifest, digest, .. }) => {
                Desired::Run(Box::new(VersionSpec { digest, descriptor, manifest }))
            }
            // Also what is being checked: whatever runs under its name goes on until that is known.
            None => Desired::Keep,
        };
        known.map(|name| (name.clone(), wanted(name))).collect()
    }

    /// Whether a file that could begin waits for others of the same start.
    fn is_held_back(&self, RunnableVersion { plugin, descriptor, digest, .. }: &RunnableVersion) -> bool {
        let (Some(start), Some(file)) = (&self.start, self.settling.known().get(plugin)) else { return false };
        let id = &descriptor.id;
        let in_step = self.registry.is_lockstep(id.as_str())
            && start.holds_in_step(plugin, |other| self.registry.is_lockstep(other));
        self.running_id(plugin).is_none()
            && (in_step
                || start.is_recalling(plugin, digest)
                || start.holds_back(plugin, (file.tenant.as_ref(), self.is_slow(file)), id))
    }

    fn rank(&self, plugin: &str, id: &ProcessorId) -> Rank {
        match (&self.start, self.is_slow_name(plugin)) {
            (Some(start), slow) => start.rank(plugin, slow, id),
            (None, true) => Rank::Slow,
            (None, false) => Rank::Other,
        }
    }

    fn hold(&self, plugin: &str, digest: &str) -> Option<&VersionHold> {
        self.held.iter().find(|hold| hold.plugin == plugin && hold.digest == digest)
    }

    /// Files that cannot run whatever else there is.
    fn refused_alone(&self) -> BTreeMap<String, String> {
        let why = |(name, checked): (&String, &CheckedFile)| {
            let why = match &checked.outcome {
                Err(why) => why.clone(),
                Ok(_) => {
                    let hold = self.hold(name, &checked.digest)?;
                    let way_out = format!("put another version there, or `sandmill plugins retry {name}`");
                    format!("this version was taken back: {}; {way_out}", hold.reason)
                }
            };
            Some((name.clone(), self.no_way_back.beside(name, why)))
        };
        self.checked.iter().filter_map(why).collect()
    }

    /// What a file is, if it can run and was not taken back.
    fn candidate(&self, plugin: &str) -> Option<&CheckedFile> {
        let checked = self.checked.get(plugin).filter(|checked| checked.outcome.is_ok())?;
        self.hold(plugin, &checked.digest).is_none().then_some(checked)
    }

    /// What is to run under a name: its file, unless a start goes on with what ran last.
    fn follower(&self, plugin: &str) -> Option<RunnableVersion> {
        let former = self.former.get(plugin).filter(|_| self.running_id(plugin).is_none());
        former.or_else(|| self.candidate(plugin))?.runnable()
    }

    /// Starts processors; gives back those that cannot, and why.
    async fn start(&mut self, session: &Session, plugins: Vec<String>, event: PluginEvent) -> Vec<(String, String)> {
        if plugins.is_empty() {
            return Vec::new();
        }
        let followers: Vec<RunnableVersion> = plugins.iter().filter_map(|plugin| self.follower(plugin)).collect();
        self.replace_shared(&followers);
        let refused = self.registry.start(session, followers).await;
        for (follower, error) in &refused {
            // What ran last and never can again leaves its place to the file.
            let gives_way = !is_passing(error) && self.former.remove(&follower.plugin).is_some();
            self.again |= is_passing(error) || gives_way;
            if gives_way {
                let why = format!("The version that ran last cannot begin: {error}");
                self.no_way_back.note(&follower.plugin, why);
            }
        }
        let refused: Vec<(String, String)> =
            refused.into_iter().map(|(follower, error)| (follower.plugin, error.to_string())).collect();
        let started = plugins.iter().filter(|plugin| refused.iter().all(|(other, _)| other != *plugin));
        let started: Vec<OfRunning> = started.filter_map(|plugin| self.of_running(plugin)).collect();
        let dry_run = |running: &OfRunning| self.checked.get(&running.plugin)?.dry_run.as_ref();
        let ran: Vec<RunNote<'_>> =
            started.iter().map(|running| running.ran(event, "", None, dry_run(running))).collect();
        let told = history::record_runs(session, &ran).await;
        for running in &started {
            self.errors.remove(&running.plugin);
            self.registry.resume_replaced(session, &running.id).await;
            match told {
                Ok(_) => {
                    self.untold.remove(&running.plugin);
                    self.retain(running);
                }
                Err(_) => _ = self.untold.insert(running.plugin.clone(), (event, String::new(), None)),
            }
        }
        self.written(told.map(drop));
        refused
    }

    async fn swap(&mut self, session: &Session, plugin: &str) -> Result<(), String> {
        let Some(follower) = self.follower(plugin) else { return Ok(()) };
        match self.registry.swap(session, follower).await {
            Ok(Some(swapped)) => {
                self.tell_running(session, plugin, PluginEvent::Swapped, "", Some(&swapped)).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.again |= is_passing(&error);
                Err(error.to_string())
            }
        }
    }

    async fn stop(&mut self, session: &Session, plugin: &str) {
        let Some(id) = self.running_id(plugin) else { return };
        let digest = self.registry.members().get(&id).map(|member| member.digest()).unwrap_or_default();
        self.registry.stop(&id);
        tracing::info!(processor = %id, plugin, "ended; its documents and its place in the log stay");
        let note = HistoryNote {
            plugin,
            processor: id.as_str(),
            digest: &digest,
            version: "",
            event: PluginEvent::Stopped,
            reason: "",
            replaced: None,
            dry_run: None,
        };
        let told = async {
            history::record(session, &note).await?;
            match self.settling.known().contains_key(plugin) {
                true => history::delete(session, plugin).await,
                false => history::record_removal(session, plugin).await,
            }
        };
        self.written(told.await);
    }

    async fn rename(&mut self, session: &Session, from: &str, to: &str) {
        let Some(id) = self.running_id(from) else { return };
        if let Err(error) = self.registry.rename(session, &id, to).await {
            tracing::warn!(processor = %id, "could not take the name {to}: {error}");
            self.again = true;
            return;
        }
        let gone = history::delete(session, from).await;
        self.written(gone);
        self.tell_running(session, to, PluginEvent::Renamed, from, None).await;
    }

    /// Writes down what runs under a name, and how that came.
    async fn tell_running(
        &mut self,
        session: &Session,
        plugin: &str,
        event: PluginEvent,
        reason: &str,
        swapped: Option<&SwapReport>,
    ) {
        let Some(running) = self.of_running(plugin) else { return };
        let at = Instant::now();
        let dry_run = self.checked.get(plugin).and_then(|checked| checked.dry_run.as_ref());
        let dry_run = dry_run.filter(|_| matches!(event, PluginEvent::Swapped));
        let ran = history::record_runs(session, &[running.ran(event, reason, swapped, dry_run)]).await;
        let number = ran.map(|numbers| numbers.first().copied());
        if let Some(swapped) = swapped {
            let told = self.swaps.ended(session, &running.id, swapped).await;
            self.written(told);
        }
        // One that takes its place back has come over long ago.
        if let (Ok(Some(note)), PluginEvent::Swapped) = (&number, event) {
            self.swaps.began(running.id, *note, at);
        }
        match number {
            Ok(_) => {
                self.untold.remove(plugin);
                if let Some(running) = self.of_running(plugin) {
                    self.retain(&running);
                }
            }
            Err(_) => _ = self.untold.insert(plugin.into(), (event, reason.into(), swapped.cloned())),
        }
        self.written(number.map(drop));
        self.errors.remove(plugin);
    }

    /// What runs now can be gone back to later.
    fn retain(&mut self, running: &OfRunning) {
        if let Some(file) = self.settling.known().get(&running.plugin) {
            self.archive.add(running.retained(), file.clone());
        }
    }

    fn of_running(&self, plugin: &str) -> Option<OfRunning> {
        let id = self.running_id(plugin)?;
        let member = self.registry.members().get(&id)?;
        let (digest, version, provenance) =
            (member.digest(), member.descriptor.version.clone(), member.provenance.clone());
        Some(OfRunning { plugin: plugin.into(), id, digest, version, provenance })
    }

    /// Says which files are not run: in the log where that is news, in the database, and beside the file.
    async fn tell_refused(&mut self, session: &Session, refused: &BTreeMap<String, String>) {
        for (plugin, whole) in refused {
            let why = &*text::cut(whole, REASON_BYTES);
            let digest = self.checked.get(plugin).map_or("", |checked| &checked.digest).to_string();
            let told = async {
                if history::record_refusal(session, plugin, &digest, why).await? {
                    let version = "";
                    let note = HistoryNote {
                        plugin,
                        processor: "",
                        digest: &digest,
                        version,
                        event: PluginEvent::Refused,
                        reason: why,
                        replaced: None,
                        dry_run: self.checked.get(plugin).and_then(|checked| checked.dry_run.as_ref()),
                    };
                    history::record(session, &note).await?;
                }
                Ok(())
            };
            self.written(told.await);
            if self.refused.get(plugin) != Some(whole) {
                // The remedy is a line of its own where people read it; a log has one line for all of it.
                tracing::error!(plugin = %self.folder.join(format!("{plugin}.wasm")).display(), "refused: {}", why.replace('\n', ". "));
            }
            self.errors.write(plugin, why);
        }
        for plugin in std::mem::take(&mut self.gone) {
            self.errors.remove(&plugin);
            if self.running_id(&plugin).is_none() {
                let told = history::record_removal(session, &plugin).await;
                self.written(told);
                self.archive.schedule_sweep();
            }
        }
        for plugin in std::mem::replace(&mut self.refused, refused.clone()).into_keys() {
            if !refused.contains_key(&plugin) {
                self.errors.remove(&plugin);
                let told = history::clear_refusal(session, &plugin).await;
                self.written(told);
            }
        }
    }

    /// A session, given back when it is done with; none while the database is away.
    async fn session(&mut self) -> Option<Session> {
        match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => Some(session),
            None => match self.db.connect("plugins").await {
                Ok(session) => Some(session),
                Err(error) => {
                    tracing::debug!("plugins: {}", describe(&error));
                    None
                }
            },
        }
    }

    fn written(&mut self, result: Result<(), crate::db::Error>) {
        if let Err(error) = result {
            tracing::warn!("could not write down what became of plugins: {}", describe(&error));
        }
    }
}

/// Whether it may be otherwise the next time, without anything in the folder having changed.
fn is_passing(error: &RegistrationError) -> bool {
    matches!(error, RegistrationError::Database { .. } | RegistrationError::Unprepared { .. })
}
