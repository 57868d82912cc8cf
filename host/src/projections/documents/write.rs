//! The writes of documents in a transaction. Each document must still have the version that was
//! read.
//!
//! There are at most two statements for each collection: one that stores documents, and one that
//! deletes them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use futures_util::future::try_join_all;

use super::{DocumentKey, PrepareError, cache::CommittedDocument, on, table};
use crate::{
    db::{Error, Session, Statement, describe},
    model::ids::{CollectionName, TenantId},
};

/// The documents that a transaction writes.
#[derive(Default)]
pub struct Writes {
    /// Whether lanes are finer than tenants, so that each document belongs to one of a tenant's
    /// lanes.
    owned: bool,
    by_collection: BTreeMap<CollectionName, Vec<Write>>,
    /// Documents to delete that do not exist: there is nothing to write, but their absence is
    /// cached.
    absent: Vec<DocumentKey>,
    /// The lane that writes each document, if documents belong to lanes.
    writers: HashMap<(CollectionName, Arc<str>, Arc<str>), Arc<str>>,
}

struct Write {
    key: DocumentKey,
    /// The version that it must have now; 0 if it must not exist.
    version: i64,
    data: Option<Arc<str>>,
}

impl Writes {
    pub(super) fn new(owned: bool) -> Self {
        Writes { owned, ..Writes::default() }
    }

    /// Adds a document, at most once, with its state in the database.
    pub(super) fn add(
        &mut self,
        key: &DocumentKey,
        data: &Option<Arc<str>>,
        committed: &CommittedDocument,
    ) -> Result<(), PrepareError> {
        let CommittedDocument { version, owner, .. } = committed;
        if self.owned {
            if *version > 0 && owner.as_deref() != Some(&*key.lane.key) {
                return Err(PrepareError::foreign_document(key, owner.as_deref().unwrap_or("another lane")));
            }
            let row = (key.collection.clone(), key.lane.tenant.as_shared(), key.id.clone());
            if let Some(other) = self.writers.insert(row, key.lane.key.clone()) {
                return Err(PrepareError::foreign_document(key, &other));
            }
        }
        if data.is_none() && *version == 0 {
            self.absent.push(key.clone());
            return Ok(());
        }
        let write = Write { key: key.clone(), version: *version, data: data.clone() };
        match self.by_collection.get_mut(&key.collection) {
            Some(writes) => writes.push(write),
            None => drop(self.by_collection.insert(key.collection.clone(), vec![write])),
        }
        Ok(())
    }

    /// Sorts documents by their table's key: an index is written fastest in its own order.
    pub(super) fn sort(&mut self) {
        for writes in self.by_collection.values_mut() {
            writes.sort_unstable_by(|a, b| (&a.key.lane.tenant, &a.key.id).cmp(&(&b.key.lane.tenant, &b.key.id)));
        }
    }

    /// The number of documents that it writes or deletes.
    pub fn len(&self) -> usize {
        self.by_collection.values().map(Vec::len).sum()
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.by_collection.is_empty()
    }

    /// The documents as the database has them after the commit.
    pub(super) fn into_committed(self) -> impl Iterator<Item = (DocumentKey, CommittedDocument)> {
        let absent = self.absent.into_iter().map(|key| (key, CommittedDocument::absent()));
        let owned = self.owned;
        let written = self.by_collection.into_values().flatten().map(move |write| {
            let owner = owned.then(|| write.key.lane.key.clone());
            let version = if write.data.is_some() { write.version + 1 } else { 0 };
            (write.key, CommittedDocument { version, data: write.data, owner })
        });
        written.chain(absent)
    }
}

/// Why documents could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Some documents do not have the version that they were read with: another session wrote them.
    #[error(
        "documents of {collection} were changed by another session ({missed} of them); only the host may write to the \
         collection's table"
    )]
    Missed {
        /// The collection.
        collection: CollectionName,
        /// The number of such documents.
        missed: u64,
    },
    /// A database error.
    #[error("write documents: {}", describe(.0))]
    Database(#[from] Error),
}

/// The statements that write a processor's collections.
pub struct DocumentWriter {
    sql: HashMap<CollectionName, WriteSql>,
}

/// The statements that write one collection.
struct WriteSql {
    put: String,
    remove: String,
}

/// The statements for some documents, prepared on the session of their transaction.
pub struct PreparedWrites<'a> {
    owned: bool,
    parts: Vec<(&'a [Write], Statement, Statement)>,
}

impl DocumentWriter {
    /// A writer for existing collections of a tenant, or shared ones without an `owner`. It looks
    /// up their tables.
    pub async fn open(
        session: &Session,
        owner: Option<&TenantId>,
        collections: &[CollectionName],
    ) -> Result<Self, Error> {
        let mut sql = HashMap::new();
        for collection in collections {
            let table = table(session, owner, collection).await?;
            let (put, remove) = (on(&table, include_str!("put.sql")), on(&table, include_str!("remove.sql")));
            sql.insert(collection.clone(), WriteSql { put, remove });
        }
        Ok(DocumentWriter { sql })
    }

    /// Prepares the statements for some documents, unless the session has them prepared already.
    pub async fn prepare<'a>(&self, session: &Session, writes: &'a Writes) -> Result<PreparedWrites<'a>, Error> {
        let mut parts = Vec::with_capacity(writes.by_collection.len());
        for (collection, writes) in &writes.by_collection {
            let Some(WriteSql { put, remove }) = self.sql.get(collection) else { continue };
            let (put, remove) = tokio::try_join!(session.prepared(put), session.prepared(remove))?;
            parts.push((writes.as_slice(), put, remove));
        }
        Ok(PreparedWrites { owned: writes.owned, parts })
    }
}

