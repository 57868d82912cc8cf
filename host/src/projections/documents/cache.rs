//! Documents by key, the least recently used ones forgotten first.

use std::sync::Arc;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::DocumentKey;

/// What is known of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// How many commits touched it; 0 where there is none.
    pub(super) version: i64,
    /// JSON text without the host's keys; none where there is none.
    pub(super) data: Option<Arc<str>>,
    /// The key of the lane that wrote it first, where lanes are finer than tenants.
    pub(super) owner: Option<Arc<str>>,
}

impl Known {
    /// A document that is not there.
    pub(super) fn absent() -> Self {
        Known { version: 0, data: None, owner: None }
    }
}

/// What a lane wrote and nobody committed yet.
pub(super) struct Staged {
    pub(super) serial: u64,
    pub(super) data: Option<Arc<str>>,
}

impl Staged {
    /// Bytes of its text.
    pub(super) fn bytes(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.len())
    }
}

pub(super) struct Cache {
    documents: LruCache<DocumentKey, Known, RandomState>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Cache { documents: LruCache::unbounded_with_hasher(RandomState::default()), bytes: 0, bytes_max }
    }

    pub(super) fn get(&mut self, key: &DocumentKey) -> Option<&Known> {
        self.documents.get(key)
    }

    pub(super) fn put(&mut self, key: DocumentKey, known: Known) {
        self.bytes += weight(&key, &known);
        if let Some((key, replaced)) = self.documents.push(key, known) {
            self.bytes -= weight(&key, &replaced);
        }
        while self.bytes > self.bytes_max {
            let Some((key, forgotten)) = self.documents.pop_lru() else { break };
            self.bytes -= weight(&key, &forgotten);
        }
    }
}

/// Bytes an entry occupies: its texts and a flat sum for the rest.
fn weight(key: &DocumentKey, known: &Known) -> usize {
    key.id.len() + known.data.as_ref().map_or(0, |data| data.len()) + 250
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{CollectionName, LaneKey, TenantId};

    fn key(id: &str) -> DocumentKey {
        DocumentKey {
            lane: LaneKey { tenant: TenantId::parse("t").unwrap(), key: "t".into() },
            collection: CollectionName::parse("c").unwrap(),
            id: id.into(),
        }
    }

    #[test]
    fn it_keeps_to_its_bytes_and_forgets_the_oldest() {
        let mut cache = Cache::new(1_000);
        let known = |n: usize| Known { version: 1, data: Some("x".repeat(n).into()), owner: None };
        cache.put(key("a"), known(200));
        cache.put(key("b"), known(200));
        assert!(cache.get(&key("a")).is_some());
        cache.put(key("c"), known(200));
        assert!(cache.get(&key("b")).is_none() && cache.get(&key("a")).is_some());
        // Replacing is counted once.
        for _ in 0..10 {
            cache.put(key("c"), known(100));
        }
        assert!(cache.get(&key("a")).is_some());
        cache.put(key("huge"), known(5_000));
        assert_eq!((cache.documents.len(), cache.bytes), (0, 0));
    }
}
