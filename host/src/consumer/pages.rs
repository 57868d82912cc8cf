//! Pages of the log, read once for all processors that stand at the same place.
//!
//! A processor asks for what follows its own progress. Where another one stood there a moment ago, the page is still at hand and both go
//! on from it to the same next place; where nobody did, it is read. So processors that are level stay level and share every
//! reading, and one that is behind or ahead needs no special path. Recent pages are kept up to a number of bytes.
//!
//! A page is bounded in events and in bytes: where events weighed much lately, fewer are read at once, and large data is left in the
//! store, from where [`deferred`](super::deferred) loads it for the lane that handles it.
//!
//! A page is not for ever. A crash of the database takes back events that were read already and gives their xids out again, while every
//! snapshot before looks as it did. So a reader takes only pages whose reading began after it was made: had the database crashed since,
//! its own session, and its term's, would be dead and nothing of the page could be committed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex as AsyncMutex;

use super::{deferred::DeferredEvents, router::Router};
/// Why a page could not be read.
pub use crate::source::SourceError;
use crate::{
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Event, Page},
        ids::TenantId,
        loading::LoadEvents,
    },
    source::{Borrower, INLINE_MOST, Lease, Limit, SharedSource, Sources, Wait},
};

/// Bytes of recent pages kept for others. 16 MiB: two of the largest pages and many ordinary ones, more than level processors are ever apart.
const KEPT_BYTES: usize = 16 << 20;

/// Recent pages of one source. Shared by all its readers.
pub struct Pages {
    sources: Arc<Sources>,
    size: PageSize,
    recent: Mutex<Recent>,
    /// Held while a page is read, so that two who need the same one read it once.
    reading: AsyncMutex<()>,
    deferred: Arc<DeferredEvents>,
}

/// Tenants whose last events are looked up one by one.
const TENANTS_APART: usize = 16;

/// The largest event whose property is read to find its lane, bytes. 32 MiB, the most that a store
/// may allow: fixed, so that no setting moves an event to another lane.
const ROUTED_BYTES: u64 = 32 << 20;

/// What an event is taken to weigh before any was read, bytes.
const FIRST_WEIGHT: usize = 4 << 10;

/// How many times as many events as usual a page may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times(usize);

impl Times {
    /// For a reader that is level.
    pub const LEVEL: Times = Times(1);
    /// For a reader that is behind: nobody waits for those events live, and the more of them are handled together, the less often their documents are written.
    pub const BEHIND: Times = Times(4);
    /// The most, for a reader that is behind with very many lanes: where each has few events of a page, calls cost more than what is done in them.
    const MOST: Times = Times(32);
    /// Fewer events for each lane ask for a page with so many, more than four times as many let pages become smaller again.
    const FEW: usize = 16;

    /// For the page after one in which so many lanes had so many events, by a reader that is behind.
    pub fn after(self, events: usize, lanes: usize) -> Times {
        let times = match events {
            few if few < lanes * Self::FEW => self.0 * (lanes * Self::FEW).div_ceil(few.max(1)),
            many if many > lanes * Self::FEW * 4 => self.0 / 2,
            _ => self.0,
        };
        Times(times.clamp(Self::BEHIND.0, Self::MOST.0))
    }

    /// How many ordinary pages one of these weighs.
    pub fn weight(self) -> usize {
        (self.0 / Self::BEHIND.0).max(1)
    }
}

/// How many events are read at once.
struct PageSize {
    events: usize,
    bytes: usize,
    /// What an event weighed lately, bytes.
    weight: AtomicUsize,
}

impl PageSize {
    fn limit(&self, times: Times) -> Limit {
        let (events, bytes) = (self.events.max(1) * times.0, self.bytes * times.weight());
        Limit { events: (bytes / self.weight.load(Relaxed).max(1)).clamp(1, events), bytes }
    }

