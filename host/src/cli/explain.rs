//! `sandmill explain`: the reasons why something is behind, read from the database. Also writes the
//! failure of one lane to a capsule.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde::Serialize;

use super::{
    EXIT_NEEDS_ATTENTION, UsageError,
    capsule::{self, CapsuleArgs, FailureToExport},
    database::{connect, with_remedy},
    output::{self, OutputStyle, Tone},
    processors::check_known,
};
use crate::{
    config::Config,
    db::{Db, Session},
    explain::{Facts, Finding, Scope, Severity, findings},
    model::{
        ids::{InvalidName, ProcessorId, TenantId},
        text,
    },
    processor::failed_lanes::{self, FailedLane},
};

const EXAMPLES: &str = "\
Examples:
  sandmill explain
  sandmill explain acme
  sandmill explain acme/cart-summary
  sandmill explain --check                 exit code 6 if a finding needs attention
  sandmill explain route-performance --json
  sandmill explain route-performance --tenant UA --capsule failure.json --plugins plugins";

const DETAILS: &str = "\
Findings name the cause and, if there is one, the remedy. Causes are errors, pauses, rate
limits, a used-up share of CPU time, locks of other sessions, and missing plugins or hosts.

Each finding is marked as:
  stuck   does not proceed without manual action
  behind  proceeds, or will do so automatically; its pace is shown if it is known
  note    nothing is behind because of it

