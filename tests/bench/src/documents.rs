//! Documents in memory, for benchmarks without a database.

use std::{collections::HashMap, sync::Arc};

use sandmill::model::{
    handler::{BoxFuture, Documents, Failure},
    ids::CollectionName,
};

/// Documents of one tenant and collection, by id. They are never written.
pub struct InMemory(pub HashMap<String, Arc<str>>);

impl Documents for InMemory {
    fn get_many<'a>(
        &'a self,
        _collection: &'a CollectionName,
        ids: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<Option<Arc<str>>>, Failure>> {
        Box::pin(async { Ok(ids.iter().map(|id| self.0.get(id).cloned()).collect()) })
    }
}
