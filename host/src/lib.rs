//! Sandmill: sandboxed WebAssembly event processors over a PostgreSQL event store.
#![warn(missing_docs)]

pub mod cli;
pub mod db;
pub mod store;
pub mod toolchain;
