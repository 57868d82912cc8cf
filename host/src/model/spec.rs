//! The descriptor of a plugin, and the spec of the processor that results from it.
//!
//! A plugin returns a [`Descriptor`]. A [`ProcessorSpec`] describes a processor that runs: the
//! descriptor with the manifest applied, under the id and for the tenants that the operator chose.

use std::fmt;

use super::ids::{CollectionName, FamilyId, ProcessorId, TenantId};

/// The kind of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessorKind {
    /// Turns events into documents.
    Projector,
    /// Also appends events.
    Reactor,
}

impl ProcessorKind {
    /// Its name, as it is displayed.
    pub fn name(self) -> &'static str {
        match self {
            ProcessorKind::Projector => "projector",
            ProcessorKind::Reactor => "reactor",
        }
    }
}

/// The kind of key by which events are dispatched to lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionBy {
    /// One lane per tenant.
    Tenant,
    /// One lane per stream of a tenant.
    EventStream,
    /// One lane per value of a property: a JSON pointer (RFC 6901) into the event's data.
    DataProperty(String),
}

impl fmt::Display for PartitionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionBy::Tenant => f.write_str("tenant"),
            PartitionBy::EventStream => f.write_str("event-stream"),
            PartitionBy::DataProperty(pointer) => write!(f, "data-property({pointer})"),
        }
    }
}

/// The position in the log where a processor begins at its first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All of history, then live.
    Beginning,
    /// Only what is committed after its first start.
    Now,
}

/// A plugin's declaration of itself, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The plugin's own id, which all processors that run it share.
    pub id: FamilyId,
    /// Its kind, which follows from what it exports.
    pub kind: ProcessorKind,
    /// The author's version, for people.
    pub version: String,
    /// The event types that it handles; none means all.
    pub event_types: Option<Vec<String>>,
    /// Every collection that it reads or writes.
    pub collections: Vec<CollectionName>,
    /// The key of its lanes.
    pub partition_by: PartitionBy,
    /// Where it begins.
    pub start: Start,
    /// A number that the author raises when documents of earlier code must be built again.
    pub read_model_version: u32,
    /// Maximum number of events in one call.
    pub max_batch_size: Option<u32>,
}

impl Descriptor {
    /// A projector of all event types from the beginning, with a lane per tenant.
    pub fn projector(id: FamilyId, collections: Vec<CollectionName>) -> Self {
        Descriptor {
            id,
            kind: ProcessorKind::Projector,
            version: String::new(),
            event_types: None,
            collections,
            partition_by: PartitionBy::Tenant,
            start: Start::Beginning,
            read_model_version: 1,
            max_batch_size: None,
        }
    }
}

/// A processor to run: a descriptor with the operator's choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessorSpec {
    /// The processor's id: the plugin's, below its owner if it is a tenant's own.
    pub id: ProcessorId,
    /// The tenants whose events it handles; none means all.
    pub tenants: Option<Vec<TenantId>>,
    /// Maximum number of events in one call: the operator's, or else the author's.
    pub max_batch_size: Option<u32>,
    /// The author's declaration.
    pub descriptor: Descriptor,
}

impl ProcessorSpec {
    /// The spec of a descriptor without an operator's choices. With an `owner` it is that tenant's
    /// own, and handles that tenant's events only.
    pub fn new(descriptor: Descriptor, owner: Option<&TenantId>) -> Self {
        let id = ProcessorId::from(descriptor.id.clone());
        ProcessorSpec {
            id: owner.map_or_else(|| id.clone(), |owner| id.owned_by(owner)),
            tenants: owner.map(|owner| vec![owner.clone()]),
            max_batch_size: descriptor.max_batch_size,
            descriptor,
        }
    }

    /// A projector of all tenants' events of all types, from the beginning, with a lane per tenant.
    pub fn projector(id: ProcessorId, collections: Vec<CollectionName>) -> Self {
        let descriptor = Descriptor::projector(id.family().clone(), collections);
        ProcessorSpec { id, ..Self::new(descriptor, None) }
    }
}
