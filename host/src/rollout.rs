//! The rollout of a new version of a plugin: a dry run before the swap, probation after it.
//!
//! [`dry_run`] runs a candidate on recent events and discards its results. [`probation`] decides
//! whether a version that was swapped in may stay. The reconciler in `plugins` carries both out.

pub mod dry_run;
pub mod probation;
