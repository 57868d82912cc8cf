//! Write Sandmill plugins in Rust.
//!
//! A plugin is a type that is named in [`export_projector!`]: a [`Document`] that events evolve, or in general a [`Projector`], which is
//! given batches of events and answers with changes to documents, as data. The host commits those changes and the plugin's progress
//! together. What a plugin keeps in memory between batches is a cache that the host may drop at any time.
//!
//! ```
//! use sandmill_guest::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! /// What order events say; only the fields that matter here are read.
//! #[derive(Deserialize)]
//! enum OrderEvent<'e> {
//!     OrderPlaced {
//!         #[serde(borrow)]
//!         customer: Cow<'e, str>,
//!         cents: u64,
//!     },
//! }
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Customer {
//!     orders: u64,
//!     cents: u64,
//! }
//!
//! impl Document for Customer {
//!     const COLLECTION: &str = "customers";
//!     type Event<'e> = OrderEvent<'e>;
//!
//!     fn descriptor() -> Descriptor {
//!         descriptor!("customers")
//!     }
//!
//!     fn id<'e>(event: &OrderEvent<'e>, _: Event<'e>) -> Cow<'e, str> {
//!         let OrderEvent::OrderPlaced { customer, .. } = event;
//!         customer.clone()
//!     }
//!
//!     fn evolve(&mut self, event: OrderEvent<'_>, _: Event<'_>) {
//!         let OrderEvent::OrderPlaced { cents, .. } = event;
//!         self.orders += 1;
//!         self.cents += cents;
//!     }
//! }
//!
//! export_projector!(Customer);
//!
//! # use sandmill_guest::testing::{event, given, json};
//! # let placed = |cents: u64| event("OrderPlaced", json!({"customer": "ann", "cents": cents}));
//! # given::<Customer>([placed(1200), placed(300)]).then("customers", [("ann", json!({"orders": 2, "cents": 1500}))]);
//! ```
//!
//! The code map, in reading order: [`Document`], the commonest projection; [`Projector`] and its [`Descriptor`]; the [`Batch`] of
//! [`Event`]s that it is given; the [`Projection`] that it answers, or the [`Failure`] of an event; [`fold()`], which [`Document`]
//! stands on; [`view()`], for events that change several documents; [`documents`], [`log`](mod@log)
//! and [`settings`], which are all that the host offers; [`testing`], which runs a projector without a
//! host; [`raw`], the types of the contract.

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
mod view;

pub use batch::{Batch, Event};
pub use descriptor::Descriptor;
pub use document::{Document, UnknownTypes};
#[doc(hidden)]
pub use exports::Exports;
pub use failure::{Failure, Halt, Skip};
pub use fold::{fold, fold_entries};
pub use projection::Projection;
pub use view::{ReadAhead, View, view};

/// Turns events into documents. Whatever implements [`Document`] is one.
///
/// It must be deterministic: the same events lead to the same documents, however they are cut into batches. There is no clock
/// and no randomness; time and ids come from the events.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no projector",
    label = "implements neither `Document` nor `Projector`",
    note = "implement `sandmill_guest::Document` for the type of your documents if each event changes one of them, or \
            `sandmill_guest::Projector` for anything else"
)]
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
        Batch, Descriptor, Document, Event, Failure, Halt, Projection, Projector, Skip, UnknownTypes, View, descriptor,
        documents, export_projector, fold, fold_entries, log, settings, view,
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
