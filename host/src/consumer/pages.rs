//! Pages of the log, read once for all processors with the same progress.
//!
//! A processor asks for the page after its own progress. If another processor had the same progress
//! a moment ago, the page is still cached, and both continue from the same next progress. Otherwise
//! the page is read. So processors with equal progress keep equal progress, and share every read. A
//! processor that is behind or ahead needs no special treatment. Recent pages are kept up to a
//! number of bytes.
//!
//! A page is bounded in events and in bytes. After large events, fewer are read at once. Large data
//! stays in the store, from where the module `deferred` loads it for the lane that handles it.
//!
//! A reader accepts only pages whose read began after the reader was created. A crash of the
//! database can undo events that were read already and reuse their xids, while every earlier
//! snapshot looks unchanged. If it crashes after the reader was created, the term loses all
//! sessions on which it may commit, so no part of the page can be committed.

use std::{
    collections::VecDeque,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex as AsyncMutex;

use super::{deferred::DeferredEvents, router::Router};
pub use crate::source::SourceError;
use crate::{
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Event, Page},
        ids::TenantId,
        loading::LoadEvents,
    },
    source::{Borrower, ConnectionWait, INLINE_MAX, Lease, Limit, SharedSource, SourcePool},
};

/// Bytes of recent pages that are kept. 16 MiB: two of the largest pages or many ordinary ones,
/// more than processors with nearly equal progress need.
const KEPT_BYTES: usize = 16 << 20;

/// The recent pages of one source, shared by all its readers.
pub struct Pages {
    sources: Arc<SourcePool>,
    size: PageSize,
    recent: Mutex<Recent>,
    /// Held while a page is read, so that two readers of one page read it once.
    reading: AsyncMutex<()>,
    deferred: Arc<DeferredEvents>,
}

/// Maximum number of tenants whose last events are looked up one by one.
const SINGLE_TENANTS: usize = 16;

/// The largest event whose property is read to find its lane, in bytes. 32 MiB: the highest limit
/// that a store accepts. It is fixed, so that no setting can move an event to another lane.
const ROUTED_BYTES: u64 = 32 << 20;

/// The assumed weight of an event before any was read, in bytes. 4 KiB: an estimate on the large
/// side, which only makes the first page short.
const FIRST_WEIGHT: usize = 4 << 10;

/// The size of a page, as a multiple of the usual number of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageScale(usize);

impl PageScale {
    /// The scale for a reader at the head of the log.
    pub const LEVEL: PageScale = PageScale(1);
    /// The smallest scale for a reader that is behind. Nobody waits for its events live, and the
    /// more of them are handled together, the less often their documents are written.
    pub const BEHIND: PageScale = PageScale(4);
    /// The largest scale, for a reader that is behind with very many lanes. If each lane has few
    /// events of a page, the overhead of calls exceeds the work in them.
    const MAX: PageScale = PageScale(32);
    /// Target number of events for each lane. Pages grow to reach it, and shrink above four times
    /// that number.
    const EVENTS_PER_LANE: usize = 16;

    /// The scale of the next page for a reader that is behind, after one with this many events of
    /// this many lanes.
    pub fn after(self, events: usize, lanes: usize) -> PageScale {
        let scale = match events {
            few if few < lanes * Self::EVENTS_PER_LANE => self.0 * (lanes * Self::EVENTS_PER_LANE).div_ceil(few.max(1)),
            many if many > lanes * Self::EVENTS_PER_LANE * 4 => self.0 / 2,
            _ => self.0,
        };
        PageScale(scale.clamp(Self::BEHIND.0, Self::MAX.0))
    }

    /// The weight of such a page, in ordinary pages.
    pub fn weight(self) -> usize {
        (self.0 / Self::BEHIND.0).max(1)
    }
}

/// The number of events to read at once, from the bounds of a page and the recent weight of events.
struct PageSize {
    events: usize,
    bytes: usize,
    /// The recent weight of an event, in bytes.
    weight: AtomicUsize,
}

impl PageSize {
    fn limit(&self, scale: PageScale) -> Limit {
        let (events, bytes) = (self.events.max(1) * scale.0, self.bytes * scale.weight());
        Limit { events: (bytes / self.weight.load(Relaxed).max(1)).clamp(1, events), bytes }
    }

