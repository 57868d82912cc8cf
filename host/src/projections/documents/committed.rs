//! Documents as they are committed, for whoever only looks at them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use super::{
    DocumentKey, ReadError,
    loader::{Loader, Request},
};
use crate::{
    db::{
        Session,
        pool::{Borrower, Pool},
    },
    model::ids::{CollectionName, LaneKey, TenantId},
};

/// Documents of everybody's processors or of one tenant's own, read anew each time.
pub struct Committed(Loader);

impl Committed {
    /// Borrows a session when it has something to read. `owner` is whose the collections are, none
    /// for everybody's; `read_bytes` bounds what one call is answered with.
    pub fn new(sessions: Arc<Pool<Session>>, owner: Option<TenantId>, read_bytes: usize) -> Self {
        Committed(Loader::new(sessions, Borrower::host("documents as they are"), owner, read_bytes, true))
    }

    /// Whose collections it reads; none for everybody's.
    pub fn owner(&self) -> Option<&TenantId> {
        self.0.owner()
    }

    /// Reads documents of a lane, of a collection that exists: one entry for each id, in order. Waits for [`Committed::serve`].
    pub async fn read(
        &self,
        lane: &LaneKey,
        collection: &CollectionName,
        ids: &[String],
    ) -> Result<Vec<Option<Arc<str>>>, ReadError> {
        let key =
            |id: &String| DocumentKey { lane: lane.clone(), collection: collection.clone(), id: id.as_str().into() };
        let request = Request::new(collection.clone(), ids.iter().map(key).collect());
        let (found, _) = self.0.load(request, Duration::ZERO).await?;
        Ok(found.into_iter().map(|(_, known)| known.data).collect())
    }

    /// Answers whoever reads, until that fails.
    pub async fn serve(&self) -> Result<Infallible, ReadError> {
        loop {
            self.0.due(0).await;
            self.0.serve().await?;
        }
    }
}
