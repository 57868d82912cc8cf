//! Our own event store.
