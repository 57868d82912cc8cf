//! The versions and forms of the contract that this host speaks. A released version never changes;
//! a new one is a file beside it. The rest of the host uses only [`crate::model`].
//!
//! A component exports the plain form of `projector` or the packed one. [`PluginPre`] finds out
//! which, [`Exports`] calls it, and an [`Answer`] has the same parts in both. Nothing else knows
//! that there are two.

mod answer;
mod packed;
pub(super) mod v0_1;

pub(super) use answer::{Answer, BrokenText, Change};
pub(super) use packed::Texts;
use wasmtime::{Store, component::InstancePre};

use crate::model::event::Batch;
use v0_1::{Event, ProjectorPlugin, ProjectorPluginPacked, ProjectorPluginPackedPre, ProjectorPluginPre};

/// The export of a component in the packed form.
const PACKED: &str = "sandmill:processor/projector-packed@0.1.0";

/// A component that is ready to be instantiated, with its exports looked up.
pub(super) enum PluginPre<T: 'static> {
    Plain(ProjectorPluginPre<T>),
    Packed(ProjectorPluginPackedPre<T>),
}

/// Not derived, because that would ask for a `T` that can be cloned.
impl<T: 'static> Clone for PluginPre<T> {
    fn clone(&self) -> Self {
        match self {
            PluginPre::Plain(pre) => PluginPre::Plain(pre.clone()),
            PluginPre::Packed(pre) => PluginPre::Packed(pre.clone()),
        }
    }
}

impl<T: Send + 'static> PluginPre<T> {
    /// Looks up the exports. A component that has both forms is called in the packed one, which is
    /// faster.
    pub(super) fn new(pre: InstancePre<T>) -> wasmtime::Result<Self> {
        match pre.component().get_export_index(None, PACKED) {
            Some(_) => ProjectorPluginPackedPre::new(pre).map(PluginPre::Packed),
            None => ProjectorPluginPre::new(pre).map(PluginPre::Plain),
        }
    }

    pub(super) async fn instantiate(&self, store: &mut Store<T>) -> wasmtime::Result<Exports> {
        Ok(match self {
            PluginPre::Plain(pre) => Exports::Plain(pre.instantiate_async(store).await?),
            PluginPre::Packed(pre) => Exports::Packed(pre.instantiate_async(store).await?),
        })
    }
}

/// The exports of an instance.
pub(super) enum Exports {
    Plain(ProjectorPlugin),
    Packed(ProjectorPluginPacked),
}

impl Exports {
    pub(super) async fn describe<T: Send + 'static>(&self, store: &mut Store<T>) -> wasmtime::Result<v0_1::Descriptor> {
        match self {
            Exports::Plain(plugin) => plugin.sandmill_processor_description().call_describe(store).await,
            Exports::Packed(plugin) => plugin.sandmill_processor_description().call_describe(store).await,
        }
    }

    /// Handles a batch. The answer is yet to be checked.
    pub(super) async fn project<T: Send + 'static>(
        &self,
        store: &mut Store<T>,
        batch: &Batch,
    ) -> wasmtime::Result<Answer> {
        let (tenant, partition_key) = (batch.lane.tenant.as_str(), &*batch.lane.key);
        let (attempt, replaying) = (batch.attempt, batch.replaying);
        match self {
            Exports::Plain(plugin) => {
                let events: Vec<Event<'_>> = batch.events.iter().map(|event| Event::from(&**event)).collect();
                let batch = v0_1::Batch { tenant, partition_key, attempt, replaying, events: &events };
                plugin.sandmill_processor_projector().call_project(store, batch).await.map(Answer::from)
            }
            Exports::Packed(plugin) => {
                let (texts, events) = packed::pack(batch.events.iter().map(|event| &**event));
                let batch =
                    v0_1::PackedBatch { tenant, partition_key, attempt, replaying, texts: &texts, events: &events };
                plugin.sandmill_processor_projector_packed().call_project(store, batch).await.map(Answer::from)
            }
        }
    }
}
