//! What is known of documents, by key: as the database has them, the least recently used forgotten first, and as a lane wrote them and nobody
//! committed yet, which is never forgotten. Both stand in one entry, since nearly every document that is written was read before.

use std::sync::Arc;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::DocumentKey;
use crate::model::ids::LaneKey;

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
struct Staged {
    serial: u64,
    data: Option<Arc<str>>,
}

#[derive(Default)]
struct Entry {
    known: Option<Known>,
    staged: Option<Staged>,
}

pub(super) struct Cache {
    entries: LruCache<DocumentKey, Entry, RandomState>,
    /// Bytes of what is known.
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Cache { entries: LruCache::unbounded_with_hasher(RandomState::default()), bytes: 0, bytes_max }
    }

    /// A document as its lane sees it, if anything is known of it.
    pub(super) fn find(&mut self, key: &DocumentKey) -> Option<Option<Arc<str>>> {
        let Entry { known, staged } = self.entries.get(key)?;
        let staged = staged.as_ref().map(|staged| &staged.data);
        staged.or(known.as_ref().map(|known| &known.data)).cloned()
    }

    /// A document as the database has it.
    pub(super) fn get(&mut self, key: &DocumentKey) -> Option<&Known> {
        self.entries.get(key)?.known.as_ref()
    }

    /// Takes note of what the database has.
    pub(super) fn put(&mut self, key: &DocumentKey, known: Known) {
        let weight = weight(key, &known);
        let replaced = self.entry(key).known.replace(known);
        self.change(key, weight, replaced);
    }

    /// The same, after a commit: what was staged with it is staged no longer, unless it was staged after `serial`.
    pub(super) fn settle(&mut self, key: &DocumentKey, known: Known, serial: u64) {
        let weight = weight(key, &known);
        let entry = self.entry(key);
        let replaced = entry.known.replace(known);
        entry.staged.take_if(|staged| staged.serial <= serial);
        self.change(key, weight, replaced);
    }

    /// Keeps what a lane wrote.
    pub(super) fn stage(&mut self, key: &DocumentKey, serial: u64, data: Option<Arc<str>>) {
        self.entry(key).staged = Some(Staged { serial, data });
    }

    /// Forgets what a lane wrote.
    pub(super) fn unstage(&mut self, lane: &LaneKey) {
        let mut unknown = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(key, _)| key.lane == *lane) {
            entry.staged = None;
            if entry.known.is_none() {
                unknown.push(key.clone());
            }
        }
        for key in unknown {
            self.entries.pop(&key);
        }
    }

    fn entry(&mut self, key: &DocumentKey) -> &mut Entry {
        self.entries.get_or_insert_mut_ref(key, Entry::default)
    }

    /// Counts what is known of a document, and forgets others where that is too much.
    fn change(&mut self, key: &DocumentKey, added: usize, replaced: Option<Known>) {
        self.bytes += added;
        self.bytes -= replaced.map_or(0, |known| weight(key, &known));
        // Entries that are staged go to the end, so each is looked at once.
        for _ in 0..self.entries.len() {
            if self.bytes <= self.bytes_max {
                return;
            }
            let Some((key, mut entry)) = self.entries.pop_lru() else { return };
            self.bytes -= entry.known.take().map_or(0, |known| weight(&key, &known));
            if entry.staged.is_some() {
                self.entries.push(key, entry);
            }
        }
    }
}

fn bytes(data: &Option<Arc<str>>) -> usize {
    data.as_ref().map_or(0, |data| data.len())
}

/// Bytes that knowing a document occupies: its texts and a flat sum for the rest.
fn weight(key: &DocumentKey, known: &Known) -> usize {
    key.id.len() + bytes(&known.data) + 250
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

    fn known(bytes: usize) -> Known {
        Known { version: 1, data: Some("x".repeat(bytes).into()), owner: None }
    }

    #[test]
    fn it_keeps_to_its_bytes_and_forgets_the_oldest() {
        let mut cache = Cache::new(1_000);
        cache.put(&key("a"), known(200));
        cache.put(&key("b"), known(200));
        assert!(cache.get(&key("a")).is_some());
        cache.put(&key("c"), known(200));
        assert!(cache.get(&key("b")).is_none() && cache.get(&key("a")).is_some());
        // Replacing is counted once.
        for _ in 0..10 {
            cache.put(&key("c"), known(100));
        }
        assert!(cache.get(&key("a")).is_some());
        cache.put(&key("huge"), known(5_000));
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn what_is_staged_is_seen_and_never_forgotten() {
        let mut cache = Cache::new(1_000);
        cache.put(&key("a"), known(200));
        cache.stage(&key("a"), 1, Some("newer".into()));
        cache.stage(&key("b"), 1, None);
        assert_eq!(cache.find(&key("a")), Some(Some("newer".into())));
        assert_eq!(cache.find(&key("b")), Some(None));
        assert_eq!(cache.get(&key("b")), None);
        for other in 0..20 {
            cache.put(&key(&format!("other-{other}")), known(200));
        }
        assert_eq!(cache.get(&key("a")), None);
        assert_eq!(cache.find(&key("a")), Some(Some("newer".into())));

        // Staged again while the commit was on its way.
        cache.stage(&key("a"), 2, Some("newest".into()));
        cache.settle(&key("a"), known(5), 1);
        assert_eq!(cache.find(&key("a")), Some(Some("newest".into())));
        cache.settle(&key("a"), known(6), 2);
        assert_eq!(cache.find(&key("a")), Some(Some("xxxxxx".into())));
        cache.unstage(&key("b").lane);
        assert_eq!(cache.find(&key("b")), None);
    }
}
