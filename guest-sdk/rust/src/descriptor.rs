//! The plugin's descriptor, with defaults for most plugins: every event type, all of history,
//! one lane per tenant, read-model version 1, and batches of the host's size. The host checks names
//! and refuses violations of the contract, so nothing is checked here.

use serde::Deserialize;

use crate::{
    bindings::sandmill::processor::types::{self, PartitionBy, StartPosition},
    typed::{self, Known},
};

/// The description of a plugin. Create it with [`descriptor!`](crate::descriptor!).
#[derive(Debug)]
pub struct Descriptor(types::Descriptor);

impl Descriptor {
    /// A descriptor with defaults. `id` is the processor's name, `[a-z][a-z0-9-]{0,62}`, which owns
    /// its progress and documents. `version` is for people.
    pub fn new(id: impl Into<String>, version: impl Into<String>) -> Self {
        Descriptor(types::Descriptor {
            id: id.into(),
            version: version.into(),
            event_types: None,
            collections: Vec::new(),
            partition_by: PartitionBy::Tenant,
            start: StartPosition::Beginning,
            read_model_version: 1,
            max_batch_size: None,
        })
    }

    /// Handles only these event types. Default: every type.
    pub fn event_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.0.event_types = Some(types.into_iter().map(Into::into).collect());
        self
    }

    /// Handles the event types for which an enum has variants, as for
    /// [`Event::typed`](crate::Event::typed). A variant with `#[serde(other)]` means every type.
    ///
    /// # Panics
    ///
    /// If `E` is not such an enum.
    pub fn event_types_of<'de, E: Deserialize<'de>>(mut self) -> Self {
        self.0.event_types = match typed::known::<E>().expect(typed::NOT_AN_ENUM) {
            Known::Named(types) => Some(types.iter().map(|name| (*name).to_owned()).collect()),
            Known::Every => None,
        };
        self
    }

    /// Adds a collection that the plugin reads or writes, `[a-z][a-z0-9_]{0,47}`. A collection
    /// belongs to one processor.
    pub fn collection(mut self, name: impl Into<String>) -> Self {
        self.0.collections.push(name.into());
        self
    }

    /// Adds a collection unless it is listed already.
    pub(crate) fn or_collection(self, name: &str) -> Self {
        if self.0.collections.iter().any(|other| other == name) { self } else { self.collection(name) }
    }

    /// Handles the types of an enum, unless types have been named already.
    pub(crate) fn or_event_types_of<'de, E: Deserialize<'de>>(self) -> Self {
        if self.0.event_types.is_some() { self } else { self.event_types_of::<E>() }
    }

    /// One lane per stream instead of one per tenant. A document then belongs to the stream that
    /// first wrote it.
    pub fn partition_by_stream(mut self) -> Self {
        self.0.partition_by = PartitionBy::EventStream;
        self
    }

    /// One lane per value of a property, named by a JSON pointer into the event's data, such as
    /// `/customer`.
    pub fn partition_by_property(mut self, pointer: impl Into<String>) -> Self {
        self.0.partition_by = PartitionBy::DataProperty(pointer.into());
        self
    }

    /// Handles only events committed after the processor's first start. Default: all of history.
    pub fn start_now(mut self) -> Self {
        self.0.start = StartPosition::Now;
        self
    }

    /// The version of the documents' shape. Raise it when documents of earlier code must be
    /// rebuilt. Default: 1.
    pub fn read_model_version(mut self, version: u32) -> Self {
        self.0.read_model_version = version;
        self
    }

    /// The most events in a batch. Default: the host's choice.
    pub fn max_batch_size(mut self, events: u32) -> Self {
        self.0.max_batch_size = Some(events);
        self
    }
}

impl From<types::Descriptor> for Descriptor {
    fn from(raw: types::Descriptor) -> Self {
        Descriptor(raw)
    }
}

impl From<Descriptor> for types::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        descriptor.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_all_events_and_one_lane_per_tenant() {
        let raw: types::Descriptor = crate::descriptor!("customers").collection("customers").into();
        assert_eq!((raw.id.as_str(), raw.version.as_str()), ("customers", env!("CARGO_PKG_VERSION")));
        assert_eq!(raw.collections, ["customers"]);
        assert_eq!((raw.event_types, raw.read_model_version, raw.max_batch_size), (None, 1, None));
        assert!(matches!(raw.partition_by, PartitionBy::Tenant));
        assert!(matches!(raw.start, StartPosition::Beginning));
    }

    #[test]
    fn every_default_can_be_changed() {
        let raw: types::Descriptor = crate::descriptor!("late")
            .event_types(["A", "B"])
            .partition_by_property("/customer")
            .start_now()
            .read_model_version(3)
            .max_batch_size(50)
            .into();
        assert_eq!(raw.event_types, Some(vec!["A".to_owned(), "B".to_owned()]));
        assert!(matches!(raw.partition_by, PartitionBy::DataProperty(pointer) if pointer == "/customer"));
        assert!(matches!(raw.start, StartPosition::Now));
        assert_eq!((raw.read_model_version, raw.max_batch_size), (3, Some(50)));

        let raw: types::Descriptor = crate::descriptor!("fine").partition_by_stream().into();
        assert!(matches!(raw.partition_by, PartitionBy::EventStream));
    }
}
