//! A reader of committed documents, for code that does not write them.

use std::{convert::Infallible, sync::Arc};

use super::{
    DocumentKey, ReadError,
    cache::CommittedDocument,
    loader::{Loader, ReadRequest},
};
use crate::{
    db::{
        Session,
        pool::{Borrower, Pool},
    },
    model::ids::{CollectionName, LaneKey, TenantId},
};

/// A committed document with the lane that it belongs to.
pub struct OwnedDocument {
    /// JSON text without the host's keys; none if it does not exist.
    pub data: Option<Arc<str>>,
    /// The key of the lane that wrote it first, if lanes are finer than tenants.
    pub owner: Option<Arc<str>>,
}

/// A reader of the documents of shared processors, or of a tenant's own. It caches nothing.
pub struct CommittedReader(Loader);

impl CommittedReader {
    /// A reader that borrows a session for each read. `owner` is the tenant that owns the
    /// collections; none for shared ones. `read_bytes` bounds the documents that one call reads.
    pub fn new(sessions: Arc<Pool<Session>>, owner: Option<TenantId>, read_bytes: usize) -> Self {
        CommittedReader(Loader::new(sessions, Borrower::host("committed documents"), owner, read_bytes, true))
    }

    /// The tenant that owns the collections; none for shared ones.
    pub fn owner(&self) -> Option<&TenantId> {
        self.0.owner()
    }

    /// Reads documents of a lane from an existing collection: one entry for each id, in order. It
    /// waits for [`CommittedReader::serve`].
    pub async fn read(
        &self,
        lane: &LaneKey,
        collection: &CollectionName,
        ids: &[String],
    ) -> Result<Vec<Option<Arc<str>>>, ReadError> {
        Ok(self.find(lane, collection, ids).await?.into_iter().map(|document| document.data).collect())
    }

    /// The same, with the lane that each document belongs to.
    pub async fn find(
        &self,
        lane: &LaneKey,
        collection: &CollectionName,
        ids: &[String],
    ) -> Result<Vec<OwnedDocument>, ReadError> {
        let key =
            |id: &String| DocumentKey { lane: lane.clone(), collection: collection.clone(), id: id.as_str().into() };
        let request = ReadRequest::new(collection.clone(), ids.iter().map(key).collect());
        let (documents, _) = self.0.load(request, None).await?;
        let document = |committed: CommittedDocument| OwnedDocument { data: committed.data, owner: committed.owner };
        Ok(documents.into_iter().map(|(_, committed)| document(committed)).collect())
    }

    /// Answers all reads, until one fails.
    pub async fn serve(&self) -> Result<Infallible, ReadError> {
        loop {
            self.0.due(0).await;
            self.0.serve().await?;
        }
    }
}
