//! What runs is what the folder says: the loop that carries plans out.
//!
//! It looks at the folder, checks each file that came or changed (apart, since that may compile for seconds), makes a [`Plan`] of what was found, and tells the
//! [`Fleet`]. It watches new versions while they are on [trial](super::rollout), and takes those back that fail it, or that a person takes back. Whatever becomes
//! of a file is written down ([`history`]) and said beside it, in `NAME.wasm.error`.
//!
//! A start (`start`) runs what the folder says then, from where each processor's cursor stands. A database that is away keeps nobody
//! from running, and what it kept from being done is tried again; of what could not be written down, what runs is written later, and the rest is in the log alone.

mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::runtime::Handle;

use super::{
    check::{Checked, check},
    error_files::ErrorFiles,
    fleet::{Fleet, Follower, Member, Swapped},
    folder::{self, Listing, PluginFile, Settling},
    hints::Hints,
    history::{self, Event, Hold, Note, Ran},
    notes::{OfRunning, Swaps},
    plan::{Plan, Step, Version, Wanted},
    reports::Reports,
    rollout::{self, Verdict},
    signature::PublicKey,
};
use crate::{
    db::{Db, Session, describe},
    model::{ids::ProcessorId, text},
    processor::registration::RegistrationError,
    sandbox::Sandbox,
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

/// Why a file is refused, bytes. Default 16 KiB: what a plugin says of itself may be long, and
/// nobody reads more of it.
const REASON_BYTES: usize = 16 << 10;
/// Files that are checked at the same time.
const CHECKED_AT_ONCE: usize = 4;

/// Checks under way: the files with what came of them.
type Checking = Pin<Box<dyn Future<Output = Vec<Checked>> + Send>>;

/// The plugins of a host.
pub struct Registry {
    folder: PathBuf,
    sandbox: Sandbox,
    db: Db,
    session: Option<Session>,
    fleet: Fleet,
    config: rollout::Config,
    hints: Hints,
    keys: Arc<[PublicKey]>,
    settling: Settling,
    /// What each file that is there is good for.
    checked: BTreeMap<String, Checked>,
    /// Of those that do not run, what ran last under their names and has not begun yet.
    former: BTreeMap<String, Checked>,
    /// Files that have changed and are not checked yet.
    waiting: BTreeSet<String>,
    checking: Option<Checking>,
    /// What is wrong with the folder's other entries.
    reports: Reports,
    errors: ErrorFiles,
    /// Files of which it was said that they are not run, and why.
    refused: BTreeMap<String, String>,
    /// Files that were there, of which nothing is to be said any more.
    gone: BTreeSet<String>,
    held: BTreeSet<Hold>,
    /// Of those, the ones that the database does not know yet.
    unwritten: BTreeSet<Hold>,
    /// What came to run and could not be written down: how, why, and instead of what.
    untold: BTreeMap<String, (Event, String, Option<Swapped>)>,
    /// Swaps of which more is to be written down.
    swaps: Swaps,
    /// What was done could not be written down, or something could not be done: it is to be looked at again.
    again: bool,
    looked: Instant,
    tried: Instant,
    watched: Instant,
    told: Instant,
}

impl Registry {
    /// The plugins of a folder, none of which runs yet.
    pub fn new(folder: &Path, sandbox: Sandbox, db: Db, fleet: Fleet, config: &rollout::Config) -> Self {
        Registry {
            folder: folder.into(),
            sandbox,
            db,
            session: None,
            fleet,
            config: config.clone(),
            hints: Hints::new(config.poll_ms == 0),
            // Settings that do not parse end before this.
            keys: config.keys().unwrap_or_default().into(),
            settling: Settling::default(),
            checked: BTreeMap::new(),
            former: BTreeMap::new(),
            waiting: BTreeSet::new(),
            checking: None,
            reports: Reports::default(),
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

    /// Who runs.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Those who run, whatever becomes of the folder.
    pub fn into_fleet(self) -> Fleet {
        self.fleet
    }

    /// Follows the folder until told to stop. Fails when a processor does, as none can that could go on.
    pub async fn run(mut self, mut stop: Stop) -> anyhow::Result<()> {
        loop {
            self.check();
            let look = self.until_look();
            tokio::select! {
                () = stop.drain() => return self.fleet.end().await,
                error = self.fleet.failed() => {
                    // The others end in order, and what they say of it is less than this.
                    let _ = self.fleet.end().await;
                    return Err(error);
                }
                checked = async { self.checking.as_mut()?.await.into() }, if self.checking.is_some() => {
                    self.checking = None;
                    if let Some(checked) = checked {
                        self.take(checked).await;
                    }
                }
                () = self.hints.next() => self.look().await,
                () = tokio::time::sleep(look) => self.look().await,
            }
            if self.watched.elapsed() >= WATCH {
                self.watched = Instant::now();
                self.watch().await;
            }
        }
    }

    /// How long until it is time to look again, at the folder or at what runs.
    fn until_look(&mut self) -> Duration {
        let every = match (self.config.poll_ms, self.hints.are_complete()) {
            (0, true) => LOOK,
            (0, false) => LOOK_OFTEN,
            (poll_ms, _) => Duration::from_millis(poll_ms),
        };
        let settled = self.settling.due().map(|due| due.saturating_duration_since(Instant::now()));
        let look = (self.looked + every).saturating_duration_since(Instant::now());
        look.min(settled.unwrap_or(look)).min(WATCH)
    }

    /// Looks at the folder for what has changed.
    async fn look(&mut self) {
        self.looked = Instant::now();
        let Listing { files, unread, problems, folders, .. } = match folder::scan(&self.folder) {
            Ok(listing) => listing,
            // A folder that is gone is an empty one: it may come back, or another one in its place.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Listing::default(),
            // What cannot be read says nothing about what is in it.
            Err(error) => return self.reports.failed(&self.folder, &error),
        };
        self.hints.follow(folders);
        self.reports.found(&self.folder, problems);
        let changed = self.settling.look(files, &unread, Instant::now());
        let gone: Vec<&String> = changed.iter().filter(|name| !self.settling.known().contains_key(*name)).collect();
        let any_gone = !gone.is_empty();
        for name in &changed {
            self.former.remove(name);
        }
        for name in gone {
            self.checked.remove(name);
            self.waiting.remove(name);
            self.gone.insert(name.clone());
        }
        self.waiting.extend(changed.into_iter().filter(|name| self.settling.known().contains_key(name)));
        // A file that is gone may have come back under another name, which is not checked yet.
        if any_gone && self.waiting.is_empty() && self.checking.is_none() {
            self.carry_out().await;
        }
    }

    /// Begins to check what waits for it, if nothing is being checked.
    fn check(&mut self) {
        if self.checking.is_some() || self.waiting.is_empty() {
            return;
        }
        let known = self.settling.known();
        let files: Vec<PluginFile> = self.waiting.iter().filter_map(|name| known.get(name).cloned()).collect();
        self.waiting.clear();
        let (sandbox, keys) = (self.sandbox.clone(), self.keys.clone());
        let there = known.keys().cloned().collect();
        let dry_runs = self.fleet.dry_runs(there, self.config.dry_run_events);
        let checks = stream::iter(files.into_iter().map(move |file| {
            let (sandbox, keys, dry_runs, lost) = (sandbox.clone(), keys.clone(), dry_runs.clone(), file.clone());
            // All of it there, so that whatever a dry run holds does not wait for this loop.
            let (runtime, check) = (Handle::current(), move || check(&sandbox, &keys, file));
            let checked = tokio::task::spawn_blocking(move || runtime.block_on(check().tried(&dry_runs)));
            async move {
                checked.await.unwrap_or_else(|error| Checked::refused(lost, format!("checking it failed: {error}")))
            }
        }));
        self.checking = Some(Box::pin(checks.buffered(CHECKED_AT_ONCE).collect()));
    }

    /// Takes what was found of some files, and does what follows from it.
    async fn take(&mut self, checked: Vec<Checked>) {
        let mut once_more = Vec::new();
        for checked in checked {
            let name = checked.file.name.clone();
            // Unless it is another one by now, which will be checked next.
            if self.settling.known().get(&name) == Some(&checked.file) {
                let digest = checked.digest.clone();
                let before = self.checked.insert(name.clone(), checked);
                if before.is_some_and(|before| before.digest == digest && !before.again) {
                    once_more.push(name);
                }
            }
        }
        self.carry_out().await;
        self.try_again(&once_more).await;
    }

    /// Whoever puts the same file there once more wants lanes to try again that it has blocked.
    async fn try_again(&mut self, plugins: &[String]) {
        let ids: Vec<ProcessorId> = plugins.iter().filter_map(|plugin| self.running_id(plugin)).collect();
        if ids.is_empty() {
            return;
        }
        let Some(session) = self.session().await else { return };
        for id in ids {
            self.fleet.try_again(&session, &id).await;
        }
        self.session = Some(session);
    }

    /// Makes what runs what the folder says.
    async fn carry_out(&mut self) {
        self.again = false;
        let plan = Plan::between(&self.running(), &self.desired());
        if !plan.0.is_empty() {
            tracing::info!("plugins: {plan}");
        }
        let Some(session) = self.session().await else {
            self.again = true;
            return;
        };
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
            if let Err(error) = self.fleet.could_start(&session, &follower).await {
                self.again |= is_passing(&error);
                refused.insert(begins.clone(), error.to_string());
                cannot.insert(begins.clone());
            }
        }
        for step in plan.0 {
            match step {
                Step::Refuse { plugin, why } => _ = refused.insert(plugin, why),
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
                        self.fleet.stop(&id);
                    }
                    refused.extend(self.start(&session, vec![plugin], Event::Restarted).await);
                }
            }
        }
        refused.extend(self.start(&session, starts, Event::Started).await);
        // Whatever begins in its place from now on is what the file is.
        let running: Vec<String> = self.fleet.members().values().map(|member| member.plugin.clone()).collect();
        for plugin in running {
            // A file that was checked before that was held against nothing.
            if self.former.remove(&plugin).is_some() && self.candidate(&plugin).is_some() {
                self.checked.remove(&plugin);
                self.waiting.insert(plugin);
            }
        }
        self.tell_refused(&session, &refused).await;
        self.session = Some(session);
    }

    fn running(&self) -> BTreeMap<String, Version> {
        let members = self.fleet.members().values();
        let version = |member: &Member| Version {
            digest: member.digest().to_string(),
            descriptor: member.descriptor.clone(),
            manifest: member.manifest.clone(),
        };
        members.map(|member| (member.plugin.clone(), version(member))).collect()
    }

    fn running_id(&self, plugin: &str) -> Option<ProcessorId> {
        self.fleet.members().iter().find(|(_, member)| member.plugin == plugin).map(|(id, _)| id.clone())
    }

    fn desired(&self) -> BTreeMap<String, Wanted> {
        let known = self.settling.known().keys();
        let wanted = |name: &String| match self.follower(name) {
            Some(Follower { descriptor, manifest, digest, .. }) => {
                Wanted::Run(Box::new(Version { digest, descriptor, manifest }))
            }
            // Also what is being checked: whatever runs under its name goes on until that is known.
            None => Wanted::Nothing,
        };
        known.map(|name| (name.clone(), wanted(name))).collect()
    }

    fn hold(&self, plugin: &str, digest: &str) -> Option<&Hold> {
        self.held.iter().find(|hold| hold.plugin == plugin && hold.digest == digest)
    }

    /// Files that cannot run whatever else there is.
    fn refused_alone(&self) -> BTreeMap<String, String> {
        let why = |(name, checked): (&String, &Checked)| match &checked.found {
            Err(why) => Some((name.clone(), why.clone())),
            Ok(_) => self.hold(name, &checked.digest).map(|hold| {
                let way_out = format!("put another version there, or `sandmill plugins retry {name}`");
                (name.clone(), format!("this version was taken back: {}; {way_out}", hold.reason))
            }),
        };
        self.checked.iter().filter_map(why).collect()
    }

    /// What a file is, if it can run and was not taken back.
    fn candidate(&self, plugin: &str) -> Option<&Checked> {
        let checked = self.checked.get(plugin).filter(|checked| checked.found.is_ok())?;
        self.hold(plugin, &checked.digest).is_none().then_some(checked)
    }

    /// What is to run under a name: its file, unless a start goes on with what ran last.
    fn follower(&self, plugin: &str) -> Option<Follower> {
        let former = self.former.get(plugin).filter(|_| self.running_id(plugin).is_none());
        former.or_else(|| self.candidate(plugin))?.follower()
    }

    /// Starts processors; gives back those that cannot, and why.
    async fn start(&mut self, session: &Session, plugins: Vec<String>, event: Event) -> Vec<(String, String)> {
        if plugins.is_empty() {
            return Vec::new();
        }
        let followers: Vec<Follower> = plugins.iter().filter_map(|plugin| self.follower(plugin)).collect();
        let refused = self.fleet.start(session, followers).await;
        for (follower, error) in &refused {
            // What ran last and never can again leaves its place to the file.
            let gives_way = !is_passing(error) && self.former.remove(&follower.plugin).is_some();
            self.again |= is_passing(error) || gives_way;
        }
        let refused: Vec<(String, String)> =
            refused.into_iter().map(|(follower, error)| (follower.plugin, error.to_string())).collect();
        let started = plugins.iter().filter(|plugin| refused.iter().all(|(other, _)| other != *plugin));
        let started: Vec<OfRunning> = started.filter_map(|plugin| self.of_running(plugin)).collect();
        let dry_run = |running: &OfRunning| self.checked.get(&running.plugin)?.dry_run.as_ref();
        let ran: Vec<Ran<'_>> = started.iter().map(|running| running.ran(event, "", None, dry_run(running))).collect();
        let told = history::ran(session, &ran).await;
        for running in &started {
            self.errors.remove(&running.plugin);
            match told {
                Ok(_) => _ = self.untold.remove(&running.plugin),
                Err(_) => _ = self.untold.insert(running.plugin.clone(), (event, String::new(), None)),
            }
        }
        self.written(told.map(drop));
        refused
    }

    async fn swap(&mut self, session: &Session, plugin: &str) -> Result<(), String> {
        let Some(follower) = self.follower(plugin) else { return Ok(()) };
        match self.fleet.swap(session, follower).await {
            Ok(Some(swapped)) => {
                self.tell_running(session, plugin, Event::Swapped, "", Some(&swapped)).await;
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
        let digest = self.fleet.members().get(&id).map(|member| member.digest()).unwrap_or_default();
        self.fleet.stop(&id);
        tracing::info!(processor = %id, plugin, "ended; its documents and its place in the log stay");
        let note = Note {
            plugin,
            processor: id.as_str(),
            digest: &digest,
            version: "",
            event: Event::Stopped,
            reason: "",
            replaced: None,
            dry_run: None,
        };
        let told = async {
            history::happened(session, &note).await?;
            history::gone(session, plugin).await
        };
        self.written(told.await);
    }

    async fn rename(&mut self, session: &Session, from: &str, to: &str) {
        let Some(id) = self.running_id(from) else { return };
        if let Err(error) = self.fleet.rename(session, &id, to).await {
            tracing::warn!(processor = %id, "could not take the name {to}: {error}");
            self.again = true;
            return;
        }
        let gone = history::gone(session, from).await;
        self.written(gone);
        self.tell_running(session, to, Event::Renamed, from, None).await;
    }

    /// Writes down what runs under a name, and how that came.
    async fn tell_running(
        &mut self,
        session: &Session,
        plugin: &str,
        event: Event,
        reason: &str,
        swapped: Option<&Swapped>,
    ) {
        let Some(running) = self.of_running(plugin) else { return };
        let at = Instant::now();
        let dry_run = self.checked.get(plugin).and_then(|checked| checked.dry_run.as_ref());
        let dry_run = dry_run.filter(|_| matches!(event, Event::Swapped));
        let ran = history::ran(session, &[running.ran(event, reason, swapped, dry_run)]).await;
        let number = ran.map(|numbers| numbers.first().copied());
        if let Some(swapped) = swapped {
            let told = self.swaps.ended(session, &running.id, swapped).await;
            self.written(told);
        }
        // One that takes its place back has come over long ago.
        if let (Ok(Some(note)), Event::Swapped) = (&number, event) {
            self.swaps.began(running.id, *note, at);
        }
        match number {
            Ok(_) => _ = self.untold.remove(plugin),
            Err(_) => _ = self.untold.insert(plugin.into(), (event, reason.into(), swapped.cloned())),
        }
        self.written(number.map(drop));
        self.errors.remove(plugin);
    }

    fn of_running(&self, plugin: &str) -> Option<OfRunning> {
        let id = self.running_id(plugin)?;
        let member = self.fleet.members().get(&id)?;
        let (digest, version, origin) = (member.digest(), member.descriptor.version.clone(), member.origin.clone());
        Some(OfRunning { plugin: plugin.into(), id, digest, version, origin })
    }

    /// Says which files are not run: in the log where that is news, in the database, and beside the file.
    async fn tell_refused(&mut self, session: &Session, refused: &BTreeMap<String, String>) {
        for (plugin, whole) in refused {
            let why = &*text::cut(whole, REASON_BYTES);
            let digest = self.checked.get(plugin).map_or("", |checked| &checked.digest).to_string();
            let told = async {
                if history::refused(session, plugin, &digest, why).await? {
                    let version = "";
                    let note = Note {
                        plugin,
                        processor: "",
                        digest: &digest,
                        version,
                        event: Event::Refused,
                        reason: why,
                        replaced: None,
                        dry_run: self.checked.get(plugin).and_then(|checked| checked.dry_run.as_ref()),
                    };
                    history::happened(session, &note).await?;
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
        for plugin in std::mem::replace(&mut self.refused, refused.clone()).into_keys() {
            if !refused.contains_key(&plugin) {
                self.errors.remove(&plugin);
                let told = history::mended(session, &plugin).await;
                self.written(told);
            }
        }
        for plugin in std::mem::take(&mut self.gone) {
            self.errors.remove(&plugin);
            if self.running_id(&plugin).is_none() {
                let told = history::gone(session, &plugin).await;
                self.written(told);
            }
        }
    }

    /// Looks how new versions do, what people have decided, and what is still to be written down.
    async fn watch(&mut self) {
        let Some(session) = self.session().await else { return };
        let before = self.held.clone();
        let told = self.swaps.tell(&session, &self.fleet).await;
        self.written(told);
        let told = self.reports.store(&session).await;
        self.written(told);
        self.fleet.tidy(&session).await;
        self.end_trials(&session).await;
        self.session = Some(session);
        self.read_holds().await;
        self.roll_held_back().await;
        let due = self.tried.elapsed() >= AGAIN;
        if due {
            self.tried = Instant::now();
            self.tell_untold().await;
            self.waiting
                .extend(self.checked.values().filter(|checked| checked.again).map(|checked| checked.file.name.clone()));
        }
        if self.again && due || self.held != before {
            self.carry_out().await;
        }
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            self.tell_lanes().await;
        }
    }

    /// Tries once more to write down what could not be.
    async fn tell_untold(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        let Some(session) = self.session().await else { return };
        for (plugin, (event, reason, swapped)) in std::mem::take(&mut self.untold) {
            self.tell_running(&session, &plugin, event, &reason, swapped.as_ref()).await;
        }
        self.session = Some(session);
        // Of files that are refused beside what runs it is to be said again.
        self.again = true;
    }

    async fn end_trials(&mut self, session: &Session) {
        let on_trial = self.fleet.members().iter().filter_map(|(id, member)| {
            let verdict = rollout::verdict(&self.config, &member.done(), member.on_trial_for()?);
            Some((id.clone(), member.plugin.clone(), member.digest(), verdict))
        });
        for (id, plugin, digest, verdict) in on_trial.collect::<Vec<_>>() {
            match verdict {
                Verdict::OnTrial => {}
                Verdict::Passed => self.fleet.trust(&id),
                Verdict::Failed(reason) => {
                    let hold = Hold { plugin, digest: digest.to_string(), reason };
                    if history::hold(session, &hold).await.is_err() {
                        self.unwritten.insert(hold.clone());
                    }
                    self.held.insert(hold.clone());
                    self.roll_back(session, &id, &hold).await;
                }
            }
        }
    }

    /// Brings the version back that ran before one that was taken back.
    async fn roll_back(&mut self, session: &Session, id: &ProcessorId, hold: &Hold) {
        match self.fleet.roll_back(session, id).await {
            Ok(Some(swapped)) => {
                tracing::error!(processor = %id, plugin = hold.plugin, digest = hold.digest.get(..12), "taken back, the version before it runs again: {}", hold.reason);
                self.tell_running(session, &hold.plugin, Event::RolledBack, &hold.reason, Some(&swapped)).await;
            }
            // Asked of those alone that can go back.
            Ok(None) => {}
            Err(error) => tracing::warn!(processor = %id, plugin = hold.plugin, "could not be taken back yet: {error}"),
        }
    }

    /// What people took back while it runs.
    async fn roll_held_back(&mut self) {
        let members = self.fleet.members().iter().filter(|(_, member)| member.can_go_back());
        let held =
            members.filter_map(|(id, member)| Some((id.clone(), self.hold(&member.plugin, &member.digest())?.clone())));
        let held: Vec<(ProcessorId, Hold)> = held.collect();
        if held.is_empty() {
            return;
        }
        let Some(session) = self.session().await else { return };
        for (id, hold) in held {
            self.roll_back(&session, &id, &hold).await;
        }
        self.session = Some(session);
    }

    async fn read_holds(&mut self) {
        let Some(session) = self.session().await else { return };
        for hold in std::mem::take(&mut self.unwritten) {
            if history::hold(&session, &hold).await.is_err() {
                self.unwritten.insert(hold);
            }
        }
        match history::holds(&session).await {
            Ok(holds) => {
                self.held = holds.into_iter().chain(self.unwritten.iter().cloned()).collect();
                self.session = Some(session);
            }
            Err(error) => tracing::debug!("could not read which versions were taken back: {}", describe(&error)),
        }
    }

    async fn tell_lanes(&mut self) {
        let Some(session) = self.session().await else { return };
        let calls: Vec<(String, i64)> =
            self.fleet.members().values().map(|member| (member.plugin.clone(), member.done().calls as i64)).collect();
        for (plugin, calls) in calls {
            self.written(history::lanes(&session, &plugin, calls).await);
        }
        self.session = Some(session);
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
    matches!(error, RegistrationError::Database { .. } | RegistrationError::Unasked { .. })
}
