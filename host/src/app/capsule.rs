//! Failure capsules: the export of a failure from a database, and its replay without one.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::{
    CUT_OFF, StopCompiling,
    offline::{CommittedDocuments, EventReader, Workbench, place, sandbox},
};
use crate::{
    config::Config,
    db::{Db, Session},
    model::{
        handler::Reason,
        ids::{LaneKey, ProcessorId, TenantId},
        settings::PluginSettings,
    },
    plugins::offline::{ManifestSource, OfflineManifest, OfflineVersion, PluginPlace},
    rehearsal::{
        capsule::{Capsule, CapsuleContent, CapsuleDocument, CapsuleFailure, CapsulePlugin, LoadedCapsule},
        replay::{EventOutcome, ReplayedEvent},
    },
    sandbox::{Limits, Sandbox, TenantLimits},
    tenants::Tenants,
};

/// A failure to export.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// The processor.
    pub processor: ProcessorId,
    /// The lane.
    pub lane: LaneKey,
    /// The position of the event that failed.
    pub position: i64,
    /// The id of that event, if it is known.
    pub event_id: Option<String>,
    /// The number of the failed attempt, from 1.
    pub attempt: u32,
    /// The failure.
    pub failure: Reason,
    /// The plugin's functions at the failure; may be empty.
    pub backtrace: String,
    /// The last lines that the plugin logged during the attempt; may be empty.
    pub log: String,
    /// The name of the plugin's file, without the ending.
    pub plugin: String,
    /// SHA-256 of the file that failed.
    pub digest: String,
    /// The author's version of it; empty if unknown.
    pub version: String,
    /// A file to run instead of the one with the digest.
    pub file: Option<PathBuf>,
    /// Whether to include documents. Only for them, the plugin is run.
    pub with_documents: bool,
    /// Whether to include the values of settings.
    pub with_settings: bool,
    /// Whether the lane has continued since the failure.
    pub has_continued: bool,
    /// The time of the export, RFC 3339.
    pub exported_at: String,
}

/// An exported failure.
pub struct Export {
    /// The capsule.
    pub capsule: Capsule,
    /// What happened to the event when it was handled for the export; none if documents are left
    /// out.
    pub outcome: Option<EventOutcome>,
    /// Remarks for the user of the capsule.
    pub notes: Vec<String>,
}

/// Exports a failure. It runs the plugin on the event over the committed documents of the lane, to
/// learn which documents it needs, and writes nothing.
pub async fn export(config: &Config, db: &Db, session: &Session, request: ExportRequest) -> anyhow::Result<Export> {
    let ExportRequest { processor, lane, position, event_id, .. } = &request;
    let mut events = EventReader::open(db, "capsule").await?;
    let event = events.event(&lane.tenant, *position, event_id.as_deref()).await?;
    let event = event.map_err(|why| anyhow::anyhow!("{why}, so the failure cannot be exported"))?;
    let place = place(config, processor, &request.plugin);
    let mut notes = Vec::new();
    let (manifest, max_batch_size, documents, outcome) = if request.with_documents {
        let sandbox = sandbox(config)?;
        let _compilers = StopCompiling(sandbox.clone());
        let version = version(config, &sandbox, session, &request, &mut notes).await?;
        let workbench = Workbench::new(config, version, processor)?;
        let committed = CommittedDocuments::open(config, db, session, processor).await?;
        let replay = workbench.lane(lane, committed.of_lane(lane));
        let run = async {
            let ran = replay.handle_listing(&event, request.attempt).await;
            ran.map_err(|lost| anyhow::anyhow!("{}", lost.0))
        };
        let (ran, documents) = committed.during(run).await?;
        (workbench.version.manifest, workbench.spec.max_batch_size, Some(documents), Some(ran.outcome))
    } else {
        let manifest = tokio::task::block_in_place(|| place.manifest(&config.limits))?;
        let max_batch_size = manifest.manifest.max_batch_size;
        (manifest, max_batch_size, None, None)
    };
    if manifest.source == ManifestSource::Unknown {
        notes.push(match &place.folder {
            None => "no plugins folder is named (--plugins), so default settings and limits are assumed".into(),
            Some(folder) => format!(
                "{} has no plugin {}, so default settings and limits are assumed",
                folder.display(),
                request.plugin
            ),
        });
    }
    let plugin = plugin(config, &request, &manifest, max_batch_size, &mut notes);
    let documents_are_later = request.has_continued && documents.is_some();
    if documents_are_later {
        notes.push(
            "the lane has continued since: the documents are those of now, and may contain the effects of later events"
                .into(),
        );
    }
    let Reason { class, message } = request.failure;
    let capsule = Capsule::new(CapsuleContent {
        exported_at: request.exported_at,
        processor: request.processor,
        lane: request.lane,
        attempt: request.attempt,
        failure: CapsuleFailure { class, message },
        backtrace: request.backtrace,
        log: request.log,
        plugin,
        event,
        documents,
        documents_are_later,
    })?;
    Ok(Export { capsule, outcome, notes })
}

