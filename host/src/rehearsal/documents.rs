//! The documents of one tenant in memory. They follow the same rules as documents in the database.
//!
//! With an origin ([`FindDocuments`]), documents are read from there once, when they are first
//! needed. They stay in memory, and nothing is written back. Without one, a document exists only if
//! it was put in here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    model::{
        handler::{BoxFuture, Documents, Failure, Reason},
        ids::CollectionName,
    },
    projections::documents::{Changes, PrepareError},
};

/// The source of documents that are not in memory yet.
pub trait FindDocuments: Send + Sync {
    /// One entry per id, in the order of the ids; none if the source does not know whether the
    /// document exists. [`Failure::Block`] says why the documents cannot be read.
    fn find<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<FoundDocument>>, Failure>>;
}

/// A document as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundDocument {
    /// JSON text; none if the document does not exist.
    pub data: Option<Arc<str>>,
    /// The key of the lane that wrote it first, if lanes are finer than tenants.
    pub owner: Option<Arc<str>>,
}

/// The collection and the id of a document.
pub(super) type MemoryKey = (CollectionName, Arc<str>);

/// The documents that a tenant's lanes have written, and those read from the origin.
pub(super) struct MemoryDocuments {
    /// Whether each document belongs to one of the tenant's lanes.
    owned: bool,
    origin: Option<Arc<dyn FindDocuments>>,
    documents: Mutex<BTreeMap<MemoryKey, KnownDocument>>,
}

/// What is known of a document.
#[derive(Clone)]
pub(super) enum KnownDocument {
    /// As the origin has it.
    Found(FoundDocument),
    /// Written here, by the lane with the key `owner` first; without data if it was removed.
    Written { data: Option<Arc<str>>, owner: Option<Arc<str>> },
    /// It cannot be read.
    Unreadable(Reason),
    /// The origin does not know it. To a plugin, it is absent.
    Unknown,
}

impl KnownDocument {
    /// Its JSON text, if it exists and can be read.
    pub(super) fn data(&self) -> Option<&Arc<str>> {
        match self {
            KnownDocument::Found(FoundDocument { data, .. }) | KnownDocument::Written { data, .. } => data.as_ref(),
            KnownDocument::Unreadable(_) | KnownDocument::Unknown => None,
        }
    }

    /// The key of the lane that it belongs to, if it exists.
    fn owner(&self) -> Option<&Arc<str>> {
        match self {
            KnownDocument::Found(FoundDocument { data: Some(_), owner })
            | KnownDocument::Written { data: Some(_), owner } => owner.as_ref(),
            _ => None,
        }
    }
}

impl MemoryDocuments {
    /// Documents in memory alone.
    pub(super) fn new(owned: bool) -> Self {
        MemoryDocuments { owned, origin: None, documents: Mutex::default() }
    }

    /// Documents that are read from an origin when they are first needed.
    pub(super) fn over(owned: bool, origin: Arc<dyn FindDocuments>) -> Self {
        MemoryDocuments { origin: Some(origin), ..Self::new(owned) }
    }

