//! Single events of one lane, handled outside a host: each alone in a fresh instance, over
//! documents from elsewhere. Nothing is written.
//!
//! A capsule is replayed in this way, and dead letters are replayed on another version. The
//! documents that an event changes are in memory afterwards, so that the next event of the lane
//! sees them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;

use super::{
    capsule::{CapsuleDocument, CapsuleFailure},
    compare::{self, Excerpt, ValueDifference},
    documents::{FindDocuments, FoundDocument, KnownDocument, MemoryDocuments, MemoryKey},
};
use crate::{
    model::{
        event::Event,
        handler::{Failure, Reason},
        ids::{CollectionName, LaneKey},
        spec::{PartitionBy, ProcessorSpec},
    },
    processor::lane::{LaneRun, RunStop, Runner, TermEnded},
    projections::documents::Changes,
    scheduler::Class,
};

/// Maximum bytes of documents that the events of one lane may leave in memory. 256 MiB: many times
/// what the events that a person looks at change.
const HELD_BYTES: usize = 256 << 20;

/// A lane outside a host.
pub struct Replay {
    runner: Runner,
    lane: LaneKey,
    documents: Arc<MemoryDocuments>,
}

/// What happened to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    /// The plugin handled it.
    Handled,
    /// The plugin skipped it, so that it would become a dead letter.
    Skipped(Reason),
    /// The plugin asked for a retry, or the machine was short of something.
    Retried(Reason),
    /// The plugin failed, or stopped before it.
    Failed(Reason),
    /// The plugin does not subscribe to its type, or does not handle its tenant.
    Ignored,
}

impl EventOutcome {
    /// Why the event was not handled, if the plugin was called for it.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            EventOutcome::Skipped(reason) | EventOutcome::Retried(reason) | EventOutcome::Failed(reason) => {
                Some(reason)
            }
            EventOutcome::Handled | EventOutcome::Ignored => None,
        }
    }
}

/// An event that was handled outside a host.
#[derive(Debug)]
pub struct ReplayedEvent {
    /// What happened to it.
    pub outcome: EventOutcome,
    /// The documents that it changes, by collection and id. Documents that are written with the
    /// value that they have already are left out.
    pub changes: Vec<DocumentChange>,
    /// Documents that the plugin read, and of which it is not known whether they exist.
    pub unknown_reads: Vec<(CollectionName, Arc<str>)>,
}

/// A change of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentChange {
    /// Its collection.
    pub collection: CollectionName,
    /// Its id.
    pub id: Arc<str>,
    /// Its JSON text before, if it existed.
    pub before: Option<Arc<str>>,
    /// Whether `before` is known. If not, the document may have existed.
    pub is_before_known: bool,
    /// Its JSON text afterwards; none if it is deleted.
    pub after: Option<Arc<str>>,
}

impl DocumentChange {
    /// The differences between before and after.
    pub fn differences(&self) -> Excerpt<ValueDifference> {
        compare::differences(self.before.as_deref(), self.after.as_deref())
    }
}

impl Replay {
    /// A lane of a plugin, whose documents come from an origin.
    pub fn new(spec: &ProcessorSpec, runner: Runner, lane: LaneKey, origin: Arc<dyn FindDocuments>) -> Self {
        let owned = spec.descriptor.partition_by != PartitionBy::Tenant;
        Replay { runner, lane, documents: Arc::new(MemoryDocuments::over(owned, origin)) }
    }

    /// Handles an event, and keeps the documents that it changes for the next one. `attempt` is the
    /// number of the attempt that the plugin sees, from 1.
    pub async fn handle(&self, event: &Arc<Event>, attempt: u32) -> Result<ReplayedEvent, TermEnded> {
        self.handle_and(event, attempt, |_| ()).await.map(|(event, _)| event)
    }

    /// The same. Also returns the documents that the event needs, as they were before it: those
    /// that the plugin read, and those that it changed.
    pub async fn handle_listing(
        &self,
        event: &Arc<Event>,
        attempt: u32,
    ) -> Result<(ReplayedEvent, Vec<CapsuleDocument>), TermEnded> {
        let list = |documents: &MemoryDocuments| {
            documents.all_known().into_iter().filter_map(capsule_document).collect::<Vec<_>>()
        };
        self.handle_and(event, attempt, list).await
    }

