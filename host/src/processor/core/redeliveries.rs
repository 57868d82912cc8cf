//! When set-aside events are handled again or discarded. Pure.

use std::time::{Duration, SystemTime};

use super::{Command, Core, Now, Surroundings};
use crate::{
    model::ids::{LaneKey, TenantId},
    processor::in_flight::{Redelivery, RedeliveryEnd, Request, Weighted},
    scheduler::Class,
};

/// The state of the redeliveries.
#[derive(Default)]
pub(super) struct Redeliveries {
    /// Whether one may have become due.
    pub(super) search: bool,
    /// When the next postponed one is due.
    pub(super) due: Option<SystemTime>,
}

impl<T: Weighted + Default> Core<T> {
    /// Adds operators' requests.
    pub(super) fn requested(&mut self, requests: Vec<Request>) {
        for request in requests {
            self.in_flight.request(request);
        }
        (self.redeliveries.search, self.state_changed) = (true, true);
    }

    /// The next redelivery, if one is due.
    pub(super) fn start_redelivery(&mut self, now: Now, host: &impl Surroundings) -> Option<Command<T>> {
        if !self.may_start() || host.has_other_replacements() {
            return None;
        }
        self.redeliveries.search |= self.redeliveries.due.is_some_and(|due| due <= now.wall);
        if !self.redeliveries.search {
            return None;
        }
        let wait = |tenant: &TenantId| -> Option<Duration> { host.throttled(tenant).map(|(wait, _)| wait) };
        match self.in_flight.start_redelivery(now.wall, self.settings.page_events, wait) {
            Ok((lane, redelivery)) => {
                self.running += 1;
                Some(Command::Redeliver(lane, redelivery, Class::CatchUp))
            }
            Err(due) => {
                (self.redeliveries.search, self.redeliveries.due) = (false, due);
                None
            }
        }
    }

    /// Applies the end of a redelivery.
    pub(super) fn redelivered(&mut self, lane: LaneKey, redelivery: Redelivery, end: RedeliveryEnd<T>, now: Now) {
        self.running -= 1;
        self.commits.finished += 1;
        (self.redeliveries.search, self.lane_reads.search) = (true, true);
        if !self.in_flight.finish_redelivery(&lane, redelivery, end, now.wall) {
            // The events are handled again, and must not see these results.
            self.queued.push_back(Command::Unstage(lane));
        }
    }
}
