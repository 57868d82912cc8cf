//! Generated bindings of `sandmill:processor@0.1.0`.

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

pub(in crate::sandbox) use generated::{
    ProjectorPlugin, ProjectorPluginPre,
    exports::sandmill::processor::{
        description::Descriptor,
        projector::{Batch, Change, Projection},
    },
    sandmill::processor::{
        documents, logging, settings,
        types::{self, Event, HaltAction, PartitionBy, StartPosition},
    },
};
