//! Dry runs of new versions against the running processors.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use super::{manifest::Manifest, version::RunnableVersion};
use crate::{
    db::describe,
    model::{ids::ProcessorId, spec::ProcessorSpec},
    processor::{Shared, code::CodeVersion, registration},
    rollout::dry_run::{DryRun, DryRunReport, DryRunSession},
    scheduler::Scheduler,
};

/// Dry runs against a snapshot of the running processors. Cheap to clone.
#[derive(Clone)]
pub struct DryRuns(Arc<DryRunContext>);

/// The inputs of a dry run.
pub(super) struct DryRunContext {
    pub(super) shared: Shared,
    pub(super) scheduler: Scheduler,
    /// The session of the last dry run, for the next one.
    pub(super) session: Arc<Mutex<Option<DryRunSession>>>,
    pub(super) running: BTreeMap<ProcessorId, RunningVersion>,
    /// The plugins that have a file.
    pub(super) files: BTreeSet<String>,
    /// Number of events of each dry run.
    pub(super) events: usize,
}

/// The version that a processor runs.
pub(super) struct RunningVersion {
    pub(super) plugin: String,
    pub(super) version: Arc<CodeVersion>,
    pub(super) spec: ProcessorSpec,
    pub(super) manifest: Manifest,
}

impl DryRuns {
    pub(super) fn new(context: DryRunContext) -> Self {
        DryRuns(Arc::new(context))
    }

    /// Runs a candidate on recent events, if it would replace another version. Fails if the
    /// database does not answer.
    pub(super) async fn run(&self, candidate: &RunnableVersion) -> Result<Option<DryRunReport>, String> {
        let DryRunContext { shared, scheduler, session, running, files, events } = &*self.0;
        let RunnableVersion { spec, digest, handler, manifest, plugin, .. } = candidate;
        let Some(current) = running.get(&spec.id) else { return Ok(None) };
        let same = *current.version.digest == **digest && current.manifest == *manifest;
        // The plan rejects it: the processor belongs to another file, or has other documents.
        let rejected = current.plugin != *plugin && files.contains(&current.plugin)
            || registration::difference(&current.spec, spec, manifest.adopts()).is_some();
        if *events == 0 || same || rejected {
            return Ok(None);
        }
        let (running, running_spec) = (&current.version, &current.spec);
        let dry_run = DryRun { scheduler, spec, handler, running, running_spec, events: *events };
        let kept = || session.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = kept().take();
        let was_used = taken.is_some();
        let mut session = taken.unwrap_or_else(|| DryRunSession::new(shared));
        let mut result = dry_run.run(&mut session).await;
        if result.is_err() && was_used {
            // An idle session may have been closed long ago.
            session = DryRunSession::new(shared);
            result = dry_run.run(&mut session).await;
        }
        let report = result.map_err(|error| error.downcast_ref().map_or_else(|| format!("{error:#}"), describe))?;
        kept().replace(session);
        if let Some(report) = &report {
            tracing::info!(processor = %spec.id, digest = digest.get(..12), "{report}");
        }
        Ok(report)
    }
}
