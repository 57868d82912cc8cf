//! `sandmill migrate`: creates or updates the tables, and changes settings of the store (ordering,
//! size limit, views schema). It also grants privileges to application roles, and re-anchors a
//! store that was restored into another cluster.

use std::{process::ExitCode, sync::OnceLock};

use serde_json::{Value, json};

use super::{
    UsageError,
    database::{connect_directly, with_remedy},
    operator,
    output::{self, count},
    signals::Signals,
};
use crate::{
    db::{
        Canceller, Db,
        grants::{self, GrantChange, GrantOutcome, Permission},
        migrate::migrate_for_views_in,
    },
    store::{
        Ordering,
        anchor::{self, AnchorError},
        set_ordering, size_limit, views_schema,
    },
};

const EXAMPLES: &str = "\
Examples:
  sandmill migrate
  sandmill migrate --grant-append shop --grant-read reports
  sandmill migrate --grant-read acme_portal --tenant acme
  sandmill migrate --ordering tenant
  sandmill migrate --max-event-bytes 8388608
  sandmill migrate --views-schema app
  sandmill migrate --reanchor              after a restore into another cluster, or pg_upgrade";

const DETAILS: &str = "\
The command can be repeated at any time; existing tables and data stay.

Privileges: the role must be able to connect, and must have:
  - the right to create the schemas sandmill, sandmill_documents and sandmill_tenant if they are
    missing
  - usage of all objects in them, and ownership while migrations are pending
  - the right to create views in the schema public, or that of --views-schema (since PostgreSQL 15
    no role has it in public by default)
  - ownership of the collections' views
`sandmill run` needs the same. If a privilege is missing, nothing is changed, the exit code is
1, and the statements that grant it are printed for a superuser to run.

With --json it prints one object; a value is null if it was not requested or not needed:
  {\"applied\": [name],
   \"reanchored\": {\"events\", \"checkpoints\", \"appendedFrom\"},
   \"ordering\": {\"before\", \"now\"}, \"maxEventBytes\": {\"before\", \"now\"},
   \"viewsSchema\": {\"before\", \"now\"},
   \"granted\": [{\"role\", \"permission\", \"tenant\", \"before\", \"statements\": [sql]}],
   \"revoked\": [{as in granted, and \"stillAllowed\"}]}";

/// Creates or updates the tables, and grants access to them
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = DETAILS)]
pub(super) struct MigrateArgs {
    /// Set the scope of ordering: `stream` (default of a new store), or `tenant` for projections
    /// that combine streams; a tenant's appends then commit one at a time
    #[arg(long, value_name = "stream|tenant")]
    ordering: Option<Ordering>,
    /// Set the maximum bytes of an event's data and metadata together, from 1024 to 33554432 [a new
    /// store: 4194304]; stored events that are larger stay
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(i64::from(*size_limit::RANGE.start())..=i64::from(*size_limit::RANGE.end())))]
    max_event_bytes: Option<u32>,
    /// Set the schema of the collections' views, and create it if it is missing [a new store:
    /// public]; existing views move with their privileges
    #[arg(long, value_name = "SCHEMA", value_parser = views_schema::parse)]
    views_schema: Option<String>,
    /// Adopt a store that was restored into another cluster, or whose cluster was upgraded with
    /// pg_upgrade; until then nothing can be appended. Renumbers all events and cursors in one
    /// transaction; a host must not be running
    #[arg(long)]
    reanchor: bool,
    /// With --reanchor: the first position appended since the restore; every processor handles the
    /// events from there on. Needed only if the command cannot find the position
    #[arg(long, value_name = "POSITION", requires = "reanchor", value_parser = clap::value_parser!(i64).range(1..))]
    appended_from: Option<i64>,
    /// Let a role append events (sandmill.append) and read streams, and nothing else; may be
    /// repeated
    #[arg(long, value_name = "ROLE")]
    grant_append: Vec<String>,
    /// Let a role read the documents of all collections, including later ones; with --tenant, only
    /// that tenant's documents, in the schema sandmill_tenant; may be repeated
    #[arg(long, value_name = "ROLE")]
    grant_read: Vec<String>,
    /// Revoke what --grant-append granted to a role; may be repeated
    #[arg(long, value_name = "ROLE")]
    revoke_append: Vec<String>,
    /// Revoke what --grant-read granted to a role: everything, or with --tenant that tenant's
    /// documents; may be repeated
    #[arg(long, value_name = "ROLE")]
    revoke_read: Vec<String>,
    /// With --grant-read or --revoke-read: limit it to this tenant's documents; may be repeated
    #[arg(long, value_name = "NAME", value_parser = super::append::tenant)]
    tenant: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl MigrateArgs {
    /// The requested changes of privileges, in the order of the options.
    fn changes(&self) -> Result<Vec<GrantChange>, UsageError> {
        if !self.tenant.is_empty() && self.grant_read.is_empty() && self.revoke_read.is_empty() {
            return Err(UsageError("--tenant requires --grant-read or --revoke-read with a role".into()));
        }
        // Without --tenant, one entry covers all tenants' documents.
        let tenants = |permission| -> Vec<Option<String>> {
            let named = self.tenant.iter().filter(|_| permission == Permission::Read);
            let named: Vec<_> = named.map(|tenant| Some(tenant.clone())).collect();
            if named.is_empty() { vec![None] } else { named }
        };
        let of = |roles: &[String], permission: Permission, grant: bool| -> Vec<GrantChange> {
            let of_role = |role: &String| {
                let role = role.clone();
                tenants(permission).into_iter().map(move |tenant| GrantChange {
                    role: role.clone(),
                    permission,
                    tenant,
                    grant,
                })
            };
            roles.iter().flat_map(of_role).collect()
        };
        let grants = [of(&self.grant_append, Permission::Append, true), of(&self.grant_read, Permission::Read, true)];
        let revokes =
            [of(&self.revoke_append, Permission::Append, false), of(&self.revoke_read, Permission::Read, false)];
        let (grants, revokes) = (grants.concat(), revokes.concat());
        // Whether the same permission of the same role is also revoked.
        let opposite = |one: &&GrantChange| {
            revokes.iter().any(|other| other.role == one.role && other.permission == one.permission)
        };
        if let Some(GrantChange { role, permission, .. }) = grants.iter().find(opposite) {
            return Err(UsageError(format!(
                "--grant-{permission} and --revoke-{permission} both name the role {role}; remove one of the two"
            )));
        }
        Ok([grants, revokes].concat())
    }
}

