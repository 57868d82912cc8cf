//! Schema migrations: bring a database to the schema that this binary works with.
//!
//! Migrations are plain SQL, forward only, compiled into the binary, and recorded with a checksum
//! in `sandmill.migrations`. Each runs in its own transaction, under a lock, after the history has
//! been read again. So two hosts that start at once apply each migration once, and a killed one
//! leaves only complete migrations behind. All preconditions are checked before anything is
//! changed: the history, the server's version, its encoding, its role as a primary, and the role's
//! rights.

use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, IsolationLevel};

use super::{
    Error, Session, SqlState, describe,
    rights::{self, MissingRights},
};

/// The oldest supported server version. `pg_snapshot` and `xid8` came with 13; 14 is needed for
/// `pg_control_system` and the planner.
const OLDEST_SERVER: i32 = 140_000;
/// The advisory lock that serializes migrations: the letters `sandmill`.
const LOCK: i64 = 0x73_61_6e_64_6d_69_6c_6c;
/// Maximum wait of a migration for a lock. 60 s: longer than any of Sandmill's statements, so only
/// a forgotten transaction can still hold a lock by then. In the meantime, other sessions queue
/// behind the migration.
const LOCK_TIMEOUT: &str = "60s";

/// A file of `/migrations`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The file's name without `.sql`. It begins with the migration's number.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

impl Migration {
    /// The number at the start of the name. Numbers count from 1 without gaps.
    pub fn version(&self) -> i32 {
        self.name.split('_').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// SHA-256 of the statements, in lower-case hexadecimal.
    ///
    /// Comment lines and blank lines are left out, so that a comment can be corrected after its
    /// migration was applied. A comment line is one whose first non-blank characters are `--`, also
    /// inside a function's body (`$$ … $$`). A comment behind a statement counts as statement text.
    pub fn checksum(&self) -> String {
        let mut hash = Sha256::new();
        for line in self.sql.lines().filter(|line| !is_comment(line)) {
            hash.update(line);
            hash.update("\n");
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a recorded checksum is this migration's, or the former one of its full text.
    fn has_checksum(&self, recorded: &str) -> bool {
        recorded == self.checksum() || FULL_TEXT_CHECKSUMS.contains(&(self.name, recorded))
    }
}

/// Whether a line of SQL is blank or a comment.
fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with("--")
}

macro_rules! migration {
    ($name:literal) => {
        Migration { name: $name, sql: include_str!(concat!("../../../migrations/", $name, ".sql")) }
    };
}

/// All migrations, in the order in which they are applied.
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
    migration!("0025_messages"),
    migration!("0026_rejected_files"),
    migration!("0027_shares_and_generations"),
    migration!("0028_dead_letters_by_tenant"),
    migration!("0029_letter_contents"),
    migration!("0030_audit"),
    migration!("0031_set_aside_events"),
    migration!("0032_reactor_appends"),
];

/// Former checksums: SHA-256 of the full text of each migration, comments included. Databases were
/// migrated up to 0022 with these, before [`Migration::checksum`] left comments out, and still have
/// them on record. Later migrations never had one.
const FULL_TEXT_CHECKSUMS: [(&str, &str); 22] = [
    ("0001_event_store", "2418607611f4bb52375516522771a5bcfb8c7a3e31405f005a47ff5f266462da"),
    ("0002_processors", "bf9ffd1c9776ffe926d57e976ab3b985ec26acae78ce1d97320255f11fcaa5a9"),
    ("0003_tenant_usage", "4925821b4b28471a5ec19c61bcdcd65a50f89de0e39a4e75bc719196a77782b8"),
    ("0004_back_pressure", "19f36896b18592a839ffa1abe42b59b0bfb13d7d1edf70862139013052e41d64"),
    ("0005_plugin_versions", "bef3576914d690bfb4a437b67b73a3a7de9d52e68a24c8d9d5f476c7caa1c3ea"),
    ("0006_dry_runs", "499143815b326930c16d21ef9bcbbe9a117a8031126306092d7c92ca315dbe6f"),
    ("0007_registration", "5a24672ac2ed6e0d61845a4d597b2f51a54aa58bfb544a7ec10c7a3f9c0fcd93"),
    ("0008_processor_ids", "5be199f89ac5922447ddf5ddf449ea53746d38c749839ff40d2e1b79a352ded0"),
    ("0009_collections", "c3a3edcc00129ec13f0d148da64a47d6f4b4341c414103b6f3d0242b7cf5d455"),
    ("0010_append_guards", "c3aea8d107f08b1602613f319bf1407a143f18983f602a6d26953a5927e26fc4"),
    ("0011_event_ids_index", "0d37b54db0d72473767c8f7a39a95c7d9f778a144c40ad0d64a155908bf5dfe1"),
    ("0012_event_ids_by_tenant", "51efbbc42065b7a32ff8cb7b206e9b4f75363c77d477ea3c406dad9fc8a4ce22"),
    ("0013_standing_lanes", "27b811ef7eb490c27132164eee25a92a8a16d5e7ecf7f9b9194d22bb0061d048"),
    ("0014_committed_numbers", "9912e7bab3e13105a1f5c7309f561b9aea2bb4538bc9380de259de5e38c0eed3"),
    ("0015_term_errors", "cfce666fd0a7d4ac30a35ccb4605170b529603a531bfc817f8b967324884e652"),
    ("0016_folder_problems", "0126330b47e020038984e7bd45b3ce73bef7e355e63425abc064b8c20ae99d77"),
    ("0017_components", "b9c83b95d348523937e7c6fb5768b6b3f8ae48b72a68c795ca93e9def75fa983"),
    ("0018_gone_plugins", "f1e560fce5fd097aaf15043854ea1b9f6fa360c6cbf922bb3841447ae6b42aec"),
    ("0019_role_grants", "849f3b1231bcae5d8a7bf9805b631c5da1e9bec08c4bf923287cfcd2ad3c658c"),
    ("0020_document_views", "71101ba40d27d0c5c9cae6c4f10e6ba87a98e12adffafa42cc0554909a419598"),
    ("0021_append_refusals", "d2aebd90465e195587c1ce44538ac8eb84414f248ebac78b5e4f57848e24cbaf"),
    ("0022_running_processors", "441843b8e5e9041df109bd9fcc6963a19221da7a4b5085bae5bd260dde97ec69"),
];

/// Maximum number of retries of a migration that PostgreSQL rolled back because of a deadlock. 10:
/// each deadlock needs another session at the same moment.
const DEADLOCKS: u32 = 10;

/// The result of [`migrate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationReport {
    /// Names of the migrations that were applied, in order. Empty if the database was up to date.
    pub names: Vec<&'static str>,
}

