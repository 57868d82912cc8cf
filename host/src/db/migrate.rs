//! Brings a database to the schema that this binary works with.
//!
//! Migrations are plain SQL, forward only, part of the binary, and recorded with their checksum in
//! `sandmill.migrations`. Each is applied in a transaction of its own, under a lock, after looking
//! again at what is there: two that start at once do the work once, and one that is killed leaves a
//! whole number of migrations behind. Whatever speaks against migrating (a history that is not
//! ours, a newer one, a standby, an old server, a role that lacks rights) is found before anything
//! is changed.

use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, IsolationLevel};

use super::{
    Error, Session, SqlState, describe,
    rights::{self, MissingRights},
};

/// The oldest server: `pg_snapshot` and `xid8` came with 13, what `pg_control_system` and the
/// planner need with 14.
const OLDEST_SERVER: i32 = 140_000;
/// The migrations' lock among Sandmill's one-number advisory locks.
const LOCK: i64 = 0x73_61_6e_64_6d_69_6c_6c;
/// How long a migration waits for a lock. Default 60 s: longer than any statement of ours, so that
/// what still holds one then is a forgotten transaction, and everybody else queues behind the
/// migration meanwhile.
const LOCK_TIMEOUT: &str = "60s";

/// One file of `/migrations`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The file's name without its ending, which begins with its number.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

impl Migration {
    /// The number that begins the name; they count from 1 without gaps.
    pub fn version(&self) -> i32 {
        self.name.split('_').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// SHA-256 of the statements, in hexadecimal.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

macro_rules! migration {
    ($name:literal) => {
        Migration { name: $name, sql: include_str!(concat!("../../../migrations/", $name, ".sql")) }
    };
}

/// All of them, in the order in which they are applied.
pub const MIGRATIONS: &[Migration] = &[
    migration!("0001_event_store"),
    migration!("0002_processors"),
    migration!("0003_tenant_usage"),
    migration!("0004_back_pressure"),
    migration!("0005_plugin_versions"),
    migration!("0006_dry_runs"),
    migration!("0007_registration"),
    migration!("0008_processor_ids"),
    migration!("0009_collections"),
    migration!("0010_append_guards"),
    migration!("0011_event_ids_index"),
    migration!("0012_event_ids_by_tenant"),
    migration!("0013_standing_lanes"),
    migration!("0014_committed_numbers"),
    migration!("0015_term_errors"),
    migration!("0016_folder_problems"),
    migration!("0017_components"),
    migration!("0018_gone_plugins"),
    migration!("0019_role_grants"),
    migration!("0020_document_views"),
    migration!("0021_append_refusals"),
    migration!("0022_running_processors"),
    migration!("0023_lane_checkpoints"),
    migration!("0024_shed_events"),
];

/// How often a migration is tried again that was undone because it and another session waited for
/// each other.
const DEADLOCKS: u32 = 10;

/// What a run of [`migrate`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The migrations that were applied, in order; none when the database was up to date.
    pub names: Vec<&'static str>,
}

/// Why a database cannot be migrated. Nothing was changed by the step that failed, and steps before
/// it are complete.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server lacks what Sandmill needs.
    #[error(
        "this is PostgreSQL {0}; Sandmill needs version 14 or newer. Upgrade the server, or connect to another one."
    )]
    OldServer(String),
    /// Text would not be stored as it was written.
    #[error(
        "this database is encoded in {0}; Sandmill needs UTF8. Create one with: create database NAME encoding 'UTF8' template template0"
    )]
    Encoding(String),
    /// Nothing can be changed here, and a standby's snapshots leave out transactions that still
    /// run.
    #[error(
        "this server is a standby. Connect to the primary, for example with target_session_attrs=read-write in the address."
    )]
    Standby,
    /// The history is not one that this binary could have written.
    #[error(
        "migration {name} was applied to this database from a text other than the one in this binary, so its tables may differ \
         from what this binary expects. Run the version of Sandmill that applied it, or restore the database from a backup."
    )]
    Altered {
        /// The first migration that differs.
        name: String,
    },
    /// The database was migrated by a newer binary.
    #[error(
        "this database has migration {applied}, but this version of Sandmill ends at {known}. Install the version of Sandmill \
         that applied it, or a newer one."
    )]
    Newer {
        /// The first migration that is not known here.
        applied: String,
        /// The last one that is.
        known: &'static str,
    },
    /// The role may not do what migrating and running take.
    #[error(transparent)]
    MissingRights(#[from] MissingRights),
    /// A migration's own statement failed.
    #[error("migration {name} failed and was undone: {}{}", describe(source), remedy(source))]
    Failed {
        /// Which one.
        name: &'static str,
        /// What the database said.
        source: Error,
    },
    /// The database could not be asked.
    #[error("look at the database's migrations: {}{}", describe(.0), remedy(.0))]
    Database(#[from] Error),
}

fn remedy(error: &Error) -> &'static str {
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "\nRun it as the database's owner, or let a superuser prepare the schemas: create schema sandmill authorization ROLE; create schema sandmill_documents authorization ROLE; create schema sandmill_tenant authorization ROLE"
        }
        Some(&SqlState::OUT_OF_MEMORY) => {
            "\nThe server's lock table is full. Raise its max_locks_per_transaction, restart it, and migrate again."
        }
        Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            "\nA transaction has held a lock for longer than a minute. Find it with: select pid, application_name, xact_start, query \
             from pg_stat_activity where xact_start is not null order by xact_start"
        }
        _ => "",
    }
}

