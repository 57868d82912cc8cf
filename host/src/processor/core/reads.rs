//! When pages and the log of lanes are read, and how much. Pure.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Command, Core, MAX_DEBT, MAX_TIME_BEHIND, Now, Surroundings};
use crate::{
    consumer::pages::PageScale,
    model::{
        cursor::Progress,
        event::{Event, Page},
        ids::{LaneKey, TenantId},
    },
    processor::{
        in_flight::{QueueFull, Weighted},
        lockstep::LockstepTurn,
        pressure::{ReadWait, WaitReport},
    },
};

/// Maximum age of the last event of a page that still counts as live although more events follow.
/// 1 s: a burst of one tenant must not make other tenants' events count as old.
const RECENT: Duration = Duration::from_secs(1);
/// Time between two checks of whether a processor that is behind exceeds its bound for shedding. A
/// check reads as many rows as the bound.
const HEAD_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The state of the read of pages.
pub(super) struct Tail {
    /// Whether a page is being read.
    pub(super) under_way: bool,
    /// Whether the log may have events that were not read.
    pub(super) more_to_read: bool,
    /// Whether the last page was full, so that more can be read immediately.
    behind: bool,
    /// Whether the events of the last page are too old to count as live.
    pub(super) late: bool,
    /// The size of pages while it is behind.
    scale: PageScale,
    /// When the distance to the head was last checked.
    head_checked_at: Option<Instant>,
    /// Why nothing is read.
    pub(super) wait: WaitReport,
}

impl Tail {
    pub(super) fn new() -> Self {
        Tail {
            under_way: false,
            more_to_read: true,
            behind: false,
            late: false,
            scale: PageScale::BEHIND,
            head_checked_at: None,
            wait: WaitReport::default(),
        }
    }
}

/// The state of the reads for lanes that are behind.
pub(super) struct LaneReads {
    /// Whether a lane is reading.
    pub(super) under_way: bool,
    /// Whether a lane may have become ready to read the log.
    pub(super) search: bool,
    /// When the next lane that waits for a time is due.
    pub(super) due: Option<SystemTime>,
}

impl LaneReads {
    pub(super) fn new() -> Self {
        LaneReads { under_way: false, search: true, due: None }
    }
}

impl<T: Weighted + Default> Core<T> {
    /// The next page to read, if there may be one and nothing prevents it.
    pub(super) fn start_page(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        if !self.may_start() {
            return None;
        }
        let turn = host.turn((self.in_flight.pages_open() == 0).then(|| self.in_flight.tail()));
        let wait = if self.tail.more_to_read { self.read_wait(&turn) } else { None };
        let may = self.tail.more_to_read && wait.is_none() && !self.tail.under_way;
        self.tail.wait.note(wait, now.mono);
        let pressure = &self.settings.pressure;
        let ahead = pressure.pages_ahead(self.settings.pages_ahead);
        let scale = if self.tail.behind { self.tail.scale } else { PageScale::LEVEL };
        // A large page counts as several, but one may always be handled while another is read.
        let room = self.in_flight.pages_open() < (ahead / scale.weight()).max(ahead.min(2));
        if !may || !room {
            return None;
        }
        let toward = matches!(turn, LockstepTurn::Read(Some(_)));
        let after = match turn {
            LockstepTurn::Read(Some(toward)) => Progress::entering(self.in_flight.tail().seen().clone(), toward),
            _ => self.in_flight.tail().clone(),
        };
        // A notification during the read may be about events that the read does not see. A read up
        // to another processor's progress does not show what is past it.
        self.tail.more_to_read = toward;
        let was_checked = |checked| !self.tail.behind || now.since(checked) < HEAD_CHECK_INTERVAL;
        let may_shed = pressure.shed_after().is_some() && !self.tail.head_checked_at.is_some_and(was_checked);
        if may_shed {
            self.tail.head_checked_at = Some(now.mono);
        }
        self.tail.under_way = true;
        Some(Command::ReadPage { after, scale, may_shed })
    }

    /// Why nothing may be read now.
    fn read_wait(&self, turn: &LockstepTurn) -> Option<ReadWait> {
        match turn {
            LockstepTurn::Wait(other) => Some(ReadWait::Waiting(other.clone())),
            LockstepTurn::Read(_) => self.in_flight.full().map(|full| match full {
                QueueFull::Lane(lane) => ReadWait::Full(lane.clone()),
                QueueFull::Total => ReadWait::FullTotal,
            }),
        }
    }

    /// Applies the read of a page: updates the state of the tail, and queues the events for their
    /// lanes.
    pub(super) fn page_read(
        &mut self,
        page: &Page,
        lanes: Vec<(LaneKey, Vec<Arc<Event>>)>,
        now: Now,
        host: &impl Surroundings,
    ) {
        self.state_changed = true;
        let tail = &mut self.tail;
        tail.under_way = false;
        tail.more_to_read |= !page.events.is_empty();
        tail.behind = page.events.len() >= self.settings.page_events || !page.to.is_boundary();
        tail.late = tail.behind && !page.events.last().is_some_and(|event| is_recent(event.recorded_at, now));
        tail.scale = if tail.behind { tail.scale.after(page.events.len(), lanes.len()) } else { PageScale::BEHIND };
        let behind_since = &self.behind_since;
        self.in_flight.dispatch(page, tail.late, lanes, |lane| {
            behind_since.get(lane).is_some_and(|since| now.since(*since) >= MAX_TIME_BEHIND)
                || host.debt(&lane.tenant) >= MAX_DEBT
        });
        // A lane that has just been detached reads the log next.
        self.lane_reads.search = true;
        if self.in_flight.passed_events() {
            self.commits.passed(now);
        }
    }

    /// Applies a jump to the head of the log.
    pub(super) fn jumped(&mut self, to: Progress, shed: Vec<(LaneKey, T)>, now: Now) {
        (self.state_changed, self.lane_reads.search) = (true, true);
        (self.tail.under_way, self.tail.more_to_read) = (false, true);
        // The head may be as far away as before.
        self.tail.head_checked_at = None;
        self.in_flight.shed_to(to, shed);
        self.commits.passed(now);
    }

    /// The read of the log for a lane behind, if one is due and its tenant is not throttled.
    pub(super) fn start_lane_read(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        if !self.may_start() {
            return None;
        }
        if self.lane_reads.due.is_some_and(|due| due <= now.wall) {
            self.lane_reads.search = true;
        }
        if !self.lane_reads.search || self.lane_reads.under_way {
            return None;
        }
        let mut free_again = None;
        let is_throttled = |tenant: &TenantId| {
            let wait = host.throttled(tenant).map(|(wait, _)| now.wall + wait);
            free_again = free_again.into_iter().chain(wait).min();
            wait.is_some()
        };
        let reading = self.in_flight.next_reading(now.wall, self.settings.page_events, is_throttled);
        // The lane that is due has begun to read. The search after its reading finds the next one.
        self.lane_reads.due = self.in_flight.next_due();
        let Some(reading) = reading else {
            self.lane_reads.search = false;
            self.lane_reads.due = self.lane_reads.due.into_iter().chain(free_again).min();
            return None;
        };
        self.lane_reads.under_way = true;
        Some(Command::ReadLane(reading))
    }
}

/// Whether an event was recorded just now, given roughly correct clocks.
fn is_recent(recorded_at: i64, now: Now) -> bool {
    let recorded = u64::try_from(recorded_at)
        .map_or(SystemTime::UNIX_EPOCH, |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    now.wall.duration_since(recorded).map_or(true, |age| age < RECENT)
}
