//! The documents of one processor during one term.
//!
//! They are read through a cache, and written only if they still have the version that was read.
//! During a term its owner is the only writer, so the cache stays valid; it is bounded in bytes and
//! ends with the term. Documents that a lane wrote and that are not committed yet are *staged*:
//! only that lane reads them. [`loader`] batches the reads of all lanes, so the number of
//! statements does not grow with the number of lanes. A stored document contains `_id` and
//! `_version`, which Pongo expects. They are added and removed here; handlers never see them.

mod cache;
mod committed;
pub mod loader;
mod slow;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cache::DocumentCache;
pub use committed::{CommittedReader, OwnedDocument};
use foldhash::fast::RandomState;
pub use loader::sessions;
use loader::{Loader, ReadRequest};
use slow::SlowTenants;
pub use write::{DocumentWriter, PreparedWrites, WriteError, Writes};

use crate::{
    db::{
        Error, Session, describe,
        pool::{Borrower, Pool},
    },
    model::{
        handler::{Failure, Reason},
        ids::{CollectionName, LaneKey, TenantId},
        spec::{PartitionBy, ProcessorSpec},
    },
};

/// The name of one document, and the lane that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentKey {
    /// Its id.
    pub id: Arc<str>,
    /// Its lane, with its tenant.
    pub lane: LaneKey,
    /// Its collection.
    pub collection: CollectionName,
}

/// Only tenant and id are hashed: they distinguish nearly all documents.
impl Hash for DocumentKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.lane.tenant.hash(state);
    }
}

/// The purpose of sessions that read the documents of all tenants. `pg_stat_activity` shows it as
/// `sandmill PURPOSE PROCESSOR`.
pub const READS: &str = "documents";
/// The purpose of sessions for slow reads, shown in the same way, and the group that bounds their
/// number.
pub const SLOW_READS: &str = "slow documents";

/// A map by document. Guests choose the ids, so the hash is seeded; a page does some ten thousand
/// lookups, so the hash is fast.
type ByDocument<T> = HashMap<DocumentKey, T, RandomState>;
type ByDocumentRef<'a, T> = HashMap<&'a DocumentKey, T, RandomState>;

/// Documents to write: the new text of each, or none to delete it.
pub type Changes = ByDocument<Option<Arc<str>>>;

/// Bytes of the ids and texts of documents to write.
pub fn bytes(changes: &Changes) -> usize {
    changes.iter().map(|(key, text)| key.id.len() + text.as_ref().map_or(0, |text| text.len())).sum()
}

/// Replaces documents that a lane has read by those that it has written itself: one entry for each
/// id.
pub fn overlay(
    written: &Changes,
    lane: &LaneKey,
    collection: &CollectionName,
    ids: &[String],
    documents: &mut [Option<Arc<str>>],
) {
    if written.is_empty() {
        return;
    }
    for (id, data) in ids.iter().zip(documents) {
        let key = DocumentKey { lane: lane.clone(), collection: collection.clone(), id: id.as_str().into() };
        if let Some(last) = written.get(&key) {
            data.clone_from(last);
        }
    }
}

/// Why documents could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection was lost or the term has ended; the cause.
    #[error("read documents: {0}")]
    Lost(String),
    /// One call asked for more than this many bytes.
    #[error("read more than {} MiB of documents in one call (processor.read-mib)", .0 >> 20)]
    TooMuch(usize),
    /// PostgreSQL cannot return a document, or its text is too large.
    #[error(
        "document `{id}` of `{collection}` cannot be read: {why}; replace or delete it without reading it, then resume the lane with \
         `sandmill resume`"
    )]
    Document {
        /// Its collection.
        collection: CollectionName,
        /// Its id.
        id: String,
        /// The reason.
        why: String,
    },
}

/// The consequence for the call that reads.
impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lost(why) => Failure::EndTerm(why),
            ReadError::TooMuch(_) => Failure::Block(Reason::new("read-limit", error.to_string())),
            ReadError::Document { .. } => Failure::Block(Reason::new("document-unreadable", error.to_string())),
        }
    }
}

/// Why documents cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A lane writes a document of another lane.
    #[error("{1}")]
    ForeignDocument(LaneKey, String),
    /// A database error.
    #[error("read versions of documents: {}", describe(.0))]
    Database(#[from] Error),
}

impl PrepareError {
    /// The error of the lane in `key`, which writes a document of the lane `owner`.
    pub fn foreign_document(key: &DocumentKey, owner: &str) -> Self {
        let message = format!(
            "wrote document `{}` of `{}`, which belongs to the lane `{owner}` that wrote it first; partition by tenant if \
             lanes share documents",
            key.id, key.collection
        );
        PrepareError::ForeignDocument(key.lane.clone(), message)
    }
}

/// The documents of one processor during one term.
pub struct TermDocuments {
    loader: Loader,
    /// The loader of tenants whose reads are slow.
    slow_loader: Loader,
    slow: Mutex<SlowTenants>,
    /// Whether each document belongs to one of a tenant's lanes.
    owned: bool,
    state: Mutex<CacheState>,
}

struct CacheState {
    cache: DocumentCache,
    /// The serial number of the last staging. By it a commit knows whether newer documents are
    /// staged.
    serial: u64,
}