/// Whether a statement failed because the tables or functions it uses are not there, or not as this
/// binary knows them.
pub fn is_schema_missing(error: &Error) -> bool {
    const MISSING: [SqlState; 4] = [
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_COLUMN,
    ];
    error.code().is_some_and(|code| MISSING.contains(code))
}

/// Applies what is pending, and says what that was. First it checks that the role has all rights
/// that migrating and running a host take.
pub async fn migrate(session: &mut Session) -> Result<Applied, MigrateError> {
    migrate_for_views_in(session, None).await
}

/// The same, for a move of the views to a schema that follows: rights are checked there.
pub async fn migrate_for_views_in(session: &mut Session, schema: Option<&str>) -> Result<Applied, MigrateError> {
    check_server(session).await?;
    check_rights(session, schema).await?;
    let (mut applied, mut deadlocks) = (Applied::default(), 0);
    loop {
        match apply_next(session).await {
            Ok(None) => return Ok(applied),
            Ok(Some(name)) => {
                tracing::info!(migration = name, "applied migration");
                applied.names.push(name);
            }
            // Whoever reads several tables meanwhile may lock them in another order; it was undone.
            Err(MigrateError::Failed { name, source })
                if source.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) && deadlocks < DEADLOCKS =>
            {
                deadlocks += 1;
                tracing::info!(migration = name, "trying again: {}", describe(&source));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The migrations that [`migrate`] would apply, in order. It fails where that would fail before
/// changing anything.
pub async fn pending(session: &Session) -> Result<Vec<&'static str>, MigrateError> {
    check_server(session).await?;
    let applied = history(&**session).await?;
    Ok(still_pending(MIGRATIONS, &applied)?.iter().map(|migration| migration.name).collect())
}

/// Applies the first pending migration in a transaction. What is pending is found under the lock,
/// because another starter may have applied it while this one waited.
async fn apply_next(session: &mut Session) -> Result<Option<&'static str>, MigrateError> {
    // Whatever the database's default is, each statement must see what others committed before it.
    let transaction =
        session.client_mut().build_transaction().isolation_level(IsolationLevel::ReadCommitted).read_only(false);
    let transaction = transaction.start().await?;
    transaction
        .batch_execute(&format!("set local lock_timeout = '{LOCK_TIMEOUT}'; set local statement_timeout = 0"))
        .await?;
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let applied = history(&transaction).await?;
    let Some(migration) = still_pending(MIGRATIONS, &applied)?.first() else { return Ok(None) };
    let name = migration.name;
    let failed = |source| MigrateError::Failed { name, source };
    if applied.is_empty() {
        transaction.batch_execute(include_str!("migrate/history.sql")).await.map_err(failed)?;
    }
    transaction.batch_execute(migration.sql).await.map_err(failed)?;
    transaction
        .execute(
            "insert into sandmill.migrations (version, name, checksum) values ($1, $2, $3)",
            &[&migration.version(), &name, &migration.checksum()],
        )
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Some(name))
}