impl PreparedWrites<'_> {
    /// Writes the documents in the session's transaction. All statements are sent at the first poll
    /// of the future. After an error the transaction must not be committed.
    pub async fn write(&self, session: &Session) -> Result<(), WriteError> {
        let tables = self.parts.iter().map(|(writes, put, remove)| {
            let (puts, removes): (Vec<&Write>, Vec<&Write>) = writes.iter().partition(|write| write.data.is_some());
            async move {
                tokio::try_join!(biased; write_puts(session, put, &puts, self.owned), write_removes(session, remove, &removes))
            }
        });
        try_join_all(tables).await?;
        Ok(())
    }
}

/// Stores documents. Fails if one of them does not have the expected version.
async fn write_puts(session: &Session, put: &Statement, writes: &[&Write], owned: bool) -> Result<(), WriteError> {
    if writes.is_empty() {
        return Ok(());
    }
    let (tenants, ids, versions) = columns(writes);
    let data: Vec<String> = writes.iter().map(|write| stored(write)).collect();
    // If a lane is a tenant, documents have no owner.
    let lanes: Vec<&str> = writes.iter().filter(|_| owned).map(|write| &*write.key.lane.key).collect();
    let written = session.execute(put, &[&tenants, &ids, &data, &versions, &lanes]).await?;
    all_of(writes, written)
}

/// Deletes documents. Fails if one of them does not have the expected version.
async fn write_removes(session: &Session, remove: &Statement, writes: &[&Write]) -> Result<(), WriteError> {
    if writes.is_empty() {
        return Ok(());
    }
    let (tenants, ids, versions) = columns(writes);
    let removed = session.execute(remove, &[&tenants, &ids, &versions]).await?;
    all_of(writes, removed)
}

fn all_of(writes: &[&Write], changed: u64) -> Result<(), WriteError> {
    match writes.first() {
        Some(write) if changed != writes.len() as u64 => {
            let collection = write.key.collection.clone();
            Err(WriteError::Missed { collection, missed: writes.len() as u64 - changed })
        }
        _ => Ok(()),
    }
}

fn columns<'a>(writes: &[&'a Write]) -> (Vec<&'a str>, Vec<&'a str>, Vec<i64>) {
    let tenants = writes.iter().map(|w| w.key.lane.tenant.as_str()).collect();
    let ids = writes.iter().map(|w| &*w.key.id).collect();
    (tenants, ids, writes.iter().map(|w| w.version).collect())
}

/// The stored text of a document: its id and version (as a string), then the members that the
/// handler wrote.
fn stored(write: &Write) -> String {
    let data = write.data.as_deref().unwrap_or("{}").trim_start();
    let (id, rest) = (&*write.key.id, data[1..].trim_start());
    let comma = if rest.starts_with('}') { "" } else { "," };
    let mut text = String::with_capacity(rest.len() + id.len() + 48);
    // Writing to a string does not fail. Most ids need no escapes.
    let plain = id.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    let _ = match plain {
        true => write!(text, r#"{{"_id":"{id}""#),
        false => write!(text, r#"{{"_id":{}"#, serde_json::Value::from(id)),
    };
    let _ = write!(text, r#","_version":"{}"{comma}{rest}"#, write.version + 1);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::LaneKey;

    fn key(lane: &str, id: &str) -> DocumentKey {
        DocumentKey {
            lane: LaneKey { tenant: TenantId::parse("t").unwrap(), key: lane.into() },
            collection: CollectionName::parse("c").unwrap(),
            id: id.into(),
        }
    }

    #[test]
    fn stored_documents_begin_with_id_and_version() {
        let stored =
            |id: &str, data: &str| super::stored(&Write { key: key("t", id), version: 4, data: Some(data.into()) });
        assert_eq!(stored("a\"b", r#"{"x":1}"#), r#"{"_id":"a\"b","_version":"5","x":1}"#);
        assert_eq!(stored("a", " { } "), r#"{"_id":"a","_version":"5"} "#);
    }

    #[test]
    fn a_document_belongs_to_the_lane_that_wrote_it_first() {
        let owned_by = |owner: &str| CommittedDocument { version: 3, data: None, owner: Some(owner.into()) };
        let write = |writes: &mut Writes, lane: &str, committed: &CommittedDocument| {
            writes.add(&key(lane, "d"), &Some("{}".into()), committed).map_err(|error| error.to_string())
        };
        let mut writes = Writes::new(true);
        write(&mut writes, "s1", &owned_by("s1")).unwrap();
        assert_eq!(writes.len(), 1);
        let error = write(&mut Writes::new(true), "s1", &owned_by("s2")).unwrap_err();
        assert!(error.contains("belongs to the lane `s2`"), "{error}");
        // Two lanes create one document in one commit.
        let mut writes = Writes::new(true);
        write(&mut writes, "s1", &CommittedDocument::absent()).unwrap();
        let error = write(&mut writes, "s2", &CommittedDocument::absent()).unwrap_err();
        assert!(error.contains("belongs to the lane `s1`"), "{error}");
        // A stream that is named like its tenant is a lane like any other.
        write(&mut Writes::new(true), "t", &owned_by("s1")).unwrap_err();
    }
}
