//! Why is this behind? What the database tells of hosts, processors, lanes, tenants and transactions, and what follows from it.
//!
//! [`Facts`] are read in one go; [`findings`] is pure and says what holds whom, the gravest first, each with what to do. Lanes that wait for the same reason
//! are one finding. Everything comes from the database, so that it can be asked whether or not a host runs, and by whoever may read there.

mod facts;
mod finding;
mod term_error;

pub use facts::{Blocker, Facts, LanesAlike, OpenTransaction, PluginFile};
pub use finding::{About, Finding, Gravity, findings};
