//! Sandmill: sandboxed WebAssembly event processors over a PostgreSQL event store.
//!
//! The library behind the binary `sandmill`. `host/ARCHITECTURE.md` follows one event through it.
//! Each top-level module is a *room*: a test checks which room may use which.
//!
//! **Shared vocabulary**
//!
//! - [`model`]: ids, events, cursors, effects, messages, the traits of handlers and sinks.
//! - [`db`]: addresses, sessions, pools, migrations, rights, the private server.
//! - [`supervisor`]: long-lived tasks and their end. [`telemetry`]: logs and metrics.
//!   [`failpoint`]: crashes on purpose, for tests.
//!
//! **From the log to documents**
//!
//! - [`source`]: an event store as a read-only log. [`store`]: Sandmill's own store, for commands.
//! - [`consumer`]: notices commits, reads and shares pages, routes events to lanes.
//! - [`processor`]: a follower of the log: work in flight, retries, the commit transaction.
//! - [`projections`]: documents and their cache. [`scheduler`]: guest threads shared by tenants.
//! - [`tenants`]: limits, rates, usage. [`cluster`]: the lock that allows one host per database,
//!   and the fence that protects the data.
//!
//! **To the outside world**
//!
//! - [`forwarders`]: sinks that deliver messages, and the addresses that the host may contact.
//!
//! **Plugins**
//!
//! - [`sandbox`]: component bytes in, a handler out.
//! - [`plugins`]: reconciles the running processors with the plugins folder. [`rollout`]: dry run
//!   and probation of a new version.
//! - [`rehearsal`]: tests of a plugin without a database. [`toolchain`]: creates and builds a
//!   plugin's crate or script.
//!
//! **The program**
//!
//! - [`config`]: all settings. [`app`]: wires the parts together. [`admin`]: probes and metrics.
//! - [`explain`]: why something is behind. [`cli`]: commands.
#![warn(missing_docs)]
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "its documentation is for contributors, and built with private items"
)]
// Printing fails if the reader is gone, and blocks if it stalls; `cli::output` and `telemetry` do
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
pub mod forwarders;
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
