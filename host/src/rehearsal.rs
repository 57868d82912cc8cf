//! The test of a plugin on a file of events (`sandmill plugin test`), with documents in memory.
//!
//! The events are handled several times, each time cut into different batches, by the lanes, runner
//! and guest threads of a host. Documents, skipped events and stopped lanes must be the same every
//! time. Where a batch ends is the host's choice, and differs between live work and a rebuild.
//! Tenants run concurrently, as they share nothing. A tenant's lanes run one after another in the
//! log's order, so that a test is repeatable. Retries are made immediately; after [`ATTEMPTS`]
//! attempts the lane stops. All events and documents are held in memory.
//!
//! [`replay`] handles single events instead, over documents from a [`capsule`] or from elsewhere.

mod batching;
pub mod capsule;
mod compare;
mod documents;
pub mod lines;
mod pass;
pub mod replay;
mod report;

use std::{collections::BTreeSet, sync::Arc};

use batching::Batching;
pub use compare::{Comparison, Excerpt, ValueDifference};
pub use documents::{FindDocuments, FoundDocument};
pub use lines::{DocumentName, NamedDocuments};
use pass::Pass;
pub use pass::{SkippedEvent, StoppedLane};
pub use report::{EventDifference, PassReport, TestReport};

use crate::{
    consumer::router::Router,
    model::{event::Event, spec::ProcessorSpec},
    processor::lane::{FIRST_BATCH, Runner, TermEnded},
};

/// Attempts at an event before its lane stops. 3: a projector sees only its events and documents,
/// so an event that fails three times in a row will always fail.
pub const ATTEMPTS: u32 = 3;

/// A test of one plugin.
pub struct PluginTest<'a> {
    /// The plugin's spec.
    pub spec: &'a ProcessorSpec,
    /// Its code and guest threads.
    pub runner: &'a Runner,
    /// Events that are dispatched to lanes at once.
    pub page_events: usize,
    /// Tenants that run concurrently.
    pub tenants_at_once: usize,
}

impl PluginTest<'_> {
    /// Handles the events with every batching and compares the results with each other and with the
    /// expected documents. Also returns the documents of the first pass.
    pub async fn run(
        &self,
        events: &[Arc<Event>],
        expected: Option<&NamedDocuments>,
    ) -> Result<(TestReport, NamedDocuments), TermEnded> {
        let router = Router::new(self.spec);
        let taken: Vec<Arc<Event>> = events.iter().filter(|event| router.handles(event)).cloned().collect();
        let largest_batch = self.runner.code.current().batch_events.min(FIRST_BATCH).min(self.page_events).max(1);
        let mut passes: Vec<Pass> = Vec::new();
        for batching in Batching::all(largest_batch, self.page_events, &taken) {
            passes.push(pass::run(self, &router, batching, &taken).await?);
        }
        let mut report = TestReport::of(events.len(), taken.len(), &passes);
        report.absent_types = self.absent_types(events);
        let documents = passes.into_iter().next().map(|pass| pass.documents).unwrap_or_default();
        report.expectation = expected.map(|expected| compare::documents(expected, &documents));
        Ok((report, documents))
    }

    /// Types that the plugin subscribes to and that the file lacks, perhaps because of a
    /// misspelling.
    fn absent_types(&self, events: &[Arc<Event>]) -> Vec<String> {
        let present: BTreeSet<&str> = events.iter().map(|event| &*event.event_type).collect();
        let wanted = self.spec.descriptor.event_types.iter().flatten();
        wanted.filter(|wanted| !present.contains(wanted.as_str())).cloned().collect()
    }
}
