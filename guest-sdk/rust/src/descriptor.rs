//! What a plugin says about itself, with defaults that suit most projectors: every event type, all of history, one lane for each
//! tenant, read model version 1, batches as large as the host likes. The host checks names and refuses what is against the
//! contract, so nothing is checked here.

use serde::Deserialize;

use crate::{
    bindings::sandmill::processor::types::{self, PartitionBy, StartPosition},
    typed::{self, Known},
};

/// What the plugin is. Begin one with [`descriptor!`](crate::descriptor!).
#[derive(Debug)]
pub struct Descriptor(types::Descriptor);

impl Descriptor {
    /// `id` is the processor's name, `[a-z][a-z0-9-]{0,62}`: its progress and documents belong to it. `version` is for people.
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

    /// Handles these event types only. The default is every type.
    pub fn event_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        self.0.event_types = Some(types.into_iter().map(Into::into).collect());
        self
    }

    /// Handles the event types that an enum has variants for, as [`Event::typed`](crate::Event::typed) reads them; every type if one
    /// of them is marked with `#[serde(other)]`. Panics if `E` is no such enum.
    pub fn event_types_of<'de, E: Deserialize<'de>>(mut self) -> Self {
        self.0.event_types = match typed::known::<E>().expect(typed::NOT_AN_ENUM) {
            Known::Named(types) => Some(types.iter().map(|name| (*name).to_owned()).collect()),
            Known::Every => None,
        };
        self
    }

    /// Adds a collection that it reads or writes, `[a-z][a-z0-9_]{0,47}`. A collection belongs to one processor alone.
    pub fn collection(mut self, name: impl Into<String>) -> Self {
        self.0.collections.push(name.into());
        self
    }

    /// Adds a collection unless it is there.
    pub(crate) fn or_collection(self, name: &str) -> Self {
        if self.0.collections.iter().any(|other| other == name) { self } else { self.collection(name) }
    }

    /// Handles the types of an enum unless others have been named.
    pub(crate) fn or_event_types_of<'de, E: Deserialize<'de>>(self) -> Self {
        if self.0.event_types.is_some() { self } else { self.event_types_of::<E>() }
    }

    /// One lane for each stream instead of one for each tenant. A document then belongs to the stream that first wrote it.
    pub fn partition_by_stream(mut self) -> Self {
        self.0.partition_by = PartitionBy::EventStream;
        self
    }

    /// One lane for each value of a property: a JSON pointer into the event's data, such as `/customer`.
    pub fn partition_by_property(mut self, pointer: impl Into<String>) -> Self {
        self.0.partition_by = PartitionBy::DataProperty(pointer.into());
        self
    }

    /// Leaves history alone and handles what is committed after the processor's first start.
    pub fn start_now(mut self) -> Self {
        self.0.start = StartPosition::Now;
        self
    }

    /// Raise it when documents that earlier code wrote must be built again. The default is 1.
    pub fn read_model_version(mut self, version: u32) -> Self {
        self.0.read_model_version = version;
        self
    }

    /// At most so many events in one batch. The default leaves it to the host.
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
    fn defaults_suit_most_projectors() {
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