/// The reason why a database cannot be migrated. The step that failed changed nothing; earlier
/// steps are complete.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server's version is below 14.
    #[error(
        "this is PostgreSQL {0}; Sandmill needs version 14 or newer. Upgrade the server, or connect to another one."
    )]
    OldServer(String),
    /// The database's encoding is not UTF8, so text would not be stored as it was written.
    #[error(
        "this database is encoded in {0}; Sandmill needs UTF8. Create one with: create database NAME encoding 'UTF8' template template0"
    )]
    Encoding(String),
    /// The server is a standby: it is read-only, and its snapshots lack running transactions.
    #[error(
        "this server is a standby. Connect to the primary, for example with target_session_attrs=read-write in the address."
    )]
    Standby,
    /// A recorded migration differs from the one in this binary.
    #[error(
        "migration {name} was applied to this database with statements that differ from this binary's, so its tables may \
         differ from what this binary expects. Run the version of Sandmill that applied it, or restore the database from \
         a backup."
    )]
    Altered {
        /// The first migration that differs.
        name: String,
    },
    /// A newer binary migrated the database.
    #[error(
        "this database has migration {applied}, but this version of Sandmill ends at {known}. Install the version of Sandmill \
         that applied it, or a newer one."
    )]
    Newer {
        /// The first migration that this binary lacks.
        applied: String,
        /// The last migration that this binary has.
        known: &'static str,
    },
    /// The role lacks rights that migrating or running a host needs.
    #[error(transparent)]
    MissingRights(#[from] MissingRights),
    /// A statement of a migration failed.
    #[error("migration {name} failed and was undone: {}{}", describe(source), remedy(source))]
    Failed {
        /// The migration.
        name: &'static str,
        /// The database's error.
        source: Error,
    },
    /// Reading the history of migrations failed.
    #[error("read the database's migrations: {}{}", describe(.0), remedy(.0))]
    Database(#[from] Error),
}

/// The remedy for a failed migration; empty if there is none.
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

/// Whether a statement failed because a schema, table, function or column is missing. This happens
/// in a database that was never migrated, or was migrated by another version of Sandmill.
pub fn is_schema_missing(error: &Error) -> bool {
    const MISSING: [SqlState; 4] = [
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_COLUMN,
    ];
    error.code().is_some_and(|code| MISSING.contains(code))
}

/// Applies the pending migrations. First it checks that the role has all rights that migrating and
/// running a host need.
pub async fn migrate(session: &mut Session) -> Result<MigrationReport, MigrateError> {
    migrate_for_views_in(session, None).await
}

/// Applies the pending migrations before the views are moved to another schema: the role's rights
/// are also checked for that schema.
pub async fn migrate_for_views_in(
    session: &mut Session,
    schema: Option<&str>,
) -> Result<MigrationReport, MigrateError> {
    check_server(session).await?;
    check_rights(session, schema).await?;
    let (mut applied, mut deadlocks) = (MigrationReport::default(), 0);
    loop {
        match apply_next(session).await {
            Ok(None) => return Ok(applied),
            Ok(Some(name)) => {
                tracing::info!(migration = name, "applied migration");
                applied.names.push(name);
            }
            // A session that reads several tables may lock them in a different order from the
            // migration. PostgreSQL rolled the migration back, so it can run again.
            Err(MigrateError::Failed { name, source })
                if source.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) && deadlocks < DEADLOCKS =>
            {
                deadlocks += 1;
                tracing::info!(migration = name, "retrying after a deadlock: {}", describe(&source));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Names of the migrations that [`migrate`] would apply, in order. Fails where [`migrate`] would
/// fail before it changes anything.
pub async fn pending(session: &Session) -> Result<Vec<&'static str>, MigrateError> {
    check_server(session).await?;
    let applied = history(&**session).await?;
    Ok(still_pending(MIGRATIONS, &applied)?.iter().map(|migration| migration.name).collect())
}

/// Applies the first pending migration in a transaction. The history is read under the lock,
/// because another host may have applied the migration while this one waited.
async fn apply_next(session: &mut Session) -> Result<Option<&'static str>, MigrateError> {
    // Not the database's default: each statement must see what was committed before it.
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

/// Checks the server's version and encoding, and that it is a primary.
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

/// Checks the rights of the session's role.
async fn check_rights(session: &Session, views: Option<&str>) -> Result<(), MigrateError> {
    let pending = match history(&**session).await {
        Ok(applied) => Some(!still_pending(MIGRATIONS, &applied)?.is_empty()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
        Err(error) => return Err(error.into()),
    };
    rights::missing(&**session, pending, views).await?.map_or(Ok(()), |missing| Err(missing.into()))
}

/// A row of `sandmill.migrations`.
#[derive(Clone, Debug)]
struct AppliedMigration {
    version: i32,
    name: String,
    checksum: String,
}

/// Reads the applied migrations: none before the first one.
async fn history(client: &impl GenericClient) -> Result<Vec<AppliedMigration>, Error> {
    let exists = "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                  where n.nspname = 'sandmill' and c.relname = 'migrations')";
    if !client.query_one(exists, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client.query("select version, name, checksum from sandmill.migrations order by version", &[]).await?;
    Ok(rows
        .iter()
        .map(|row| AppliedMigration { version: row.get(0), name: row.get(1), checksum: row.get(2) })
        .collect())
}

/// The migrations of `known` that follow the `applied` ones, which must be a prefix of `known`.
fn still_pending<'a>(known: &'a [Migration], applied: &[AppliedMigration]) -> Result<&'a [Migration], MigrateError> {
    if let Some(newer) = applied.iter().find(|a| known.iter().all(|k| k.version() < a.version)) {
        let known = known.last().map_or("nothing", |migration| migration.name);
        return Err(MigrateError::Newer { applied: newer.name.clone(), known });
    }
    for (migration, recorded) in known.iter().zip(applied) {
        if recorded.version != migration.version() || !migration.has_checksum(&recorded.checksum) {
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

    fn recorded(migration: &Migration) -> AppliedMigration {
        AppliedMigration {
            version: migration.version(),
            name: migration.name.to_owned(),
            checksum: migration.checksum(),
        }
    }

    /// The history of a database that was migrated with the former checksums.
    fn with_full_text_checksums() -> Vec<AppliedMigration> {
        let recorded = |migration: &Migration, checksum: &str| AppliedMigration {
            checksum: checksum.into(),
            ..recorded(migration)
        };
        MIGRATIONS
            .iter()
            .zip(FULL_TEXT_CHECKSUMS)
            .map(|(migration, (_, checksum))| recorded(migration, checksum))
            .collect()
    }

    #[test]
    fn the_list_has_every_file_and_counts_from_one() {
        let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<String> = MIGRATIONS.iter().map(|migration| format!("{}.sql", migration.name)).collect();
        assert_eq!(files, listed);
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version(), index as i32 + 1);
            assert!(migration.sql.starts_with("-- "), "{} does not open with a comment", migration.name);
        }
    }

    #[test]
    fn applied_migrations_must_be_a_prefix_of_the_known_ones() {
        let names = |applied: &[AppliedMigration]| {
            still_pending(KNOWN, applied).map(|left| left.iter().map(|m| m.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["0001_one", "0002_two"]);
        assert_eq!(names(&[recorded(&KNOWN[0])]).unwrap(), ["0002_two"]);
        assert!(names(&[recorded(&KNOWN[0]), recorded(&KNOWN[1])]).unwrap().is_empty());

        let altered = AppliedMigration { checksum: "another".into(), ..recorded(&KNOWN[0]) };
        assert!(matches!(names(&[altered]), Err(MigrateError::Altered { name }) if name == "0001_one"));
        assert!(matches!(names(&[recorded(&KNOWN[1])]), Err(MigrateError::Altered { .. })));

        let newer = AppliedMigration { version: 3, name: "0003_three".into(), checksum: String::new() };
        let newer = names(&[recorded(&KNOWN[0]), recorded(&KNOWN[1]), newer]).unwrap_err();
        assert!(
            matches!(&newer, MigrateError::Newer { applied, known: "0002_two" } if applied == "0003_three"),
            "{newer}"
        );
    }

    #[test]
    fn the_checksum_covers_statements_and_no_comments() {
        let checksum = |sql| Migration { name: "0001_one", sql }.checksum();
        let original = checksum("-- Adds one.\n\ncreate function one() as $$\n  -- Why.\n  select 1;\n$$;\n");
        for comment_changed in [
            "create function one() as $$\n  select 1;\n$$;\n",
            "-- Another reason.\ncreate function one() as $$\n\t--Longer.\n\n  select 1;\n$$;\n\n-- More.\n",
        ] {
            assert_eq!(checksum(comment_changed), original, "{comment_changed}");
        }
        for statement_changed in [
            "create function one() as $$\n  select 2;\n$$;\n",
            "create function one() as $$\n  select 1; -- Behind a statement.\n$$;\n",
            "create function one() as $$\n  select\n 1;\n$$;\n",
            "create function one() as $$\n  -- select 1;\n$$;\n",
        ] {
            assert_ne!(checksum(statement_changed), original, "{statement_changed}");
        }
    }

    #[test]
    fn a_database_with_full_text_checksums_is_accepted() {
        let applied = with_full_text_checksums();
        let pending = still_pending(MIGRATIONS, &applied).unwrap();
        assert_eq!(pending.len(), MIGRATIONS.len() - FULL_TEXT_CHECKSUMS.len());
    }

    #[test]
    fn a_full_text_checksum_of_another_migration_is_refused_by_name() {
        let mut applied = with_full_text_checksums();
        applied[1].checksum = FULL_TEXT_CHECKSUMS[2].1.into();
        applied[4].checksum = "another".into();
        let refused = still_pending(MIGRATIONS, &applied).unwrap_err();
        assert!(matches!(&refused, MigrateError::Altered { name } if name == "0002_processors"), "{refused}");
    }

    #[test]
    fn full_text_checksums_are_those_of_migrations_up_to_0022() {
        let named: Vec<&str> = FULL_TEXT_CHECKSUMS.iter().map(|(name, _)| *name).collect();
        let expected: Vec<&str> =
            MIGRATIONS.iter().filter(|migration| migration.version() <= 22).map(|migration| migration.name).collect();
        assert_eq!(named, expected);
    }

    /// A full-text checksum on record cannot show a change of today's statements, so they are fixed
    /// here.
    #[test]
    fn statements_of_migrations_with_full_text_checksums_never_change() {
        let mut hash = Sha256::new();
        for migration in &MIGRATIONS[..FULL_TEXT_CHECKSUMS.len()] {
            hash.update(migration.checksum());
        }
        let all: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(all, "ab9442a9bc6f2ecc751bc40bc1b6d88f3032c57d9e2221b45296c1babc36dfc3");
    }
}