    /// Updates the recent weight from the mean of a page. A larger mean replaces it, a smaller one
    /// counts three quarters: a page that is too short costs time, one that is too long costs
    /// memory.
    fn learn(&self, events: &[Arc<Event>]) {
        // A deferred event is only known to be larger than the bound, so the bound of the next page
        // is higher.
        let weight = |event: &Arc<Event>| {
            let deferred = event.deferred.as_ref().map_or(0, |deferred| (deferred.larger_than * 2).min(INLINE_MAX));
            event.weight() + deferred
        };
        let Some(mean) = events.iter().map(weight).sum::<usize>().checked_div(events.len()) else {
            return;
        };
        let known = self.weight.load(Relaxed);
        self.weight.store(mean.max((known + 3 * mean) / 4), Relaxed);
    }
}

#[derive(Default)]
struct Recent {
    /// The pages, each with the time at which its read began.
    pages: VecDeque<(Instant, Arc<Page>)>,
    bytes: usize,
    /// The last page without events.
    empty: Option<(Instant, Arc<Page>)>,
}

impl Recent {
    fn find(&self, from: &Progress, read_since: Instant) -> Option<Arc<Page>> {
        let mut latest_first = self.pages.iter().rev();
        latest_first.find(|(read, page)| *read >= read_since && page.from == *from).map(|(_, page)| page.clone())
    }

    /// The last empty page, if its read began after the reader asked. An empty page only shows how
    /// far the snapshot had moved by then, so a reader that asks later needs a new one.
    fn find_empty(&self, from: &Progress, asked: Instant) -> Option<Arc<Page>> {
        let (read, page) = self.empty.as_ref()?;
        (*read >= asked && page.from == *from).then(|| page.clone())
    }

    /// Adds a page, and drops the oldest pages beyond a number of bytes.
    fn keep(&mut self, read: Instant, page: Arc<Page>, bytes_max: usize) {
        if page.events.is_empty() {
            self.empty = Some((read, page));
            return;
        }
        self.bytes += page.weight();
        self.pages.push_back((read, page));
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.pages.pop_front() else { break };
            self.bytes -= oldest.weight();
        }
    }
}

impl Pages {
    /// A cache that reads pages of at most `events` events and about `bytes` bytes.
    pub fn new(sources: Arc<SourcePool>, events: usize, bytes: usize) -> Arc<Self> {
        let size = PageSize { events, bytes, weight: AtomicUsize::new(FIRST_WEIGHT) };
        let deferred = Arc::new(DeferredEvents::new(sources.clone()));
        Arc::new(Pages { sources, size, recent: Mutex::default(), reading: AsyncMutex::default(), deferred })
    }

    /// The loader of large events' data, for all lanes of the host.
    pub fn deferred(&self) -> Arc<dyn LoadEvents> {
        self.deferred.clone()
    }

    /// A reader, which borrows a session for each read. Sessions that were opened before the reader
    /// was created may commit the events that it returns.
    pub fn reader(self: &Arc<Self>, borrower: Borrower) -> Reader {
        Reader { pages: self.clone(), borrower, created: Instant::now() }
    }

    /// The processors that have waited for a session for at least the time `least`.
    pub fn waits(&self, least: Duration) -> Vec<ConnectionWait> {
        self.sources.waits(least)
    }

