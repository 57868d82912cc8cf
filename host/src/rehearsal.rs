//! A plugin's whole work on a file of events, with documents in memory: what its author sees before any database does.
//!
//! The events are handled several times, each time cut into other batches, by the same lanes, runner and guest threads as on a host. Documents,
//! skipped events and stops must be the same every time, because where a batch ends is the host's choice and differs between live work and a
//! rebuild. Tenants run side by side, as they share nothing; a tenant's lanes take turns in the log's order, so that a repeat is a
//! repeat. A retry is tried again at once, [`ATTEMPTS`] times in all, and then stops its lane. Events and documents are held in memory.

mod compare;
mod cut;
mod documents;
pub mod lines;
mod pass;
mod report;

use std::{collections::BTreeSet, sync::Arc};

pub use compare::{Comparison, Listed};
use cut::Cut;
pub use lines::{Documents, Name};
use pass::Pass;
pub use report::{EventDifference, PassReport, Report, SkippedEvent, Stop};

use crate::{
    consumer::router::Router,
    model::{event::Event, handler::Descriptor},
    processor::lane::{FIRST_BATCH, Runner, TermEnded},
};

/// How often an event is tried before its lane stops. Default 3: a projector sees nothing but its events and documents, so what fails
/// three times at once will fail for ever.
pub const ATTEMPTS: u32 = 3;

/// What is to be run, and how.
pub struct Rehearsal<'a> {
    /// What the plugin says it is.
    pub descriptor: &'a Descriptor,
    /// Its code, and where it computes.
    pub runner: &'a Runner,
    /// Events that are dispatched to lanes at a time.
    pub page_events: usize,
    /// Tenants that run at once.
    pub tenants_at_once: usize,
}

impl Rehearsal<'_> {
    /// Handles the events in every way, and says whether the outcome was the same and as expected. The documents are those of the first
    /// way.
    pub async fn run(
        &self,
        events: &[Arc<Event>],
        expected: Option<&Documents>,
    ) -> Result<(Report, Documents), TermEnded> {
        let router = Router::new(self.descriptor);
        let mine: Vec<Arc<Event>> = events.iter().filter(|event| router.takes(event)).cloned().collect();
        let most = self.runner.code.current().batch_events.min(FIRST_BATCH).min(self.page_events).max(1);
        let mut passes: Vec<Pass> = Vec::new();
        for cut in Cut::all(most, self.page_events, &mine) {
            passes.push(pass::run(self, &router, cut, &mine).await?);
        }
        let mut report = Report::of(events.len(), mine.len(), &passes);
        report.absent_types = self.absent_types(events);
        let documents = passes.into_iter().next().map(|pass| pass.documents).unwrap_or_default();
        report.expectation = expected.map(|expected| compare::documents(expected, &documents));
        Ok((report, documents))
    }

    /// Types that the plugin asks for and the file does not hold, perhaps because they are spelt otherwise.
    fn absent_types(&self, events: &[Arc<Event>]) -> Vec<String> {
        let there: BTreeSet<&str> = events.iter().map(|event| &*event.event_type).collect();
        let wanted = self.descriptor.event_types.iter().flatten();
        wanted.filter(|wanted| !there.contains(wanted.as_str())).cloned().collect()
    }
}
