//! `sandmill plugin test --capsule`: replays a failure.

use std::process::ExitCode;

use serde::Serialize;

use crate::{
    app::capsule::{self, ReplayReport, ReplayRequest, ReplayVerdict},
    cli::{
        changes::{ChangeJson, changes_text},
        output,
        signals::Signals,
    },
    config::Config,
    model::{handler::Reason, text},
    rehearsal::{
        capsule::{Capsule, CapsuleFailure},
        replay::DocumentChange,
    },
};

/// Replays a capsule, and prints what happens.
pub(super) async fn run(
    config: &Config,
    request: ReplayRequest,
    json: bool,
    signals: &Signals,
) -> anyhow::Result<ExitCode> {
    let Some(replayed) = capsule::replay(config, &request, signals.first()).await? else {
        return Ok(signals.exit_code());
    };
    if json {
        output::print_json(&ReplayJson::of(&replayed))?;
    } else {
        output::print_plain(&replay_text(&request, &replayed))?;
    }
    Ok(super::super::verdict(replayed.verdict() == ReplayVerdict::Handled))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayJson<'a> {
    outcome: &'static str,
    expected: &'a CapsuleFailure,
    found: Option<CapsuleFailure>,
    id: &'a str,
    version: &'a str,
    digest: &'a str,
    capsule_digest: &'a str,
    changes: Vec<ChangeJson<'a>>,
    notes: &'a [String],
}

impl<'a> ReplayJson<'a> {
    fn of(replayed: &'a ReplayReport) -> Self {
        let ReplayReport { capsule, digest, version, notes, .. } = replayed;
        let outcome = match replayed.verdict() {
            ReplayVerdict::Reproduced => "reproduced",
            ReplayVerdict::OtherFailure => "other-failure",
            ReplayVerdict::Handled => "handled",
            ReplayVerdict::Ignored => "ignored",
        };
        let found = replayed.failure().cloned().map(|Reason { class, message }| CapsuleFailure { class, message });
        let changes = changes(replayed).map(|change| ChangeJson::of(change, true)).collect();
        ReplayJson {
            outcome,
            expected: &capsule.failure,
            found,
            id: &capsule.processor,
            version,
            digest,
            capsule_digest: &capsule.plugin.digest,
            changes,
            notes,
        }
    }
}

/// The changes of all events.
fn changes(replayed: &ReplayReport) -> impl Iterator<Item = &DocumentChange> {
    replayed.events.iter().flat_map(|event| &event.changes)
}

fn replay_text(request: &ReplayRequest, replayed: &ReplayReport) -> String {
    let ReplayReport { capsule, version, notes, .. } = replayed;
    let Capsule { processor, tenant, lane, attempt, failure, .. } = capsule;
    let of_lane = if lane == tenant { String::new() } else { format!(", lane {}", text::one_line(lane)) };
    let mut text = format!(
        "{processor} {version} on {}\n  tenant {tenant}{of_lane}, attempt {attempt}\n",
        request.capsule.display()
    );
    for event in &capsule.events {
        let (event_type, id) = (text::one_line(&event.event_type), text::one_line(&event.id));
        text.push_str(&format!("  event {id}, type {event_type}, position {}\n", event.position));
    }
    let reason =
        |class: &str, message: &str| format!("{class}: {}", message.trim_end().replace('\n', "\n             "));
    text.push_str(&format!("  exported   {}\n", reason(&failure.class, &failure.message)));
    if let Some(found) = replayed.failure() {
        text.push_str(&format!("  here       {}\n", reason(&found.class, &found.message)));
    }
    let changed: Vec<DocumentChange> = changes(replayed).cloned().collect();
    if !changed.is_empty() {
        text.push_str(&format!("\ndocuments:\n{}", changes_text(&changed, "  ")));
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text.push_str(&format!("\n{}\n", conclusion(replayed)));
    text
}

/// The last line: whether the failure is reproduced.
fn conclusion(replayed: &ReplayReport) -> String {
    let expected = &replayed.capsule.failure;
    match replayed.verdict() {
        ReplayVerdict::Handled => "ok: not reproduced; the plugin handled the event".into(),
        ReplayVerdict::Ignored => {
            "failed: the plugin does not handle events of this type, so it says nothing about the failure".into()
        }
        ReplayVerdict::OtherFailure => format!("failed: another failure than the {} of the capsule", expected.class),
        ReplayVerdict::Reproduced => {
            let is_same = replayed.failure().is_some_and(|found| found.message == expected.message);
            let message = if is_same { "" } else { ", with another message" };
            format!("failed: reproduced{message}")
        }
    }
}
