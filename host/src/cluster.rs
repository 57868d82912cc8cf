//! Ownership of a database and of its processors.
//!
//! The [`host_lock`] lets one host work on a database at a time. It is for order, not for safety.
//! The [`fence`] is for safety: a random token, which each new owner writes into a processor's
//! cursor rows and which every commit must present. A host that lost the lock without noticing, or
//! was suspended for an hour, presents an old token and changes nothing.

pub mod fence;
pub mod host_lock;
