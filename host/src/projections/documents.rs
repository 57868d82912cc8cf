//! The documents of one processor during one term: read through a cache, written with the version they were read with.
//!
//! As long as the term lasts its owner is the only writer, so what was read or written stays true and is kept, up to a number of
//! bytes; when the term ends, the cache ends with it. Inside a stored document stand `_id` and `_version`, which Pongo expects
//! there; they are added and removed here, and no handler sees them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::try_join_all;
use lru::LruCache;

use crate::{
    db::{Db, Error, Session, Statement},
    model::ids::{CollectionName, TenantId},
};

/// Names one document.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    /// Where.
    pub collection: CollectionName,
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: Arc<str>,
}

/// What is known of a document: its version, 0 where there is none, and its JSON text, none where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// How many commits touched it.
    pub version: i64,
    /// Without the host's keys.
    pub data: Option<Arc<str>>,
}

/// Documents to write, the last word on each: its new text, or none to delete it.
pub type Changes = BTreeMap<DocumentKey, Option<Arc<str>>>;

/// The documents of one processor.
pub struct Documents {
    session: Session,
    statements: HashMap<CollectionName, Statements>,
    cache: Mutex<Cache>,
}

struct Statements {
    read: Statement,
    versions: Statement,
}

/// The statements that write collections, prepared on the session whose transactions they run in.
pub struct Writer {
    statements: HashMap<CollectionName, (Statement, Statement)>,
}

impl Writer {
    /// Prepares them. The collections exist already.
    pub async fn open(session: &Session, collections: &[CollectionName]) -> Result<Self, Error> {
        let mut statements = HashMap::new();
        for collection in collections {
            let table = table(session, collection).await?;
            let put = session.prepare(&on(&table, include_str!("documents/put.sql"))).await?;
            let remove = session.prepare(&on(&table, include_str!("documents/remove.sql"))).await?;
            statements.insert(collection.clone(), (put, remove));
        }
        Ok(Writer { statements })
    }

    /// Writes documents in the session's transaction, at most two statements a collection, all sent at its first poll.
    pub async fn write(&self, session: &Session, writes: &Writes) -> Result<(), Error> {
        let tables = writes.by_collection.iter().filter_map(|(collection, writes)| {
            let (put, remove) = self.statements.get(collection)?;
            let (puts, removes): (Vec<&Write>, Vec<&Write>) = writes.iter().partition(|write| write.data.is_some());
            Some(async move {
                tokio::try_join!(biased; write_puts(session, put, &puts), write_removes(session, remove, &removes))
            })
        });
        try_join_all(tables).await?;
        Ok(())
    }
}

async fn write_puts(session: &Session, put: &Statement, writes: &[&Write]) -> Result<(), Error> {
    if !writes.is_empty() {
        let (tenants, ids, versions) = columns(writes);
        let data: Vec<String> = writes.iter().map(|write| stored(write)).collect();
        session.query(put, &[&tenants, &ids, &data, &versions]).await?;
    }
    Ok(())
}

async fn write_removes(session: &Session, remove: &Statement, writes: &[&Write]) -> Result<(), Error> {
    if !writes.is_empty() {
        let (tenants, ids, versions) = columns(writes);
        session.query(remove, &[&tenants, &ids, &versions]).await?;
    }
    Ok(())
}

fn columns<'a>(writes: &[&'a Write]) -> (Vec<&'a str>, Vec<&'a str>, Vec<i64>) {
    let tenants = writes.iter().map(|w| w.key.tenant.as_str()).collect();
    let ids = writes.iter().map(|w| &*w.key.id).collect();
    (tenants, ids, writes.iter().map(|w| w.version).collect())
}

impl Documents {
    /// Opens the collections, which exist already. `cache_bytes` bounds what is kept in memory.
    pub async fn open(db: &Db, collections: &[CollectionName], cache_bytes: usize) -> Result<Self, Error> {
        let session = db.connect("documents").await?;
        let mut statements = HashMap::new();
        for collection in collections {
            let table = table(&session, collection).await?;
            let read = session.prepare(&on(&table, include_str!("documents/read.sql"))).await?;
            let versions = session.prepare(&on(&table, include_str!("documents/versions.sql"))).await?;
            statements.insert(collection.clone(), Statements { read, versions });
        }
        Ok(Documents { session, statements, cache: Mutex::new(Cache::new(cache_bytes)) })
    }

    /// Reads documents of one tenant: one entry for each id, in order. The collection is one of those opened.
    pub async fn read(
        &self,
        tenant: &TenantId,
        collection: &CollectionName,
        ids: &[String],
    ) -> Result<Vec<Option<Arc<str>>>, Error> {
        let keys: Vec<DocumentKey> = ids
            .iter()
            .map(|id| DocumentKey { collection: collection.clone(), tenant: tenant.clone(), id: id.as_str().into() })
            .collect();
        let mut found: Vec<Option<Known>> = {
            let mut cache = self.cache();
            keys.iter().map(|key| cache.get(key)).collect()
        };
        let missing: Vec<&str> =
            keys.iter().zip(&found).filter(|(_, known)| known.is_none()).map(|(key, _)| &*key.id).collect();
        if !missing.is_empty() {
            let rows = match self.statements.get(collection) {
                Some(statements) => self.session.query(&statements.read, &[&tenant.as_str(), &missing]).await?,
                None => Vec::new(),
            };
            let rows: HashMap<&str, Known> = rows
                .iter()
                .map(|row| (row.get(0), Known { version: row.get(1), data: Some(row.get::<_, &str>(2).into()) }))
                .collect();
            let mut cache = self.cache();
            for (key, known) in keys.into_iter().zip(&mut found) {
                if known.is_none() {
                    let read = rows.get(&*key.id).cloned().unwrap_or(Known { version: 0, data: None });
                    cache.put(key, read.clone());
                    *known = Some(read);
                }
            }
        }
        Ok(found.into_iter().map(|known| known.and_then(|known| known.data)).collect())
    }

