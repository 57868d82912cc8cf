//! Read models: documents in PostgreSQL, one table a collection and generation, in the layout that Pongo reads.

pub mod documents;
pub mod list;
