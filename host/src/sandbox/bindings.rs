//! The versions of the contract that this host speaks. A released version never changes; a new one
//! is a file beside it. The rest of the host uses only [`crate::model`].

pub(super) mod v0_1;
