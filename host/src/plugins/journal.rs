//! The journal: the reconciler's database session, and the history entries and holds that are not
//! written yet.
//!
//! An entry about a running version, or a hold, is kept and retried until it is written.
//! Other entries are written once; if that fails, only the log has them.

mod holds;
mod running;
mod swaps;

use std::{collections::BTreeMap, time::Instant};

use self::{holds::Holds, swaps::SwapRecords};
pub(super) use self::{running::RunningPlugin, swaps::SwapRecord};
use super::{
    history::{self, DryRunReport, HistoryNote, PluginEvent, RunNote},
    registry::{Registry, SwapReport},
};
use crate::{
    db::{Db, Error, Session, describe},
    model::ids::ProcessorId,
};

/// The reconciler's database session, and the records that are not written yet.
pub(super) struct Journal {
    db: Db,
    session: Option<Session>,
    pub(super) holds: Holds,
    /// Entries about running versions that could not be written, by plugin.
    pending: BTreeMap<String, RunEntry>,
    swaps: SwapRecords,
}

/// A history entry about the version that a plugin runs.
#[derive(Clone)]
pub(super) struct RunEntry {
    pub(super) event: PluginEvent,
    pub(super) reason: String,
    pub(super) swap: Option<SwapReport>,
}

impl RunEntry {
    pub(super) fn new(event: PluginEvent, reason: impl Into<String>, swap: Option<SwapReport>) -> Self {
        RunEntry { event, reason: reason.into(), swap }
    }
}

impl Journal {
    pub(super) fn new(db: Db) -> Self {
        Journal { db, session: None, holds: Holds::default(), pending: BTreeMap::new(), swaps: SwapRecords::default() }
    }

    /// The session, to be given back with [`keep`](Self::keep); none while the database does not
    /// answer.
    pub(super) async fn session(&mut self) -> Option<Session> {
        match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => Some(session),
            None => match self.db.connect("plugins").await {
                Ok(session) => Some(session),
                Err(error) => {
                    tracing::debug!("plugins: {}", describe(&error));
                    None
                }
            },
        }
    }

    /// Keeps a session for the next use.
    pub(super) fn keep(&mut self, session: Session) {
        self.session = Some(session);
    }

    /// Writes which versions were started, with the reports of their dry runs. Returns whether that
    /// succeeded; otherwise it is retried.
    pub(super) async fn record_starts(
        &mut self,
        session: &Session,
        event: PluginEvent,
        started: &[RunningPlugin],
        dry_runs: &[Option<&DryRunReport>],
    ) -> bool {
        let pairs = started.iter().zip(dry_runs);
        let notes: Vec<RunNote<'_>> = pairs.map(|(running, dry_run)| running.note(event, "", None, *dry_run)).collect();
        let written = history::record_runs(session, &notes).await;
        for running in started {
            match written {
                Ok(_) => _ = self.pending.remove(&running.plugin),
                Err(_) => _ = self.pending.insert(running.plugin.clone(), RunEntry::new(event, "", None)),
            }
        }
        let is_written = written.is_ok();
        log_failure(written.map(drop));
        is_written
    }

    /// Writes an entry about the version that a plugin runs. Returns whether that succeeded;
    /// otherwise it is retried.
    pub(super) async fn record_run(
        &mut self,
        session: &Session,
        running: &RunningPlugin,
        entry: RunEntry,
        dry_run: Option<&DryRunReport>,
    ) -> bool {
        let swapped_at = Instant::now();
        let dry_run = dry_run.filter(|_| entry.event == PluginEvent::Swapped);
        let note = running.note(entry.event, &entry.reason, entry.swap.as_ref(), dry_run);
        let written = history::record_runs(session, &[note]).await.map(|ids| ids.first().copied());
        if let Some(swap) = &entry.swap {
            log_failure(self.swaps.end(session, &running.id, swap).await);
        }
        // After a rollback no further figures are recorded: the restored version has run before.
        if let (Ok(Some(id)), PluginEvent::Swapped) = (&written, entry.event) {
            self.swaps.begin(running.id.clone(), SwapRecord::new(*id, swapped_at));
        }
        match written {
            Ok(_) => _ = self.pending.remove(&running.plugin),
            Err(_) => _ = self.pending.insert(running.plugin.clone(), entry),
        }
        let is_written = written.is_ok();
        log_failure(written.map(drop));
        is_written
    }

    /// Writes unwritten holds and reads all of them.
    pub(super) async fn refresh_holds(&mut self) {
        let Some(session) = self.session().await else { return };
        // After an error the session is not used again.
        if self.holds.refresh(&session).await.is_ok() {
            self.keep(session);
        }
    }

    /// The entries to retry, by plugin.
    pub(super) fn take_pending(&mut self) -> BTreeMap<String, RunEntry> {
        std::mem::take(&mut self.pending)
    }

    /// Whether there are entries to retry.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes that a processor has ended. Its plugin is kept as removed, unless it has another file
    /// now.
    pub(super) async fn record_stop(
        &self,
        session: &Session,
        plugin: &str,
        id: &ProcessorId,
        digest: &str,
        has_file: bool,
    ) {
        let note = HistoryNote {
            plugin,
            processor: id.as_str(),
            digest,
            version: "",
            event: PluginEvent::Stopped,
            reason: "",
            replaced: None,
            dry_run: None,
        };
        let written = async {
            history::record(session, &note).await?;
            match has_file {
                true => history::delete(session, plugin).await,
                false => history::record_removal(session, plugin).await,
            }
        };
        log_failure(written.await);
    }

    /// Completes the entries of recent swaps.
    pub(super) async fn complete_swaps(&mut self, session: &Session, registry: &Registry) {
        log_failure(self.swaps.complete(session, registry).await);
    }

    /// Writes the numbers of calls under way.
    pub(super) async fn record_lanes(&mut self, registry: &Registry) {
        let Some(session) = self.session().await else { return };
        for member in registry.members().values() {
            log_failure(history::record_lanes(&session, &member.plugin, member.stats().calls as i64).await);
        }
        self.keep(session);
    }

    /// Writes which plugins ran last and do not run now.
    pub(super) async fn record_idle(&mut self, idle: &[String]) {
        let Some(session) = self.session().await else { return };
        for plugin in idle {
            log_failure(history::record_idle(&session, plugin).await);
        }
        self.keep(session);
    }
}

/// Logs that something could not be written.
pub(super) fn log_failure(written: Result<(), Error>) {
    if let Err(error) = written {
        tracing::warn!("cannot write the history of plugins: {}", describe(&error));
    }
}