    /// Reads documents from the origin unless they are known. Fails only if the origin is lost or
    /// short of something.
    pub(super) async fn learn(&self, collection: &CollectionName, ids: &[String]) -> Result<(), Failure> {
        let Some(origin) = &self.origin else { return Ok(()) };
        let unknown: Vec<String> = {
            let documents = self.lock();
            let ids: BTreeSet<&String> = ids.iter().collect();
            let is_known = |id: &str| documents.contains_key(&(collection.clone(), id.into()));
            ids.into_iter().filter(|id| !is_known(id)).cloned().collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let found: Vec<KnownDocument> = match origin.find(collection, &unknown).await {
            Ok(found) => {
                found.into_iter().map(|found| found.map_or(KnownDocument::Unknown, KnownDocument::Found)).collect()
            }
            Err(Failure::Block(reason)) => vec![KnownDocument::Unreadable(reason); unknown.len()],
            Err(failure) => return Err(failure),
        };
        let mut documents = self.lock();
        for (id, document) in unknown.into_iter().zip(found) {
            documents.insert((collection.clone(), id.into()), document);
        }
        Ok(())
    }

    /// Writes all changes of a lane, or none if one of them is to another lane's document. With an
    /// origin, the documents must be [known](Self::learn).
    pub(super) fn write(&self, changes: Changes) -> Result<(), PrepareError> {
        let mut documents = self.lock();
        for key in changes.keys() {
            let name = (key.collection.clone(), key.id.clone());
            if let Some(owner) = documents.get(&name).and_then(KnownDocument::owner)
                && self.owned
                && *owner != key.lane.key
            {
                return Err(PrepareError::foreign_document(key, owner));
            }
        }
        for (key, data) in changes {
            let name = (key.collection, key.id);
            // A pass over many events must not remember each document that it has removed.
            if data.is_none() && self.origin.is_none() {
                documents.remove(&name);
            } else {
                documents.insert(name, KnownDocument::Written { data, owner: Some(key.lane.key) });
            }
        }
        Ok(())
    }

    /// What is known of a document, if anything is.
    pub(super) fn known(&self, name: &MemoryKey) -> Option<KnownDocument> {
        self.lock().get(name).cloned()
    }

    /// All that is known of documents, by collection and id.
    pub(super) fn all_known(&self) -> Vec<(MemoryKey, KnownDocument)> {
        self.lock().iter().map(|(name, document)| (name.clone(), document.clone())).collect()
    }

    /// The documents that were asked for and that the origin does not know.
    pub(super) fn unknown(&self) -> Vec<MemoryKey> {
        let documents = self.lock();
        let unknown = documents.iter().filter(|(_, document)| matches!(document, KnownDocument::Unknown));
        unknown.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets the documents that were only read. They are read again when they are needed.
    pub(super) fn forget_read(&self) {
        self.lock().retain(|_, document| matches!(document, KnownDocument::Written { .. }));
    }

    /// Bytes of the documents in memory.
    pub(super) fn bytes(&self) -> usize {
        let documents = self.lock();
        documents.iter().map(|((_, id), document)| id.len() + document.data().map_or(0, |data| data.len())).sum()
    }

    /// All documents that exist, by collection and id.
    pub(super) fn all(&self) -> Vec<(CollectionName, Arc<str>, Arc<str>)> {
        let documents = self.lock();
        let existing = documents.iter().filter_map(|((collection, id), document)| {
            Some((collection.clone(), id.clone(), document.data()?.clone()))
        });
        existing.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemoryKey, KnownDocument>> {
        // Nothing panics while holding it.
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, collection: &CollectionName, ids: &[String]) -> Result<Vec<Option<Arc<str>>>, Failure> {
        self.learn(collection, ids).await?;
        let documents = self.lock();
        let find = |id: &String| match documents.get(&(collection.clone(), id.as_str().into())) {
            Some(KnownDocument::Unreadable(reason)) => Err(Failure::Block(reason.clone())),
            known => Ok(known.and_then(KnownDocument::data).cloned()),
        };
        ids.iter().map(find).collect()
    }
}

impl Documents for MemoryDocuments {
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        Box::pin(self.read(collection, ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::ids::{LaneKey, TenantId},
        projections::documents::DocumentKey,
    };

    fn write(kept: &MemoryDocuments, lane: &str, changes: &[(&str, Option<&str>)]) -> Result<(), String> {
        let change = |(id, data): &(&str, Option<&str>)| {
            let lane = LaneKey { tenant: TenantId::parse("t").unwrap(), key: lane.into() };
            let collection = CollectionName::parse("c").unwrap();
            (DocumentKey { lane, collection, id: (*id).into() }, data.map(Into::into))
        };
        kept.write(changes.iter().map(change).collect()).map_err(|error| error.to_string())
    }

    fn ids(kept: &MemoryDocuments) -> Vec<String> {
        kept.all().into_iter().map(|(_, id, data)| format!("{id}={data}")).collect()
    }

    #[test]
    fn a_document_belongs_to_its_first_lane_until_it_is_removed() {
        let kept = MemoryDocuments::new(true);
        write(&kept, "one", &[("a", Some("1"))]).unwrap();
        let rejected = write(&kept, "two", &[("b", Some("2")), ("a", None)]).unwrap_err();
        assert!(rejected.contains("belongs to the lane `one`"), "{rejected}");
        assert_eq!(ids(&kept), ["a=1"], "no change is written");
        write(&kept, "one", &[("a", None)]).unwrap();
        write(&kept, "two", &[("a", Some("3"))]).unwrap();
        assert_eq!(ids(&kept), ["a=3"]);

        let shared = MemoryDocuments::new(false);
        write(&shared, "one", &[("a", Some("1"))]).unwrap();
        write(&shared, "two", &[("a", Some("2"))]).unwrap();
        assert_eq!(ids(&shared), ["a=2"]);
    }
}