/// The version to run for an export.
async fn version(
    config: &Config,
    sandbox: &Sandbox,
    session: &Session,
    request: &ExportRequest,
    notes: &mut Vec<String>,
) -> anyhow::Result<OfflineVersion> {
    let ExportRequest { processor, plugin, digest, file, .. } = request;
    let place = place(config, processor, plugin);
    let short = digest.get(..12).unwrap_or(digest);
    if let Some(file) = file {
        let version = place.load_file(sandbox, file).await?;
        if version.plugin.digest() != digest {
            notes.push(format!(
                "{} is another build than the one that failed ({short}); it may need other documents",
                file.display()
            ));
        }
        return Ok(version);
    }
    let keys = config.rollout.keys().map_err(anyhow::Error::msg)?;
    if let Some(version) = place.load_version(sandbox, &keys, session, digest).await? {
        return Ok(version);
    }
    let folder = match &place.folder {
        Some(folder) => format!("neither in the plugins folder {}", folder.display()),
        None => "neither in a plugins folder (none is named)".into(),
    };
    bail!(
        "the version {short} of the plugin {plugin}, which failed, is {folder} nor among the versions that the database keeps, so the \
         documents that it needs are unknown\n\
         Name a file of it with --plugin FILE or its folder with --plugins DIR, or export without documents (--without-documents)."
    )
}

/// The plugin's part of a capsule.
fn plugin(
    config: &Config,
    request: &ExportRequest,
    manifest: &OfflineManifest,
    max_batch_size: Option<u32>,
    notes: &mut Vec<String>,
) -> CapsulePlugin {
    let tenant = &request.lane.tenant;
    // Those of this tenant only.
    let settings = manifest.manifest.settings.of(tenant);
    if !settings.is_empty() {
        let keys: Vec<&str> = settings.iter().map(|(key, _)| key.as_str()).collect();
        let keys = keys.join(", ");
        notes.push(match request.with_settings {
            true => format!(
                "the capsule contains the values of the plugin's settings ({keys}); if one is a secret, export with --without-settings"
            ),
            false => format!("the values of the plugin's settings ({keys}) are left out; a replay may differ without them"),
        });
    }
    let operator = config.processors.get(request.processor.as_str()).map(|settings| &settings.failures);
    let json = |value: Option<serde_json::Value>| value.unwrap_or_else(|| serde_json::json!({}));
    CapsulePlugin {
        name: request.plugin.clone(),
        version: request.version.clone(),
        digest: request.digest.clone(),
        limits: json(serde_json::to_value(&manifest.limits).ok()),
        tenant_memory_mib: Tenants::new(&config.tenants, &config.tenant_limits).limits(tenant).memory_mib,
        max_batch_size,
        failures: [
            json(operator.and_then(|operator| serde_json::to_value(operator).ok())),
            json(serde_json::to_value(&manifest.manifest.failures).ok()),
        ],
        settings: request.with_settings.then(|| settings.iter().cloned().collect()),
    }
}

/// A capsule to replay.
#[derive(Debug)]
pub struct ReplayRequest {
    /// The component.
    pub file: PathBuf,
    /// The capsule.
    pub capsule: PathBuf,
}

/// The outcome of a replay.
pub struct ReplayReport {
    /// The capsule.
    pub capsule: Capsule,
    /// The digest of the file that ran.
    pub digest: String,
    /// The author's version of it.
    pub version: String,
    /// The events, as far as the first that was not handled.
    pub events: Vec<ReplayedEvent>,
    /// Remarks about the differences from the failed call.
    pub notes: Vec<String>,
}

/// The relation of a replay to the failure in its capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayVerdict {
    /// The event failed with the same class.
    Reproduced,
    /// The event failed with another class.
    OtherFailure,
    /// The event was handled.
    Handled,
    /// The plugin does not handle such events.
    Ignored,
}

impl ReplayReport {
    /// The relation to the failure in the capsule.
    pub fn verdict(&self) -> ReplayVerdict {
        match self.events.last().map(|event| &event.outcome) {
            Some(EventOutcome::Handled) | None => ReplayVerdict::Handled,
            Some(EventOutcome::Ignored) => ReplayVerdict::Ignored,
            Some(failed) => match failed.reason() {
                Some(reason) if reason.class == self.capsule.failure.class => ReplayVerdict::Reproduced,
                _ => ReplayVerdict::OtherFailure,
            },
        }
    }

    /// Why the last event was not handled, if it was not.
    pub fn failure(&self) -> Option<&Reason> {
        self.events.last().and_then(|event| event.outcome.reason())
    }
}

