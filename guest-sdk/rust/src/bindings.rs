//! Bindings that `wit-bindgen` generates from the contract in `wit/`; `make bindings` renews them.
//! Those of projectors are here, in the packed form, with the types that all worlds share. Not for
//! direct use: the rest of the crate wraps them, and [`raw`](crate::raw) has the types of the plain
//! form. The module is public but hidden, because
//! [`export_projector!`](crate::export_projector) and [`export_reactor!`](crate::export_reactor)
//! expand its export macros in the plugin's crate.
#![allow(missing_docs, unreachable_pub, unsafe_code, reason = "generated code, documented in the contract")]
#![allow(clippy::all, reason = "generated code is not ours to style")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::allow_attributes_without_reason,
    reason = "generated code is not ours to style"
)]

mod projector_plugin_packed;

pub use projector_plugin_packed::*;

/// Bindings to the world of reactors, which has the plain form only.
#[rustfmt::skip]
#[path = "bindings/reactor_plugin.rs"]
pub mod reactor;

/// Bindings to the plain form of projectors.
#[cfg(feature = "plain")]
#[rustfmt::skip]
#[path = "bindings/projector_plugin.rs"]
pub mod plain;
