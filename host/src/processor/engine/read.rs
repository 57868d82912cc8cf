//! What the loop has read for it: pages ahead of what is handled, and the log for one lane that is behind.
//!
//! Both are given a reader and give it back with what they found; neither knows of anything else that is under way, so either may be dropped at any time. Where
//! a bound on what may wait is given, they look first how much follows, and pass over all of it where it is more.

use std::sync::Arc;

use crate::{
    consumer::{
        pages::{Reader, SourceError, Times},
        router::Router,
    },
    model::{
        cursor::{Difference, Progress},
        event::{Event, Page},
    },
    processor::{
        gather::Found,
        in_flight::Reading,
        shed::{self, Shed, ShedRange},
    },
};

/// What was read of what follows.
pub(super) enum Ahead {
    /// To be handled.
    Page(Arc<Page>),
    /// To be shed.
    Shed(ShedRange),
}

/// What came of a lane's reading, with its reader.
pub(super) type ReadingResult = (Reader, Reading, Result<(Found, Option<Shed>), SourceError>);

/// Reads what follows a progress: a page, or where more events than the bound do, past all of them.
pub(super) async fn ahead(
    reader: &mut Reader,
    after: &Progress,
    times: Times,
    router: &Router,
    shed_after: Option<usize>,
) -> Result<Ahead, SourceError> {
    if let Some(bound) = shed_after
        && shed::too_far(reader, None, after, bound).await?
    {
        return Ok(Ahead::Shed(shed::to_head(reader, after, router).await?));
    }
    let page = reader.page(after, times).await?;
    reader.route_deferred(router, &page.events).await?;
    Ok(Ahead::Page(page))
}

/// Reads the log for one lane; past all of it, where it is more than the bound.
pub(super) async fn lane(
    mut reader: Reader,
    reading: Reading,
    router: Router,
    shed_after: Option<usize>,
) -> ReadingResult {
    if let Some(bound) = shed_after {
        match shed::too_far(&mut reader, Some(&reading.lane.tenant), &reading.from, bound).await {
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
                events.retain(|event| router.takes(event) && router.lane(event) == reading.lane);
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
    reading: &Reading,
    difference: &Difference,
    limit: usize,
    router: &Router,
) -> Result<(Vec<Arc<Event>>, bool), SourceError> {
    let (events, more) = reader.tenant_page(&reading.lane.tenant, difference, limit).await?;
    reader.route_deferred(router, &events).await?;
    Ok((events, more))
}
