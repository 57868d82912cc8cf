//! A barrier for processors in lockstep: none reads a page before all have committed the previous
//! one.
//!
//! [`Barrier`] decides; the processors of a host share it through [`Lockstep`]. Each member reports
//! its progress when all that it read is committed. It may read unless another member is behind it.
//! Progress within one log is ordered, so some member may always read. A member that is behind
//! reads exactly up to the progress of the others, in pages, and from there on all read together.
//!
//! A member that has not reported its progress yet makes the others wait, even while it restarts
//! after a lost connection. The others report which member they wait for. A member leaves when it
//! is paused as a whole, or ends.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::model::{
    cursor::{Progress, Snapshot},
    ids::ProcessorId,
};

/// The progress of all members; none for a member that has not reported it.
#[derive(Debug, Default)]
struct Barrier {
    members: BTreeMap<ProcessorId, Option<Progress>>,
}

/// Whether a member may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockstepTurn {
    /// No, until this member has committed more.
    Wait(ProcessorId),
    /// Yes: up to this snapshot, where another member is, or as far as the log goes.
    Read(Option<Snapshot>),
}

impl Barrier {
    /// Records a member's progress. Returns whether it has changed.
    fn report(&mut self, member: &ProcessorId, progress: Option<Progress>) -> bool {
        match self.members.insert(member.clone(), progress) {
            None => true,
            Some(before) => before != self.members[member],
        }
    }

    /// Whether a member may read, and how far.
    fn turn(&self, member: &ProcessorId) -> LockstepTurn {
        let Some(mine) = self.members.get(member).and_then(Option::as_ref) else { return LockstepTurn::Read(None) };
        let mut toward: Option<&Snapshot> = None;
        for (other, theirs) in self.members.iter().filter(|(other, _)| *other != member) {
            let Some(theirs) = theirs else { return LockstepTurn::Wait(other.clone()) };
            if compare_progress(theirs, mine) == Ordering::Less {
                return LockstepTurn::Wait(other.clone());
            }
            let ahead = [Some(theirs.seen()), theirs.target()].into_iter().flatten();
            let next = ahead.filter(|place| compare_snapshots(place, mine.seen()) == Ordering::Greater);
            toward = toward.into_iter().chain(next).min_by(|a, b| compare_snapshots(a, b));
        }
        LockstepTurn::Read(toward.filter(|_| mine.is_boundary()).cloned())
    }
}

/// The order of two progresses in one log.
fn compare_progress(a: &Progress, b: &Progress) -> Ordering {
    let last = |progress: &Progress| progress.remainder().and_then(|rest| rest.after);
    compare_snapshots(a.seen(), b.seen()).then_with(|| match (a.target(), b.target()) {
        (Some(x), Some(y)) => compare_snapshots(x, y).then_with(|| last(a).cmp(&last(b))),
        (x, y) => x.is_some().cmp(&y.is_some()),
    })
}

/// The order of two snapshots of one database, by what they see.
fn compare_snapshots(a: &Snapshot, b: &Snapshot) -> Ordering {
    match (a.covers(b), b.covers(a)) {
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // They see the same, or belong to two histories of the database. No term survives that
        // change.
        _ => Ordering::Equal,
    }
}

/// The barrier of a host.
pub struct Lockstep {
    barrier: Mutex<Barrier>,
    changes: watch::Sender<u64>,
}

