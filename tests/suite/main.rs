//! Everything that needs a database or a whole host, by theme.

// The event store: appending, importing, reading, and the migrations that make it.
mod store;
