//! What a commit takes, and what becomes of the tracker when it is made or refused: pure.
//!
//! A plan takes every finished piece of work up to a page, and says of each lane whether it gets a row, moves it or loses it. When not everything
//! fits, or somebody must go alone, lanes take turns; when the database refuses the data, ever smaller groups of lanes are asked.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use super::{
    InFlight, OpenPage, PageNumber, Results,
    lane::{Done, Feed, Lane, Stop, commit_lane, lane_changes},
};
use crate::{
    model::{cursor::Progress, handler::Reason, ids::LaneKey},
    processor::lane_checkpoints::{LaneCheckpoint, LaneRow, LaneState},
};

/// How many events a lane handles at a time after a commit of its effects was refused.
const CAREFUL: usize = 128;

/// How long a commit waits for lanes that have not finished.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Since the first lane finished.
    pub first: Duration,
    /// Since the last one did: where many lanes take their turns none of them is slow.
    pub last: Duration,
}

impl Patience {
    /// When it ends if the first and the last lane finished then.
    fn ends(&self, (first, last): (SystemTime, SystemTime)) -> SystemTime {
        (first + self.first).min(last + self.last)
    }
}

/// A commit, ready to be carried out.
#[derive(Debug)]
pub struct Plan<T> {
    /// What the cursor must say.
    pub from: Progress,
    /// What it will say.
    pub to: Progress,
    /// New rows.
    pub left: Vec<(LaneKey, LaneCheckpoint)>,
    /// Rows that change, with the progress they must have.
    pub moved: Vec<(LaneKey, Progress, LaneCheckpoint)>,
    /// Rows that go, with the progress they must have.
    pub rejoined: Vec<(LaneKey, Progress)>,
    /// What lanes led to, in the order in which each led to it.
    pub results: Vec<(LaneKey, T)>,
    pub(super) page: PageNumber,
    /// What `results` were in their lanes, in the same order.
    pub(super) taken: Vec<Done<()>>,
    /// Lanes whose stop is in their row now.
    pub(super) stopped: Vec<LaneKey>,
    /// Whether only a group of suspects was asked.
    pub(super) suspects: bool,
}

impl<T: Results> InFlight<T> {
    /// The commit that should be made now, if any: everything that is finished, when nobody is waited for or patience has ended. With `store`
    /// also progress over events that concerned nobody, which alone is not worth a commit. So many
    /// of the lanes that run are `waiting` for a commit themselves.
    pub fn plan(&mut self, now: SystemTime, patience: Patience, store: bool, waiting: usize) -> Option<Plan<T>> {
        if self.committing {
            return None;
        }
        debug_assert!(self.lanes.values().all(|lane| !lane.has_nothing_to_do()), "a lane that does nothing is parked");
        let page = self.page_to_commit(now, patience, waiting);
        let moves_cursor = self.pages_up_to(page).any(|dispatched| dispatched.worth || store && dispatched.events);
        let suspects = self.suspects.last().cloned();
        let of_suspects = suspects.is_some();
        let only = suspects.or_else(|| self.choose(page));
        let included = |key: &LaneKey| only.as_ref().is_none_or(|group| group.contains(key));
        let mut plan = Plan {
            from: self.stored.clone(),
            to: self.end_of(page).clone(),
            left: Vec::new(),
            moved: Vec::new(),
            rejoined: Vec::new(),
            results: Vec::new(),
            page,
            taken: Vec::new(),
            stopped: Vec::new(),
            suspects: of_suspects,
        };
        let changes = |key: &LaneKey, lane: &Lane<T>| lane_changes(lane, page, included(key));
        if !moves_cursor && !self.lanes.iter().any(|(key, lane)| changes(key, lane)) {
            return None;
        }
        for (key, lane) in &mut self.lanes {
            commit_lane(&mut plan, key, lane, included(key));
        }
        self.committing = true;
        Some(plan)
    }

    /// The lanes whose results go into a commit up to `page`, where not all of them do.
    fn choose(&mut self, page: PageNumber) -> Option<BTreeSet<LaneKey>> {
        let weight = |lane: &Lane<T>| -> Option<usize> {
            let weights = lane.done.iter().take_while(|done| done.page <= page).map(|done| done.results.weight());
            weights.reduce(|sum, weight| sum + weight)
        };
        let ready: Vec<(&LaneKey, bool, usize)> =
            self.lanes.iter().filter_map(|(key, lane)| Some((key, lane.careful.is_some(), weight(lane)?))).collect();
        let bytes: usize = ready.iter().map(|(.., bytes)| bytes).sum();
        let alone = ready.iter().any(|(_, careful, _)| *careful);
        if ready.len() < 2 || bytes <= self.bounds.commit_bytes && !alone {
            return None;
        }
        let first = self.next_committed.take();
        let first = ready.iter().position(|(key, ..)| Some(*key) >= first.as_ref()).unwrap_or(0);
        let mut chosen = BTreeSet::new();
        let (mut left, mut beyond) = (self.bounds.commit_bytes, None);
        let mut shared = true;
        for (key, careful, bytes) in ready[first..].iter().chain(&ready[..first]) {
            let fits = chosen.is_empty() || shared && !careful && *bytes <= left;
            if fits {
                chosen.insert((*key).clone());
                left = left.saturating_sub(*bytes);
                shared &= !careful;
            } else {
                beyond.get_or_insert_with(|| (*key).clone());
            }
        }
        self.next_committed = beyond;
        Some(chosen)
    }

    /// Until when a commit waits for lanes that have not finished; none if nobody waits for it.
    pub fn patience_ends(&self, patience: Patience) -> Option<SystemTime> {
        // Whoever finished a later page waits for the lanes of an earlier one, too.
        let finished = self.open_pages.iter().filter_map(|page| page.finished);
        let all = finished.reduce(|(first, last), (earlier, later)| (first.min(earlier), last.max(later)))?;
        Some(patience.ends(all))
    }