    /// A page that another reader has read while this one waited.
    fn read_meanwhile(&self, after: &Progress, created: Instant, asked: Instant) -> Option<Arc<Page>> {
        let recent = self.recent();
        recent.find(after, created).or_else(|| recent.find_empty(after, asked))
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One processor's access to the log.
pub struct Reader {
    pages: Arc<Pages>,
    borrower: Borrower,
    created: Instant,
}

type Source = Lease<SharedSource>;

impl Reader {
    async fn source(&self) -> Result<Source, SourceError> {
        self.pages.sources.lend(&self.borrower).await
    }

    /// The page that follows `after`, of this scale.
    pub async fn page(&mut self, after: &Progress, scale: PageScale) -> Result<Arc<Page>, SourceError> {
        let (pages, asked) = (&self.pages, Instant::now());
        if let Some(page) = pages.recent().find(after, self.created) {
            return Ok(page);
        }
        let _reading = pages.reading.lock().await;
        if let Some(page) = pages.read_meanwhile(after, self.created, asked) {
            return Ok(page);
        }
        let mut source = self.source().await?;
        let began = Instant::now();
        let page = Arc::new(source.page(after, pages.size.limit(scale)).await?);
        source.give_back();
        pages.size.learn(&page.events);
        pages.recent().keep(began, page.clone(), KEPT_BYTES);
        Ok(page)
    }

    /// The transactions visible now.
    pub async fn head(&mut self) -> Result<Snapshot, SourceError> {
        let mut source = self.source().await?;
        let head = source.head().await?;
        source.give_back();
        Ok(head)
    }

    /// The last events up to a position, in the log's order: at most `limit`, and at most an
    /// ordinary page. `types` limits them to some types. `tenants` limits them to some tenants if
    /// it lists at most 16; a longer list is ignored, so the caller must filter the events.
    pub async fn last(
        &mut self,
        tenants: Option<&[TenantId]>,
        types: Option<&[String]>,
        up_to: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, SourceError> {
        let most = self.pages.size.limit(PageScale::LEVEL);
        let limit = Limit { events: limit.min(most.events), ..most };
        let few = tenants.filter(|tenants| tenants.len() <= SINGLE_TENANTS);
        let mut source = self.source().await?;
        let Some(tenants) = few else {
            let events = source.last(None, types, up_to, limit).await?;
            source.give_back();
            return Ok(events);
        };
        let mut events = Vec::new();
        for tenant in tenants {
            let part = |total: usize| total.div_ceil(tenants.len());
            let limit = Limit { events: part(limit.events), bytes: part(limit.bytes) };
            events.extend(source.last(Some(tenant), types, up_to, limit).await?);
        }
        source.give_back();
        events.sort_unstable_by_key(|event| event.position);
        events.drain(..events.len().saturating_sub(limit.events));
        Ok(events)
    }

    /// The number of events that follow a progress, of one tenant or of all; at most `limit` are
    /// counted.
    pub async fn lag(
        &mut self,
        tenant: Option<&TenantId>,
        from: &Progress,
        limit: usize,
    ) -> Result<usize, SourceError> {
        let mut source = self.source().await?;
        let lag = source.lag(tenant, from, limit).await?;
        source.give_back();
        Ok(lag)
    }

    /// One tenant's events in a difference: at most `limit`, and at most an ordinary page. Also
    /// whether there may be more.
    pub async fn tenant_page(
        &mut self,
        tenant: &TenantId,
        difference: &Difference,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, bool), SourceError> {
        let most = self.pages.size.limit(PageScale::LEVEL);
        let limit = Limit { events: limit.min(most.events).max(1), ..most };
        let mut source = self.source().await?;
        let page = source.tenant_page(tenant, difference, limit).await?;
        source.give_back();
        self.pages.size.learn(&page.events);
        Ok((page.events, page.more))
    }

    /// One tenant's events at these positions, as far as they exist: at most an ordinary page.
    pub async fn events_at(&mut self, tenant: &TenantId, positions: &[i64]) -> Result<Vec<Arc<Event>>, SourceError> {
        let limit = self.pages.size.limit(PageScale::LEVEL);
        let mut source = self.source().await?;
        let page = source.at(tenant, positions, limit).await?;
        source.give_back();
        Ok(page.events)
    }

    /// The events of a stream with these versions: at most `limit`, and at most an ordinary page.
    /// Also whether there may be more.
    pub async fn events_of_stream(
        &mut self,
        tenant: &TenantId,
        stream: &str,
        versions: RangeInclusive<i64>,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, bool), SourceError> {
        let most = self.pages.size.limit(PageScale::LEVEL);
        let limit = Limit { events: limit.min(most.events).max(1), ..most };
        let mut source = self.source().await?;
        let page = source.of_stream(tenant, stream, versions, limit).await?;
        source.give_back();
        Ok((page.events, page.more))
    }

    /// Finds the partition keys of deferred events, if a property of their data decides their lane.
    /// Reads the events one by one and keeps only the keys. If an event is too large for that, its
    /// key counts as unreadable.
    pub async fn route_deferred(&mut self, router: &Router, events: &[Arc<Event>]) -> Result<(), SourceError> {
        let Some(pointer) = router.pointer() else { return Ok(()) };
        let mut source = None;
        for event in events {
            let Some(deferred) =
                event.deferred.as_ref().filter(|deferred| router.handles(event) && deferred.key(pointer).is_none())
            else {
                continue;
            };
            let source: &mut Source = match &mut source {
                Some(source) => source,
                none => none.insert(self.source().await?),
            };
            let body = match source.load(&[event.position], usize::MAX, Some(ROUTED_BYTES)).await {
                Err(error) if error.is_about_a_row() => Err(error.to_string()),
                Err(error) => return Err(error),
                Ok(bodies) => bodies.into_iter().next().ok_or(SourceError::Gone(event.position)).map(Ok)?,
            };
            let key = match body.map(|body| (body.bytes, body.texts)) {
                Ok((_, Some((data, _)))) => router.key(&data),
                Ok((bytes, None)) => Some(Err(too_large(bytes).into())),
                Err(why) => Some(Err(why.into())),
            };
            if let Some(key) = key {
                deferred.set_key(pointer, key);
            }
        }
        if let Some(source) = source {
            source.give_back();
        }
        Ok(())
    }
}

fn too_large(bytes: u64) -> String {
    format!("it has {bytes} bytes, more than the {ROUTED_BYTES} that are read to find a lane")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(count: usize, bytes: usize) -> Vec<Arc<Event>> {
        let event = Arc::new(Event {
            position: 1,
            id: "e".into(),
            tenant: TenantId::parse("t").unwrap(),
            event_type: "T".into(),
            stream: "s".into(),
            version: 1,
            recorded_at: 0,
            data: "x".repeat(bytes).into(),
            metadata: "{}".into(),
            deferred: None,
        });
        vec![event; count]
    }

    #[test]
    fn pages_shrink_at_once_after_large_events_and_grow_again_after_small_ones() {
        let size = PageSize { events: 5_000, bytes: 8 << 20, weight: AtomicUsize::new(FIRST_WEIGHT) };
        let limit = |scale| size.limit(scale).events;
        assert_eq!(limit(PageScale::LEVEL), 2_048);
        size.learn(&events(100, 300));
        assert!(
            (4_000..5_000).contains(&limit(PageScale::LEVEL)) || limit(PageScale::LEVEL) == 5_000,
            "{}",
            limit(PageScale::LEVEL)
        );
        size.learn(&events(10, 1 << 20));
        assert_eq!((limit(PageScale::LEVEL), limit(PageScale::BEHIND)), (7, 7));
        size.learn(&[]);
        assert_eq!(limit(PageScale::LEVEL), 7);
        for _ in 0..40 {
            size.learn(&events(100, 300));
        }
        assert_eq!(limit(PageScale::LEVEL), 5_000);
        assert!((12_000..20_000).contains(&limit(PageScale::BEHIND)), "{}", limit(PageScale::BEHIND));
    }

    #[test]
    fn an_empty_page_serves_only_readers_that_asked_before_it_was_read() {
        let progress = |snapshot: &str| Progress::at(snapshot.parse().unwrap());
        let (from, to) = (progress("5:5:"), progress("7:7:"));
        let asked = Instant::now();
        let read = asked + Duration::from_millis(1);
        let mut recent = Recent::default();
        recent.keep(read, Arc::new(Page { from: from.clone(), to: to.clone(), events: Vec::new() }), KEPT_BYTES);
        assert_eq!(recent.find(&from, asked).map(|_| ()), None, "an empty page is not kept as a recent one");
        assert_eq!(recent.find_empty(&from, asked).map(|page| page.to.clone()), Some(to.clone()));
        assert!(
            recent.find_empty(&from, read + Duration::from_millis(1)).is_none(),
            "the log may have more events by then"
        );
        assert!(recent.find_empty(&to, asked).is_none(), "it follows another progress");
    }

    #[test]
    fn pages_grow_if_many_lanes_have_few_events_each() {
        assert_eq!(PageScale::BEHIND.after(20_000, 5_000), PageScale(16));
        let scale = PageScale::BEHIND.after(20_000, 9_000);
        assert_eq!((scale, scale.weight()), (PageScale(32), 8));
        assert_eq!(scale.after(100_000, 10_000), PageScale::MAX);
        assert_eq!(scale.after(80_000, 3_000), scale, "neither few nor many");
        assert_eq!(scale.after(80_000, 100), PageScale(16));
        assert_eq!(PageScale::LEVEL.after(20_000, 100), PageScale::BEHIND);
        assert_eq!(PageScale::BEHIND.after(0, 0), PageScale::BEHIND);
    }
}