    /// Handles an event. `look` sees the documents before its changes.
    async fn handle_and<T>(
        &self,
        event: &Arc<Event>,
        attempt: u32,
        look: impl FnOnce(&MemoryDocuments) -> T,
    ) -> Result<(ReplayedEvent, T), TermEnded> {
        if !self.runner.router.handles(event) {
            let ignored =
                ReplayedEvent { outcome: EventOutcome::Ignored, changes: Vec::new(), unknown_reads: Vec::new() };
            return Ok((ignored, look(&self.documents)));
        }
        self.documents.forget_read();
        if self.documents.bytes() > HELD_BYTES {
            let mib = HELD_BYTES >> 20;
            let error =
                anyhow::anyhow!("the events of {} changed more than {mib} MiB of documents; choose fewer", self.lane);
            return Err(error.into());
        }
        // A fresh instance remembers no other event.
        self.runner.code.current().handler.forget(&self.lane.tenant);
        let (lane, earlier) = (&self.lane, attempt.saturating_sub(1));
        let events = std::slice::from_ref(event);
        let run = self.runner.run_over(lane, Class::Live, events, earlier, None, self.documents.clone()).await?;
        let LaneRun { outcome: left, stop, .. } = run;
        let unknown_reads = self.documents.unknown();
        let skipped = left.dead_letters.into_iter().next().map(|letter| letter.reason);
        let mut outcome = match (stop, skipped) {
            (Some(RunStop::Block(reason)), _) => EventOutcome::Failed(reason),
            (Some(RunStop::Retry { reason, .. }), _) => EventOutcome::Retried(reason),
            (None, Some(reason)) => EventOutcome::Skipped(reason),
            (None, None) => EventOutcome::Handled,
        };
        let changes = Arc::unwrap_or_clone(left.documents);
        let mut listed = self.changes(&changes).await?;
        let seen = look(&self.documents);
        if let Err(refused) = self.documents.write(changes) {
            // On a host, the lane blocks with this reason.
            outcome = EventOutcome::Failed(Reason::new("malformed-output", refused.to_string()));
            listed.clear();
        }
        Ok((ReplayedEvent { outcome, changes: listed, unknown_reads }, seen))
    }

    /// Changes with the state before them, by collection and id.
    async fn changes(&self, changes: &Changes) -> Result<Vec<DocumentChange>, TermEnded> {
        let mut names: BTreeMap<&CollectionName, Vec<String>> = BTreeMap::new();
        for key in changes.keys() {
            names.entry(&key.collection).or_default().push(key.id.to_string());
        }
        for (collection, ids) in names {
            match self.documents.learn(collection, &ids).await {
                Ok(()) => {}
                Err(Failure::Block(reason) | Failure::Retry(reason)) => return Err(anyhow::anyhow!("{reason}").into()),
                Err(Failure::EndTerm(cause)) => return Err(anyhow::anyhow!(cause).into()),
            }
        }
        let change = |(key, after): (&crate::projections::documents::DocumentKey, &Option<Arc<str>>)| {
            let known = self.documents.known(&(key.collection.clone(), key.id.clone()));
            DocumentChange {
                collection: key.collection.clone(),
                id: key.id.clone(),
                before: known.as_ref().and_then(KnownDocument::data).cloned(),
                is_before_known: !matches!(known, Some(KnownDocument::Unknown | KnownDocument::Unreadable(_))),
                after: after.clone(),
            }
        };
        let mut listed: Vec<DocumentChange> = changes.iter().map(change).collect();
        listed.retain(|change| !change.is_before_known || change.differences().total > 0);
        listed.sort_by(|one, other| (&one.collection, &one.id).cmp(&(&other.collection, &other.id)));
        Ok(listed)
    }
}

/// A document as a capsule holds it; none if nothing is known of it.
fn capsule_document((name, known): (MemoryKey, KnownDocument)) -> Option<CapsuleDocument> {
    let (data, lane, failure) = match known {
        KnownDocument::Found(FoundDocument { data, owner }) => (data, owner, None),
        KnownDocument::Written { data, owner } => (data, owner, None),
        KnownDocument::Unreadable(Reason { class, message }) => (None, None, Some(CapsuleFailure { class, message })),
        KnownDocument::Unknown => return None,
    };
    let (collection, id) = (name.0.to_string(), name.1.to_string());
    // Documents are checked when they are written, so this is JSON.
    let data = data.and_then(|data| RawValue::from_string(data.to_string()).ok());
    Some(CapsuleDocument { collection, id, data, lane: lane.map(|lane| lane.to_string()), failure })
}