/// Replays a capsule with a component, without a database. Returns none if `interrupted` resolves
/// first.
pub async fn replay(
    config: &Config,
    request: &ReplayRequest,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Option<ReplayReport>> {
    let name = || request.capsule.display().to_string();
    let content = std::fs::read(&request.capsule).with_context(name)?;
    let loaded = Capsule::load(&content).map_err(|error| anyhow::anyhow!("{}: {error}", name()))?;
    let (limits, memory) = limits(config, &loaded.capsule).map_err(|why| anyhow::anyhow!("{}: {why}", name()))?;
    let of_tenant = move |_: &TenantId| TenantLimits { memory_bytes: memory, ..TenantLimits::default() };
    let sandbox = Sandbox::with_tenants(limits, config.compile.clone(), of_tenant)?;
    let compilers = StopCompiling(sandbox.clone());
    let replayed = tokio::select! {
        replayed = replay_in(config, &sandbox, request, loaded) => Some(replayed),
        () = interrupted => None,
    };
    drop(compilers);
    let _ = tokio::time::timeout(CUT_OFF, sandbox.wait_for_compilers()).await;
    replayed.transpose()
}

async fn replay_in(
    config: &Config,
    sandbox: &Sandbox,
    request: &ReplayRequest,
    loaded: LoadedCapsule,
) -> anyhow::Result<ReplayReport> {
    let LoadedCapsule { capsule, processor, lane, events, documents } = loaded;
    // The place has no folder, so only a manifest beside the file could count, for settings.
    let place = PluginPlace { folder: None, name: capsule.plugin.name.clone(), owner: processor.owner().cloned() };
    let settings = capsule.plugin.settings.clone();
    let settings = settings.map(|values| PluginSettings::new(values, Default::default()));
    let mut version = place.load_file_with(sandbox, &request.file, settings).await?;
    version.manifest.manifest.max_batch_size = capsule.plugin.max_batch_size;
    version.manifest.manifest.tenants = None;
    let workbench = Workbench::new(config, version, &processor)?;
    let (digest, version) = (workbench.version.plugin.digest(), &workbench.spec.descriptor.version);
    let mut notes = Vec::new();
    if digest != capsule.plugin.digest {
        let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_string();
        notes.push(format!(
            "this is another build ({}) than the one that failed ({})",
            short(digest),
            short(&capsule.plugin.digest)
        ));
    }
    if capsule.documents.is_none() {
        notes.push("the capsule has no documents, so the plugin finds none".into());
    } else if capsule.documents_are_later {
        notes.push("the documents may be newer than the failure: the lane had continued before the export".into());
    }
    if capsule.plugin.settings.is_none() {
        notes.push(match workbench.version.manifest.path() {
            Some(path) => format!("the capsule has no settings; those of {} are used", path.display()),
            None => "the capsule has no settings, so the plugin has none".into(),
        });
    }
    if let Some(other) = events.iter().filter_map(|event| workbench.lane_of(event)).find(|other| *other != lane) {
        notes.push(format!("this build puts the event into another lane, `{}`, than `{}`", other.key, lane.key));
    }
    let replay = workbench.lane(&lane, documents);
    let mut replayed: Vec<ReplayedEvent> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        let attempt = if number == 0 { capsule.attempt } else { 1 };
        let ran = replay.handle(event, attempt).await.map_err(|lost| anyhow::anyhow!("{}", lost.0))?;
        let is_handled = ran.outcome == EventOutcome::Handled;
        replayed.push(ran);
        if !is_handled {
            break;
        }
    }
    let unknown: Vec<String> = replayed
        .iter()
        .flat_map(|event| event.unknown_reads.iter().map(|(collection, id)| format!("{id} of {collection}")))
        .collect();
    if capsule.documents.is_some() && !unknown.is_empty() {
        notes.push(format!(
            "the plugin read documents that the capsule does not contain, and found none: {}",
            crate::model::text::some_of(&unknown, ", ")
        ));
    }
    let (digest, version) = (digest.to_string(), version.clone());
    Ok(ReplayReport { digest, version, events: replayed, notes, capsule })
}

/// The limits of a capsule, and the tenant's bound on memory in bytes. Those that concern the whole
/// host are this machine's.
fn limits(config: &Config, capsule: &Capsule) -> Result<(Limits, usize), String> {
    let of_capsule: Limits = serde_json::from_value(capsule.plugin.limits.clone())
        .map_err(|error| format!("its limits cannot be used here: {error}"))?;
    let Limits { component_mib, instances, warm_instances, .. } = config.limits;
    let limits = Limits { component_mib, instances, warm_instances, ..of_capsule };
    limits.check()?;
    Ok((limits, (capsule.plugin.tenant_memory_mib as usize) << 20))
}

/// The numbers of existing and of absent documents of a capsule.
pub fn document_counts(documents: &[CapsuleDocument]) -> (usize, usize) {
    let existing = documents.iter().filter(|document| document.data.is_some() || document.failure.is_some()).count();
    (existing, documents.len() - existing)
}
