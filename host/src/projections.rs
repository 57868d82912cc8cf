//! Read models: documents in PostgreSQL, one table for each generation of a collection, in the
//! layout that Pongo reads.

pub mod documents;
pub mod list;
