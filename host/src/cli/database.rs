//! What all commands say about the database.

use anyhow::anyhow;

use crate::db::{Db, Error, Session, describe, migrate};

/// Opens the session a command works with.
pub(super) async fn connect(db: &Db, command: &str) -> anyhow::Result<Session> {
    db.connect(command).await.map_err(|error| {
        anyhow!("cannot connect to the database: {}\nIt is named by --database-url or DATABASE_URL.", describe(&error))
    })
}

/// An error for people; where the tables are missing, with the command that makes them.
pub(super) fn explain(error: &Error) -> anyhow::Error {
    if migrate::is_schema_missing(error) {
        return anyhow!(
            "this database has no event store, or one of an older version: {}\nRun `sandmill migrate` first.",
            describe(error)
        );
    }
    anyhow!("{}", describe(error))
}
