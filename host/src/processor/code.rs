//! A processor's code, which may be exchanged while its lanes run.
//!
//! Each call asks for the [`current`](Code::current) version when it begins, so an exchange is felt by every lane at the end of its own batch: no lane waits
//! for another, nothing under way is lost, and an event is handled by one version alone, the one whose call it was in. Effects travel to their commit as
//! before, whichever version they come from.
//!
//! A [`Version`] counts what it does. From that follow the record of a swap and whether a version that is new here does what it should.

use std::{
    collections::{HashSet, VecDeque},
    hash::BuildHasher,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::model::{
    event::Batch,
    handler::{Handler, Reason},
    ids::LaneKey,
};

/// Lanes that are remembered by name.
const LANES: usize = 1_000;
/// For so long after its first call it is noted which lanes come over to a version.
pub const COMING: Duration = Duration::from_secs(10);

/// The code that a processor runs now. Cheap to ask.
pub struct Code(RwLock<Arc<Version>>);

impl Code {
    /// Code that begins with a version.
    pub fn new(version: Version) -> Self {
        Code(RwLock::new(Arc::new(version)))
    }

    /// The version that the next call runs.
    pub fn current(&self) -> Arc<Version> {
        // A reference is copied or replaced under the lock, and neither can be half done.
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs another version from the next batch of each lane on. Gives back the one before.
    pub fn exchange(&self, version: Arc<Version>) -> Arc<Version> {
        // What it remembers of an earlier time here, if there was one, the version between has made wrong.
        version.handler.forget_all();
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), version);
        before.handler.forget_all();
        before
    }
}

/// One version of the code, with what it has done so far.
pub struct Version {
    /// SHA-256 of its file; for people and records.
    pub digest: Arc<str>,
    /// The code.
    pub handler: Arc<dyn Handler>,
    /// At most so many events in one call.
    pub batch_events: usize,
    calls: AtomicUsize,
    events: AtomicU64,
    first: AtomicI64,
    last: AtomicI64,
    began: OnceLock<Instant>,
    lanes: Mutex<Lanes>,
}

/// How lanes fared, of a version.
#[derive(Default)]
struct Lanes {
    /// Those that were blocked already when it came, as [hashes](hash): that they fail again says nothing about it. There may be very many, and one of another hash
    /// is excused wrongly once in 2^64 pairs.
    excused: HashSet<u64, foldhash::fast::RandomState>,
    /// All that it has blocked, excused or not, as hashes.
    failed: HashSet<u64, foldhash::fast::RandomState>,
    /// The last of them by name.
    failed_last: VecDeque<LaneKey>,
    /// How many of them were not excused.
    against: usize,
    why: Option<Reason>,
    /// Those that have come over to it, and the longest that one of them waited for its first answer.
    came: HashSet<LaneKey>,
    longest: Duration,
}

/// What a version has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// Calls under way.
    pub calls: usize,
    /// Events that it has handled.
    pub events: u64,
    /// The first and the last of them in the log's order; none without any.
    pub positions: Option<(i64, i64)>,
    /// When its first call began.
    pub began: Option<Instant>,
    /// Lanes that it has blocked and that were not blocked before, and why the last one was.
    pub failed: usize,
    /// Why the last of them failed.
    pub why: Option<Reason>,
    /// Lanes that had an answer of it in the first [`COMING`]. No more than a thousand are counted.
    pub lanes: usize,
    /// The longest that one of them waited for the first: from when its events were ready, so with what handling them took.
    pub longest: Duration,
}

