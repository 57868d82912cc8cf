//! `sandmill migrate`: creates the tables, sets the store's order, its size limit and the schema of the
//! views, grants roles what applications need, and takes over a store from another cluster.

use std::{process::ExitCode, sync::OnceLock};

use serde_json::{Value, json};

use super::{
    Misuse,
    database::{connect_directly, explain},
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
  sandmill migrate --ordering tenant
  sandmill migrate --max-event-bytes 8388608
  sandmill migrate --views-schema app
  sandmill migrate --grant-append shop --grant-read reports
  sandmill migrate --grant-read acme_portal --tenant acme
  sandmill migrate --reanchor              after a restore into another cluster, a move, or pg_upgrade

It may be repeated at any time: what is there already stays.

Rights: the user must be able to connect, to create the schemas sandmill, sandmill_documents and sandmill_tenant while they are \
missing, to use what is in them (to own it while migrations are pending), to create views in the schema public or the one of \
--views-schema, which PostgreSQL 15 and newer grant to nobody, and to own the collections' views. `sandmill run` needs the same. If something is missing, nothing is changed, and the \
statements that grant it are printed, ready to run by a superuser; the exit code is 1.";

/// Makes or updates the tables in the database
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MigrateArgs {
    /// Also set which appends follow each other: those of a `stream` (the default of a new store), or all of a `tenant`, so that
    /// projections that fold several streams see one order, at one commit at a time for each tenant
    #[arg(long, value_name = "stream|tenant")]
    ordering: Option<Ordering>,
    /// Also set how many bytes an event's data and metadata may have together, from 1024 to
    /// 33554432 [a new store: 4194304]. Larger events that are already stored stay
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(i64::from(*size_limit::RANGE.start())..=i64::from(*size_limit::RANGE.end())))]
    max_event_bytes: Option<u32>,
    /// Also set the schema of the collections' views, which is made if it is missing [a new store:
    /// public]. Existing views move, with the rights on them
    #[arg(long, value_name = "SCHEMA", value_parser = views_schema::parse)]
    views_schema: Option<String>,
    /// Take over a store that was restored from a dump or moved to another cluster: give events and
    /// cursors numbers of this one. Rewrites all events in one transaction; no host may be running.
    /// Needed after a restore into another cluster, and after pg_upgrade, which gives the cluster
    /// another identifier; until then nothing can be appended
    #[arg(long)]
    reanchor: bool,
    /// With --reanchor: treat events from this position on as appended since the restore, so that
    /// every processor still handles them. Needed only if this cannot be determined from the rows
    #[arg(long, value_name = "POSITION", requires = "reanchor", value_parser = clap::value_parser!(i64).range(1..))]
    appended_from: Option<i64>,
    /// Also let a role append events with sandmill.append and read streams, and nothing else. May
    /// be repeated, like the three below
    #[arg(long, value_name = "ROLE")]
    grant_append: Vec<String>,
    /// Also let a role read documents: the views of all collections, those included that come
    /// later. With --tenant it reads that tenant's documents only, in the schema sandmill_tenant
    #[arg(long, value_name = "ROLE")]
    grant_read: Vec<String>,
    /// Take back what --grant-append gave to a role
    #[arg(long, value_name = "ROLE")]
    revoke_append: Vec<String>,
    /// Take back what --grant-read gave to a role: all of it, or with --tenant that tenant's
    /// documents
    #[arg(long, value_name = "ROLE")]
    revoke_read: Vec<String>,
    /// With --grant-read or --revoke-read: the tenant whose documents the role may read. May be
    /// repeated
    #[arg(long, value_name = "NAME", value_parser = super::append::tenant)]
    tenant: Vec<String>,
    /// Print one JSON object: {"applied": [name], "reanchored": {"events", "places",
    /// "appendedFrom"}, "ordering": {"before", "now"}, "maxEventBytes": {"before", "now"},
    /// "viewsSchema": {"before", "now"}, "granted": [{"role", "permission", "tenant", "before",
    /// "statements": [sql]}], "revoked": [{the same, "stillAllowed"}]}; null for what was not
    /// requested or not needed
    #[arg(long)]
    json: bool,
}

