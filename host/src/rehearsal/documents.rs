//! The documents of one tenant in memory. They follow the same rules as documents in the database.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    model::{
        handler::{BoxFuture, Documents, Failure},
        ids::CollectionName,
    },
    projections::documents::{Changes, PrepareError},
};

/// The documents that a tenant's lanes have written.
pub(super) struct MemoryDocuments {
    /// Whether each document belongs to one of the tenant's lanes.
    owned: bool,
    documents: Mutex<BTreeMap<(CollectionName, Arc<str>), StoredDocument>>,
}

struct StoredDocument {
    data: Arc<str>,
    /// The key of the lane that wrote it first.
    owner: Arc<str>,
}

impl MemoryDocuments {
    pub(super) fn new(owned: bool) -> Self {
        MemoryDocuments { owned, documents: Mutex::default() }
    }

    /// Writes all changes of a lane, or none if one of them is to another lane's document.
    pub(super) fn write(&self, changes: Changes) -> Result<(), PrepareError> {
        let mut documents = self.lock();
        for key in changes.keys() {
            let name = (key.collection.clone(), key.id.clone());
            if let Some(document) = documents.get(&name)
                && self.owned
                && document.owner != key.lane.key
            {
                return Err(PrepareError::foreign_document(key, &document.owner));
            }
        }
        for (key, data) in changes {
            let name = (key.collection, key.id);
            match data {
                Some(data) => drop(documents.insert(name, StoredDocument { data, owner: key.lane.key })),
                None => drop(documents.remove(&name)),
            }
        }
        Ok(())
    }

    /// All documents, by collection and id.
    pub(super) fn all(&self) -> Vec<(CollectionName, Arc<str>, Arc<str>)> {
        let documents = self.lock();
        documents.iter().map(|((collection, id), d)| (collection.clone(), id.clone(), d.data.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(CollectionName, Arc<str>), StoredDocument>> {
        // Nothing panics while holding it.
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents for MemoryDocuments {
    fn get_many<'a>(
        &'a self,
        collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        let documents = self.lock();
        let find = |id: &String| Some(documents.get(&(collection.clone(), id.as_str().into()))?.data.clone());
        let found = ids.iter().map(find).collect();
        Box::pin(std::future::ready(Ok(found)))
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
