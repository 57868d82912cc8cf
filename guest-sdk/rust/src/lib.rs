//! The SDK for Sandmill plugins in Rust.
//!
//! A plugin is a type that [`export_projector!`] or [`export_reactor!`] names. The host commits its
//! answers together with the plugin's progress. What a plugin keeps in memory between batches is a
//! cache that the host may drop at any time.
//!
//! A projector is a [`Document`] that events change or, in general, a [`Projector`], which receives
//! batches of events and returns changes to documents as data:
//!
//! ```
//! use sandmill_guest::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! /// The order events, with the fields that matter here.
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
//! A [`Reactor`] returns side effects as data: events to append, messages to deliver, and timers.
//!
//! In reading order:
//!
//! - [`Document`]: the most common projection, one document per event.
//! - [`view()`]: for events that change several documents.
//! - [`Projector`] and its [`Descriptor`]: the general form.
//! - [`Batch`] and [`Event`]: the input. [`Projection`] and [`Failure`]: the output.
//! - [`fold()`]: the function that [`Document`] is built on.
//! - [`Reactor`] and its [`Effects`]: the most common reactor, one event at a time.
//! - [`Workflow`]: a process with state and time-outs.
//! - [`BatchReactor`] and its [`Reaction`]: the general form.
//! - [`documents`], [`log`](mod@log) and [`settings`]: all that the host offers to a plugin.
//! - [`testing`]: runs a plugin without a host.
//! - [`raw`]: the types of the contract.

mod abi;
#[cfg(any(test, all(feature = "allocator", target_arch = "wasm32", not(target_feature = "atomics"))))]
mod allocator;
mod batch;
#[doc(hidden)]
pub mod bindings;
mod conflicts;
mod descriptor;
mod document;
pub mod documents;
mod effects;
mod exports;
mod failure;
mod fold;
mod hash;
pub mod log;
mod projection;
mod reaction;
mod reactor;
pub mod settings;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod texts;
mod typed;
mod view;
mod workflow;

pub use batch::{Batch, Event};
pub use conflicts::Conflicts;
pub use descriptor::Descriptor;
pub use document::{Document, UnknownTypes};
pub use effects::{Append, Effects, Message, NewAppend};
#[doc(hidden)]
pub use exports::{Exports, ReactorExports};
pub use failure::{Failure, Halt, Skip};
pub use fold::{fold, fold_entries};
pub use projection::Projection;
pub use reaction::Reaction;
pub use reactor::{BatchReactor, Reactor};
pub use view::{ReadAhead, View, view};
pub use workflow::{Decisions, Workflow};

/// A projector: turns events into documents. Every [`Document`] is one.
///
/// It must be deterministic: equal events produce equal documents, however they are divided into
/// batches. There is no clock and no randomness; time and ids come from the events.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a projector",
    label = "implements neither `Document` nor `Projector`",
    note = "implement `sandmill_guest::Document` for the type of your documents if each event changes one document, or \
            `sandmill_guest::Projector` otherwise"
)]
pub trait Projector {
    /// Describes the plugin. Called without a tenant, once per plugin file. Of the host's
    /// functions, only logging works here.
    fn describe() -> Descriptor;

    /// Handles a batch of one lane.
    ///
    /// # Errors
    ///
    /// A [`Halt`] stops the lane before the first event, so the batch has no effects. To keep the
    /// effects of the events before a failing one, use [`Projection::halt`].
    fn project(batch: &Batch) -> Result<Projection, Halt>;
}

/// The types of the contract in its plain form, for cases that the rest of this crate does not
/// cover. [`Descriptor`], [`Projection`], [`Reaction`] and [`Batch`] convert with `From`,
/// unchecked.
pub mod raw {
    pub use crate::bindings::{
        reactor::exports::sandmill::processor::reactor::{
            Append, AppendConflict, ExpectedVersion, Message, NewEvent, Reaction, Timer, TimerChange,
        },
        sandmill::processor::types::{
            Batch, Change, Descriptor, Document, DocumentKey, Event, Halt, HaltAction, PartitionBy, SkippedEvent,
            StartPosition,
        },
    };

    /// The answer to a batch.
    #[derive(Clone, Debug)]
    pub struct Projection {
        /// Changes to documents, in order.
        pub changes: Vec<Change>,
        /// Events that are set aside as dead letters.
        pub skipped: Vec<SkippedEvent>,
        /// The event before which the lane stopped, if it stopped.
        pub halted: Option<Halt>,
    }
}

/// The names that most plugins use.
pub mod prelude {
    pub use std::borrow::Cow;

    pub use crate::{
        Batch, BatchReactor, Conflicts, Decisions, Descriptor, Document, Effects, Event, Failure, Halt, Projection,
        Projector, Reaction, Reactor, Skip, UnknownTypes, View, Workflow, descriptor, documents, export_projector,
        export_reactor, fold, fold_entries, log, settings, view,
    };
}

/// Exports a [`Projector`] as the plugin of its crate: `export_projector!(MyProjector);`, once.
///
/// On other targets than WebAssembly it only checks the type, so a plugin's tests run on any
/// machine.
#[macro_export]
macro_rules! export_projector {
    ($projector:ty) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            type Exported = $crate::Exports<$projector>;
            #[cfg(target_arch = "wasm32")]
            $crate::__export!(Exported);
            #[cfg(not(target_arch = "wasm32"))]
            const fn is_projector<P: $crate::Projector>() {}
            #[cfg(not(target_arch = "wasm32"))]
            is_projector::<$projector>();
        };
    };
}

/// Exports a [`Reactor`], a [`Workflow`] or a [`BatchReactor`] as the plugin of its crate:
/// `export_reactor!(MyReactor);`, once.
///
/// On other targets than WebAssembly it only checks the type, so a plugin's tests run on any
/// machine.
#[macro_export]
macro_rules! export_reactor {
    ($reactor:ty) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            type Exported = $crate::ReactorExports<$reactor>;
            #[cfg(target_arch = "wasm32")]
            $crate::__export_reactor!(Exported);
            #[cfg(not(target_arch = "wasm32"))]
            const fn is_reactor<R: $crate::BatchReactor>() {}
            #[cfg(not(target_arch = "wasm32"))]
            is_reactor::<$reactor>();
        };
    };
}

/// Exports the functions of the contract, in one of its forms.
#[cfg(not(feature = "plain"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($exported:ident) => {
        $crate::bindings::export_projector_plugin!($exported with_types_in $crate::bindings);
    };
}

/// Exports the functions of the contract in its plain form.
#[cfg(feature = "plain")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($exported:ident) => {
        $crate::bindings::plain::export_plain_projector_plugin!($exported with_types_in $crate::bindings::plain);
    };
}

/// Exports the functions of the contract for reactors.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_reactor {
    ($exported:ident) => {
        $crate::bindings::reactor::export_reactor_plugin!($exported with_types_in $crate::bindings::reactor);
    };
}

/// Creates a [`Descriptor`] with the version of the current crate: `descriptor!("my-processor")`.
#[macro_export]
macro_rules! descriptor {
    ($id:expr) => {
        $crate::Descriptor::new($id, ::core::env!("CARGO_PKG_VERSION"))
    };
}

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
