//! Who owns what.
//!
//! One host works on a database at a time; [`host_lock`] sees to it, for order rather than for safety. Safety is the [`fence`]: a
//! random token, written anew into a processor's cursor rows by whoever begins to own them, and shown by every commit. A host that lost
//! the lock without noticing, or wakes up after an hour, shows an old token and changes nothing.

pub mod fence;
pub mod host_lock;
