//! The contract's exports, implemented by a [`Projector`]. Each export first installs a panic hook
//! that logs the message: a panic becomes a trap, and a trap carries no message to the host.

use std::{marker::PhantomData, sync::Once};

use crate::{
    Batch, Projection, Projector,
    bindings::{
        exports::sandmill::processor::{description, projector_packed},
        sandmill::processor::{packed_types, types},
    },
    log,
};

/// The exports of a projector.
#[derive(Debug)]
pub struct Exports<P>(PhantomData<P>);

impl<P: Projector> description::Guest for Exports<P> {
    fn describe() -> types::Descriptor {
        describe::<P>()
    }
}

impl<P: Projector> projector_packed::Guest for Exports<P> {
    fn project(batch: packed_types::Batch) -> packed_types::Projection {
        project::<P>(&Batch::new(batch)).into()
    }
}

/// The exports of the plain form.
#[cfg(feature = "plain")]
mod plain {
    use super::{Batch, Exports, Projector, describe, project, types};
    use crate::{
        bindings::plain::exports::sandmill::processor::{description, projector},
        raw,
    };

    impl<P: Projector> description::Guest for Exports<P> {
        fn describe() -> types::Descriptor {
            describe::<P>()
        }
    }

    impl<P: Projector> projector::Guest for Exports<P> {
        fn project(batch: types::Batch) -> projector::Projection {
            let raw::Projection { changes, skipped, halted } = project::<P>(&Batch::from(batch)).into();
            projector::Projection { changes, skipped, halted }
        }
    }
}

fn describe<P: Projector>() -> types::Descriptor {
    log_panics();
    P::describe().into()
}

fn project<P: Projector>(batch: &Batch) -> Projection {
    log_panics();
    P::project(batch).unwrap_or_else(Projection::halted_at_once)
}

fn log_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| log::write(log::Level::Critical, "panic", format_args!("{panic}"))));
    });
}
