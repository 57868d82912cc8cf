//! A minimal follower of a log. It keeps its progress as text, like the cursor tables, and reads
//! page after page.
//!
//! It checks the contract of each page: it continues the requested progress, respects the limit,
//! and is ordered by position. The caller checks the events.

use std::{collections::HashMap, sync::Arc};

use sandmill::{
    model::{
        cursor::{Progress, Snapshot},
        event::Event,
        ids::TenantId,
    },
    source::{EventSource, Limit, OpenSource, TenantPage},
};

/// A follower of a log.
pub struct Follower {
    source: Box<dyn EventSource>,
    progress: String,
}

impl Follower {
    /// A follower of all history.
    pub async fn from_the_beginning(source: &dyn OpenSource) -> Self {
        Self::at(source, &Progress::at(Snapshot::nothing())).await
    }

    /// A follower of events that are committed from now on.
    pub async fn from_now(source: &dyn OpenSource) -> Self {
        let mut follower = Self::from_the_beginning(source).await;
        let head = follower.head().await;
        follower.progress = Progress::at(head).to_string();
        follower
    }

    /// A follower with this progress.
    pub async fn at(source: &dyn OpenSource, progress: &Progress) -> Self {
        Follower { source: source.open("follower").await.expect("open a source"), progress: progress.to_string() }
    }

    /// Its progress.
    pub fn progress(&self) -> Progress {
        self.progress.parse().expect("progress survives its text")
    }

    /// The snapshot of what is visible now.
    pub async fn head(&mut self) -> Snapshot {
        self.source.head().await.expect("read the head")
    }

    /// Its open source.
    pub fn source(&mut self) -> &mut dyn EventSource {
        &mut *self.source
    }

    /// Reads the next page, at most `limit` events.
    pub async fn page(&mut self, limit: usize) -> Vec<Arc<Event>> {
        let progress = self.progress();
        let page = self.source.page(&progress, Limit::events(limit)).await.expect("read a page");
        assert_eq!(page.from, progress, "a page follows the progress it was asked for");
        assert!(page.events.len() <= limit, "{} events with a limit of {limit}", page.events.len());
        assert!(
            page.events.windows(2).all(|pair| pair[0].position < pair[1].position),
            "a page is in order of position"
        );
        assert!(page.events.is_empty() || page.to != page.from, "a page with events moves progress: {progress}");
        self.progress = page.to.to_string();
        page.events
    }

    /// Reads until nothing is left.
    pub async fn rest(&mut self, limit: usize) -> Vec<Arc<Event>> {
        let mut read = Vec::new();
        loop {
            // A difference may end with an empty page. Only an empty page that begins at a boundary
            // means that nothing is left.
            let at_boundary = self.progress().is_boundary();
            let page = self.page(limit).await;
            if page.is_empty() && at_boundary {
                return read;
            }
            read.extend(page);
        }
    }

    /// Reads one tenant's events between two progresses, as a lane that is behind does. The
    /// follower's own progress does not change.
    pub async fn tenants_part(
        &mut self,
        tenant: &TenantId,
        from: &Progress,
        to: &Progress,
        limit: usize,
    ) -> Vec<Arc<Event>> {
        let mut found = Vec::new();
        let mut at = from.clone();
        for mut hop in from.hops_to(to) {
            loop {
                let TenantPage { events, more } =
                    self.source.tenant_page(tenant, &hop, Limit::events(limit)).await.expect("read a tenant's page");
                assert!(events.len() <= limit, "{} events with a limit of {limit}", events.len());
                assert!(
                    events.windows(2).all(|pair| pair[0].position < pair[1].position),
                    "a page is in order of position"
                );
                assert_eq!(more, events.len() == limit);
                if let (true, Some(last)) = (more, events.last()) {
                    hop.after = Some(last.position);
                }
                found.extend(events);
                if !more {
                    break;
                }
            }
            at = hop.then;
        }
        assert_eq!(at, *to, "the hops end at the target");
        found
    }
}

/// The ids of events.
pub fn ids(events: &[Arc<Event>]) -> Vec<String> {
    events.iter().map(|event| event.id.to_string()).collect()
}

/// Asserts that exactly these events were read, each once, in any order.
pub fn assert_each_once(read: &[Arc<Event>], expected: &[String]) {
    let mut times: HashMap<&str, i32> = HashMap::new();
    for id in expected {
        *times.entry(id).or_default() -= 1;
    }
    for event in read {
        *times.entry(&event.id).or_default() += 1;
    }
    let few = |wrong: fn(i32) -> bool| {
        let ids: Vec<&str> = times.iter().filter(|(_, n)| wrong(**n)).map(|(id, _)| *id).collect();
        (ids.len(), ids.into_iter().take(3).collect::<Vec<_>>())
    };
    let (missing, too_many) = (few(|n| n < 0), few(|n| n > 0));
    assert!(
        missing.0 + too_many.0 == 0,
        "{} expected, {} read; missing {missing:?}, too many {too_many:?}",
        expected.len(),
        read.len()
    );
}

/// Asserts that each stream's events are in order.
pub fn assert_streams_in_order(events: &[Arc<Event>]) {
    let mut versions = HashMap::new();
    for event in events {
        let before = versions.insert((event.tenant.clone(), event.stream.clone()), event.version);
        assert!(
            before.is_none_or(|before| before < event.version),
            "version {} of {}/{} follows version {before:?}",
            event.version,
            event.tenant,
            event.stream
        );
    }
}
