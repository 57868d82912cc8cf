//! The explanation of why a processor or tenant is behind.
//!
//! [`Facts`] reads the state of hosts, processors, lanes, tenants and transactions from the
//! database. [`findings`] derives the causes from them, gravest first, each with a remedy. Lanes
//! that wait for the same reason form one finding. All facts come from the database, so an
//! explanation works without a running host, for every role that may read these tables.

mod facts;
mod finding;
mod term_error;

pub use facts::{Blocker, Facts, LaneGroup, OpenTransaction, RecordedPlugin};
pub use finding::{Finding, Scope, Severity, findings};
