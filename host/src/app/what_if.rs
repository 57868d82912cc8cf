//! What-if: dead letters handled by another version of their plugin, over committed documents.
//! Nothing is written, and no host is needed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::bail;

use super::{
    StopCompiling,
    offline::{CommittedDocuments, EventReader, Workbench, place, sandbox},
};
use crate::{
    config::Config,
    db::{Db, Session},
    model::ids::{LaneKey, ProcessorId, TenantId},
    processor::dead_letters::StoredLetter,
    rehearsal::replay::ReplayedEvent,
};

/// The dead letters of a processor, and the version that is to handle them.
#[derive(Debug)]
pub struct WhatIfRequest {
    /// The processor.
    pub processor: ProcessorId,
    /// The name of its plugin's file, without the ending.
    pub plugin: String,
    /// The component.
    pub file: PathBuf,
    /// The letters, in any order.
    pub letters: Vec<StoredLetter>,
}

/// The version that handles the letters.
#[derive(Debug)]
pub struct WhatIfVersion {
    /// The author's version.
    pub version: String,
    /// SHA-256 of its file.
    pub digest: String,
    /// The manifest whose settings and limits applied; none if there is none.
    pub manifest: Option<PathBuf>,
}

/// Handles dead letters with another version. The letters of one lane are handled in the log's
/// order, each over the results of those before. Each result is passed to `each`: what happened, or
/// why the event cannot be read.
pub async fn what_if(
    config: &Config,
    db: &Db,
    session: &Session,
    request: WhatIfRequest,
    mut each: impl FnMut(&StoredLetter, Result<ReplayedEvent, String>) -> anyhow::Result<()>,
) -> anyhow::Result<WhatIfVersion> {
    let WhatIfRequest { processor, plugin, file, letters } = request;
    let sandbox = sandbox(config)?;
    let _compilers = StopCompiling(sandbox.clone());
    let version = place(config, &processor, &plugin).load_file(&sandbox, &file).await?;
    let workbench = Workbench::new(config, version, &processor)?;
    let committed = CommittedDocuments::open(config, db, session, &processor).await?;
    let mut events = EventReader::open(db, "what if").await?;
    let mut lanes: BTreeMap<LaneKey, Vec<StoredLetter>> = BTreeMap::new();
    for letter in letters {
        let lane = LaneKey { tenant: TenantId::parse(&letter.tenant)?, key: letter.key.as_str().into() };
        lanes.entry(lane).or_default().push(letter);
    }
    let run = async {
        for (lane, mut letters) in lanes {
            letters.sort_by_key(|letter| letter.position);
            let replay = workbench.lane(&lane, committed.of_lane(&lane));
            for letter in &letters {
                let event = match events.event(&lane.tenant, letter.position, Some(&letter.event_id)).await? {
                    Ok(event) => event,
                    Err(why) => {
                        each(letter, Err(why))?;
                        continue;
                    }
                };
                if let Some(other) = workbench.lane_of(&event).filter(|other| *other != lane) {
                    bail!(
                        "{} puts the event at position {} into the lane `{}`, and it is in the lane `{}`; a host rejects a version \
                         with another key for lanes",
                        file.display(),
                        letter.position,
                        other.key,
                        lane.key
                    );
                }
                let attempt = u32::try_from(letter.attempts).unwrap_or(0).saturating_add(1);
                let ran = replay.handle(&event, attempt).await.map_err(|lost| anyhow::anyhow!("{}", lost.0))?;
                each(letter, Ok(ran))?;
            }
        }
        Ok(())
    };
    committed.during(run).await?;
    Ok(WhatIfVersion {
        version: workbench.spec.descriptor.version.clone(),
        digest: workbench.version.plugin.digest().to_string(),
        manifest: workbench.version.manifest.path().map(Path::to_path_buf),
    })
}
