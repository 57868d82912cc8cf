//! Shedding in the tracker: the lanes' progress jumps to the head of the log. Pure.
//!
//! Shed events are committed like handled ones: the count is a result, part of the commit in which
//! the cursor or the lane's row passes them. So after a crash at any step, an event is either still
//! to be handled, or shed and counted. Running work is not interrupted.

use super::{InFlight, Lane, OpenPage, Weighted, lane::FinishedWork};
use crate::model::{cursor::Progress, ids::LaneKey};

impl<T: Weighted> InFlight<T> {
    /// Dispatches everything up to `end` as one page that no lane handles; `shed` has the count of
    /// each lane. Lanes that still work on earlier pages are detached instead: they read the log
    /// themselves, and each of them sheds or handles it then. Returns the number of lanes that
    /// jumped.
    pub fn shed_to(&mut self, end: Progress, shed: Vec<(LaneKey, T)>) -> usize {
        self.detach(|lane| !lane.detached() && (!lane.idle() || lane.reading));
        for (key, _) in &shed {
            self.apply_pause(key);
        }
        let (cursor, page) = (self.cursor, self.last_page() + 1);
        let mut jumped = 0;
        for (key, results) in shed {
            if self.parked.contains(&key) {
                continue;
            }
            let lane = self.lanes.entry(key).or_insert_with(|| Lane::new(cursor));
            if lane.detached() {
                continue;
            }
            self.uncommitted_bytes += results.weight();
            let end = Some(end.clone());
            lane.done.push_back(FinishedWork { page, end, first: None, events: 0, results, changes: None });
            jumped += 1;
        }
        self.open_pages.push_back(OpenPage {
            end,
            has_work: jumped > 0,
            has_events: true,
            late: false,
            unfinished: 0,
            lanes: 0,
            finished: None,
        });
        jumped
    }
}
