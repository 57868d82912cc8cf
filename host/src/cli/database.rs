//! What all commands say about the database.

use anyhow::anyhow;

use crate::db::{Db, Error, Session, SqlState, describe, migrate};

/// Opens the session a command works with.
pub(super) async fn connect(db: &Db, command: &str) -> anyhow::Result<Session> {
    db.connect(command).await.map_err(|error| {
        let (place, why, remedy) = (db.place(), describe(&error), remedy(&error));
        anyhow!(
            "cannot connect to the database {place}: {why}\n{remedy} `sandmill config print` shows where its address comes from."
        )
    })
}

/// What a person does about a connection that fails.
fn remedy(error: &Error) -> &'static str {
    match error.code() {
        Some(&SqlState::INVALID_CATALOG_NAME) => "Make that database, for instance with `createdb`, or name another.",
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
            "See whether the user and the password are right, and whether the server lets them in from here."
        }
        Some(&SqlState::TOO_MANY_CONNECTIONS) => "Close other connections, or raise the server's max_connections.",
        Some(&SqlState::CANNOT_CONNECT_NOW) => "The server is starting or stopping; try again in a moment.",
        Some(_) => "See what the server's log says.",
        None => "See whether the host and the port are right, and whether the server runs and listens there.",
    }
}

/// An error for people, with what to do about it: the command that makes missing tables, or who grants a right.
pub(super) fn explain(error: &Error) -> anyhow::Error {
    if migrate::is_schema_missing(error) {
        return anyhow!(
            "this database has no event store, or one of an older version: {}\nRun `sandmill migrate` first.",
            describe(error)
        );
    }
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return anyhow!("{}\nLet the tables' owner grant it to this user, or connect as their owner.", describe(error));
    }
    anyhow!("{}", describe(error))
}
