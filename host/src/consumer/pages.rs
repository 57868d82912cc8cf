//! Pages of the log, read once for all processors that stand at the same place.
//!
//! A processor asks for what follows its own progress. Where another one stood there a moment ago, the page is still at hand and both go
//! on from it to the same next place; where nobody did, it is read. So processors that are level stay level and share every
//! reading, and one that is behind or ahead needs no special path. Recent pages are kept up to a number of bytes.
//!
//! A page is not for ever. A crash of the database takes back events that were read already and gives their xids out again, while every
//! snapshot before looks as it did. So a reader takes only pages whose reading began after it was opened: had the database crashed since,
//! its own session, and its term's, would be dead and nothing of the page could be committed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::Mutex as AsyncMutex;

/// Why a page could not be read.
pub use crate::source::SourceError;
use crate::{
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Event, Page},
        ids::TenantId,
    },
    source::{EventSource, OpenSource},
};

/// Bytes of recent pages kept for others. 16 MiB: some ten full pages, more than level processors are ever apart.
const KEPT_BYTES: usize = 16 << 20;

/// Recent pages of one source. Shared by all its readers.
pub struct Pages {
    source: Arc<dyn OpenSource>,
    page_events: usize,
    recent: Mutex<Recent>,
    /// Held while a page is read, so that two who need the same one read it once.
    reading: AsyncMutex<()>,
}

#[derive(Default)]
struct Recent {
    /// Each with the time at which its reading began.
    pages: VecDeque<(Instant, Arc<Page>)>,
    bytes: usize,
}

impl Recent {
    fn find(&self, from: &Progress, read_since: Instant) -> Option<Arc<Page>> {
        let mut latest_first = self.pages.iter().rev();
        latest_first.find(|(read, page)| *read >= read_since && page.from == *from).map(|(_, page)| page.clone())
    }

    fn keep(&mut self, read: Instant, page: Arc<Page>, bytes_max: usize) {
        self.bytes += page.weight();
        self.pages.push_back((read, page));
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.pages.pop_front() else { break };
            self.bytes -= oldest.weight();
        }
    }
}

impl Pages {
    /// Pages of at most `page_events` events.
    pub fn new(source: Arc<dyn OpenSource>, page_events: usize) -> Arc<Self> {
        Arc::new(Pages { source, page_events, recent: Mutex::default(), reading: AsyncMutex::default() })
    }

    /// A reader with a session of its own. What it reads may be committed on sessions that were opened before it.
    pub async fn reader(self: &Arc<Self>, purpose: &str) -> Result<Reader, SourceError> {
        let opened = Instant::now();
        Ok(Reader { pages: self.clone(), source: self.source.open(purpose).await?, opened })
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One processor's way to the log.
pub struct Reader {
    pages: Arc<Pages>,
    source: Box<dyn EventSource>,
    opened: Instant,
}

impl Reader {
    /// The page that follows `after`.
    pub async fn page(&mut self, after: &Progress) -> Result<Arc<Page>, SourceError> {
        let pages = &self.pages;
        if let Some(page) = pages.recent().find(after, self.opened) {
            return Ok(page);
        }
        let _reading = pages.reading.lock().await;
        if let Some(page) = pages.recent().find(after, self.opened) {
            return Ok(page);
        }
        let began = Instant::now();
        let page = Arc::new(self.source.page(after, pages.page_events).await?);
        // An empty page says only how far the snapshot has moved by now; a later reader should see more.
        if !page.events.is_empty() {
            pages.recent().keep(began, page.clone(), KEPT_BYTES);
        }
        Ok(page)
    }

    /// One tenant's part of a difference, at most a page of it; whether anything may be left.
    pub async fn tenant_page(
        &mut self,
        tenant: &TenantId,
        difference: &Difference,
        limit: usize,
    ) -> Result<(Vec<Arc<Event>>, bool), SourceError> {
        let limit = limit.min(self.pages.page_events).max(1);
        let events = self.source.tenant_page(tenant, difference, limit).await?;
        let more = events.len() == limit;
        Ok((events, more))
    }

    /// The transactions visible now.
    pub async fn head(&mut self) -> Result<Snapshot, SourceError> {
        self.source.head().await
    }
}