impl TermDocuments {
    /// The documents of a processor. Its collections must exist. `cache_bytes` bounds the cached
    /// documents, besides staged ones; `read_bytes` bounds what one call may read from the
    /// database.
    pub fn new(sessions: &Arc<Pool<Session>>, spec: &ProcessorSpec, cache_bytes: usize, read_bytes: usize) -> Self {
        let owner = spec.id.owner();
        let loader = |purpose: &str, together: bool| {
            let mut borrower = Borrower::of(&spec.id, purpose);
            // Slow reads leave some of the sessions to quick ones.
            borrower.groups.extend((!together).then(|| Arc::from(SLOW_READS)));
            Loader::new(sessions.clone(), borrower, owner.cloned(), read_bytes, together)
        };
        let (loader, slow_loader) = (loader(READS, true), loader(SLOW_READS, false));
        let owned = spec.descriptor.partition_by != PartitionBy::Tenant;
        let state = CacheState { cache: DocumentCache::new(cache_bytes), serial: 0 };
        TermDocuments { loader, slow_loader, slow: Mutex::default(), owned, state: Mutex::new(state) }
    }

    /// The loader of documents from the database. Its owner must drive it with [`Loader::serve`].
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The loader of tenants whose reads are slow. Its owner must drive it too.
    pub fn slow_loader(&self) -> &Loader {
        &self.slow_loader
    }

    /// Reads documents of a lane in one of the processor's collections: one entry for each id, in
    /// order. Also returns the time that the database took for it.
    pub async fn read(
        &self,
        lane: &LaneKey,
        collection: &CollectionName,
        ids: &[String],
    ) -> Result<(Vec<Option<Arc<str>>>, Duration), ReadError> {
        let key = |id: &str| DocumentKey { lane: lane.clone(), collection: collection.clone(), id: id.into() };
        let keys: Vec<DocumentKey> = ids.iter().map(|id| key(id)).collect();
        let mut cached: Vec<Option<Option<Arc<str>>>> = {
            let mut state = self.state();
            keys.iter().map(|key| state.cache.find(key)).collect()
        };
        let missing: Vec<DocumentKey> =
            keys.iter().zip(&cached).filter(|(_, cached)| cached.is_none()).map(|(key, _)| key.clone()).collect();
        let mut took = Duration::ZERO;
        if !missing.is_empty() {
            let count = missing.len();
            let alone = self.slow().reads_alone(&lane.tenant, count);
            let loader = if alone.is_some() { &self.slow_loader } else { &self.loader };
            let request = ReadRequest::new(collection.clone(), missing);
            let (read, time) = loader.load(request, alone).await?;
            self.slow().record(&lane.tenant, count, time.all, time.shared);
            took = time.part;
            let mut state = self.state();
            let mut read = read.into_iter();
            for entry in cached.iter_mut().filter(|cached| cached.is_none()) {
                let Some((key, document)) = read.next() else { break };
                *entry = Some(document.data.clone());
                state.cache.put(&key, document);
            }
        }
        Ok((cached.into_iter().map(Option::flatten).collect(), took))
    }

    fn slow(&self) -> MutexGuard<'_, SlowTenants> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages documents that a lane wrote until they are committed. Returns the staging's mark for
    /// [`TermDocuments::settle`].
    pub fn stage(&self, changes: &Changes) -> u64 {
        let mut state = self.state();
        state.serial += 1;
        let serial = state.serial;
        for (key, data) in changes {
            state.cache.stage(key, serial, data.clone());
        }
        serial
    }

    /// Drops a lane's staged documents, which will not be committed.
    pub fn unstage(&self, lane: &LaneKey) {
        self.state().cache.unstage(lane);
    }

    /// Prepares changes for a transaction, with the current version of each document. The changes
    /// of a lane are adjacent in `changes`, and later ones replace earlier ones.
    pub async fn prepare(&self, changes: &[(LaneKey, Arc<Changes>)]) -> Result<Writes, PrepareError> {
        let mut folded: Vec<(&DocumentKey, &Option<Arc<str>>)> = Vec::new();
        for of_lane in changes.chunk_by(|(one, _), (other, _)| one == other) {
            match of_lane {
                [(_, changes)] => folded.extend(changes.iter()),
                several => {
                    let last: ByDocumentRef<_> = several.iter().flat_map(|(_, changes)| changes.iter()).collect();
                    folded.extend(last);
                }
            }
        }
        let mut writes = Writes::new(self.owned);
        let mut unknown: BTreeMap<CollectionName, Vec<DocumentKey>> = BTreeMap::new();
        {
            let mut state = self.state();
            for &(key, data) in &folded {
                match state.cache.get(key) {
                    Some(committed) => writes.add(key, data, committed)?,
                    None => unknown.entry(key.collection.clone()).or_default().push(key.clone()),
                }
            }
        }
        if !unknown.is_empty() {
            let folded: ByDocumentRef<_> = folded.into_iter().collect();
            for (collection, keys) in unknown {
                for (key, committed) in self.loader.versions(&collection, keys).await? {
                    let data = folded.get(&key).copied().unwrap_or(&None);
                    writes.add(&key, data, &committed)?;
                }
            }
        }
        writes.sort();
        Ok(writes)
    }

    /// Caches the documents of a committed transaction. `marks` has the last staging of each lane
    /// that was part of it.
    pub fn settle(&self, writes: Writes, marks: &HashMap<LaneKey, u64>) {
        let mut state = self.state();
        for (key, committed) in writes.into_committed() {
            let mark = marks.get(&key.lane).copied().unwrap_or(0);
            state.cache.settle(&key, committed, mark);
        }
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table of a collection's serving generation; its name consists of numbers. The collections of
/// a tenant's own processor are found by their `owner`.
async fn table(session: &Session, owner: Option<&TenantId>, collection: &CollectionName) -> Result<String, Error> {
    let owner = owner.map_or("", TenantId::as_str);
    let row = session.query_one(include_str!("documents/table.sql"), &[&owner, &collection.as_str()]).await?;
    Ok(format!("sandmill_documents.c{}_{}", row.get::<_, i32>(0), row.get::<_, i32>(1)))
}

/// A statement with the table's name filled in.
fn on(table: &str, sql: &str) -> String {
    sql.replace("{table}", table)
}
