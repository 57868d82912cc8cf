//! What is needed to try files against the processors that run, while these go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{manifest::Manifest, registry::Follower};
use crate::{
    db::describe,
    model::{handler::Descriptor, ids::ProcessorId},
    processor::{Shared, code::Version, registration},
    rollout::dry_run::{DryRun, DryRunReport, DryRunSession},
    scheduler::Scheduler,
};

/// The processors that run, as they were when a check began.
#[derive(Clone)]
pub struct DryRuns(Arc<Known>);

/// What they are about.
pub(super) struct Known {
    pub(super) shared: Shared,
    pub(super) scheduler: Scheduler,
    /// What the last one read with, for the next.
    pub(super) session: Arc<Mutex<Option<DryRunSession>>>,
    pub(super) running: BTreeMap<ProcessorId, Runs>,
    /// The files that there are.
    pub(super) there: BTreeSet<String>,
    /// Each is tried on so many events.
    pub(super) events: usize,
}

/// What runs as a processor.
pub(super) struct Runs {
    pub(super) plugin: String,
    pub(super) version: Arc<Version>,
    pub(super) descriptor: Descriptor,
    pub(super) manifest: Manifest,
}

impl DryRuns {
    pub(super) fn new(known: Known) -> Self {
        DryRuns(Arc::new(known))
    }

    /// Tries what would take over, if something else runs whose place it would take. Fails where the database does not let it.
    pub(super) async fn of(&self, candidate: &Follower) -> Result<Option<DryRunReport>, String> {
        let Known { shared, scheduler, session, running, there, events } = &*self.0;
        let Follower { descriptor, digest, handler, manifest, plugin, .. } = candidate;
        let Some(runs) = running.get(&descriptor.id) else { return Ok(None) };
        let same = *runs.version.digest == **digest && runs.manifest == *manifest;
        // What belongs to another file that is there it does not get, and with other documents than it would build it has nothing to do.
        let refused = runs.plugin != *plugin && there.contains(&runs.plugin)
            || registration::difference(&runs.descriptor, descriptor, manifest.adopts()).is_some();
        if *events == 0 || same || refused {
            return Ok(None);
        }
        let (running, runs_as) = (&runs.version, &runs.descriptor);
        let trial = DryRun { scheduler, descriptor, handler, running, runs_as, events: *events };
        let kept = || session.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = kept().take();
        let was_used = taken.is_some();
        let mut at = taken.unwrap_or_else(|| DryRunSession::new(shared));
        let mut tried = trial.run(&mut at).await;
        if tried.is_err() && was_used {
            // Its sessions may have ended long ago, without anybody having asked.
            at = DryRunSession::new(shared);
            tried = trial.run(&mut at).await;
        }
        let dry_run = tried.map_err(|error| error.downcast_ref().map_or_else(|| format!("{error:#}"), describe))?;
        kept().replace(at);
        if let Some(dry_run) = &dry_run {
            tracing::info!(processor = %descriptor.id, digest = digest.get(..12), "{dry_run}");
        }
        Ok(dry_run)
    }
}
