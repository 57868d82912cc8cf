//! Sandmill: sandboxed WebAssembly event processors over a PostgreSQL event store.
#![warn(missing_docs)]
// They panic if the reader has gone away, and wait if it stalls: `cli::output` and `telemetry` do
// neither.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod admin;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod consumer;
pub mod db;
pub mod explain;
pub mod failpoint;
pub mod model;
pub mod plugins;
pub mod processor;
pub mod projections;
pub mod rehearsal;
pub mod rollout;
pub mod sandbox;
pub mod scheduler;
pub mod source;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod tenants;
pub mod toolchain;
