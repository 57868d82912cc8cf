//! `sandmill dead-letters retry --with FILE`: what another version would do with dead letters.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use serde::Serialize;

use super::{COUNTED, PAGE};
use crate::{
    app::what_if::{self, WhatIfRequest, WhatIfVersion},
    cli::{
        changes::{ChangeJson, changes_text},
        database::with_remedy,
        output::{self, count},
    },
    config::Config,
    db::{Db, Session},
    model::{ids::ProcessorId, text},
    processor::{
        dead_letters::{self, LetterFilter, StoredLetter},
        roster,
    },
    rehearsal::{
        Excerpt,
        replay::{EventOutcome, ReplayedEvent},
    },
};

/// A version to try on dead letters.
pub(super) struct WhatIfArgs {
    /// The processor of the letters.
    pub(super) processor: ProcessorId,
    /// The component.
    pub(super) file: PathBuf,
    /// The plugins folder, if not that of the settings.
    pub(super) plugins: Option<PathBuf>,
    /// Whether to print JSON.
    pub(super) json: bool,
}

/// Whether a letter matches a filter.
pub(super) fn matches(filter: &LetterFilter, letter: &StoredLetter) -> bool {
    let LetterFilter { processor, tenant, class, since } = filter;
    let is = |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|wanted| wanted == found);
    is(processor, &letter.processor)
        && is(tenant, &letter.tenant)
        && is(class, &letter.class)
        && since.is_none_or(|since| letter.last_at >= since)
}

/// Reads the letters of a filter with the highest positions, at most `limit`; 0 for all.
pub(super) async fn select(session: &Session, filter: &LetterFilter, limit: u32) -> anyhow::Result<Vec<StoredLetter>> {
    let limit = if limit == 0 { i64::MAX } else { limit.into() };
    let mut letters: Vec<StoredLetter> = Vec::new();
    while (letters.len() as i64) < limit {
        let wanted = PAGE.min(limit - letters.len() as i64);
        let page = dead_letters::list(session, filter, letters.last(), wanted).await;
        let page = page.map_err(|error| with_remedy(&error))?;
        let is_last = (page.len() as i64) < wanted;
        letters.extend(page);
        if is_last {
            break;
        }
    }
    if letters.len() as i64 == limit {
        let most = limit.saturating_add(COUNTED + 1);
        let all = dead_letters::count(session, filter, most).await.map_err(|error| with_remedy(&error))?;
        if all > limit {
            output::note(&format!("only the {limit} with the highest positions are handled; --limit 0 handles all"));
        }
    }
    Ok(letters)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WhatIfJson<'a> {
    processor: &'a str,
    tenant: &'a str,
    key: &'a str,
    position: i64,
    event_id: &'a str,
    outcome: &'static str,
    class: Option<&'a str>,
    message: Option<&'a str>,
    was: WasJson<'a>,
    changes: Excerpt<ChangeJson<'a>>,
}

#[derive(Serialize)]
struct WasJson<'a> {
    class: &'a str,
    message: &'a str,
}

impl<'a> WhatIfJson<'a> {
    fn of(letter: &'a StoredLetter, result: &'a Result<ReplayedEvent, String>) -> Self {
        let reason = result.as_ref().ok().and_then(|event| event.outcome.reason());
        let changes = result.as_ref().map(|event| event.changes.as_slice()).unwrap_or_default();
        WhatIfJson {
            processor: &letter.processor,
            tenant: &letter.tenant,
            key: &letter.key,
            position: letter.position,
            event_id: &letter.event_id,
            outcome: result.as_ref().map_or("unreadable", |event| name(&event.outcome)),
            class: reason.map(|reason| reason.class.as_str()),
            message: reason.map(|reason| reason.message.as_str()).or(result.as_ref().err().map(String::as_str)),
            was: WasJson { class: &letter.class, message: &letter.message },
            changes: changes.iter().map(|change| ChangeJson::of(change, false)).collect(),
        }
    }
}

/// The name of an outcome in JSON.
fn name(outcome: &EventOutcome) -> &'static str {
    match outcome {
        EventOutcome::Handled => "handled",
        EventOutcome::Skipped(_) => "skipped",
        EventOutcome::Retried(_) => "retried",
        EventOutcome::Failed(_) => "failed",
        EventOutcome::Ignored => "ignored",
    }
}

