//! The contract's exports, implemented by a [`Projector`]. Each export first installs a panic hook
//! that logs the message: a panic becomes a trap, and a trap carries no message to the host.

use std::{marker::PhantomData, sync::Once};

use crate::{
    Batch, Projection, Projector,
    bindings::{
        exports::sandmill::processor::{description, projector},
        sandmill::processor::types,
    },
    log,
};

/// The exports of a projector.
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