impl MigrateArgs {
    /// What is to become of roles' permissions, in the order of the options.
    fn changes(&self) -> Result<Vec<GrantChange>, Misuse> {
        if !self.tenant.is_empty() && self.grant_read.is_empty() && self.revoke_read.is_empty() {
            return Err(Misuse("--tenant needs --grant-read or --revoke-read; add one of them with a role".into()));
        }
        // Without a tenant there is one entry, for all tenants' documents.
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
        let opposite = |one: &&GrantChange| {
            revokes.iter().any(|other| other.role == one.role && other.permission == one.permission)
        };
        if let Some(GrantChange { role, permission, .. }) = grants.iter().find(opposite) {
            return Err(Misuse(format!(
                "--grant-{permission} and --revoke-{permission} both name the role {role}; name it in one of them"
            )));
        }
        Ok([grants, revokes].concat())
    }
}

/// Runs the command until it is done or a signal comes. A signal cancels its statement, because
/// everybody else waits behind a migration that waits for a lock.
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
    let changes = args.changes()?;
    // People are told of each step when it is done, for a later one may fail or wait; machines of all at the end.
    let tell = |line: String| if args.json { Ok(()) } else { output::print_plain(&(line + "\n")) };
    let (mut reanchored, mut ordered, mut limited, mut moved) = (Value::Null, Value::Null, Value::Null, Value::Null);
    let mut session = connect_directly(db, "migrate").await?;
    under_way.get_or_init(|| session.canceller());
    let applied = migrate_for_views_in(&mut session, args.views_schema.as_deref()).await?;
    for name in &applied.names {
        tell(format!("applied {name}"))?;
    }
    if applied.names.is_empty() {
        tell("the tables are up to date".into())?;
    }
    if args.reanchor {
        match anchor::check(&session).await {
            Ok(()) => tell("the store belongs to this cluster; there is nothing to re-anchor".into())?,
            Err(AnchorError::Database(error)) => return Err(explain(&error)),
            Err(_) => {
                let done = anchor::reanchor(&mut session, args.appended_from).await?;
                let (events, places) = (done.events, done.places);
                reanchored = json!({ "events": events, "places": places, "appendedFrom": done.appended_from });
                let events = count(events, "event");
                tell(format!("re-anchored {events} for {places} different places of processors and lanes"))?;
                if let Some(position) = done.appended_from {
                    tell(format!(
                        "events from position {position} on were appended since the restore; every processor still has to handle them"
                    ))?;
                }
            }
        }
    }
    if let Some(ordering) = args.ordering {
        let before = set_ordering(&mut session, ordering).await.map_err(|error| {
            explain(&error)
                .context("change the ordering; it waits for every transaction that has appended and has not ended")
        })?;
        ordered = json!({ "before": before.to_string(), "now": ordering.to_string() });
        tell(match before == ordering {
            true => format!("the store is ordered by {ordering} already"),
            false => format!("the store is now ordered by {ordering}, before by {before}"),
        })?;
    }
    if let Some(bytes) = args.max_event_bytes {
        let before = size_limit::set_max_event_bytes(&session, bytes).await.map_err(|error| explain(&error))?;
        limited = json!({ "before": before, "now": bytes });
        tell(match before == bytes {
            true => format!("the store already takes events of at most {bytes} bytes"),
            false => format!("the store now takes events of at most {bytes} bytes instead of {before}"),
        })?;
    }
    if let Some(schema) = &args.views_schema {
        let before = views_schema::set_views_schema(&mut session, schema).await.map_err(|error| {
            explain(&error).context("move the views; it waits for queries that read them, and for plugins that start")
        })?;
        moved = json!({ "before": before, "now": schema });
        tell(match before == *schema {
            true => format!("the collections' views lie in the schema {schema} already"),
            false => format!("the collections' views now lie in the schema {schema} instead of {before}"),
        })?;
    }
    let changed = if changes.is_empty() { Vec::new() } else { grants::apply(&mut session, &changes).await? };
    for line in changed.iter().map(in_words) {
        tell(line)?;
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

/// A changed permission for people.
fn in_words(changed: &GrantOutcome) -> String {
    let GrantOutcome { change: GrantChange { role, permission, tenant, grant }, before, allowed, .. } = changed;
    let what = match (permission, tenant) {
        (Permission::Append, _) => "append events and read streams".to_string(),
        (Permission::Read, None) => "read the documents of all collections, later ones included".into(),
        (Permission::Read, Some(tenant)) => {
            format!("read the documents of tenant {tenant} in the schema sandmill_tenant")
        }
    };
    match (grant, before, allowed) {
        (true, false, _) => format!("the role {role} may now {what}"),
        (true, true, _) => format!("the role {role} may {what}, as before"),
        (false, _, false) => format!("the role {role} may not {what}"),
        (false, _, true) => format!(
            "the grant was taken back, but the role {role} may still {what}: it is a superuser, or has these rights through another role"
        ),
    }
}

/// Granted or revoked permissions for machines.
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
