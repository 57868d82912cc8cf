//! The loop's reads: pages of the log, the log for one lane that is behind, and documents.
//!
//! Reads of the log use a reader and depend on nothing else that is under way, so either may be
//! dropped at any time. If the strategy is to shed, they first count the events that follow, for a
//! lane those of its tenant. Above the bound, [`ahead`] jumps towards the head, and [`lane`] to the
//! last page dispatched.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Engine, WorkResults};
use crate::{
    consumer::{
        pages::{PageScale, Reader, SourceError},
        router::Router,
    },
    failpoint,
    model::{
        cursor::{Difference, Progress},
        event::{Event, Page},
        handler::BoxFuture,
    },
    processor::{
        core::Input,
        gather::GatherResult,
        in_flight::LaneReading,
        outcome::Outcome,
        shed::{self, Shed, ShedRange},
    },
    projections::documents::{ReadError, TermDocuments},
};

/// The reads of the log.
pub(super) struct LogReads {
    /// The reader of pages; none while it reads.
    pages: Option<Reader>,
    pub(super) page: Option<BoxFuture<'static, PageResult>>,
    /// The reader for lanes that are behind; none while it reads.
    lanes: Option<Reader>,
    pub(super) lane: Option<BoxFuture<'static, LaneReadResult>>,
}

/// The reads of documents for lanes.
pub(super) struct DocumentReads {
    pub(super) of_term: Arc<TermDocuments>,
    pub(super) read: Option<BoxFuture<'static, Result<(), ReadError>>>,
    /// The same for tenants whose reads would delay other tenants.
    pub(super) slow_read: Option<BoxFuture<'static, Result<(), ReadError>>>,
}

/// A read of a page that has ended: the reader, the time it took, and the outcome.
pub(super) type PageResult = (Reader, Duration, Result<ReadAhead, SourceError>);
/// The result of a lane's reading, with the reader.
pub(super) type LaneReadResult = (Reader, LaneReading, Result<(GatherResult, Option<Shed>), SourceError>);

impl DocumentReads {
    pub(super) fn new(of_term: Arc<TermDocuments>) -> Self {
        DocumentReads { of_term, read: None, slow_read: None }
    }
}

impl LogReads {
    pub(super) fn new(pages: Reader, lanes: Reader) -> Self {
        LogReads { pages: Some(pages), page: None, lanes: Some(lanes), lane: None }
    }

    /// Starts to read the page after a progress.
    pub(super) fn start_page(&mut self, after: Progress, scale: PageScale, router: &Router, shed_after: Option<usize>) {
        let Some(mut reader) = self.pages.take() else { return };
        let router = router.clone();
        self.page = Some(Box::pin(async move {
            let began = Instant::now();
            let ahead = ahead(&mut reader, &after, scale, &router, shed_after).await;
            failpoint::hit("page.read");
            (reader, began.elapsed(), ahead)
        }));
    }

    /// Starts to read the log for a lane.
    pub(super) fn start_lane(&mut self, reading: LaneReading, router: &Router, shed_after: Option<usize>) {
        let Some(reader) = self.lanes.take() else { return };
        self.lane = Some(Box::pin(lane(reader, reading, router.clone(), shed_after)));
    }

    /// Takes the outcome of a lane's reading.
    pub(super) fn lane_read(
        &mut self,
        (reader, reading, result): LaneReadResult,
    ) -> Result<Input<WorkResults>, SourceError> {
        (self.lane, self.lanes) = (None, Some(reader));
        let (result, shed) = result?;
        Ok(Input::Found(reading, result, shed.map(|shed| WorkResults::of(Outcome::shed(shed)))))
    }

    /// Drops what is under way.
    pub(super) fn stop(&mut self) {
        (self.page, self.lane) = (None, None);
    }
}

impl Engine<'_> {
    /// Takes a page that was read, and routes its events.
    pub(super) fn page_read(&mut self, (reader, took, page): PageResult) -> Result<Input<WorkResults>, SourceError> {
        (self.reads.page, self.reads.pages) = (None, Some(reader));
        match page? {
            ReadAhead::Page(page) => {
                let lanes = self.router.route(&page.events);
                if !page.events.is_empty() {
                    self.report.read(took);
                    let (events, ms) = (page.events.len(), took.as_millis() as u64);
                    tracing::debug!(processor = %self.id, events, lanes = lanes.len(), ms, "read a page");
                }
                Ok(Input::Page(page, lanes))
            }
            ReadAhead::Shed(ShedRange { to, shed }) => {
                tracing::debug!(processor = %self.id, lanes = shed.len(), "jumps to the head of the log");
                let results = |shed| WorkResults::of(Outcome::shed(shed));
                let shed = shed.into_iter().map(|(lane, shed)| (lane, results(shed))).collect();
                Ok(Input::Shed(to, shed))
            }
        }
    }
}

/// The result of reading ahead of the tail.
pub(super) enum ReadAhead {
    /// Events to handle.
    Page(Arc<Page>),
    /// Events to shed.
    Shed(ShedRange),
}

/// Reads what follows a progress: one page, or past everything if more events follow than the
/// bound.
async fn ahead(
    reader: &mut Reader,
    after: &Progress,
    scale: PageScale,
    router: &Router,
    shed_after: Option<usize>,
) -> Result<ReadAhead, SourceError> {
    if let Some(bound) = shed_after
        && shed::exceeds_bound(reader, None, after, bound).await?
    {
        return Ok(ReadAhead::Shed(shed::to_head(reader, after, router).await?));
    }
    let page = reader.page(after, scale).await?;
    reader.route_deferred(router, &page.events).await?;
    Ok(ReadAhead::Page(page))
}

/// Reads the log for one lane, or past everything if more events follow than the bound.
async fn lane(mut reader: Reader, reading: LaneReading, router: Router, shed_after: Option<usize>) -> LaneReadResult {
    if let Some(bound) = shed_after {
        match shed::exceeds_bound(&mut reader, Some(&reading.lane.tenant), &reading.from, bound).await {
            Ok(false) => {}
            Ok(true) => {
                let shed = shed::lane_to_tail(&mut reader, &reading, &router).await;
                return (reader, reading, shed.map(|(found, shed)| (found, Some(shed))));
            }
            Err(error) => return (reader, reading, Err(error)),
        }
    }
    let mut gather = reading.gather();
    while let Some((difference, limit)) = gather.next() {
        match of_tenant(&mut reader, &reading, difference, limit, &router).await {
            Ok((mut events, more)) => {
                let last = events.last().map(|event| event.position);
                events.retain(|event| router.handles(event) && router.lane(event) == reading.lane);
                gather.read(last, events, more);
            }
            Err(error) => return (reader, reading, Err(error)),
        }
    }
    (reader, reading, Ok((gather.finish(), None)))
}

/// A page of the events of a lane's tenant, ready to be routed, and whether more follow.
async fn of_tenant(
    reader: &mut Reader,
    reading: &LaneReading,
    difference: &Difference,
    limit: usize,
    router: &Router,
) -> Result<(Vec<Arc<Event>>, bool), SourceError> {
    let (events, more) = reader.tenant_page(&reading.lane.tenant, difference, limit).await?;
    reader.route_deferred(router, &events).await?;
    Ok((events, more))
}
