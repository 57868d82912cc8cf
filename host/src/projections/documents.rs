//! The documents of one processor during one term: read through a cache, written with the version they were read with.
//!
//! As long as the term lasts its owner is the only writer, so what was read or written stays true and is kept, up to a number of
//! bytes; when the term ends, the cache ends with it. What lanes wrote and nobody has committed yet is *staged*: the lane that wrote it
//! reads it, no other does. Reads of all lanes meet in [`loader`] and travel together, so the number of statements does not grow with the
//! lanes. Inside a stored document stand `_id` and `_version`, which Pongo expects there; they are added and removed here, and no
//! handler sees them.

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

use cache::Cache;
pub use committed::Committed;
use foldhash::fast::RandomState;
pub use loader::sessions;
use loader::{Loader, Request};
use slow::Slow;
pub use write::{PreparedWrites, WriteError, Writer, Writes};

use crate::{
    db::{
        Error, Session, describe,
        pool::{Borrower, Pool},
    },
    model::{
        handler::{Descriptor, Failure, PartitionBy, Reason},
        ids::{CollectionName, LaneKey, TenantId},
    },
};

/// Names one document, and the lane it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentKey {
    /// Which.
    pub id: Arc<str>,
    /// Whose.
    pub lane: LaneKey,
    /// Where.
    pub collection: CollectionName,
}

/// Tenant and id tell nearly all documents apart; the rest of a key is left to its comparison.
impl Hash for DocumentKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        self.lane.tenant.hash(state);
    }
}

/// The purpose of sessions for slow reads, and the group that bounds their number.
const APART: &str = "documents apart";

/// What is kept by document. Guests choose the ids, so the hash is seeded; a page asks it some ten thousand times, so it is a quick one.
type ByDocument<T> = HashMap<DocumentKey, T, RandomState>;
type ByDocumentRef<'a, T> = HashMap<&'a DocumentKey, T, RandomState>;

/// Documents to write, the last word on each: its new text, or none to delete it.
pub type Changes = ByDocument<Option<Arc<str>>>;

/// Puts what a lane wrote itself over what it has read of a collection: one entry for each id.
pub fn over(
    written: &Changes,
    lane: &LaneKey,
    collection: &CollectionName,
    ids: &[String],
    found: &mut [Option<Arc<str>>],
) {
    if written.is_empty() {
        return;
    }
    for (id, data) in ids.iter().zip(found) {
        let key = DocumentKey { lane: lane.clone(), collection: collection.clone(), id: id.as_str().into() };
        if let Some(last) = written.get(&key) {
            data.clone_from(last);
        }
    }
}

/// Why documents could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The ground under the processor went away; how.
    #[error("read documents: {0}")]
    Lost(String),
    /// One call asked for more than so many bytes.
    #[error("read more than {} MiB of documents in one call (processor.read-mib)", .0 >> 20)]
    TooMuch(usize),
    /// PostgreSQL cannot return a document, or what it would return is too large.
    #[error(
        "document `{id}` of `{collection}` cannot be read: {why}; replace or delete it without reading it, then resume the lane with \
         `sandmill resume`"
    )]
    Document {
        /// Where.
        collection: CollectionName,
        /// Which.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What it means to the call that reads.
impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lost(why) => Failure::EndTerm(why),
            ReadError::TooMuch(_) => Failure::Block(Reason::new("read-limit", error.to_string())),
            ReadError::Document { .. } => Failure::Block(Reason::new("document-unreadable", error.to_string())),
        }
    }
}

/// Why changes cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A lane writes what belongs to another one.
    #[error("{1}")]
    NotYours(LaneKey, String),
    /// What the database said.
    #[error("read versions of documents: {}", describe(.0))]
    Database(#[from] Error),
}

impl PrepareError {
    /// The lane of `key` writes a document that belongs to the lane `owner`.
    pub fn not_yours(key: &DocumentKey, owner: &str) -> Self {
        let message = format!(
            "wrote document `{}` of `{}`, which belongs to the lane `{owner}` that wrote it first; partition by tenant if lanes share documents",
            key.id, key.collection
        );
        PrepareError::NotYours(key.lane.clone(), message)
    }
}

/// The documents of one processor.
pub struct Documents {
    loader: Loader,
    /// For tenants that make others wait.
    apart: Loader,
    slow: Mutex<Slow>,
    /// Whether each document belongs to one of a tenant's lanes.
    owned: bool,
    state: Mutex<State>,
}

struct State {
    cache: Cache,
    /// Counts stagings, so that a commit knows whether something newer is staged by now.
    serial: u64,
}

