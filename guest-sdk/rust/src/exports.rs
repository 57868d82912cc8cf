//! Between the contract's exports and a [`Projector`]. Each entry first sees to it that a panic is logged: a panic becomes a trap,
//! which tells the host nothing but that it happened, so the message has to leave before it.

use std::{marker::PhantomData, sync::Once};

use crate::{
    Batch, Projection, Projector,
    bindings::{
        exports::sandmill::processor::{description, projector},
        sandmill::processor::types,
    },
    log,
};

/// Implements the contract's exports for a projector.
#[derive(Debug)]
pub struct Exports<P>(PhantomData<P>);

impl<P: Projector> description::Guest for Exports<P> {
    fn describe() -> types::Descriptor {
        log_panics();
        P::describe().into()
    }
}

impl<P: Projector> projector::Guest for Exports<P> {
    fn project(batch: types::Batch) -> projector::Projection {
        log_panics();
        P::project(&Batch::new(batch)).unwrap_or_else(Projection::halted_at_once).into()
    }
}

fn log_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| log::write(log::Level::Critical, "panic", format_args!("{panic}"))));
    });
}
