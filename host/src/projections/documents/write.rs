//! Documents as a transaction writes them: with the version each must have, one statement a collection for those that stay and one for those that go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures_util::future::try_join_all;

use super::{Changes, DocumentKey, PrepareError, cache::Known, on, table};
use crate::{
    db::{Error, Session, Statement},
    model::ids::CollectionName,
};

/// Documents as a transaction writes them.
#[derive(Default)]
pub struct Writes {
    /// Whether lanes are finer than tenants, so that each document belongs to one of a tenant's lanes.
    owned: bool,
    by_collection: BTreeMap<CollectionName, Vec<Write>>,
    /// Documents to delete that are not there: nothing to write, and known to be absent.
    absent: Vec<DocumentKey>,
}

struct Write {
    key: DocumentKey,
    /// The version it must have now, 0 where it must not be there.
    version: i64,
    data: Option<Arc<str>>,
}

impl Writes {
    pub(super) fn new(
        changes: Changes,
        known: &HashMap<DocumentKey, Known>,
        owned: bool,
    ) -> Result<Self, PrepareError> {
        let mut writes = Writes { owned, ..Writes::default() };
        let mut writers: HashMap<(CollectionName, Arc<str>, Arc<str>), DocumentKey> = HashMap::new();
        for (key, data) in changes {
            let (version, owner) = known.get(&key).map_or((0, None), |known| (known.version, known.owner.clone()));
            let own = !owned || version == 0 || owner.as_deref() == Some(&*key.lane.key);
            if !own {
                return Err(PrepareError::not_yours(&key, owner.as_deref().unwrap_or("another lane")));
            }
            if owned {
                let place = (key.collection.clone(), key.lane.tenant.as_shared(), key.id.clone());
                if let Some(other) = writers.insert(place, key.clone()) {
                    return Err(PrepareError::not_yours(&key, &other.lane.key));
                }
            }
            if data.is_none() && version == 0 {
                writes.absent.push(key);
                continue;
            }
            writes.by_collection.entry(key.collection.clone()).or_default().push(Write { key, version, data });
        }
        Ok(writes)
    }

    /// How many documents it writes or deletes.
    pub fn len(&self) -> usize {
        self.by_collection.values().map(Vec::len).sum()
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.by_collection.is_empty()
    }

    /// What is known of the documents once this is committed.
    pub(super) fn into_known(self) -> impl Iterator<Item = (DocumentKey, Known)> {
        let absent = self.absent.into_iter().map(|key| (key, Known::absent()));
        let owned = self.owned;
        let written = self.by_collection.into_values().flatten().map(move |write| {
            let owner = owned.then(|| write.key.lane.key.clone());
            let version = if write.data.is_some() { write.version + 1 } else { 0 };
            (write.key, Known { version, data: write.data, owner })
        });
        written.chain(absent)
    }
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
            let put = session.prepare(&on(&table, include_str!("put.sql"))).await?;
            let remove = session.prepare(&on(&table, include_str!("remove.sql"))).await?;
            statements.insert(collection.clone(), (put, remove));
        }
        Ok(Writer { statements })
    }

    /// Writes documents in the session's transaction, at most two statements a collection, all sent at its first poll.
    pub async fn write(&self, session: &Session, writes: &Writes) -> Result<(), Error> {
        let owned = writes.owned;
        let tables = writes.by_collection.iter().filter_map(|(collection, writes)| {
            let (put, remove) = self.statements.get(collection)?;
            let (puts, removes): (Vec<&Write>, Vec<&Write>) = writes.iter().partition(|write| write.data.is_some());
            Some(async move {
                tokio::try_join!(biased; write_puts(session, put, &puts, owned), write_removes(session, remove, &removes))
            })
        });
        try_join_all(tables).await?;
        Ok(())
    }
}

async fn write_puts(session: &Session, put: &Statement, writes: &[&Write], owned: bool) -> Result<(), Error> {
    if !writes.is_empty() {
        let (tenants, ids, versions) = columns(writes);
        let data: Vec<String> = writes.iter().map(|write| stored(write)).collect();
        let lanes: Vec<Option<&str>> = writes.iter().map(|write| owned.then_some(&*write.key.lane.key)).collect();
        session.query(put, &[&tenants, &ids, &data, &versions, &lanes]).await?;
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
    let tenants = writes.iter().map(|w| w.key.lane.tenant.as_str()).collect();
    let ids = writes.iter().map(|w| &*w.key.id).collect();
    (tenants, ids, writes.iter().map(|w| w.version).collect())
}

/// A document's text as it is stored: with its id and version inside, the version as a string, before what the handler wrote.
fn stored(write: &Write) -> String {
    let data = write.data.as_deref().unwrap_or("{}").trim_start();
    let rest = data[1..].trim_start();
    let id = serde_json::Value::from(&*write.key.id);
    let comma = if rest.starts_with('}') { "" } else { "," };
    format!(r#"{{"_id":{id},"_version":"{}"{comma}{rest}"#, write.version + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{LaneKey, TenantId};

    fn key(lane: &str, id: &str) -> DocumentKey {
        DocumentKey {
            lane: LaneKey { tenant: TenantId::parse("t").unwrap(), key: lane.into() },
            collection: CollectionName::parse("c").unwrap(),
            id: id.into(),
        }
    }

    #[test]
    fn stored_documents_hold_id_and_version() {
        let stored =
            |id: &str, data: &str| super::stored(&Write { key: key("t", id), version: 4, data: Some(data.into()) });
        assert_eq!(stored("a\"b", r#"{"x":1}"#), r#"{"_id":"a\"b","_version":"5","x":1}"#);
        assert_eq!(stored("a", " { } "), r#"{"_id":"a","_version":"5"} "#);
    }

    #[test]
    fn a_document_belongs_to_the_lane_that_wrote_it_first() {
        let put = |keys: &[DocumentKey]| -> Changes { keys.iter().map(|k| (k.clone(), Some("{}".into()))).collect() };
        let known = |owner: &str| {
            let known = Known { version: 3, data: None, owner: Some(owner.into()) };
            HashMap::from([(key("s1", "d"), known)])
        };
        assert_eq!(Writes::new(put(&[key("s1", "d")]), &known("s1"), true).unwrap().len(), 1);
        let refused = Writes::new(put(&[key("s1", "d")]), &known("s2"), true).err().unwrap();
        assert!(matches!(&refused, PrepareError::NotYours(lane, _) if &*lane.key == "s1"), "{refused}");
        // Two lanes that create one document in one commit.
        let both = Writes::new(put(&[key("s1", "d"), key("s2", "d")]), &HashMap::new(), true).err().unwrap();
        assert!(both.to_string().contains("belongs to the lane `s1`"), "{both}");
        // A stream may be named like its tenant, and is a lane like any other.
        let known = Known { version: 3, data: None, owner: Some("s1".into()) };
        let namesake = Writes::new(put(&[key("t", "d")]), &HashMap::from([(key("t", "d"), known)]), true);
        assert!(namesake.is_err());
    }
}
