//! A plugin whose descriptor breaks the contract: its id is invalid and its list of event types is
//! empty. A host refuses it and never gives it a batch.

use sandmill_guest::prelude::*;

struct BadDescriptor;

impl Projector for BadDescriptor {
    fn describe() -> Descriptor {
        descriptor!("Not an id!").event_types::<String>([])
    }

    fn project(_batch: &Batch) -> Result<Projection, Halt> {
        Ok(Projection::new())
    }
}

export_projector!(BadDescriptor);
