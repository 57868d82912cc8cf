//! Ownership of a database and of its processors.
//!
//! The [`host_lock`] lets one host work on a database at a time. It prevents conflicts, but safety
//! does not depend on it. Safety comes from the [`fence`]: a random token that each new owner
//! writes into a processor's cursor rows, and that every commit must present. A host that lost the
//! lock without noticing, or was suspended for an hour, presents an old token, so its commits fail.

pub mod fence;
pub mod host_lock;
