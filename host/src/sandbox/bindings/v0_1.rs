//! Generated bindings of `sandmill:processor@0.1.0`: projectors in both forms, and reactors.

use crate::model;

#[allow(missing_docs, reason = "generated; the contract itself documents every item")]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "projector-plugin",
        imports: {
            "sandmill:processor/documents.get-many": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        // A batch is lowered from borrowed texts; only results are owned.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

#[allow(missing_docs, reason = "generated; the contract itself documents every item")]
mod generated_packed {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "projector-plugin-packed",
        imports: {
            "sandmill:processor/documents-packed.get-many": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "sandmill:processor/types": super::generated::sandmill::processor::types,
            "sandmill:processor/logging": super::generated::sandmill::processor::logging,
            "sandmill:processor/settings": super::generated::sandmill::processor::settings,
        },
    });
}

#[allow(missing_docs, reason = "generated; the contract itself documents every item")]
mod generated_reactor {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "reactor-plugin",
        imports: { default: trappable },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "sandmill:processor/types": super::generated::sandmill::processor::types,
            "sandmill:processor/documents": super::generated::sandmill::processor::documents,
            "sandmill:processor/logging": super::generated::sandmill::processor::logging,
            "sandmill:processor/settings": super::generated::sandmill::processor::settings,
        },
    });
}

pub(in crate::sandbox) use generated::{
    ProjectorPlugin, ProjectorPluginPre,
    exports::sandmill::processor::{
        description::Descriptor,
        projector::{Batch, Projection},
    },
    sandmill::processor::{
        documents, logging, settings,
        types::{
            self, Change, Document, DocumentKey, Event, Halt, HaltAction, PartitionBy, SkippedEvent, StartPosition,
        },
    },
};
pub(in crate::sandbox) use generated_packed::{
    ProjectorPluginPacked, ProjectorPluginPackedPre,
    sandmill::processor::{
        documents_packed,
        packed_types::{
            self, Batch as PackedBatch, Change as PackedChange, Event as PackedEvent, Projection as PackedProjection,
            Text,
        },
    },
};
pub(in crate::sandbox) use generated_reactor::{
    ReactorPlugin, ReactorPluginPre, exports::sandmill::processor::reactor,
};

impl<'e> From<&'e model::event::Event> for Event<'e> {
    fn from(event: &'e model::event::Event) -> Self {
        Event {
            id: &event.id,
            event_type: &event.event_type,
            stream_id: &event.stream,
            stream_version: event.version as u64,
            position: event.position as u64,
            recorded_at: event.recorded_at,
            data: &event.data,
            metadata: &event.metadata,
        }
    }
}
