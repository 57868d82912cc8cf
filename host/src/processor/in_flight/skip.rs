//! Going on at the head without what lies before it: pure.
//!
//! What is skipped is committed like work that was done: its result says how much it was, and rides in the commit in which the cursor or the
//! lane's row passes it. So a crash at any step leaves events either still to be handled, or skipped and counted. Nothing that runs is cut off.

use super::{InFlight, Lane, OpenPage, Results, lane::Done};
use crate::model::{cursor::Progress, ids::LaneKey};

impl<T: Results> InFlight<T> {
    /// Deals everything up to `end` as one page of which each lane skips its part. Of the lanes, those that still work on earlier pages take no part
    /// in it: they lose their queues and read for themselves, like any lane that holds too much. Gives back how many took part.
    pub fn leap(&mut self, end: Progress, skipped: Vec<(LaneKey, T)>) -> usize {
        self.let_go(|lane| !lane.detached() && (!lane.idle() || lane.reading));
        for (key, _) in &skipped {
            self.hold_if_paused(key);
        }
        let (cursor, page) = (self.cursor, self.last_page() + 1);
        let mut took = 0;
        for (key, results) in skipped {
            if self.parked.contains(&key) {
                continue;
            }
            let lane = self.lanes.entry(key).or_insert_with(|| Lane::new(cursor));
            if lane.detached() {
                continue;
            }
            self.waiting += results.weight();
            lane.done.push_back(Done { page, end: end.clone(), first: None, events: 0, results });
            took += 1;
        }
        self.open_pages.push_back(OpenPage { end, worth: took > 0, events: true, finished: None });
        took
    }
}
