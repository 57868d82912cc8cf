//! `sandmill explain`: the reasons why something is behind, read from the database.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    EXIT_NEEDS_ATTENTION,
    database::{connect, with_remedy},
    output::{self, OutputStyle, Tone},
};
use crate::{
    db::Db,
    explain::{Facts, Finding, Scope, Severity, findings},
    model::{
        ids::{InvalidName, ProcessorId, TenantId},
        text,
    },
};

const EXAMPLES: &str = "\
Examples:
  sandmill explain
  sandmill explain acme
  sandmill explain acme/cart-summary
  sandmill explain --check                 exit code 6 if a finding needs attention
  sandmill explain route-performance --json";

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
}

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
pub(super) async fn run(args: ExplainArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "explain").await?;
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
