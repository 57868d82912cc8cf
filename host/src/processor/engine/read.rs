//! The loop's reads: pages of the log, and the log for one lane that is behind.
//!
//! Both functions use a reader and depend on nothing else that is under way, so either read may be
//! dropped at any time. If the strategy is to shed, they first count the events that follow, for a
//! lane those of its tenant. Above the bound, [`ahead`] jumps towards the head, and [`lane`] to the
//! last page dispatched.

use std::sync::Arc;

use crate::{
    consumer::{
        pages::{PageScale, Reader, SourceError},
        router::Router,
    },
    model::{
        cursor::{Difference, Progress},
        event::{Event, Page},
    },
    processor::{
        gather::GatherResult,
        in_flight::LaneReading,
        shed::{self, Shed, ShedRange},
    },
};

/// The result of reading ahead of the tail.
pub(super) enum ReadAhead {
    /// Events to handle.
    Page(Arc<Page>),
    /// Events to shed.
    Shed(ShedRange),
}

/// The result of a lane's reading, with the reader.
pub(super) type ReadingResult = (Reader, LaneReading, Result<(GatherResult, Option<Shed>), SourceError>);

/// Reads what follows a progress: one page, or past everything if more events follow than the
/// bound.
pub(super) async fn ahead(
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
pub(super) async fn lane(
    mut reader: Reader,
    reading: LaneReading,
    router: Router,
    shed_after: Option<usize>,
) -> ReadingResult {
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
