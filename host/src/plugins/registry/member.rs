//! A member of the registry: a running processor with its current, previous and retired versions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Provenance, RunnableVersion, SwapReport};
use crate::{
    model::spec::ProcessorSpec,
    plugins::manifest::Manifest,
    processor::{
        ProcessorState,
        code::{CodeVersion, SwappableCode, VersionStats},
        settings::ProcessorSettings,
    },
    rollout::state::{HasDigest, RolloutEvent, RolloutState},
};

/// How long a replaced version is watched after its last call. 10 s: by then its results are
/// committed.
const RETIRES: Duration = Duration::from_secs(10);

/// A running processor.
pub struct Member {
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's spec with its manifest applied.
    pub spec: ProcessorSpec,
    /// The plugin's manifest.
    pub manifest: Manifest,
    /// The contract and signature of its file.
    pub provenance: Provenance,
    /// The processor's state.
    pub state: watch::Receiver<ProcessorState>,
    pub(super) code: Arc<SwappableCode>,
    pub(super) rollout: RolloutState<MemberVersion>,
    retired: Vec<RetiredVersion>,
}

/// A version with everything that a swap or a rollback exchanges.
#[derive(Clone)]
pub(super) struct MemberVersion {
    pub(super) version: Arc<CodeVersion>,
    pub(super) spec: ProcessorSpec,
    pub(super) manifest: Manifest,
    pub(super) provenance: Provenance,
}

impl MemberVersion {
    /// A version under the operator's settings for its processor.
    pub(super) fn new(runnable: RunnableVersion, operator: &ProcessorSettings) -> Self {
        let version = Arc::new(runnable.version(operator));
        let RunnableVersion { spec, manifest, provenance, .. } = runnable;
        MemberVersion { version, spec, manifest, provenance }
    }
}

impl HasDigest for MemberVersion {
    fn digest(&self) -> &str {
        &self.version.digest
    }
}

/// A replaced version. Lanes may still be in a call of it, or its failures may not be committed.
struct RetiredVersion {
    version: Arc<CodeVersion>,
    idle_since: Option<Instant>,
}

impl Member {
    pub(super) fn new(
        plugin: String,
        spec: ProcessorSpec,
        (manifest, provenance): (Manifest, Provenance),
        state: watch::Receiver<ProcessorState>,
        code: Arc<SwappableCode>,
    ) -> Self {
        let (rollout, retired) = (RolloutState::Settled, Vec::new());
        Member { plugin, spec, manifest, provenance, state, code, rollout, retired }
    }

    /// SHA-256 of the file of the current version.
    pub fn digest(&self) -> Arc<str> {
        self.code.current().digest.clone()
    }

    /// The activity of the current version.
    pub fn stats(&self) -> VersionStats {
        self.code.current().stats()
    }

    /// How long the current version has been on trial; none if it is not.
    pub fn trial_time(&self) -> Option<Duration> {
        self.rollout.trial_time(Instant::now())
    }

    /// Whether a rollback can restore the previous version from memory.
    pub fn can_roll_back(&self) -> bool {
        self.rollout.previous().is_some()
    }

    /// Replaces the current version, by another one or, if `rolls_back`, by a former one that needs
    /// no trial.
    pub(super) fn exchange(&mut self, next: MemberVersion, rolls_back: bool) -> SwapReport {
        let MemberVersion { version, spec, manifest, provenance } = next;
        // Before any of its calls. A changed manifest does not begin a trial.
        let is_on_trial = self.digest() != version.digest || self.trial_time().is_some();
        version.set_on_probation(is_on_trial && !rolls_back);
        let replaced = self.code.swap(version);
        let report = SwapReport { replaced: replaced.digest.clone(), stats: replaced.stats() };
        let previous = MemberVersion {
            version: replaced.clone(),
            spec: std::mem::replace(&mut self.spec, spec),
            manifest: std::mem::replace(&mut self.manifest, manifest),
            provenance: std::mem::replace(&mut self.provenance, provenance),
        };
        let current = self.code.current();
        self.advance(RolloutEvent::Swapped { replaced: previous, current: &current.digest });
        if rolls_back {
            self.advance(RolloutEvent::RolledBack);
        }
        self.retired.retain(|retired| !Arc::ptr_eq(&retired.version, &current));
        self.retired.push(RetiredVersion { version: replaced, idle_since: None });
        report
    }

    /// Advances the rollout state.
    pub(super) fn advance(&mut self, event: RolloutEvent<'_, MemberVersion>) {
        self.rollout = std::mem::take(&mut self.rollout).after(event, Instant::now());
        if !matches!(self.rollout, RolloutState::OnTrial { .. }) {
            self.code.current().set_on_probation(false);
        }
    }

    /// Replaced versions that may still have calls, or failures to be committed.
    pub(super) fn retired(&self) -> impl Iterator<Item = &CodeVersion> {
        self.retired.iter().map(|retired| &*retired.version)
    }

    /// Drops retired versions that have been idle long enough.
    pub(super) fn drop_idle(&mut self) {
        for RetiredVersion { version, idle_since } in &mut self.retired {
            if version.stats().calls > 0 {
                *idle_since = None;
            } else {
                idle_since.get_or_insert_with(Instant::now);
            }
        }
        self.retired.retain(|retired| retired.idle_since.is_none_or(|since| since.elapsed() < RETIRES));
    }
}
