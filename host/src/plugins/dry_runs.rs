//! What is needed to try files against the processors that run, while these go on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{fleet::Follower, manifest::Manifest};
use crate::{
    db::describe,
    model::{handler::Descriptor, ids::ProcessorId},
    processor::{
        Ground,
        code::Version,
        dry_run::{Desk, DryRun, Trial},
        registration,
    },
    scheduler::Scheduler,
};

/// The processors that run, as they were when a check began.
#[derive(Clone)]
pub struct DryRuns(Arc<Known>);

struct Known {
    ground: Ground,
    scheduler: Scheduler,
    /// What the last one read with, for the next.
    desk: Arc<Mutex<Option<Desk>>>,
    running: BTreeMap<ProcessorId, Runs>,
    events: usize,
}

/// What runs as a processor.
pub(super) struct Runs {
    pub(super) version: Arc<Version>,
    pub(super) descriptor: Descriptor,
    pub(super) manifest: Manifest,
}

impl DryRuns {
    pub(super) fn new(
        ground: Ground,
        scheduler: Scheduler,
        desk: Arc<Mutex<Option<Desk>>>,
        running: BTreeMap<ProcessorId, Runs>,
        events: usize,
    ) -> Self {
        DryRuns(Arc::new(Known { ground, scheduler, desk, running, events }))
    }

    /// Tries what would take over, if something else runs whose place it would take.
    pub(super) async fn of(&self, candidate: &Follower) -> Option<DryRun> {
        let Known { ground, scheduler, desk, running, events } = &*self.0;
        let Follower { descriptor, digest, handler, manifest, .. } = candidate;
        let runs = running.get(&descriptor.id)?;
        let same = *runs.version.digest == **digest && runs.manifest == *manifest;
        // With other documents than it would build it has nothing to do.
        let refused = registration::difference(&runs.descriptor, descriptor, manifest.adopts()).is_some();
        if *events == 0 || same || refused {
            return None;
        }
        let trial = Trial {
            scheduler,
            descriptor,
            handler: handler.clone(),
            running: &runs.version,
            runs_as: &runs.descriptor,
            events: *events,
        };
        let id = &descriptor.id;
        let kept = || desk.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = kept().take();
        let mut at = taken.unwrap_or_else(|| Desk::new(ground));
        match trial.run(&mut at).await {
            Ok(dry_run) => {
                kept().replace(at);
                if let Some(dry_run) = &dry_run {
                    tracing::info!(processor = %id, digest = digest.get(..12), "{dry_run}");
                }
                dry_run
            }
            Err(error) => {
                let why = error.downcast_ref().map_or_else(|| format!("{error:#}"), describe);
                tracing::warn!(processor = %id, digest = digest.get(..12), "could not be tried on earlier events, and goes on without: {why}");
                None
            }
        }
    }
}
