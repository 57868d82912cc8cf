//! The contract's exports, implemented by a [`Projector`] or a [`BatchReactor`]. Each export first
//! chooses the form in which documents are read, and installs a panic hook that logs the message: a
//! panic becomes a trap, and a trap carries no message to the host.

use std::{marker::PhantomData, sync::Once};

use crate::{
    Batch, BatchReactor, Conflicts, Projection, Projector, Reaction,
    bindings::{
        exports::sandmill::processor::{description, projector_packed},
        reactor::exports::sandmill::processor::{description as reactor_description, reactor},
        sandmill::processor::{packed_types, types},
    },
    documents, log, raw,
};

/// The exports of a projector.
#[derive(Debug)]
pub struct Exports<P>(PhantomData<P>);

impl<P: Projector> description::Guest for Exports<P> {
    fn describe() -> types::Descriptor {
        documents::choose_packed();
        describe::<P>()
    }
}

impl<P: Projector> projector_packed::Guest for Exports<P> {
    fn project(batch: packed_types::Batch) -> packed_types::Projection {
        documents::choose_packed();
        project::<P>(&Batch::new(batch)).into()
    }
}

/// The exports of a projector in the plain form.
#[cfg(feature = "plain")]
mod plain {
    use super::{Batch, Exports, Projector, describe, documents, project, raw, types};
    use crate::bindings::plain::exports::sandmill::processor::{description, projector};

    impl<P: Projector> description::Guest for Exports<P> {
        fn describe() -> types::Descriptor {
            documents::choose_plain();
            describe::<P>()
        }
    }

    impl<P: Projector> projector::Guest for Exports<P> {
        fn project(batch: types::Batch) -> projector::Projection {
            documents::choose_plain();
            let raw::Projection { changes, skipped, halted } = project::<P>(&Batch::from(batch)).into();
            projector::Projection { changes, skipped, halted }
        }
    }
}

/// The exports of a reactor, in the only form that reactors have.
#[derive(Debug)]
pub struct ReactorExports<R>(PhantomData<R>);

impl<R: BatchReactor> reactor_description::Guest for ReactorExports<R> {
    fn describe() -> types::Descriptor {
        documents::choose_plain();
        log_panics();
        R::describe().into()
    }
}

impl<R: BatchReactor> reactor::Guest for ReactorExports<R> {
    fn react(batch: raw::Batch, conflicts: Vec<raw::AppendConflict>) -> raw::Reaction {
        documents::choose_plain();
        log_panics();
        R::react(&Batch::from(batch), &Conflicts::from(conflicts)).unwrap_or_else(Reaction::halted_at_once).into()
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
