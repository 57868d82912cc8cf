//! The rollout of a new version of a plugin: a dry run before the swap, probation after it.
//!
//! [`dry_run`] runs a candidate on recent events and discards its results. [`probation`] decides
//! whether a version that was swapped in may stay, and [`state`] which version a rollback restores.
//! The room `plugins` carries out these decisions.

pub mod dry_run;
pub mod probation;
pub mod state;
