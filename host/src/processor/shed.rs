//! The read of events that are shed: it skips them, and counts them exactly by lane.
//!
//! Shedding costs one read of what is shed; no guest runs and no document is written. Events are
//! counted by the router that would have dispatched them, so the counts are right for any
//! partitioning. Nothing is stored here: the shedding happens when the count is committed together
//! with the progress.

use std::collections::BTreeMap;

use super::{gather::GatherResult, in_flight::LaneReading};
use crate::{
    consumer::{
        pages::{PageScale, Reader, SourceError},
        router::Router,
    },
    failpoint,
    model::{
        cursor::Progress,
        ids::{LaneKey, TenantId},
    },
};

/// Shed events of one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shed {
    /// The lane's progress before them.
    pub from: Progress,
    /// The lane's progress after them.
    pub to: Progress,
    /// Number of events of the lane in between.
    pub events: usize,
}

/// The events between a processor and the head of the log.
#[derive(Debug)]
pub(super) struct ShedRange {
    pub(super) to: Progress,
    pub(super) shed: Vec<(LaneKey, Shed)>,
}

/// Whether more events than the bound follow a progress: events of one tenant, or of all.
pub(super) async fn exceeds_bound(
    reader: &mut Reader,
    tenant: Option<&TenantId>,
    from: &Progress,
    bound: usize,
) -> Result<bool, SourceError> {
    Ok(reader.lag(tenant, from, bound.saturating_add(1)).await? > bound)
}

/// Number of lanes after which a jump ends; the next one continues. 10,000: each lane adds one row
/// to the commit.
const LANES_AT_ONCE: usize = 10_000;

/// Reads past all events between `from` and the current head, or until they belong to very many
/// lanes.
pub(super) async fn to_head(reader: &mut Reader, from: &Progress, router: &Router) -> Result<ShedRange, SourceError> {
    let head = reader.head().await?;
    let mut at = from.clone();
    let mut events: BTreeMap<LaneKey, usize> = BTreeMap::new();
    while !at.seen().covers(&head) && events.len() < LANES_AT_ONCE {
        let after = if at.is_boundary() { Progress::entering(at.seen().clone(), head.clone()) } else { at };
        let page = reader.page(&after, PageScale::BEHIND).await?;
        reader.route_deferred(router, &page.events).await?;
        for (lane, of_lane) in router.route(&page.events) {
            *events.entry(lane).or_default() += of_lane.len();
        }
        failpoint::hit("shed.read");
        at = page.to.clone();
    }
    let counted = |events| Shed { from: from.clone(), to: at.clone(), events };
    let shed = events.into_iter().map(|(lane, events)| (lane, counted(events))).collect();
    Ok(ShedRange { to: at, shed })
}

/// Reads past all events between a lane and the last page dispatched.
pub(super) async fn lane_to_tail(
    reader: &mut Reader,
    reading: &LaneReading,
    router: &Router,
) -> Result<(GatherResult, Shed), SourceError> {
    let mut gather = reading.gather_all();
    let mut events = 0;
    while let Some((difference, limit)) = gather.next() {
        let (found, more) = reader.tenant_page(&reading.lane.tenant, difference, limit).await?;
        reader.route_deferred(router, &found).await?;
        events += found.iter().filter(|event| router.handles(event) && router.lane(event) == reading.lane).count();
        gather.read(found.last().map(|event| event.position), Vec::new(), more);
        failpoint::hit("shed.read");
    }
    Ok((gather.finish(), Shed { from: reading.from.clone(), to: reading.tail.clone(), events }))
}