/// Runs the command until it is done or a signal arrives. A signal also cancels the statement in
/// the database: other sessions queue behind a migration that waits for a lock.
pub(super) async fn run(args: MigrateArgs, db: &Db, signals: &Signals) -> anyhow::Result<ExitCode> {
    let under_way = OnceLock::new();
    tokio::select! {
        done = work(args, db, &under_way) => done,
        () = signals.first() => {
            if let Some(canceller) = under_way.get() {
                canceller.cancel().await;
            }
            Ok(signals.exit_code())
        }
    }
}

async fn work(args: MigrateArgs, db: &Db, under_way: &OnceLock<Canceller>) -> anyhow::Result<ExitCode> {
    let (changes, who) = (args.changes()?, operator::name());
    // Prints each step when it is done, since a later one may fail or wait. JSON comes at the end.
    let print = |line: String| if args.json { Ok(()) } else { output::print_plain(&(line + "\n")) };
    let (mut reanchored, mut ordered, mut limited, mut moved) = (Value::Null, Value::Null, Value::Null, Value::Null);
    let mut session = connect_directly(db, "migrate").await?;
    under_way.get_or_init(|| session.canceller());
    let applied = migrate_for_views_in(&mut session, args.views_schema.as_deref()).await?;
    for name in &applied.names {
        print(format!("applied {name}"))?;
    }
    if applied.names.is_empty() {
        print("the tables are up to date".into())?;
    }
    if args.reanchor {
        match anchor::check(&session).await {
            Ok(()) => print("the store already belongs to this cluster; nothing to re-anchor".into())?,
            Err(AnchorError::Database(error)) => return Err(with_remedy(&error)),
            Err(_) => {
                let done = anchor::reanchor(&mut session, args.appended_from, &who).await?;
                let (events, checkpoints) = (done.events, done.checkpoints);
                reanchored =
                    json!({ "events": events, "checkpoints": checkpoints, "appendedFrom": done.appended_from });
                let (events, checkpoints) = (count(events, "event"), count(checkpoints as u64, "checkpoint"));
                print(format!("re-anchored {events} and {checkpoints} of processors and lanes"))?;
                if let Some(position) = done.appended_from {
                    print(format!(
                        "events from position {position} on were appended since the restore; every processor will handle them"
                    ))?;
                }
            }
        }
    }
    if let Some(ordering) = args.ordering {
        let before = set_ordering(&mut session, ordering, &who).await.map_err(|error| {
            with_remedy(&error)
                .context("change the ordering; this waits for all open transactions that have appended events")
        })?;
        ordered = json!({ "before": before.to_string(), "now": ordering.to_string() });
        print(match before == ordering {
            true => format!("the store is already ordered by {ordering}"),
            false => format!("the store is now ordered by {ordering}; it was ordered by {before}"),
        })?;
    }
    if let Some(bytes) = args.max_event_bytes {
        let before = size_limit::set_max_event_bytes(&mut session, bytes, &who).await;
        let before = before.map_err(|error| with_remedy(&error))?;
        limited = json!({ "before": before, "now": bytes });
        print(match before == bytes {
            true => format!("the store already accepts events of up to {bytes} bytes"),
            false => format!("the store now accepts events of up to {bytes} bytes; before, {before}"),
        })?;
    }
    if let Some(schema) = &args.views_schema {
        let before = views_schema::set_views_schema(&mut session, schema, &who).await.map_err(|error| {
            with_remedy(&error)
                .context("move the views; this waits for queries that read them and for plugins that start")
        })?;
        moved = json!({ "before": before, "now": schema });
        print(match before == *schema {
            true => format!("the collections' views are already in the schema {schema}"),
            false => format!("the collections' views are now in the schema {schema}; they were in {before}"),
        })?;
    }
    let changed = if changes.is_empty() { Vec::new() } else { grants::apply(&mut session, &changes, &who).await? };
    for line in changed.iter().map(self::line) {
        print(line)?;
    }
    if args.json {
        output::print_json(&json!({
            "applied": applied.names, "reanchored": reanchored, "ordering": ordered, "maxEventBytes": limited,
            "viewsSchema": moved,
            "granted": as_json(&changed, true), "revoked": as_json(&changed, false)
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A changed permission as a line of text.
fn line(changed: &GrantOutcome) -> String {
    let GrantOutcome { change: GrantChange { role, permission, tenant, grant }, before, allowed, .. } = changed;
    let what = match (permission, tenant) {
        (Permission::Append, _) => "append events and read streams".to_string(),
        (Permission::Read, None) => "read the documents of all collections, including later ones".into(),
        (Permission::Read, Some(tenant)) => {
            format!("read the documents of tenant {tenant} in the schema sandmill_tenant")
        }
    };
    match (grant, before, allowed) {
        (true, false, _) => format!("the role {role} may now {what}"),
        (true, true, _) => format!("the role {role} may {what}, as before"),
        (false, _, false) => format!("the role {role} may not {what}"),
        (false, before, true) => {
            let revoked = if *before { "the grant was revoked" } else { "there was no such grant" };
            let wider = if tenant.is_some() { " has a grant for all tenants," } else { "" };
            format!(
                "{revoked}, but the role {role} may still {what}: it is a superuser,{wider} or has these privileges through another role or public"
            )
        }
    }
}

/// Granted or revoked permissions as JSON; null if there are none.
fn as_json(changed: &[GrantOutcome], grant: bool) -> Value {
    let one = |changed: &GrantOutcome| {
        let GrantOutcome { change, before, allowed, statements } = changed;
        let permission = change.permission.as_str();
        let (role, tenant) = (&change.role, &change.tenant);
        let mut one = json!({
            "role": role, "permission": permission, "tenant": tenant, "before": before, "statements": statements
        });
        if !grant {
            one["stillAllowed"] = json!(allowed);
        }
        one
    };
    let some: Vec<Value> = changed.iter().filter(|changed| changed.change.grant == grant).map(one).collect();
    if some.is_empty() { Value::Null } else { some.into() }
}
