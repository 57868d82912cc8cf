//! The partitioning of this guest. `scripted` has one lane for each tenant. The crates
//! `scripted-by-stream` and `scripted-by-property` share this source and set a feature. So does
//! `scripted-plain`, which exports the plain form of the contract.

use sandmill_guest::{Descriptor, descriptor};

/// The guest's collection. A collection belongs to one processor, so each guest has its own.
pub(crate) const COLLECTION: &str = if cfg!(feature = "by-stream") {
    "scripted_stream_log"
} else if cfg!(feature = "by-property") {
    "scripted_property_log"
} else if cfg!(feature = "plain") {
    "scripted_plain_log"
} else {
    "scripted_log"
};

/// The guest's descriptor. By property, lanes follow `/lane` in the event's data. It must be the
/// same for all events of a stream, since their document belongs to one lane.
pub(crate) fn descriptor() -> Descriptor {
    let descriptor = descriptor!(env!("CARGO_PKG_NAME")).collection(COLLECTION);
    if cfg!(feature = "by-stream") {
        descriptor.partition_by_stream()
    } else if cfg!(feature = "by-property") {
        descriptor.partition_by_property("/lane")
    } else {
        descriptor
    }
}
