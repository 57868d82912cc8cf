//! The code of a processor, which can be swapped while its lanes run.
//!
//! Each call uses the [`current`](SwappableCode::current) version at its beginning, so each lane
//! changes to the new version after its own batch. No lane waits for another, nothing under way is
//! lost, and each event is handled by exactly one version. Effects are committed as before, no
//! matter which version returned them.
//!
//! A [`CodeVersion`] includes its failure policy, so that a swap replaces both at once. It counts
//! what it does. The record of a swap and the probation of a new version are based on these counts.

use std::{
    collections::{HashSet, VecDeque},
    hash::BuildHasher,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::policy::FailurePolicy;
use crate::model::{
    event::Batch,
    handler::{Handler, Reason},
    ids::LaneKey,
};

/// Maximum number of lanes that a version remembers by name.
const LANES: usize = 1_000;
/// Time after a version's first call during which the lanes that change to it are recorded.
pub const TAKEOVER: Duration = Duration::from_secs(10);

/// The code that a processor runs now. Cheap to read.
pub struct SwappableCode(RwLock<Arc<CodeVersion>>);

impl SwappableCode {
    /// The code of a processor, with its first version.
    pub fn new(version: CodeVersion) -> Self {
        SwappableCode(RwLock::new(Arc::new(version)))
    }

    /// The version that the next call runs.
    pub fn current(&self) -> Arc<CodeVersion> {
        // Only a reference is copied or replaced under the lock, so a panic cannot leave it half
        // done.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs another version from the next batch of each lane on. Returns the previous one.
    pub fn swap(&self, version: Arc<CodeVersion>) -> Arc<CodeVersion> {
        // If it ran here before, its instances remember documents that later versions have changed.
        version.handler.forget_all();
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), version);
        before.handler.forget_all();
        before
    }
}

/// One version of the code, with counts of what it has done.
pub struct CodeVersion {
    /// SHA-256 of its file, for people and records.
    pub digest: Arc<str>,
    /// The code.
    pub handler: Arc<dyn Handler>,
    /// Maximum number of events in one call.
    pub batch_events: usize,
    /// What happens to events that it cannot handle.
    pub policy: FailurePolicy,
    on_probation: AtomicBool,
    calls: AtomicUsize,
    events: AtomicU64,
    first: AtomicI64,
    last: AtomicI64,
    began: OnceLock<Instant>,
    lanes: Mutex<VersionLanes>,
}

/// Lanes that a version has failed or taken over. It fails a lane if it blocks it, or if its policy
/// sets aside one of the lane's events during its trial.
#[derive(Default)]
struct VersionLanes {
    /// Lanes that were blocked before the version began, as [hashes](hash): their failures do not
    /// count against it. There may be very many. Two lanes have the same hash with a probability of
    /// 1 in 2^64.
    exempt: HashSet<u64, foldhash::fast::RandomState>,
    /// All lanes that it has failed, exempt or not, as hashes.
    failed: HashSet<u64, foldhash::fast::RandomState>,
    /// The last of them by name.
    failed_last: VecDeque<LaneKey>,
    /// How many of them were not exempt.
    newly_failed: usize,
    reason: Option<Reason>,
    /// Lanes that have changed to it, and the longest time that one of them waited for its first
    /// answer.
    answered: HashSet<LaneKey>,
    longest_wait: Duration,
}

/// Counts of what a version has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionStats {
    /// Calls under way.
    pub calls: usize,
    /// Events that it has handled.
    pub events: u64,
    /// The smallest and the largest position among them; none if there are none.
    pub positions: Option<(i64, i64)>,
    /// When its first call began.
    pub began: Option<Instant>,
    /// Lanes that it has failed and that were not blocked before: it blocked them, or its policy
    /// set aside one of their events during its trial.
    pub failed: usize,
    /// Why the last of them failed.
    pub reason: Option<Reason>,
    /// Lanes that had an answer in the first [`TAKEOVER`]; at most a thousand are counted.
    pub lanes: usize,
    /// The longest time that one of them waited for its first answer, from when its events were
    /// ready, including the call.
    pub longest_wait: Duration,
}

