//! The versions and forms of the contract that this host speaks. A released version never changes;
//! a new one is a file beside it. The rest of the host uses only [`crate::model`].
//!
//! A component exports the plain form of `projector`, the packed one, or `reactor`. [`PluginPre`]
//! finds out which, [`Exports`] calls it, and an [`Answer`] has the same parts in all three.
//! Nothing else depends on the form.

mod answer;
mod packed;
pub(super) mod v0_1;

pub(super) use answer::{Answer, BrokenText, Change, SideEffects};
pub(super) use packed::Texts;
use wasmtime::{Store, component::InstancePre};

use crate::model::{event::Batch, reaction::AppendConflict, spec::ProcessorKind};
use v0_1::{
    Event, ProjectorPlugin, ProjectorPluginPacked, ProjectorPluginPackedPre, ProjectorPluginPre, ReactorPlugin,
    ReactorPluginPre, reactor,
};

/// The export of a component in the packed form.
const PACKED: &str = "sandmill:processor/projector-packed@0.1.0";
/// The export of a reactor.
const REACTOR: &str = "sandmill:processor/reactor@0.1.0";

/// A component that is ready to be instantiated, with its exports looked up.
pub(super) enum PluginPre<T: 'static> {
    Plain(ProjectorPluginPre<T>),
    Packed(ProjectorPluginPackedPre<T>),
    Reactor(ReactorPluginPre<T>),
}

/// Not derived, because that would ask for a `T` that can be cloned.
impl<T: 'static> Clone for PluginPre<T> {
    fn clone(&self) -> Self {
        match self {
            PluginPre::Plain(pre) => PluginPre::Plain(pre.clone()),
            PluginPre::Packed(pre) => PluginPre::Packed(pre.clone()),
            PluginPre::Reactor(pre) => PluginPre::Reactor(pre.clone()),
        }
    }
}

impl<T: Send + 'static> PluginPre<T> {
    /// Looks up the exports. A component that has both forms is called in the packed one, which is
    /// faster.
    pub(super) fn new(pre: InstancePre<T>) -> wasmtime::Result<Self> {
        let has = |export| pre.component().get_export_index(None, export).is_some();
        if has(REACTOR) {
            ReactorPluginPre::new(pre).map(PluginPre::Reactor)
        } else if has(PACKED) {
            ProjectorPluginPackedPre::new(pre).map(PluginPre::Packed)
        } else {
            ProjectorPluginPre::new(pre).map(PluginPre::Plain)
        }
    }

    /// Whether it is a reactor.
    pub(super) fn kind(&self) -> ProcessorKind {
        match self {
            PluginPre::Plain(_) | PluginPre::Packed(_) => ProcessorKind::Projector,
            PluginPre::Reactor(_) => ProcessorKind::Reactor,
        }
    }

    pub(super) async fn instantiate(&self, store: &mut Store<T>) -> wasmtime::Result<Exports> {
        Ok(match self {
            PluginPre::Plain(pre) => Exports::Plain(pre.instantiate_async(store).await?),
            PluginPre::Packed(pre) => Exports::Packed(pre.instantiate_async(store).await?),
            PluginPre::Reactor(pre) => Exports::Reactor(pre.instantiate_async(store).await?),
        })
    }
}

/// The exports of an instance.
pub(super) enum Exports {
    Plain(ProjectorPlugin),
    Packed(ProjectorPluginPacked),
    Reactor(ReactorPlugin),
}

impl Exports {
    pub(super) async fn describe<T: Send + 'static>(&self, store: &mut Store<T>) -> wasmtime::Result<v0_1::Descriptor> {
        match self {
            Exports::Plain(plugin) => plugin.sandmill_processor_description().call_describe(store).await,
            Exports::Packed(plugin) => plugin.sandmill_processor_description().call_describe(store).await,
            Exports::Reactor(plugin) => plugin.sandmill_processor_description().call_describe(store).await,
        }
    }

    /// Handles a batch. The answer is yet to be checked.
    pub(super) async fn handle<T: Send + 'static>(
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
            Exports::Reactor(plugin) => {
                let conflicts = conflicts(batch);
                let events: Vec<Event<'_>> = batch.events.iter().map(|event| Event::from(&**event)).collect();
                let batch = v0_1::Batch { tenant, partition_key, attempt, replaying, events: &events };
                plugin.sandmill_processor_reactor().call_react(store, batch, &conflicts).await.map(Answer::from)
            }
        }
    }
}

/// The conflicts of earlier attempts at the batch's events.
fn conflicts(batch: &Batch) -> Vec<reactor::AppendConflict<'_>> {
    let known = batch.conflicts.as_deref().unwrap_or_default();
    known.iter().filter_map(|conflict| conflict_in(batch, conflict)).collect()
}

/// A conflict, if its cause is in the batch.
fn conflict_in<'a>(batch: &Batch, conflict: &'a AppendConflict) -> Option<reactor::AppendConflict<'a>> {
    let cause = batch.events.iter().position(|event| event.position == conflict.cause)?;
    let expected = match u64::try_from(conflict.expected) {
        Ok(0) => reactor::ExpectedVersion::NoStream,
        Ok(version) => reactor::ExpectedVersion::Exactly(version),
        Err(_) => reactor::ExpectedVersion::Any,
    };
    let (stream_id, actual) = (&*conflict.stream, conflict.actual as u64);
    Some(reactor::AppendConflict { cause: cause as u32, stream_id, expected, actual })
}