impl Version {
    /// A version that has done nothing yet.
    pub fn new(digest: impl Into<Arc<str>>, handler: Arc<dyn Handler>, batch_events: Option<u32>) -> Self {
        Version {
            digest: digest.into(),
            handler,
            batch_events: batch_events.map_or(usize::MAX, |most| (most as usize).max(1)),
            calls: AtomicUsize::new(0),
            events: AtomicU64::new(0),
            first: AtomicI64::new(i64::MAX),
            last: AtomicI64::new(i64::MIN),
            began: OnceLock::new(),
            lanes: Mutex::default(),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These lanes were blocked before it came: their failures do not speak against it.
    pub fn excuse(&self, lanes: impl IntoIterator<Item = LaneKey>) {
        self.lanes().excused.extend(lanes.into_iter().map(|lane| hash(&lane)));
    }

    /// The last lanes that it has blocked, and another version has not: no more than a thousand.
    pub fn blocked_unlike(&self, other: &Version) -> Vec<LaneKey> {
        let failed: Vec<LaneKey> = self.lanes().failed_last.iter().cloned().collect();
        let others = other.lanes();
        failed.into_iter().filter(|lane| !others.failed.contains(&hash(lane))).collect()
    }

    /// What it has done so far.
    pub fn done(&self) -> Done {
        let (first, last) = (self.first.load(Relaxed), self.last.load(Relaxed));
        let lanes = self.lanes();
        Done {
            calls: self.calls.load(Relaxed),
            events: self.events.load(Relaxed),
            positions: (first <= last).then_some((first, last)),
            began: self.began.get().copied(),
            failed: lanes.against,
            why: lanes.why.clone(),
            lanes: lanes.came.len(),
            longest: lanes.longest,
        }
    }

    /// A call begins. It is under way until what this gives is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.began.get_or_init(Instant::now);
        self.calls.fetch_add(1, Relaxed);
        UnderWay(self.clone())
    }

    /// So many events of a batch, from the first on, are handled.
    pub(super) fn handled(&self, batch: &Batch, events: usize) {
        let Some(handled) = batch.events.get(..events) else { return };
        self.events.fetch_add(events as u64, Relaxed);
        for event in handled.first().into_iter().chain(handled.last()) {
            self.first.fetch_min(event.position, Relaxed);
            self.last.fetch_max(event.position, Relaxed);
        }
    }

    /// It has answered a lane whose events were ready so long ago.
    pub(super) fn answered(&self, lane: &LaneKey, waited: Duration) {
        if self.began.get().is_none_or(|began| began.elapsed() > COMING) {
            return;
        }
        let mut lanes = self.lanes();
        if lanes.came.len() < LANES && lanes.came.insert(lane.clone()) {
            lanes.longest = lanes.longest.max(waited);
        }
    }

    /// It has blocked a lane.
    pub(super) fn failed(&self, lane: &LaneKey, reason: &Reason) {
        let mut lanes = self.lanes();
        let hash = hash(lane);
        let excused = lanes.excused.contains(&hash);
        if !excused {
            lanes.why = Some(reason.clone());
        }
        if lanes.failed.insert(hash) {
            lanes.against += usize::from(!excused);
        } else {
            // It was resumed since: it is among the last again.
            lanes.failed_last.retain(|other| other != lane);
        }
        lanes.failed_last.push_back(lane.clone());
        if lanes.failed_last.len() > LANES {
            lanes.failed_last.pop_front();
        }
    }
}

/// The same for equal lanes within this process.
fn hash(lane: &LaneKey) -> u64 {
    static STATE: LazyLock<foldhash::quality::RandomState> = LazyLock::new(foldhash::quality::RandomState::default);
    STATE.hash_one(lane)
}

/// A call under way.
pub(super) struct UnderWay(Arc<Version>);

impl Drop for UnderWay {
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
        handler::{BoxFuture, Documents, Failure},
        ids::TenantId,
    };

    struct Nothing;

    impl Handler for Nothing {
        fn handle(
            self: Arc<Self>,
            _: Arc<Batch>,
            _: Arc<dyn Documents>,
        ) -> BoxFuture<'static, Result<Effects, Failure>> {
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
    fn what_was_blocked_before_is_remembered_and_does_not_count() {
        let lane = |name: &str| {
            let tenant = TenantId::parse(name).unwrap();
            LaneKey { key: tenant.as_shared(), tenant }
        };
        let version = Version::new("digest", Arc::new(Nothing), Some(5));
        version.excuse([lane("old")]);
        version.failed(&lane("old"), &Reason::new("trap", "as before"));
        assert_eq!((version.done().failed, version.done().why), (0, None));
        version.failed(&lane("new"), &Reason::new("trap", "for the first time"));
        assert_eq!((version.done().failed, version.done().why), (1, Some(Reason::new("trap", "for the first time"))));
        let other = Version::new("other", Arc::new(Nothing), None);
        let lanes = |mut lanes: Vec<LaneKey>| {
            lanes.sort();
            lanes
        };
        assert_eq!(lanes(version.blocked_unlike(&other)), [lane("new"), lane("old")], "both would fail again");
        other.failed(&lane("old"), &Reason::new("trap", "so they do"));
        assert_eq!(version.blocked_unlike(&other), [lane("new")]);
    }

    #[test]
    fn lanes_that_were_blocked_before_hide_no_others() {
        let tenant = TenantId::parse("t").unwrap();
        let lane = |n: usize| LaneKey { tenant: tenant.clone(), key: n.to_string().into() };
        let (before, now) = (0..2 * LANES, 2 * LANES..2 * LANES + 3);
        let version = Version::new("digest", Arc::new(Nothing), None);
        version.excuse(before.clone().map(lane));
        for n in before.chain(now.clone()) {
            version.failed(&lane(n), &Reason::new("trap", "again"));
        }
        assert_eq!(version.done().failed, now.len());
        let other = Version::new("other", Arc::new(Nothing), None);
        let unlike = version.blocked_unlike(&other);
        assert_eq!(unlike.len(), LANES, "no more are remembered");
        assert!(now.map(lane).all(|lane| unlike.contains(&lane)), "and those are the last");
        version.failed(&lane(0), &Reason::new("trap", "after somebody resumed it"));
        assert!(version.blocked_unlike(&other).contains(&lane(0)), "a lane that it blocks again is among the last");
        assert_eq!(version.done().failed, 3);
    }

    #[test]
    fn who_asks_after_an_exchange_gets_the_other_one() {
        let code = Code::new(Version::new("one", Arc::new(Nothing), None));
        let under_way = code.current();
        let before = code.exchange(Arc::new(Version::new("two", Arc::new(Nothing), None)));
        assert!(Arc::ptr_eq(&before, &under_way));
        assert_eq!(&*code.current().digest, "two");
    }
}