impl CodeVersion {
    /// A version that has done nothing yet, with the default policy.
    pub fn new(digest: impl Into<Arc<str>>, handler: Arc<dyn Handler>, batch_events: Option<u32>) -> Self {
        CodeVersion {
            digest: digest.into(),
            handler,
            batch_events: batch_events.map_or(usize::MAX, |most| (most as usize).max(1)),
            policy: FailurePolicy::default(),
            on_probation: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            events: AtomicU64::new(0),
            first: AtomicI64::new(i64::MAX),
            last: AtomicI64::new(i64::MIN),
            began: OnceLock::new(),
            lanes: Mutex::default(),
        }
    }

    /// The version with another policy.
    pub fn with_policy(self, policy: FailurePolicy) -> Self {
        CodeVersion { policy, ..self }
    }

    /// The version for a test or a dry run, where it is judged as on trial.
    pub fn under_test(self) -> Self {
        self.set_on_probation(true);
        self
    }

    /// Whether it is on trial or under test: it then sets no event aside, and retries only if the
    /// guest asks for it.
    pub fn is_on_probation(&self) -> bool {
        self.on_probation.load(Relaxed)
    }

    /// Begins or ends its trial.
    pub fn set_on_probation(&self, on_probation: bool) {
        self.on_probation.store(on_probation, Relaxed);
    }

    fn lanes(&self) -> MutexGuard<'_, VersionLanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exempts lanes that were blocked before the version began: their failures do not count
    /// against it.
    pub fn exempt(&self, lanes: impl IntoIterator<Item = LaneKey>) {
        self.lanes().exempt.extend(lanes.into_iter().map(|lane| hash(&lane)));
    }

    /// The last lanes, at most a thousand, that this version has failed and another has not.
    pub fn blocked_unlike(&self, other: &CodeVersion) -> Vec<LaneKey> {
        let failed: Vec<LaneKey> = self.lanes().failed_last.iter().cloned().collect();
        let others = other.lanes();
        failed.into_iter().filter(|lane| !others.failed.contains(&hash(lane))).collect()
    }

    /// What it has done so far.
    pub fn stats(&self) -> VersionStats {
        let (first, last) = (self.first.load(Relaxed), self.last.load(Relaxed));
        let lanes = self.lanes();
        VersionStats {
            calls: self.calls.load(Relaxed),
            events: self.events.load(Relaxed),
            positions: (first <= last).then_some((first, last)),
            began: self.began.get().copied(),
            failed: lanes.newly_failed,
            reason: lanes.reason.clone(),
            lanes: lanes.answered.len(),
            longest_wait: lanes.longest_wait,
        }
    }

    /// Counts a call as under way until the returned guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> CallGuard {
        self.began.get_or_init(Instant::now);
        self.calls.fetch_add(1, Relaxed);
        CallGuard(self.clone())
    }

    /// Counts the first `events` of a batch as handled.
    pub(super) fn handled(&self, batch: &Batch, events: usize) {
        let Some(handled) = batch.events.get(..events) else { return };
        self.events.fetch_add(events as u64, Relaxed);
        for event in handled.first().into_iter().chain(handled.last()) {
            self.first.fetch_min(event.position, Relaxed);
            self.last.fetch_max(event.position, Relaxed);
        }
    }

    /// Records the end of a lane's call. `waited` is the time since the call's events were ready.
    pub(super) fn answered(&self, lane: &LaneKey, waited: Duration) {
        if self.began.get().is_none_or(|began| began.elapsed() > TAKEOVER) {
            return;
        }
        let mut lanes = self.lanes();
        if lanes.answered.len() < LANES && lanes.answered.insert(lane.clone()) {
            lanes.longest_wait = lanes.longest_wait.max(waited);
        }
    }

    /// Records that it has blocked a lane, or that its policy has set aside one of the lane's
    /// events.
    pub(super) fn failed(&self, lane: &LaneKey, reason: &Reason) {
        let mut lanes = self.lanes();
        let hash = hash(lane);
        let exempt = lanes.exempt.contains(&hash);
        if !exempt {
            lanes.reason = Some(reason.clone());
        }
        if lanes.failed.insert(hash) {
            lanes.newly_failed += usize::from(!exempt);
        } else {
            // It was resumed and has failed again, so it moves to the end.
            lanes.failed_last.retain(|other| other != lane);
        }
        lanes.failed_last.push_back(lane.clone());
        if lanes.failed_last.len() > LANES {
            lanes.failed_last.pop_front();
        }
    }
}

