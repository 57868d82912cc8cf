//! Processors that see the log at the same place: none reads a page before all of them have committed what came before.
//!
//! [`Barrier`] decides and is pure; [`Lockstep`] is how the processors of a host share one. Each says where it stands when nothing that it read is
//! uncommitted, and asks whether it is its turn: it is for those of whom nobody stands behind them. Progress of one log can be ordered, so
//! somebody always may go on. Who is behind reads exactly up to where the others stand, in pages, and from there on they go together.
//!
//! A member that has not said yet where it stands holds the others, also while it starts over after a lost connection: they say for whom they
//! wait. One that is paused as a whole, or ends, leaves.

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

/// Where members stand; none has said so yet where it says nothing.
#[derive(Debug, Default)]
struct Barrier {
    members: BTreeMap<ProcessorId, Option<Progress>>,
}

/// Whether a member may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Not before this one has committed more.
    Wait(ProcessorId),
    /// It may: no further than this snapshot, where others stand; or what there is.
    Read(Option<Snapshot>),
}

impl Barrier {
    /// Says where a member stands; whether that is news.
    fn stand(&mut self, member: &ProcessorId, progress: Option<Progress>) -> bool {
        match self.members.insert(member.clone(), progress) {
            None => true,
            Some(before) => before != self.members[member],
        }
    }

    fn turn(&self, member: &ProcessorId) -> Turn {
        let Some(mine) = self.members.get(member).and_then(Option::as_ref) else { return Turn::Read(None) };
        let mut toward: Option<&Snapshot> = None;
        for (other, theirs) in self.members.iter().filter(|(other, _)| *other != member) {
            let Some(theirs) = theirs else { return Turn::Wait(other.clone()) };
            if order(theirs, mine) == Ordering::Less {
                return Turn::Wait(other.clone());
            }
            let ahead = [Some(theirs.seen()), theirs.target()].into_iter().flatten();
            let next = ahead.filter(|place| later(place, mine.seen()) == Ordering::Greater);
            toward = toward.into_iter().chain(next).min_by(|a, b| later(a, b));
        }
        Turn::Read(toward.filter(|_| mine.is_boundary()).cloned())
    }
}

/// Which of two places in one log comes first.
fn order(a: &Progress, b: &Progress) -> Ordering {
    let last = |progress: &Progress| progress.remainder().and_then(|rest| rest.after);
    later(a.seen(), b.seen()).then_with(|| match (a.target(), b.target()) {
        (Some(x), Some(y)) => later(x, y).then_with(|| last(a).cmp(&last(b))),
        (x, y) => x.is_some().cmp(&y.is_some()),
    })
}

/// Snapshots of one database are ordered by what they see.
fn later(a: &Snapshot, b: &Snapshot) -> Ordering {
    match (a.covers(b), b.covers(a)) {
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        // They see the same, or are not of one database's history, which no term survives.
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

    /// A place in it. All members join before the first of them begins, or it would not know for whom to wait.
    pub(super) fn join(self: &Arc<Self>, member: &ProcessorId) -> Place {
        self.barrier().stand(member, None);
        Place { lockstep: self.clone(), member: member.clone(), changes: self.changes.subscribe() }
    }
}

/// One member's place. Dropping it is leaving.
pub(super) struct Place {
    lockstep: Arc<Lockstep>,
    member: ProcessorId,
    changes: watch::Receiver<u64>,
}

impl Place {
    /// Says where everything that was read is committed.
    pub(super) fn stand(&self, progress: &Progress) {
        if self.lockstep.barrier().stand(&self.member, Some(progress.clone())) {
            self.tell();
        }
    }

    /// Whether it may read now.
    pub(super) fn turn(&self) -> Turn {
        self.lockstep.barrier().turn(&self.member)
    }

    /// Lets the others go on without it, until it says again where it stands.
    pub(super) fn leave(&self) {
        if self.lockstep.barrier().members.remove(&self.member).is_some() {
            self.tell();
        }
    }

    /// Waits until another member stands elsewhere. Cancel safe.
    pub(super) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn tell(&self) {
        self.lockstep.changes.send_modify(|changes| *changes += 1);
    }
}

impl Drop for Place {
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
    fn who_is_behind_reads_up_to_the_others_and_then_all_go_together() {
        let mut barrier = Barrier::default();
        let (a, b) = (id("a"), id("b"));
        barrier.stand(&a, Some(progress("9:9:||")));
        barrier.stand(&b, None);
        assert_eq!(barrier.turn(&a), Turn::Wait(b.clone()), "nobody knows where it stands");
        for (at, toward) in
            [("3:3:||", Some("9:9:")), ("3:3:|7:7:|5", None), ("3:3:|9:9:|5", None), ("7:7:||", Some("9:9:"))]
        {
            barrier.stand(&b, Some(progress(at)));
            assert_eq!(barrier.turn(&a), Turn::Wait(b.clone()), "{at}");
            assert_eq!(barrier.turn(&b), Turn::Read(toward.map(|to| to.parse().unwrap())), "{at}");
        }
        barrier.stand(&b, Some(progress("9:9:||")));
        assert_eq!((barrier.turn(&a), barrier.turn(&b)), (Turn::Read(None), Turn::Read(None)));
        // One of them is inside a difference: the other enters the same one.
        barrier.stand(&a, Some(progress("9:9:|20:20:|40")));
        assert_eq!(barrier.turn(&a), Turn::Wait(b.clone()));
        assert_eq!(barrier.turn(&b), Turn::Read(Some("20:20:".parse().unwrap())));
        barrier.members.remove(&b);
        assert_eq!(barrier.turn(&a), Turn::Read(None), "whoever left is not waited for");
    }

    /// Wherever three members stand, somebody may go on, and nobody behind whom another one stands.
    #[test]
    fn somebody_always_may_go_on() {
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
                barrier.stand(&id(&format!("p{index}")), Some(place.clone()));
            }
            let turns: Vec<Turn> = barrier.members.keys().map(|member| barrier.turn(member)).collect();
            assert!(turns.iter().any(|turn| matches!(turn, Turn::Read(_))), "{triple:?}");
            for (turn, place) in turns.iter().zip(&triple) {
                let behind = triple.iter().any(|other| order(other, place) == Ordering::Less);
                assert_eq!(behind, matches!(turn, Turn::Wait(_)), "{triple:?}");
            }
        }
    }
}