impl Default for Lockstep {
    fn default() -> Self {
        Lockstep { barrier: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Lockstep {
    fn barrier(&self) -> MutexGuard<'_, Barrier> {
        self.barrier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the barrier. All members join before the first of them runs, because the barrier waits
    /// only for members that it knows.
    pub(super) fn join(self: &Arc<Self>, member: &ProcessorId) -> LockstepMember {
        self.barrier().report(member, None);
        LockstepMember { lockstep: self.clone(), member: member.clone(), changes: self.changes.subscribe() }
    }
}

/// A membership in the barrier, which ends when this is dropped.
pub(super) struct LockstepMember {
    lockstep: Arc<Lockstep>,
    member: ProcessorId,
    changes: watch::Receiver<u64>,
}

impl LockstepMember {
    /// Reports the progress up to which everything is committed.
    pub(super) fn report(&self, progress: &Progress) {
        if self.lockstep.barrier().report(&self.member, Some(progress.clone())) {
            self.notify();
        }
    }

    /// Whether this member may read now.
    pub(super) fn turn(&self) -> LockstepTurn {
        self.lockstep.barrier().turn(&self.member)
    }

    /// Lets the other members continue without this one, until it reports its progress again.
    pub(super) fn leave(&self) {
        if self.lockstep.barrier().members.remove(&self.member).is_some() {
            self.notify();
        }
    }

    /// Waits until another member has changed its progress. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn notify(&self) {
        self.lockstep.changes.send_modify(|changes| *changes += 1);
    }
}

impl Drop for LockstepMember {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ProcessorId {
        ProcessorId::parse(name).unwrap()
    }

    fn progress(text: &str) -> Progress {
        text.parse().unwrap()
    }

    #[test]
    fn a_member_behind_reads_up_to_the_others_and_then_all_read_together() {
        let mut barrier = Barrier::default();
        let (a, b) = (id("a"), id("b"));
        barrier.report(&a, Some(progress("9:9:||")));
        barrier.report(&b, None);
        assert_eq!(barrier.turn(&a), LockstepTurn::Wait(b.clone()), "its progress is unknown");
        for (at, toward) in
            [("3:3:||", Some("9:9:")), ("3:3:|7:7:|5", None), ("3:3:|9:9:|5", None), ("7:7:||", Some("9:9:"))]
        {
            barrier.report(&b, Some(progress(at)));
            assert_eq!(barrier.turn(&a), LockstepTurn::Wait(b.clone()), "{at}");
            assert_eq!(barrier.turn(&b), LockstepTurn::Read(toward.map(|to| to.parse().unwrap())), "{at}");
        }
        barrier.report(&b, Some(progress("9:9:||")));
        assert_eq!((barrier.turn(&a), barrier.turn(&b)), (LockstepTurn::Read(None), LockstepTurn::Read(None)));
        // One member is inside a difference, so the other enters the same difference.
        barrier.report(&a, Some(progress("9:9:|20:20:|40")));
        assert_eq!(barrier.turn(&a), LockstepTurn::Wait(b.clone()));
        assert_eq!(barrier.turn(&b), LockstepTurn::Read(Some("20:20:".parse().unwrap())));
        barrier.members.remove(&b);
        assert_eq!(barrier.turn(&a), LockstepTurn::Read(None), "a member that left is not waited for");
    }

    /// Checks all positions of three members: some member may read, and none reads while another is
    /// behind it.
    #[test]
    fn some_member_may_always_read() {
        let at = |xid: u64| format!("{xid}:{xid}:").parse::<Snapshot>().unwrap();
        let mut places = Vec::new();
        for seen in 1..4 {
            places.push(Progress::at(at(seen)));
            let inside = |(to, last)| Progress::inside(at(seen), at(to), last);
            places.extend([(seen + 1, 1), (seen + 1, 2), (seen + 2, 1)].map(inside));
        }
        for triple in places.iter().flat_map(|a| {
            places
                .iter()
                .flat_map(|b| places.iter().map(|c| [a.clone(), b.clone(), c.clone()]).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        }) {
            let mut barrier = Barrier::default();
            for (index, place) in triple.iter().enumerate() {
                barrier.report(&id(&format!("p{index}")), Some(place.clone()));
            }
            let turns: Vec<LockstepTurn> = barrier.members.keys().map(|member| barrier.turn(member)).collect();
            assert!(turns.iter().any(|turn| matches!(turn, LockstepTurn::Read(_))), "{triple:?}");
            for (turn, place) in turns.iter().zip(&triple) {
                let behind = triple.iter().any(|other| compare_progress(other, place) == Ordering::Less);
                assert_eq!(behind, matches!(turn, LockstepTurn::Wait(_)), "{triple:?}");
            }
        }
    }
}