    /// The last page that a commit may take the cursor over.
    fn page_to_commit(&self, now: SystemTime, patience: Patience, waiting: usize) -> PageNumber {
        // A lane holds the cursor before the first page that it still works on, unless it has a row, or needs one anyway.
        let holds = |lane: &Lane<T>| match lane.running.or(lane.queue.front().map(|work| work.page)) {
            Some(first) if lane.row.is_none() && lane.stop.is_none() && !lane.detached() => first,
            _ => PageNumber::MAX,
        };
        let last = self.last_page();
        let complete = self.lanes.values().map(holds).min().map_or(last, |first| (first - 1).min(last));
        if self.pages_up_to(complete).any(|page| page.worth) {
            return complete;
        }
        let Some(index) = self.open_pages.iter().position(|page| page.worth) else { return complete };
        // Lanes that cannot begin before the commit, or go on, are not waited for, or neither would
        // ever come.
        let running = self.lanes.values().filter(|lane| lane.running.is_some()).count();
        let stuck = if running == 0 { self.waits_for_commit() } else { waiting >= running && self.waiting > 0 };
        if !stuck && self.patience_ends(patience).is_none_or(|end| now < end) {
            return complete;
        }
        // Lanes that have not finished this page are left behind; the others say how far the cursor may go.
        let slow = self.cursor + index as PageNumber + 1;
        let others = self.lanes.values().map(holds).filter(|first| *first > slow).min();
        others.map_or(last, |first| (first - 1).min(last))
    }

    fn pages_up_to(&self, page: PageNumber) -> impl Iterator<Item = &OpenPage> {
        self.open_pages.iter().take((page - self.cursor) as usize)
    }

    fn end_of(&self, page: PageNumber) -> &Progress {
        match (page - self.cursor) as usize {
            0 => &self.stored,
            n => self.open_pages.get(n - 1).map_or(&self.stored, |dispatched| &dispatched.end),
        }
    }

    /// Takes note that a plan was committed.
    pub fn committed(&mut self, plan: Plan<T>) {
        self.committing = false;
        self.open_pages.drain(..(plan.page - self.cursor) as usize);
        self.cursor = plan.page;
        self.stored = plan.to;
        self.waiting -= plan.results.iter().map(|(_, results)| results.weight()).sum::<usize>();
        if plan.suspects {
            self.suspects.pop();
        }
        let mut written = Vec::with_capacity(plan.left.len() + plan.moved.len());
        for (key, row) in plan.left.into_iter().chain(plan.moved.into_iter().map(|(key, _, row)| (key, row))) {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.row = Some(LaneRow::from(&row));
                written.push(key);
            }
        }
        for (key, _) in plan.rejoined {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.row = None;
                lane.careful = None;
            }
        }
        for key in plan.stopped {
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.stop = None;
            }
        }
        self.lanes.retain(|_, lane| {
            lane.in_commit = false;
            !lane.is_plain()
        });
        for key in &written {
            self.settle(key);
        }
    }

    /// Takes note that the database refused a plan for a reason of its data, in words. What it took is put back; the next plans ask
    /// ever smaller groups of its lanes, until the one that is refused stands alone, or is known from the start. That lane handles fewer
    /// events at a time from its row on, and blocks for this reason when it is refused with one. Says which lane it was, once that is known.
    pub fn refused(&mut self, plan: Plan<T>, culprit: Option<LaneKey>, class: &str, why: &str) -> Option<LaneKey> {
        self.committing = false;
        if plan.suspects {
            self.suspects.pop();
        }
        let mut concerned: Vec<LaneKey> = plan.results.iter().map(|(key, _)| key.clone()).collect();
        concerned.dedup();
        if let Some(culprit) = culprit {
            concerned = vec![culprit];
        }
        let mut events = 0;
        for ((key, results), taken) in plan.results.into_iter().zip(plan.taken).rev() {
            events += if concerned.first() == Some(&key) { taken.events } else { 0 };
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.done.push_front(taken.exchange(results).0);
            }
        }
        let mut refused = Vec::new();
        for (key, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.in_commit) {
            lane.in_commit = false;
            refused.push(key.clone());
        }
        let culprit = match &concerned[..] {
            [] => None,
            [culprit] => {
                self.distrust(culprit, events, class, why);
                Some(culprit.clone())
            }
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                self.suspects.push(second.iter().cloned().collect());
                self.suspects.push(first.iter().cloned().collect());
                None
            }
        };
        for key in refused.iter().chain(&culprit) {
            self.settle(key);
        }
        culprit
    }

    /// A lane of which so many events were refused together reads them again, fewer at a time.
    fn distrust(&mut self, key: &LaneKey, events: usize, class: &str, why: &str) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let first = lane.done.iter().find_map(|done| done.first);
        self.waiting -= lane.done.drain(..).map(|done| done.results.weight()).sum::<usize>();
        lane.stop = None;
        lane.drop_queue();
        lane.feed = Feed::Detached;
        lane.stale = lane.running.is_some();
        match lane.careful {
            // A lane that is watched may be one with the tail already, and handle more than it would read for itself.
            Some(1) if events <= 1 => {
                let attempts = lane.row.as_ref().map_or(0, |row| row.attempts).saturating_add(1);
                let state = LaneState::Blocked(Reason::new(class, why));
                lane.stop = Some(Stop { page: self.cursor, state, attempts, event_position: first });
            }
            Some(n) => lane.careful = Some((n / 2).max(1)),
            None => lane.careful = Some(CAREFUL),
        }
    }
}