/// A hash that is the same for equal lanes within this process.
fn hash(lane: &LaneKey) -> u64 {
    static STATE: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);
    STATE.hash_one(lane)
}

/// A guard that counts a call as under way until it is dropped.
pub(super) struct CallGuard(Arc<CodeVersion>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{
        effects::Effects,
        handler::{BoxFuture, CallFailure, Documents},
        ids::TenantId,
    };

    struct NoopHandler;

    impl Handler for NoopHandler {
        fn handle(
            self: Arc<Self>,
            _: Arc<Batch>,
            _: Arc<dyn Documents>,
        ) -> BoxFuture<'static, Result<Effects, CallFailure>> {
            Box::pin(async { Ok(Effects::default()) })
        }

        fn isolated_clone(self: Arc<Self>) -> Arc<dyn Handler> {
            self
        }

        fn wall_time(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn lanes_that_were_blocked_before_a_version_do_not_count_against_it() {
        let lane = |name: &str| {
            let tenant = TenantId::parse(name).unwrap();
            LaneKey { key: tenant.as_shared(), tenant }
        };
        let version = CodeVersion::new("digest", Arc::new(NoopHandler), Some(5));
        version.exempt([lane("old")]);
        version.failed(&lane("old"), &Reason::new("trap", "as before"));
        assert_eq!((version.stats().failed, version.stats().reason), (0, None));
        version.failed(&lane("new"), &Reason::new("trap", "for the first time"));
        assert_eq!(
            (version.stats().failed, version.stats().reason),
            (1, Some(Reason::new("trap", "for the first time")))
        );
        let other = CodeVersion::new("other", Arc::new(NoopHandler), None);
        let lanes = |mut lanes: Vec<LaneKey>| {
            lanes.sort();
            lanes
        };
        assert_eq!(
            lanes(version.blocked_unlike(&other)),
            [lane("new"), lane("old")],
            "the other version may handle both"
        );
        other.failed(&lane("old"), &Reason::new("trap", "as well"));
        assert_eq!(version.blocked_unlike(&other), [lane("new")]);
    }

    #[test]
    fn lanes_that_were_blocked_before_do_not_hide_newly_blocked_ones() {
        let tenant = TenantId::parse("t").unwrap();
        let lane = |n: usize| LaneKey { tenant: tenant.clone(), key: n.to_string().into() };
        let (before, now) = (0..2 * LANES, 2 * LANES..2 * LANES + 3);
        let version = CodeVersion::new("digest", Arc::new(NoopHandler), None);
        version.exempt(before.clone().map(lane));
        for n in before.chain(now.clone()) {
            version.failed(&lane(n), &Reason::new("trap", "again"));
        }
        assert_eq!(version.stats().failed, now.len());
        let other = CodeVersion::new("other", Arc::new(NoopHandler), None);
        let unlike = version.blocked_unlike(&other);
        assert_eq!(unlike.len(), LANES, "the number of remembered lanes is bounded");
        assert!(now.map(lane).all(|lane| unlike.contains(&lane)), "the last ones are remembered");
        version.failed(&lane(0), &Reason::new("trap", "after it was resumed"));
        assert!(version.blocked_unlike(&other).contains(&lane(0)), "a lane that is blocked again is among the last");
        assert_eq!(version.stats().failed, 3);
    }

    #[test]
    fn calls_after_a_swap_run_the_new_version() {
        let code = SwappableCode::new(CodeVersion::new("one", Arc::new(NoopHandler), None));
        let under_way = code.current();
        let before = code.swap(Arc::new(CodeVersion::new("two", Arc::new(NoopHandler), None)));
        assert!(Arc::ptr_eq(&before, &under_way));
        assert_eq!(&*code.current().digest, "two");
    }
}
