//! Pages of the log, read once for all processors that stand at the same place.
//!
//! A processor asks for what follows its own progress. Where another one stood there a moment ago, the page is still at hand and both go
//! on from it to the same next place; where nobody did, it is read. So processors that are level stay level and share every
//! reading, and one that is behind or ahead needs no special path. Recent pages are kept up to a number of bytes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Mutex as AsyncMutex;

use crate::{
    model::{
        cursor::{Difference, Progress, Snapshot},
        event::{Event, Page},
        ids::TenantId,
    },
    source::{EventSource, OpenSource, SourceError},
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
    pages: VecDeque<Arc<Page>>,
    bytes: usize,
}

impl Recent {
    fn find(&self, from: &Progress) -> Option<Arc<Page>> {
        self.pages.iter().rev().find(|page| page.from == *from).cloned()
    }

    fn keep(&mut self, page: Arc<Page>, bytes_max: usize) {
        self.bytes += page.weight();
        self.pages.push_back(page);
        while self.bytes > bytes_max {
            let Some(oldest) = self.pages.pop_front() else { break };
            self.bytes -= oldest.weight();
        }
    }
}

impl Pages {
    /// Pages of at most `page_events` events.
    pub fn new(source: Arc<dyn OpenSource>, page_events: usize) -> Arc<Self> {
        Arc::new(Pages { source, page_events, recent: Mutex::default(), reading: AsyncMutex::default() })
    }

    /// A reader with a session of its own.
    pub async fn reader(self: &Arc<Self>, purpose: &str) -> Result<Reader, SourceError> {
        Ok(Reader { pages: self.clone(), source: self.source.open(purpose).await? })
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One processor's way to the log.
pub struct Reader {
    pages: Arc<Pages>,
    source: Box<dyn EventSource>,
}

impl Reader {
    /// The page that follows `after`.
    pub async fn page(&mut self, after: &Progress) -> Result<Arc<Page>, SourceError> {
        let pages = &self.pages;
        if let Some(page) = pages.recent().find(after) {
            return Ok(page);
        }
        let _reading = pages.reading.lock().await;
        if let Some(page) = pages.recent().find(after) {
            return Ok(page);
        }
        let page = Arc::new(self.source.page(after, pages.page_events).await?);
        // An empty page says only how far the snapshot has moved by now; a later reader should see more.
        if !page.events.is_empty() {
            pages.recent().keep(page.clone(), KEPT_BYTES);
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
