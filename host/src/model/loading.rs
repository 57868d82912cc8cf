//! The interface by which lanes load events with deferred data from the store.
//!
//! A page carries small events whole and large ones without their data, so that no lane waits for
//! another lane's data. A lane loads the data just before the call that needs it, and drops it
//! afterwards.

use std::{any::Any, sync::Arc, time::Duration};

use super::{
    event::Event,
    handler::{BoxFuture, Reason},
    ids::TenantId,
};

/// A reader of deferred data.
pub trait LoadEvents: Send + Sync {
    /// Loads the first of a lane's events with their data, as many as fit into the memory bound.
    /// Waits until the bound has room. Returns no event only if the first one cannot be read. An
    /// error ends the term.
    fn load<'a>(&'a self, tenant: &'a TenantId, events: &'a [Arc<Event>]) -> BoxFuture<'a, Result<Loaded, String>>;
}

/// Events ready for a call. Dropping this releases their memory budget.
pub struct Loaded {
    /// The events, none of them deferred.
    pub events: Vec<Arc<Event>>,
    /// Why the event after them cannot be read, if that is the reason why they end there.
    pub unread: Option<Reason>,
    /// The time that the database took to load them.
    pub took: Duration,
    _room: Box<dyn Any + Send>,
}

impl Loaded {
    /// Loaded events, and the memory budget that they hold.
    pub fn new(events: Vec<Arc<Event>>, unread: Option<Reason>, took: Duration, room: impl Any + Send) -> Self {
        Loaded { events, unread, took, _room: Box::new(room) }
    }
}
