//! The seam between lanes and the store for events whose data was deferred.
//!
//! A page carries small events whole and large ones without their data, so that nobody waits for data that is not theirs. A lane
//! loads it just before the call that needs it, and drops it after.

use std::{any::Any, sync::Arc, time::Duration};

use super::{
    event::Event,
    handler::{BoxFuture, Reason},
    ids::TenantId,
};

/// Reads deferred data.
pub trait LoadEvents: Send + Sync {
    /// The first of a lane's events with their data, as many as there is room for; none only where the first cannot be read. Waits
    /// for room. An error ends the term.
    fn load<'a>(&'a self, tenant: &'a TenantId, events: &'a [Arc<Event>]) -> BoxFuture<'a, Result<Loaded, String>>;
}

/// Events ready for a call. Their room is given back when this is dropped.
pub struct Loaded {
    /// The events, none of them deferred.
    pub events: Vec<Arc<Event>>,
    /// Why the event behind them cannot be handled, if that is why they end there.
    pub unread: Option<Reason>,
    /// How long it took the database.
    pub took: Duration,
    _room: Box<dyn Any + Send>,
}

impl Loaded {
    /// Events, with the room that they take.
    pub fn new(events: Vec<Arc<Event>>, unread: Option<Reason>, took: Duration, room: impl Any + Send) -> Self {
        Loaded { events, unread, took, _room: Box::new(room) }
    }
}
