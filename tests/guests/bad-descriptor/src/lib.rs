//! A plugin that describes itself against the contract: its id is no id and its list of event types is empty. A host refuses it
//! by name and never hands it a batch.

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
