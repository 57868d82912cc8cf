//! `sandmill explain`: why something is behind, as the database tells.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    EXIT_NEEDS_A_PERSON,
    database::{connect, explain},
    output::{self, Screen, Tone},
};
use crate::{
    db::Db,
    explain::{About, Facts, Finding, Gravity, findings},
    model::{
        ids::{InvalidName, ProcessorId, TenantId},
        text,
    },
};

/// Says why a tenant, a processor or anything at all is behind
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It names what holds it: an error, a pause, a rate, a share of CPU time that is used up, a transaction of somebody else, a plugin or host that is not there. \
         What moves by itself is told with its pace.

Exit codes: 0 explained; 1 failed, as when the database is away; with --check also 6 if a finding is `stuck`, which needs a person.

Examples:
  sandmill explain
  sandmill explain --check
  sandmill explain acme
  sandmill explain acme/cart-summary
  sandmill explain route-performance --json"
)]
pub(super) struct ExplainArgs {
    /// A processor or a tenant; a name that is both means both
    #[arg(value_name = "PROCESSOR|TENANT", value_parser = processor_or_tenant)]
    what: Option<String>,
    /// Print one JSON object: {"findings": [{"gravity", "processor", "tenant", "lanes", "what", "remedy"}]}; gravity is `stuck`, `behind` or `note`
    #[arg(long)]
    json: bool,
    /// Exit with code 6 if a finding is `stuck`, for monitoring; what is printed stays the same
    #[arg(long)]
    check: bool,
}

/// Parses a name that may be a processor's or a tenant's.
fn processor_or_tenant(text: &str) -> Result<String, InvalidName> {
    if text.contains('/') { ProcessorId::parse(text).map(drop) } else { TenantId::parse(text).map(drop) }?;
    Ok(text.into())
}

#[derive(Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

/// Runs the command.
pub(super) async fn run(args: ExplainArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let session = connect(db, "explain").await?;
    let what = args.what.as_deref();
    let facts = Facts::read(&session, what).await.map_err(|error| explain(&error))?;
    let is_processor = |name: &str| facts.status.processors.iter().any(|p| p.id == name);
    let about = About {
        processor: what.filter(|name| is_processor(name)),
        tenant: what.filter(|name| facts.tenants.contains_key(*name)),
    };
    if let (Some(name), None, None) = (what, about.processor, about.tenant) {
        anyhow::bail!(
            "there is neither a processor nor a tenant with events called {name}; `sandmill status` and `sandmill tenants` list them"
        );
    }
    // A name that is both a processor's and a tenant's asks for either.
    let mut found = match about {
        About { processor: Some(_), tenant: Some(_) } => {
            let mut found = findings(&facts, About { tenant: None, ..about });
            let others = findings(&facts, About { processor: None, ..about });
            found.extend(others.into_iter().filter(|finding| finding.processor.as_deref() != about.processor));
            found
        }
        about => findings(&facts, about),
    };
    found.sort_by_key(|finding| finding.gravity);
    let alarm = args.check && found.iter().any(|finding| finding.gravity == Gravity::Stuck);
    if args.json {
        output::print_json(&Findings { findings: found })?;
    } else {
        output::print(&show(&found, what, Screen::stdout()))?;
    }
    Ok(if alarm { ExitCode::from(EXIT_NEEDS_A_PERSON) } else { ExitCode::SUCCESS })
}

fn show(found: &[Finding], what: Option<&str>, screen: Screen) -> String {
    let mut text = String::new();
    if found.iter().all(|finding| finding.gravity == Gravity::Note) {
        text.push_str(&format!(
            "{} is behind\n",
            what.map_or_else(|| "nothing".into(), |name| format!("nothing of {name}"))
        ));
    }
    for Finding { gravity, processor, what, remedy, .. } in found {
        let (mark, tone) = match gravity {
            Gravity::Stuck => ("stuck ", Tone::Bad),
            Gravity::Behind => ("behind", Tone::Warning),
            Gravity::Note => ("note  ", Tone::Good),
        };
        let processor = processor.as_ref().map_or_else(String::new, |id| format!("{id}: "));
        text.push_str(&format!("{}  {processor}{}\n", screen.paint(Some(tone), mark), text::one_line(what)));
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
    fn each_finding_stands_with_its_remedy() {
        let finding = Finding {
            gravity: Gravity::Stuck,
            processor: Some("carts".into()),
            tenant: Some("acme".into()),
            lanes: 1,
            what: "lane acme is blocked: trap:\nunreachable".into(),
            remedy: Some("sandmill resume carts --tenant acme".into()),
        };
        assert_eq!(
            show(&[finding], None, Screen::PLAIN),
            "stuck   carts: lane acme is blocked: trap: unreachable\n        -> sandmill resume carts --tenant acme\n"
        );
        assert_eq!(show(&[], Some("acme"), Screen::PLAIN), "nothing of acme is behind\n");
    }
}
