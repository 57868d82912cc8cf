//! `sandmill audit`: lists what operators changed, when, and who did so. Works whether or not a
//! host runs.

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
    time::SystemTime,
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    database::{connect, with_remedy},
    output::{self, OutputStyle},
    since,
    table::{Cell, Column, Table},
};
use crate::{
    db::{
        Db,
        audit::{self, AuditFilter, AuditRecord},
    },
    model::{ids::ProcessorId, text, time},
};

/// Lists what operators changed, when, and who did so
#[derive(Debug, clap::Args)]
#[command(
    before_help = "\
Examples:
  sandmill audit
  sandmill audit --processor route-performance --since 7d
  sandmill audit --tenant UA --json --limit 0",
    after_help = "\
The newest change comes first. These changes are recorded:
  pause, resume, skip
  dead-letters retry and discard, parked drain and discard (the request, not its result)
  processors remove, plugins rollback, plugins retry
  migrate, if it changes more than tables: ordering, limits, views, rights, --reanchor
  a pause by the failure policy of a processor
A command that changed nothing is not recorded. Records are kept for 400 days.

WHO is the user of the operating system and the host of the command; with sudo, it is the user who
called it. The environment variable SANDMILL_OPERATOR names a person instead, for users that
several people share. ROLE is the database role that made the change.

With --json, each line is an object. \"processor\", \"tenant\" and \"key\" are null if the change concerns
none or several; the keys of \"details\" depend on the command:
  {\"id\", \"at\", \"who\", \"role\", \"command\", \"processor\", \"tenant\", \"key\", \"details\": {}}

Exit codes: 0 listed, even if there are none; 1 failed."
)]
pub(super) struct AuditArgs {
    /// Only changes to this processor, which may be removed; TENANT/ID for a tenant's own processor
    #[arg(long, value_name = "ID")]
    processor: Option<ProcessorId>,
    /// Only changes that concern this tenant alone
    #[arg(long, value_parser = super::append::tenant)]
    tenant: Option<String>,
    /// Only changes made at this time or later: RFC 3339, or a duration before now, such as 90s,
    /// 30min, 2h or 7d
    #[arg(long, value_name = "TIME", value_parser = since::parse)]
    since: Option<SystemTime>,
    /// List at most this many; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Records per query. 1,000: a listing of all records is never in memory as a whole.
const PAGE: i64 = 1_000;
/// Maximum bytes of details in the table. 200: two or three lines of a terminal.
const DETAILS: usize = 200;

#[derive(Serialize)]
struct AuditJson<'a> {
    id: i64,
    at: String,
    who: &'a str,
    role: &'a str,
    command: &'a str,
    processor: Option<&'a str>,
    tenant: Option<&'a str>,
    key: Option<&'a str>,
    details: &'a RawValue,
}

impl<'a> AuditJson<'a> {
    fn of(record: &'a AuditRecord) -> anyhow::Result<Self> {
        Ok(AuditJson {
            id: record.id,
            at: time::format_exactly(record.at),
            who: &record.who,
            role: &record.role,
            command: &record.command,
            processor: record.processor.as_deref(),
            tenant: record.tenant.as_deref(),
            key: record.key.as_deref(),
            details: serde_json::from_str(&record.details)?,
        })
    }
}

/// Runs the command.
pub(super) async fn run(args: AuditArgs, db: &Db) -> anyhow::Result<ExitCode> {
    let AuditArgs { processor, tenant, since, limit, json } = args;
    let session = connect(db, "audit").await?;
    let filter = AuditFilter { processor: processor.map(|id| id.to_string()), tenant, since };
    let limit = if limit == 0 { i64::MAX } else { limit.into() };
    let mut lines = BufWriter::new(io::stdout());
    let mut table = empty_table();
    let (mut listed, mut last): (i64, Option<AuditRecord>) = (0, None);
    while listed < limit {
        let wanted = PAGE.min(limit - listed);
        let page = audit::list(&session, &filter, last.as_ref(), wanted).await.map_err(|error| with_remedy(&error))?;
        for record in &page {
            match json {
                true => lines.write_all(output::json_line(&AuditJson::of(record)?)?.as_bytes())?,
                false => table.row(row(record)),
            }
        }
        listed += page.len() as i64;
        if (page.len() as i64) < wanted {
            break;
        }
        last = page.into_iter().next_back();
    }
    lines.flush()?;
    match (listed, json) {
        (0, true) => output::note("no change is recorded"),
        (0, false) => output::print_plain("no change is recorded\n")?,
        (_, true) => {}
        (_, false) => output::print(&table.show(OutputStyle::stdout()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The table of records, with no rows.
fn empty_table() -> Table {
    use Column::Text;
    Table::new(["AT", "WHO", "ROLE", "COMMAND", "PROCESSOR", "TENANT", "KEY", "DETAILS"].map(Text))
}

fn row(record: &AuditRecord) -> Vec<Cell> {
    let name = |name: &Option<String>| Cell::new(text::one_line(name.as_deref().unwrap_or("-")));
    let details = Some(record.details.as_str()).filter(|details| *details != "{}").unwrap_or("-");
    vec![
        Cell::new(time::format(record.at)),
        Cell::new(text::one_line(&record.who)),
        Cell::new(text::one_line(&record.role)),
        Cell::new(text::one_line(&record.command)),
        name(&record.processor),
        name(&record.tenant),
        name(&record.key),
        Cell::new(text::within(&text::one_line(details), DETAILS)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_in_a_pipe() {
        let record = AuditRecord {
            id: 7,
            at: time::from_micros(time::parse("2026-01-02T03:04:05Z").unwrap()),
            who: "ann\n\u{1b}@jump-1".into(),
            role: "sandmill".into(),
            command: "resume".into(),
            processor: Some("seats".into()),
            tenant: None,
            key: None,
            details: r#"{"lanesResumed":2}"#.into(),
        };
        let mut table = empty_table();
        table.row(row(&record));
        assert_eq!(
            table.show(OutputStyle::PLAIN),
            "AT                        WHO           ROLE      COMMAND  PROCESSOR  TENANT  KEY  DETAILS\n\
             2026-01-02T03:04:05.000Z  ann \u{fffd}@jump-1  sandmill  resume   seats      -       -    {\"lanesResumed\":2}\n"
        );
    }
}
