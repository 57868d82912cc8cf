//! How the lanes of this guest are cut. `scripted` has one for each tenant; `scripted-by-stream` and `scripted-by-property` are crates of
//! their own that name this source, each with the feature that tells them apart here.

use sandmill_guest::{Descriptor, descriptor};

/// The one collection: it belongs to one processor alone, so each guest has its own.
pub(crate) const COLLECTION: &str = if cfg!(feature = "by-stream") {
    "scripted_stream_log"
} else if cfg!(feature = "by-property") {
    "scripted_property_log"
} else {
    "scripted_log"
};

/// What the guest is. By property its lanes follow `/lane` in an event's data, of which a stream's events must have one value, since their
/// document belongs to one lane.
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
