//! Write Sandmill plugins in Rust.
//!
//! A plugin is a type that implements [`Projector`] and is named in [`export_projector!`]. It is given batches of events and
//! answers with changes to documents, as data; the host commits those changes and the plugin's progress together. What a plugin
//! keeps in memory between batches is a cache that the host may drop at any time.
//!
//! ```
//! use sandmill_guest::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! /// What an order event says; only the fields that matter here are read.
//! #[derive(Deserialize)]
//! struct Placed<'e> {
//!     customer: &'e str,
//!     cents: u64,
//! }
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Customer {
//!     orders: u64,
//!     cents: u64,
//! }
//!
//! struct Customers;
//!
//! impl Projector for Customers {
//!     fn describe() -> Descriptor {
//!         descriptor!("customers").event_types(["OrderPlaced"]).collection("customers")
//!     }
//!
//!     fn project(batch: &Batch) -> Result<Projection, Halt> {
//!         Ok(fold(
//!             batch,
//!             "customers",
//!             |event| {
//!                 let placed: Placed = event.data()?;
//!                 Ok((placed.customer, placed))
//!             },
//!             |customer: &mut Customer, _event, placed| {
//!                 customer.orders += 1;
//!                 customer.cents += placed.cents;
//!                 Ok(())
//!             },
//!         ))
//!     }
//! }
//!
//! export_projector!(Customers);
//!
//! # use sandmill_guest::testing::{Lane, event};
//! # let mut lane = Lane::<Customers>::new("acme");
//! # lane.handle([event("OrderPlaced", r#"{"customer":"ann","cents":1200}"#), event("OrderPlaced", r#"{"customer":"ann","cents":300}"#)]);
//! # assert_eq!(lane.text("customers", "ann"), Some(r#"{"orders":2,"cents":1500}"#));
//! ```
//!
//! The code map, in reading order: [`Projector`] and its [`Descriptor`]; the [`Batch`] of [`Event`]s that it is given; the
//! [`Projection`] that it answers, or the [`Failure`] of an event; [`fold()`] for the commonest projection; [`documents`],
//! [`log`](mod@log) and [`settings`], which are all that the host offers; [`testing`], which runs a projector without a host;
//! [`raw`], the types of the contract.

mod batch;
#[doc(hidden)]
pub mod bindings;
mod descriptor;
mod document;
pub mod documents;
mod exports;
mod failure;
mod fold;
pub mod log;
mod projection;
pub mod settings;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod typed;

pub use batch::{Batch, Event};
pub use descriptor::Descriptor;
pub use document::{Document, UnknownTypes};
#[doc(hidden)]
pub use exports::Exports;
pub use failure::{Failure, Halt, Skip};
pub use fold::{fold, fold_entries};
pub use projection::Projection;

/// Turns events into documents.
///
/// It must be deterministic: the same events lead to the same documents, however they are cut into batches. There is no clock
/// and no randomness; time and ids come from the events.
pub trait Projector {
    /// What the plugin is. Called without a tenant, once for each plugin file; only logging works here.
    fn describe() -> Descriptor;

    /// Handles one batch of one lane. A [`Halt`] as an error stops before the first event and so has no effects; to keep the
    /// effects of the events before a failing one, use [`Projection::halt`].
    fn project(batch: &Batch) -> Result<Projection, Halt>;
}

/// The types of the contract as they are generated from it, for what the rest of this crate does not offer. [`Descriptor`] and
/// [`Projection`] are made from their counterparts here with `From`, unchecked.
pub mod raw {
    pub use crate::bindings::{
        exports::sandmill::processor::projector::Projection,
        sandmill::processor::types::{
            Change, Descriptor, Document, DocumentKey, Halt, HaltAction, PartitionBy, SkippedEvent, StartPosition,
        },
    };
}

/// Everything that a plugin usually names.
pub mod prelude {
    pub use std::borrow::Cow;

    pub use crate::{
        Batch, Descriptor, Document, Event, Failure, Halt, Projection, Projector, Skip, UnknownTypes, descriptor,
        documents, export_projector, fold, fold_entries, log, settings,
    };
}

/// Makes a [`Projector`] the plugin of its crate: `export_projector!(MyProjector);`, once.
///
/// Elsewhere than on WebAssembly it only checks the type, so that a plugin's tests run on any machine.
#[macro_export]
macro_rules! export_projector {
    ($projector:ty) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            type Exported = $crate::Exports<$projector>;
            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export_projector_plugin!(Exported with_types_in $crate::bindings);
            #[cfg(not(target_arch = "wasm32"))]
            const fn is_projector<P: $crate::Projector>() {}
            #[cfg(not(target_arch = "wasm32"))]
            is_projector::<$projector>();
        };
    };
}

/// Begins a [`Descriptor`] with the version of the crate that it is written in: `descriptor!("my-processor")`.
#[macro_export]
macro_rules! descriptor {
    ($id:expr) => {
        $crate::Descriptor::new($id, ::core::env!("CARGO_PKG_VERSION"))
    };
}

/// Keeps the examples of the README compiling and true.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