async fn check_server(session: &Session) -> Result<(), MigrateError> {
    let sql = "select current_setting('server_version_num')::int, current_setting('server_version'), \
               current_setting('server_encoding'), pg_is_in_recovery()";
    let row = session.query_one(sql, &[]).await?;
    let (number, version, encoding): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    if number < OLDEST_SERVER {
        return Err(MigrateError::OldServer(version));
    }
    if encoding != "UTF8" {
        return Err(MigrateError::Encoding(encoding));
    }
    if row.get(3) {
        return Err(MigrateError::Standby);
    }
    Ok(())
}

async fn check_rights(session: &Session, views: Option<&str>) -> Result<(), MigrateError> {
    let pending = match history(&**session).await {
        Ok(applied) => Some(!still_pending(MIGRATIONS, &applied)?.is_empty()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
        Err(error) => return Err(error.into()),
    };
    rights::missing(&**session, pending, views).await?.map_or(Ok(()), |missing| Err(missing.into()))
}

/// One row of `sandmill.migrations`.
#[derive(Clone, Debug)]
struct Recorded {
    version: i32,
    name: String,
    checksum: String,
}

async fn history(client: &impl GenericClient) -> Result<Vec<Recorded>, Error> {
    let exists = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                  where n.nspname = 'sandmill' and c.relname = 'migrations')";
    if !client.query_one(exists, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client.query("select version, name, checksum from sandmill.migrations order by version", &[]).await?;
    Ok(rows.iter().map(|row| Recorded { version: row.get(0), name: row.get(1), checksum: row.get(2) }).collect())
}

/// What of `known` is left after what was `applied`, which must be its beginning.
fn still_pending<'a>(known: &'a [Migration], applied: &[Recorded]) -> Result<&'a [Migration], MigrateError> {
    if let Some(newer) = applied.iter().find(|a| known.iter().all(|k| k.version() < a.version)) {
        let known = known.last().map_or("nothing", |migration| migration.name);
        return Err(MigrateError::Newer { applied: newer.name.clone(), known });
    }
    for (migration, recorded) in known.iter().zip(applied) {
        if recorded.version != migration.version() || recorded.checksum != migration.checksum() {
            return Err(MigrateError::Altered { name: migration.name.to_owned() });
        }
    }
    Ok(known.get(applied.len()..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Migration] =
        &[Migration { name: "0001_one", sql: "select 1" }, Migration { name: "0002_two", sql: "select 2" }];

    fn recorded(migration: &Migration) -> Recorded {
        Recorded { version: migration.version(), name: migration.name.to_owned(), checksum: migration.checksum() }
    }

    #[test]
    fn every_file_is_in_the_list_and_the_list_counts_from_one() {
        let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> = MIGRATIONS.iter().map(|migration| format!("{}.sql", migration.name)).collect();
        assert_eq!(files, listed);
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version(), index as i32 + 1);
            assert!(migration.sql.starts_with("-- "), "{} does not open with why", migration.name);
        }
    }

    #[test]
    fn what_was_applied_must_be_the_beginning_of_what_is_known() {
        let names = |applied: &[Recorded]| {
            still_pending(KNOWN, applied).map(|left| left.iter().map(|m| m.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["0001_one", "0002_two"]);
        assert_eq!(names(&[recorded(&KNOWN[0])]).unwrap(), ["0002_two"]);
        assert!(names(&[recorded(&KNOWN[0]), recorded(&KNOWN[1])]).unwrap().is_empty());

        let altered = Recorded { checksum: "another".into(), ..recorded(&KNOWN[0]) };
        assert!(matches!(names(&[altered]), Err(MigrateError::Altered { name }) if name == "0001_one"));
        assert!(matches!(names(&[recorded(&KNOWN[1])]), Err(MigrateError::Altered { .. })));

        let newer = Recorded { version: 3, name: "0003_three".into(), checksum: String::new() };
        let newer = names(&[recorded(&KNOWN[0]), recorded(&KNOWN[1]), newer]).unwrap_err();
        assert!(
            matches!(&newer, MigrateError::Newer { applied, known: "0002_two" } if applied == "0003_three"),
            "{newer}"
        );
    }
}