With --json it prints one object:
  {\"findings\": [{\"gravity\", \"processor\", \"tenant\", \"lanes\", \"what\", \"remedy\"}]}
  gravity is \"stuck\", \"behind\" or \"note\"; processor, tenant and remedy may be missing

`explain --check` also counts pauses; `status --check` does not.

With --capsule, it writes the failure of a tenant's lane to a file that
`sandmill plugin test --capsule` replays: the event at which the lane is blocked or is retried, and
the documents that the plugin reads and writes for it. `sandmill dead-letters export --help`
describes capsules. With --json it then prints {\"file\", \"reproduced\", \"documents\", \"notes\": [...]}

Exit codes: 0 explained; 1 failed, for example because the database is unreachable; 6 a finding
is `stuck` (--check).";

/// Explains why a processor or tenant is behind
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct ExplainArgs {
    /// A processor or a tenant; a name that is both a processor's and a tenant's selects the
    /// findings of both [default: everything]
    #[arg(value_name = "PROCESSOR|TENANT", value_parser = processor_or_tenant)]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with code 6 if a finding is `stuck`, for monitoring; the output stays the same
    #[arg(long)]
    check: bool,
    /// Write the failure of this tenant's lane to a failure capsule; `-` for standard output
    #[arg(long, value_name = "FILE", requires_all = ["name", "tenant"], conflicts_with = "check")]
    capsule: Option<PathBuf>,
    /// With --capsule: the tenant
    #[arg(long, requires = "capsule", value_parser = TenantId::parse)]
    tenant: Option<TenantId>,
    /// With --capsule: the lane's key, if several lanes of the tenant failed
    #[arg(long, requires = "capsule")]
    key: Option<String>,
    #[command(flatten)]
    capsule_args: CapsuleArgs,
}

/// Failed lanes that an error lists. 10: as many as a person compares.
const LISTED_LANES: i64 = 10;

/// Checks that a name is valid for a processor or a tenant.
fn processor_or_tenant(text: &str) -> Result<String, InvalidName> {
    if text.contains('/') { ProcessorId::parse(text).map(drop) } else { TenantId::parse(text).map(drop) }?;
    Ok(text.into())
}

#[derive(Serialize)]
struct FindingsJson {
    findings: Vec<Finding>,
}

/// Runs the command.
pub(super) async fn run(args: ExplainArgs, config: Config, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "explain").await?;
    if let (Some(name), Some(tenant), Some(file)) = (&args.name, &args.tenant, &args.capsule) {
        let processor = ProcessorId::parse(name)?;
        let lane = failed_lane(&session, &processor, tenant, args.key.as_deref()).await?;
        return export(lane, processor, file, args.json, args.capsule_args, (config, db, &session)).await;
    }
    if args.capsule_args.are_given() {
        let message = "--plugins, --plugin, --without-documents and --without-settings need --capsule FILE";
        return Err(UsageError(message.into()).into());
    }
    let name = args.name.as_deref();
    let facts = Facts::read(&session, name).await.map_err(|error| with_remedy(&error))?;
    let is_processor = |name: &str| facts.status.processors.iter().any(|p| p.id == name);
    let scope = Scope {
        processor: name.filter(|name| is_processor(name)),
        tenant: name.filter(|name| facts.tenants.contains_key(*name)),
    };
    if let (Some(name), None, None) = (name, scope.processor, scope.tenant) {
        anyhow::bail!(
            "there is no processor `{name}` and no tenant `{name}` with events; `sandmill status` and `sandmill tenants` list them"
        );
    }
    // A name that is both a processor's and a tenant's selects the findings of both.
    let mut found = match scope {
        Scope { processor: Some(_), tenant: Some(_) } => {
            let mut found = findings(&facts, Scope { tenant: None, ..scope });
            let of_tenant = findings(&facts, Scope { processor: None, ..scope });
            found.extend(of_tenant.into_iter().filter(|finding| finding.processor.as_deref() != scope.processor));
            found
        }
        scope => findings(&facts, scope),
    };
    found.sort_by_key(|finding| finding.severity);
    let needs_attention = args.check && found.iter().any(|finding| finding.severity == Severity::Stuck);
    if args.json {
        output::print_json(&FindingsJson { findings: found })?;
    } else {
        output::print(&show(&found, name, OutputStyle::stdout()))?;
    }
    Ok(if needs_attention { ExitCode::from(EXIT_NEEDS_ATTENTION) } else { ExitCode::SUCCESS })
}

/// The failed lane that the arguments select.
async fn failed_lane(
    session: &Session,
    processor: &ProcessorId,
    tenant: &TenantId,
    key: Option<&str>,
) -> anyhow::Result<FailedLane> {
    check_known(session, processor).await?;
    let found = failed_lanes::find(session, processor, tenant, key, LISTED_LANES).await;
    let mut found = found.map_err(|error| with_remedy(&error))?;
    match &found[..] {
        [] => {
            let key = key.map(|key| format!(" with the key `{key}`")).unwrap_or_default();
            anyhow::bail!(
                "no lane of tenant {tenant} in {processor}{key} is blocked or retrying; `sandmill explain {processor}` shows what is \
                 behind, and `sandmill dead-letters list --processor {processor}` what was set aside"
            )
        }
        [_] => Ok(found.swap_remove(0)),
        several => {
            let keys: Vec<String> = several.iter().map(|lane| format!("`{}`", lane.lane.key)).collect();
            anyhow::bail!(
                "several lanes of tenant {tenant} in {processor} have failed; choose one with --key: {}",
                keys.join(", ")
            )
        }
    }
}

/// Writes a lane's failure to a capsule. Fails if the lane moves in the meantime, because the
/// documents would not be those of the failure.
async fn export(
    lane: FailedLane,
    processor: ProcessorId,
    file: &Path,
    json: bool,
    args: CapsuleArgs,
    (config, db, session): (Config, &Db, &Session),
) -> anyhow::Result<ExitCode> {
    let Some(position) = lane.event_position else {
        anyhow::bail!(
            "the event at which the lane {} of {processor} failed is not known; `sandmill resume {processor} --tenant {}` tries again",
            lane.lane,
            lane.lane.tenant
        );
    };
    let failure = FailureToExport {
        processor: processor.clone(),
        lane: lane.lane.clone(),
        position,
        event_id: None,
        attempt: lane.attempts,
        failure: lane.reason.clone(),
        backtrace: String::new(),
        log: String::new(),
        plugin: lane.plugin.clone(),
        digest: lane.digest.clone(),
        version: lane.version.clone(),
        has_continued: false,
    };
    let exported = args.export(config, db, session, failure).await?;
    let now = failed_lanes::find(session, &processor, &lane.lane.tenant, Some(&lane.lane.key), 1).await;
    let now = now.map_err(|error| with_remedy(&error))?;
    if now.first().is_none_or(|now| (&now.progress, now.event_position) != (&lane.progress, lane.event_position)) {
        anyhow::bail!("the lane {} of {processor} has continued in the meantime; nothing was written", lane.lane);
    }
    capsule::write(&exported, file, json)?;
    Ok(ExitCode::SUCCESS)
}

/// The findings as text, each with its remedy.
fn show(found: &[Finding], name: Option<&str>, style: OutputStyle) -> String {
    let mut text = String::new();
    if found.iter().all(|finding| finding.severity == Severity::Note) {
        let prefix = name.map_or_else(String::new, |name| format!("{name}: "));
        text.push_str(&format!("{prefix}nothing is behind\n"));
    }
    for Finding { severity, processor, what, remedy, .. } in found {
        let (mark, tone) = match severity {
            Severity::Stuck => ("stuck ", Tone::Bad),
            Severity::Behind => ("behind", Tone::Warning),
            Severity::Note => ("note  ", Tone::Good),
        };
        let processor = processor.as_ref().map_or_else(String::new, |id| format!("{id}: "));
        text.push_str(&format!("{}  {processor}{}\n", style.paint(Some(tone), mark), text::one_line(what)));
        if let Some(remedy) = remedy {
            text.push_str(&format!("        -> {}\n", text::printable(remedy)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_shown_with_its_remedy() {
        let finding = Finding {
            severity: Severity::Stuck,
            processor: Some("carts".into()),
            tenant: Some("acme".into()),
            lanes: 1,
            what: "lane acme is blocked: trap:\nunreachable".into(),
            remedy: Some("sandmill resume carts --tenant acme".into()),
        };
        assert_eq!(
            show(&[finding], None, OutputStyle::PLAIN),
            "stuck   carts: lane acme is blocked: trap: unreachable\n        -> sandmill resume carts --tenant acme\n"
        );
        assert_eq!(show(&[], Some("acme"), OutputStyle::PLAIN), "acme: nothing is behind\n");
    }
}