/// Handles letters with a file, and prints what happens to each.
pub(super) async fn run(
    args: WhatIfArgs,
    letters: Vec<StoredLetter>,
    mut config: Config,
    db: &Db,
    session: &Session,
) -> anyhow::Result<ExitCode> {
    let WhatIfArgs { processor, file, plugins, json } = args;
    if let Some(folder) = plugins {
        config.plugins = folder;
    }
    let roster = roster::read(session).await.map_err(|error| with_remedy(&error))?;
    let entry = roster.into_iter().find(|entry| entry.id == processor.as_str());
    let plugin = entry.context("the processor was removed")?.plugin;
    let (mut handled, mut others) = (0, 0);
    let mut lines = BufWriter::new(io::stdout());
    let request = WhatIfRequest { processor, plugin, file: file.clone(), letters };
    let version = what_if::what_if(&config, db, session, request, |letter, result| {
        let is_handled = matches!(&result, Ok(ReplayedEvent { outcome: EventOutcome::Handled, .. }));
        *(if is_handled { &mut handled } else { &mut others }) += 1;
        let text = match json {
            true => output::json_line(&WhatIfJson::of(letter, &result))?,
            false => text::printable(&letter_text(letter, &result)).into_owned(),
        };
        Ok(lines.write_all(text.as_bytes())?)
    });
    let version = version.await?;
    lines.flush()?;
    if !json {
        output::print_plain(&format!("\n{}", conclusion(&file, &version, handled, others)))?;
    }
    Ok(if others == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What would happen to a letter.
fn letter_text(letter: &StoredLetter, result: &Result<ReplayedEvent, String>) -> String {
    let StoredLetter { tenant, key, position, .. } = letter;
    let lane = if key == tenant { String::new() } else { format!(", lane {key}") };
    let (what, changes) = match result {
        Err(why) => (format!("cannot be retried: {why}"), &[][..]),
        Ok(event) => (outcome_text(letter, &event.outcome), event.changes.as_slice()),
    };
    let head = text::one_line(&format!("{position}  tenant {tenant}{lane}: {what}")).into_owned();
    format!("{head}\n{}", changes_text(changes, "  "))
}

fn outcome_text(letter: &StoredLetter, outcome: &EventOutcome) -> String {
    match outcome {
        EventOutcome::Handled => "would be handled".into(),
        EventOutcome::Ignored => "would be ignored: the file does not handle such events".into(),
        EventOutcome::Skipped(reason) if reason.class == letter.class => format!("would be skipped again: {reason}"),
        EventOutcome::Skipped(reason) => format!("would be skipped: {reason}"),
        EventOutcome::Retried(reason) => format!("would ask for a retry: {reason}"),
        EventOutcome::Failed(reason) if reason.class == letter.class => format!("would fail again: {reason}"),
        EventOutcome::Failed(reason) => format!("would fail: {reason}"),
    }
}

fn conclusion(file: &std::path::Path, version: &WhatIfVersion, handled: u64, others: u64) -> String {
    let WhatIfVersion { version, digest, manifest } = version;
    let manifest = match manifest {
        Some(path) => format!("settings and limits: {}", path.display()),
        None => "settings and limits: the defaults, as no manifest was found".into(),
    };
    format!(
        "{} {version} {} would handle {handled} of {}; nothing was written\n{manifest}\n",
        file.display(),
        digest.get(..12).unwrap_or(digest),
        count(handled + others, "dead letter"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::handler::Reason;

    #[test]
    fn a_letter_says_what_would_happen_to_it() {
        let letter = StoredLetter {
            processor: "carts".into(),
            tenant: "acme".into(),
            key: "cart-1".into(),
            position: 17,
            event_id: "e".into(),
            class: "trap".into(),
            message: String::new(),
            digest: String::new(),
            attempts: 1,
            first_at: SystemTime::UNIX_EPOCH,
            last_at: SystemTime::UNIX_EPOCH,
            stream: None,
        };
        let text = |outcome: EventOutcome| {
            letter_text(&letter, &Ok(ReplayedEvent { outcome, changes: Vec::new(), unknown_reads: Vec::new() }))
        };
        assert_eq!(text(EventOutcome::Handled), "17  tenant acme, lane cart-1: would be handled\n");
        let again = text(EventOutcome::Failed(Reason::new("trap", "no\nseat")));
        assert_eq!(again, "17  tenant acme, lane cart-1: would fail again: trap: no seat\n");
        assert!(text(EventOutcome::Failed(Reason::new("cpu-limit", ""))).contains("would fail: cpu-limit"));
        let gone = letter_text(&letter, &Err("the event is gone".into()));
        assert_eq!(gone, "17  tenant acme, lane cart-1: cannot be retried: the event is gone\n");

        let filter = |class: &str, since: u64| {
            let since = Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since));
            LetterFilter { class: Some(class.into()), since, ..LetterFilter::default() }
        };
        let found = [filter("trap", 0), filter("traps", 0), filter("trap", 1), LetterFilter::default()];
        assert_eq!(found.map(|filter| matches(&filter, &letter)), [true, false, false, true]);
    }
}