    /// Larger events count at once, smaller ones by three quarters: too short a page costs time, too long a one memory.
    fn learn(&self, events: &[Arc<Event>]) {
        // A deferred event is only known to be larger than the bound, so the next page gets a
        // higher one.
        let weight = |event: &Arc<Event>| {
            let deferred = event.deferred.as_ref().map_or(0, |deferred| (deferred.larger_than * 2).min(INLINE_MOST));
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
    /// Each with the time at which its reading began.
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

    /// The last empty page, if it was read after the reader asked. It shows only how far the
    /// snapshot had moved by then, so a reader that asks later needs a new one.
    fn find_empty(&self, from: &Progress, asked: Instant) -> Option<Arc<Page>> {
        let (read, page) = self.empty.as_ref()?;
        (*read >= asked && page.from == *from).then(|| page.clone())
    }

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
    /// Pages of at most `events` events and of about `bytes` bytes.
    pub fn new(sources: Arc<Sources>, events: usize, bytes: usize) -> Arc<Self> {
        let size = PageSize { events, bytes, weight: AtomicUsize::new(FIRST_WEIGHT) };
        let deferred = Arc::new(DeferredEvents::new(sources.clone()));
        Arc::new(Pages { sources, size, recent: Mutex::default(), reading: AsyncMutex::default(), deferred })
    }

    /// What loads the data of large events, for all lanes of the host.
    pub fn deferred(&self) -> Arc<dyn LoadEvents> {
        self.deferred.clone()
    }

    /// A reader, which borrows a session whenever it has something to read. What it reads may be
    /// committed on sessions that were opened before the reader was made.
    pub fn reader(self: &Arc<Self>, borrower: Borrower) -> Reader {
        Reader { pages: self.clone(), borrower, made: Instant::now() }
    }

    /// Processors that have waited for a session for this long or longer.
    pub fn waits(&self, least: Duration) -> Vec<Wait> {
        self.sources.waits(least)
    }

    /// A page that another reader has read while this one waited.
    fn found_meanwhile(&self, after: &Progress, made: Instant, asked: Instant) -> Option<Arc<Page>> {
        let recent = self.recent();
        recent.find(after, made).or_else(|| recent.find_empty(after, asked))
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One processor's way to the log.
pub struct Reader {
    pages: Arc<Pages>,
    borrower: Borrower,
    made: Instant,
}

type Source = Lease<SharedSource>;

impl Reader {
    async fn source(&self) -> Result<Source, SourceError> {
        self.pages.sources.lend(&self.borrower).await
    }

    /// The page that follows `after`, of so many times the usual events.
    pub async fn page(&mut self, after: &Progress, times: Times) -> Result<Arc<Page>, SourceError> {
        let (pages, asked) = (&self.pages, Instant::now());
        if let Some(page) = pages.recent().find(after, self.made) {
            return Ok(page);
        }
        let _reading = pages.reading.lock().await;
        if let Some(page) = pages.found_meanwhile(after, self.made, asked) {
            return Ok(page);
        }
        let mut source = self.source().await?;
        let began = Instant::now();
        let page = Arc::new(source.page(after, pages.size.limit(times)).await?);
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

    /// The last events up to a position, in the log's order: of some types or of all. Of few tenants each is looked up, with many there may be others' among them. At most
    /// `limit`, and no more than an ordinary page.
    pub async fn last(
        &mut self,
        tenants: Option<&[TenantId]>,
        types: Option<&[String]>,
        up_to: i64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, SourceError> {
        let most = self.pages.size.limit(Times::LEVEL);
        let limit = Limit { events: limit.min(most.events), ..most };
        let few = tenants.filter(|tenants| tenants.len() <= TENANTS_APART);
        let mut source = self.source().await?;
        let Some(tenants) = few else {
            let events = source.last(None, types, up_to, limit).await?;
            source.give_back();
            return Ok(events);
        };
        let mut events = Vec::new();
        for tenant in tenants {
            let part = |whole: usize| whole.div_ceil(tenants.len());
            let limit = Limit { events: part(limit.events), bytes: part(limit.bytes) };
            events.extend(source.last(Some(tenant), types, up_to, limit).await?);
        }
        source.give_back();
        events.sort_unstable_by_key(|event| event.position);
        events.drain(..events.len().saturating_sub(limit.events));
        Ok(events)
    }

    /// How many events follow a progress, of a tenant or of all; at most `limit` are counted.
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

    /// One tenant's part of a difference, at most a page of it; whether anything may be left.
    pub async fn tenant_page(
        &mut self,
        tenant: &TenantId,
        difference: &Difference,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, bool), SourceError> {
        let most = self.pages.size.limit(Times::LEVEL);
        let limit = Limit { events: limit.min(most.events).max(1), ..most };
        let mut source = self.source().await?;
        let page = source.tenant_page(tenant, difference, limit).await?;
        source.give_back();
        self.pages.size.learn(&page.events);
        Ok((page.events, page.more))
    }

    /// Finds the lanes of deferred events if a property of their data decides: reads them one by
    /// one and keeps only the keys. An event that is too large for that counts as one whose key
    /// cannot be read.
    pub async fn route_deferred(&mut self, router: &Router, events: &[Arc<Event>]) -> Result<(), SourceError> {
        let Some(pointer) = router.pointer() else { return Ok(()) };
        let mut source = None;
        for event in events {
            let Some(deferred) =
                event.deferred.as_ref().filter(|one| router.takes(event) && one.key(pointer).is_none())
            else {
                continue;
            };
            let source: &mut Source = match &mut source {
                Some(source) => source,
                none => none.insert(self.source().await?),
            };
            let found = match source.load(&[event.position], usize::MAX, Some(ROUTED_BYTES)).await {
                Err(error) if error.is_about_a_row() => Err(error.to_string()),
                Err(error) => return Err(error),
                Ok(bodies) => bodies.into_iter().next().ok_or(SourceError::Gone(event.position)).map(Ok)?,
            };
            let key = match found.map(|body| (body.bytes, body.texts)) {
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
    format!("it has {bytes} bytes, and at most {ROUTED_BYTES} are read to find a lane")
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
    fn large_events_make_short_pages_at_once_and_small_ones_long_pages_again() {
        let size = PageSize { events: 5_000, bytes: 8 << 20, weight: AtomicUsize::new(FIRST_WEIGHT) };
        let limit = |times| size.limit(times).events;
        assert_eq!(limit(Times::LEVEL), 2_048);
        size.learn(&events(100, 300));
        assert!(
            (4_000..5_000).contains(&limit(Times::LEVEL)) || limit(Times::LEVEL) == 5_000,
            "{}",
            limit(Times::LEVEL)
        );
        size.learn(&events(10, 1 << 20));
        assert_eq!((limit(Times::LEVEL), limit(Times::BEHIND)), (7, 7));
        size.learn(&[]);
        assert_eq!(limit(Times::LEVEL), 7);
        for _ in 0..40 {
            size.learn(&events(100, 300));
        }
        assert_eq!(limit(Times::LEVEL), 5_000);
        assert!((12_000..20_000).contains(&limit(Times::BEHIND)), "{}", limit(Times::BEHIND));
    }

    #[test]
    fn an_empty_page_serves_those_that_asked_before_it_was_read() {
        let progress = |snapshot: &str| Progress::at(snapshot.parse().unwrap());
        let (from, to) = (progress("5:5:"), progress("7:7:"));
        let asked = Instant::now();
        let read = asked + Duration::from_millis(1);
        let mut recent = Recent::default();
        recent.keep(read, Arc::new(Page { from: from.clone(), to: to.clone(), events: Vec::new() }), KEPT_BYTES);
        assert_eq!(recent.find(&from, asked).map(|_| ()), None, "it is no page to go on from at any time");
        assert_eq!(recent.find_empty(&from, asked).map(|page| page.to.clone()), Some(to.clone()));
        assert!(recent.find_empty(&from, read + Duration::from_millis(1)).is_none(), "the log may have more by then");
        assert!(recent.find_empty(&to, asked).is_none(), "it follows another place");
    }

    #[test]
    fn many_lanes_with_few_events_each_make_larger_pages() {
        assert_eq!(Times::BEHIND.after(20_000, 5_000), Times(16));
        let times = Times::BEHIND.after(20_000, 9_000);
        assert_eq!((times, times.weight()), (Times(32), 8));
        assert_eq!(times.after(100_000, 10_000), Times::MOST);
        assert_eq!(times.after(80_000, 3_000), times, "neither few nor many");
        assert_eq!(times.after(80_000, 100), Times(16));
        assert_eq!(Times::LEVEL.after(20_000, 100), Times::BEHIND);
        assert_eq!(Times::BEHIND.after(0, 0), Times::BEHIND);
    }
}