impl Documents {
    /// A processor's collections, which exist already. `cache_bytes` bounds what is kept in memory beside
    /// what waits for its commit, `read_bytes` what one call is answered with from the database.
    pub fn new(sessions: &Arc<Pool<Session>>, descriptor: &Descriptor, cache_bytes: usize, read_bytes: usize) -> Self {
        let owner = descriptor.id.owner();
        let loader = |purpose: &str, together: bool| {
            let mut borrower = Borrower::of(&descriptor.id, purpose);
            // Slow reads leave some of the sessions to quick ones.
            borrower.groups.extend((!together).then(|| Arc::from(APART)));
            Loader::new(sessions.clone(), borrower, owner.cloned(), read_bytes, together)
        };
        let (loader, apart) = (loader("documents", true), loader(APART, false));
        let owned = descriptor.partition_by != PartitionBy::Tenant;
        let state = State { cache: Cache::new(cache_bytes), serial: 0 };
        Documents { loader, apart, slow: Mutex::default(), owned, state: Mutex::new(state) }
    }

    /// What brings documents from the database; somebody must let it work (see [`Loader::serve`]).
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The same for tenants that make others wait.
    pub fn apart(&self) -> &Loader {
        &self.apart
    }

    /// Reads documents of a lane: one entry for each id, in order, and the time of the database that it took. The collection is one of those opened.
    pub async fn read(
        &self,
        lane: &LaneKey,
        collection: &CollectionName,
        ids: &[String],
    ) -> Result<(Vec<Option<Arc<str>>>, Duration), ReadError> {
        let key = |id: &str| DocumentKey { lane: lane.clone(), collection: collection.clone(), id: id.into() };
        let keys: Vec<DocumentKey> = ids.iter().map(|id| key(id)).collect();
        let mut found: Vec<Option<Option<Arc<str>>>> = {
            let mut state = self.state();
            keys.iter().map(|key| state.cache.find(key)).collect()
        };
        let missing: Vec<DocumentKey> =
            keys.iter().zip(&found).filter(|(_, known)| known.is_none()).map(|(key, _)| key.clone()).collect();
        let mut took = Duration::ZERO;
        if !missing.is_empty() {
            let count = missing.len();
            let rank = self.slow().rank(&lane.tenant, count);
            let loader = if rank.is_some() { &self.apart } else { &self.loader };
            let request = Request::new(collection.clone(), missing);
            let (read, time) = loader.load(request, rank.unwrap_or_default()).await?;
            self.slow().read(&lane.tenant, count, time.all);
            took = time.part;
            let mut state = self.state();
            let mut read = read.into_iter();
            for known in found.iter_mut().filter(|known| known.is_none()) {
                let Some((key, document)) = read.next() else { break };
                *known = Some(document.data.clone());
                state.cache.put(&key, document);
            }
        }
        Ok((found.into_iter().map(Option::flatten).collect(), took))
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a lane wrote until it is committed. Returns its mark, for [`Documents::settle`].
    pub fn stage(&self, changes: &Changes) -> u64 {
        let mut state = self.state();
        state.serial += 1;
        let serial = state.serial;
        for (key, data) in changes {
            state.cache.stage(key, serial, data.clone());
        }
        serial
    }

    /// Forgets what a lane wrote, as it will not be committed.
    pub fn unstage(&self, lane: &LaneKey) {
        self.state().cache.unstage(lane);
    }

    /// Makes of changes what a transaction writes: with the version that each document has now. A lane's changes stand together, and later
    /// ones replace earlier ones.
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
                    Some(known) => writes.add(key, data, known)?,
                    None => unknown.entry(key.collection.clone()).or_default().push(key.clone()),
                }
            }
        }
        if !unknown.is_empty() {
            let folded: ByDocumentRef<_> = folded.into_iter().collect();
            for (collection, keys) in unknown {
                for (key, known) in self.loader.versions(&collection, keys).await? {
                    let data = folded.get(&key).copied().unwrap_or(&None);
                    writes.add(&key, data, &known)?;
                }
            }
        }
        writes.sort();
        Ok(writes)
    }

    /// Remembers what a transaction wrote, after it committed; `marks` are each lane's last staging that was part of it.
    pub fn settle(&self, writes: Writes, marks: &HashMap<LaneKey, u64>) {
        let mut state = self.state();
        for (key, known) in writes.into_known() {
            let mark = marks.get(&key.lane).copied().unwrap_or(0);
            state.cache.settle(&key, known, mark);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table of a collection's serving generation, which is made of numbers. A tenant's own
/// processor has collections of its own.
async fn table(session: &Session, owner: Option<&TenantId>, collection: &CollectionName) -> Result<String, Error> {
    let owner = owner.map_or("", TenantId::as_str);
    let row = session.query_one(include_str!("documents/table.sql"), &[&owner, &collection.as_str()]).await?;
    Ok(format!("sandmill_documents.c{}_{}", row.get::<_, i32>(0), row.get::<_, i32>(1)))
}

/// A statement on a table.
fn on(table: &str, sql: &str) -> String {
    sql.replace("{table}", table)
}