    /// Makes of changes what a transaction writes: with the version that each document has now.
    pub async fn prepare(&self, changes: Changes) -> Result<Writes, Error> {
        let mut writes = Writes::default();
        let mut unknown: BTreeMap<CollectionName, Vec<DocumentKey>> = BTreeMap::new();
        let mut versions: HashMap<DocumentKey, i64> = HashMap::new();
        {
            let mut cache = self.cache();
            for key in changes.keys() {
                match cache.get(key) {
                    Some(known) => {
                        versions.insert(key.clone(), known.version);
                    }
                    None => unknown.entry(key.collection.clone()).or_default().push(key.clone()),
                }
            }
        }
        for (collection, keys) in unknown {
            let Some(statements) = self.statements.get(&collection) else { continue };
            let tenants: Vec<&str> = keys.iter().map(|key| key.tenant.as_str()).collect();
            let ids: Vec<&str> = keys.iter().map(|key| &*key.id).collect();
            let rows = self.session.query(&statements.versions, &[&tenants, &ids]).await?;
            let read: HashMap<(&str, &str), i64> =
                rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
            for key in &keys {
                let version = read.get(&(key.tenant.as_str(), &*key.id)).copied().unwrap_or(0);
                versions.insert(key.clone(), version);
            }
        }
        for (key, data) in changes {
            let version = versions.get(&key).copied().unwrap_or(0);
            if data.is_none() && version == 0 {
                continue;
            }
            let collection = key.collection.clone();
            writes.by_collection.entry(collection).or_default().push(Write { key, version, data });
        }
        Ok(writes)
    }

    /// Remembers what a transaction wrote, after it committed.
    pub fn settle(&self, writes: Writes) {
        let mut cache = self.cache();
        for write in writes.by_collection.into_values().flatten() {
            let version = if write.data.is_some() { write.version + 1 } else { 0 };
            cache.put(write.key, Known { version, data: write.data });
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Documents as a transaction writes them.
#[derive(Default)]
pub struct Writes {
    by_collection: BTreeMap<CollectionName, Vec<Write>>,
}

struct Write {
    key: DocumentKey,
    /// The version it must have now, 0 where it must not be there.
    version: i64,
    data: Option<Arc<str>>,
}

impl Writes {
    /// How many documents it writes or deletes.
    pub fn len(&self) -> usize {
        self.by_collection.values().map(Vec::len).sum()
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.by_collection.is_empty()
    }
}

/// The table of a collection's serving generation. Both parts of its name are of a form that needs no quotes.
async fn table(session: &Session, collection: &CollectionName) -> Result<String, Error> {
    let row = session
        .query_one("select generation from sandmill.collections where name = $1", &[&collection.as_str()])
        .await?;
    Ok(format!("sandmill_documents.{collection}_{}", row.get::<_, i32>(0)))
}

/// A statement on a table.
fn on(table: &str, sql: &str) -> String {
    sql.replace("{table}", table)
}

/// A document's text as it is stored: with its id and version inside, the version as a string, before what the handler wrote.
fn stored(write: &Write) -> String {
    let data = write.data.as_deref().unwrap_or("{}").trim_start();
    let rest = data[1..].trim_start();
    let id = serde_json::Value::from(&*write.key.id);
    let comma = if rest.starts_with('}') { "" } else { "," };
    format!(r#"{{"_id":{id},"_version":"{}"{comma}{rest}"#, write.version + 1)
}

/// Documents by key, the least recently used ones forgotten first.
struct Cache {
    documents: LruCache<DocumentKey, Known>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    fn new(bytes_max: usize) -> Self {
        Cache { documents: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    fn get(&mut self, key: &DocumentKey) -> Option<Known> {
        self.documents.get(key).cloned()
    }

    fn put(&mut self, key: DocumentKey, known: Known) {
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
    key.id.len() + known.data.as_ref().map_or(0, |data| data.len()) + 200
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> DocumentKey {
        DocumentKey {
            collection: CollectionName::parse("c").unwrap(),
            tenant: TenantId::parse("t").unwrap(),
            id: id.into(),
        }
    }

    #[test]
    fn stored_documents_hold_id_and_version() {
        let stored = |id: &str, data: &str| super::stored(&Write { key: key(id), version: 4, data: Some(data.into()) });
        assert_eq!(stored("a\"b", r#"{"x":1}"#), r#"{"_id":"a\"b","_version":"5","x":1}"#);
        assert_eq!(stored("a", " { } "), r#"{"_id":"a","_version":"5"} "#);
    }

    #[test]
    fn the_cache_keeps_to_its_bytes_and_forgets_the_oldest() {
        let mut cache = Cache::new(1_000);
        let known = |n: usize| Known { version: 1, data: Some("x".repeat(n).into()) };
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
