//! A cache of documents, committed and staged, by key.
//!
//! Committed documents are evicted, the least recently used first. Staged documents are never
//! evicted: a lane wrote them, and they are not committed yet. One entry holds both, because nearly
//! every document that is written was read before.

use std::sync::Arc;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::DocumentKey;
use crate::model::ids::LaneKey;

/// A document as the database has it, or its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommittedDocument {
    /// The number of commits that wrote it; 0 if it does not exist.
    pub(super) version: i64,
    /// JSON text without the host's keys; none if it does not exist, or only its version was read.
    pub(super) data: Option<Arc<str>>,
    /// The key of the lane that wrote it first, if lanes are finer than tenants.
    pub(super) owner: Option<Arc<str>>,
}

impl CommittedDocument {
    /// A document that does not exist.
    pub(super) fn absent() -> Self {
        CommittedDocument { version: 0, data: None, owner: None }
    }
}

/// A document that a lane wrote and that is not committed yet; no data if the lane deletes it.
struct StagedDocument {
    serial: u64,
    data: Option<Arc<str>>,
}

#[derive(Default)]
struct CacheEntry {
    committed: Option<CommittedDocument>,
    staged: Option<StagedDocument>,
}

/// The cache of one processor.
pub(super) struct DocumentCache {
    entries: LruCache<DocumentKey, CacheEntry, RandomState>,
    /// Bytes of the committed documents.
    bytes: usize,
    bytes_max: usize,
}

impl DocumentCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        DocumentCache { entries: LruCache::unbounded_with_hasher(RandomState::default()), bytes: 0, bytes_max }
    }

    /// A document as its lane sees it, if the cache has it.
    pub(super) fn find(&mut self, key: &DocumentKey) -> Option<Option<Arc<str>>> {
        let CacheEntry { committed, staged } = self.entries.get(key)?;
        let staged = staged.as_ref().map(|staged| &staged.data);
        staged.or(committed.as_ref().map(|committed| &committed.data)).cloned()
    }

    /// A document as the database has it, if the cache has it.
    pub(super) fn get(&mut self, key: &DocumentKey) -> Option<&CommittedDocument> {
        self.entries.get(key)?.committed.as_ref()
    }

    /// Stores a document as the database has it.
    pub(super) fn put(&mut self, key: &DocumentKey, committed: CommittedDocument) {
        let weight = weight(key, &committed);
        let replaced = self.entry(key).committed.replace(committed);
        self.change(key, weight, replaced);
    }

    /// Stores a document after its commit. Drops the staged document, unless it was staged after
    /// `serial`.
    pub(super) fn settle(&mut self, key: &DocumentKey, committed: CommittedDocument, serial: u64) {
        let weight = weight(key, &committed);
        let entry = self.entry(key);
        let replaced = entry.committed.replace(committed);
        entry.staged.take_if(|staged| staged.serial <= serial);
        self.change(key, weight, replaced);
    }

    /// Stages a document that a lane wrote.
    pub(super) fn stage(&mut self, key: &DocumentKey, serial: u64, data: Option<Arc<str>>) {
        self.entry(key).staged = Some(StagedDocument { serial, data });
    }

    /// Drops the staged documents of a lane.
    pub(super) fn unstage(&mut self, lane: &LaneKey) {
        let mut empty = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(key, _)| key.lane == *lane) {
            entry.staged = None;
            if entry.committed.is_none() {
                empty.push(key.clone());
            }
        }
        for key in empty {
            self.entries.pop(&key);
        }
    }

    fn entry(&mut self, key: &DocumentKey) -> &mut CacheEntry {
        self.entries.get_or_insert_mut_ref(key, CacheEntry::default)
    }

    /// Counts the bytes of a stored document, and evicts others above the bound.
    fn change(&mut self, key: &DocumentKey, added: usize, replaced: Option<CommittedDocument>) {
        self.bytes += added;
        self.bytes -= replaced.map_or(0, |committed| weight(key, &committed));
        // A staged entry becomes the most recently used, so each entry is examined once.
        for _ in 0..self.entries.len() {
            if self.bytes <= self.bytes_max {
                return;
            }
            let Some((key, mut entry)) = self.entries.pop_lru() else { return };
            self.bytes -= entry.committed.take().map_or(0, |committed| weight(&key, &committed));
            if entry.staged.is_some() {
                self.entries.push(key, entry);
            }
        }
    }
}

fn bytes(data: &Option<Arc<str>>) -> usize {
    data.as_ref().map_or(0, |data| data.len())
}

/// Bytes that a cached document occupies: its strings, and a constant for the rest.
fn weight(key: &DocumentKey, committed: &CommittedDocument) -> usize {
    key.id.len() + bytes(&committed.data) + 250
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{CollectionName, TenantId};

    fn key(id: &str) -> DocumentKey {
        DocumentKey {
            lane: LaneKey { tenant: TenantId::parse("t").unwrap(), key: "t".into() },
            collection: CollectionName::parse("c").unwrap(),
            id: id.into(),
        }
    }

    fn committed(bytes: usize) -> CommittedDocument {
        CommittedDocument { version: 1, data: Some("x".repeat(bytes).into()), owner: None }
    }

    #[test]
    fn the_cache_keeps_to_its_bytes_and_evicts_the_least_recently_used() {
        let mut cache = DocumentCache::new(1_000);
        cache.put(&key("a"), committed(200));
        cache.put(&key("b"), committed(200));
        assert!(cache.get(&key("a")).is_some());
        cache.put(&key("c"), committed(200));
        assert!(cache.get(&key("b")).is_none() && cache.get(&key("a")).is_some());
        // A replaced document is not counted twice.
        for _ in 0..10 {
            cache.put(&key("c"), committed(100));
        }
        assert!(cache.get(&key("a")).is_some());
        cache.put(&key("huge"), committed(5_000));
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn staged_documents_are_found_and_never_evicted() {
        let mut cache = DocumentCache::new(1_000);
        cache.put(&key("a"), committed(200));
        cache.stage(&key("a"), 1, Some("newer".into()));
        cache.stage(&key("b"), 1, None);
        assert_eq!(cache.find(&key("a")), Some(Some("newer".into())));
        assert_eq!(cache.find(&key("b")), Some(None));
        assert_eq!(cache.get(&key("b")), None);
        for other in 0..20 {
            cache.put(&key(&format!("other-{other}")), committed(200));
        }
        assert_eq!(cache.get(&key("a")), None);
        assert_eq!(cache.find(&key("a")), Some(Some("newer".into())));

        // Staged again while the commit was under way.
        cache.stage(&key("a"), 2, Some("newest".into()));
        cache.settle(&key("a"), committed(5), 1);
        assert_eq!(cache.find(&key("a")), Some(Some("newest".into())));
        cache.settle(&key("a"), committed(6), 2);
        assert_eq!(cache.find(&key("a")), Some(Some("xxxxxx".into())));
        cache.unstage(&key("b").lane);
        assert_eq!(cache.find(&key("b")), None);
    }
}
