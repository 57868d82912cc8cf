//! What all commands say about the database.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use sandmill_client::connect::ConnectErrorKind;

use crate::db::{Db, Error, Session, SqlState, describe, migrate};

/// Between two attempts to reach a server that is not up yet.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Between two lines that say so.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Opens the session a command works with.
pub(super) async fn connect(db: &Db, command: &str) -> anyhow::Result<Session> {
    db.connect(command).await.map_err(|error| unconnected(db, &error))
}

/// The same for a command that keeps locks and settings on its connections: refuses a transaction
/// pooler before anything is changed on one of them.
pub(super) async fn connect_directly(db: &Db, command: &str) -> anyhow::Result<Session> {
    refuse_pooler(db, db.is_pooled().await.map_err(|error| unconnected(db, &error))?)?;
    connect(db, command).await
}

fn refuse_pooler(db: &Db, is_pooled: bool) -> anyhow::Result<()> {
    if !is_pooled {
        return Ok(());
    }
    let place = db.place();
    Err(anyhow!(
        "{place} is a transaction pooler: it gives each transaction another connection, and Sandmill needs locks and settings that stay; nothing was changed\n\
         Name the server itself, or let the pooler keep a connection for each client (pgbouncer: pool_mode = session)."
    ))
}

/// A connection that could not be opened, for people.
fn unconnected(db: &Db, error: &Error) -> anyhow::Error {
    let (place, why, remedy) = (db.place(), describe(error), remedy(error));
    anyhow!(
        "cannot connect to the database {place}: {why}\n{remedy} `sandmill config print` shows where its address comes from."
    )
}

/// Waits until the server answers, since it may start at the same time as its host, and refuses a
/// transaction pooler. Logs the reason for waiting every 30 s. Fails if waiting cannot help.
pub(super) async fn wait_for_server(db: &Db) -> anyhow::Result<()> {
    let mut told: Option<Instant> = None;
    loop {
        let error = match db.is_pooled().await {
            Ok(is_pooled) => return refuse_pooler(db, is_pooled),
            Err(error) => error,
        };
        if !matches!(
            ConnectErrorKind::of(&error),
            ConnectErrorKind::Host
                | ConnectErrorKind::Unreachable
                | ConnectErrorKind::Starting
                | ConnectErrorKind::Full
        ) {
            return Err(unconnected(db, &error));
        }
        if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            told = Some(Instant::now());
            tracing::warn!(database = db.place(), "waiting for the database: {}. {}", describe(&error), remedy(&error));
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// What a person does about a connection that fails.
fn remedy(error: &Error) -> &'static str {
    match ConnectErrorKind::of(error) {
        ConnectErrorKind::Host => "No host of that name is known here: see whether it is spelled right.",
        ConnectErrorKind::Unreachable => {
            "See whether the host and the port are right, and whether the server runs and listens there."
        }
        ConnectErrorKind::NoTls => {
            "The server has TLS switched off. Switch it on there, or, in a network that you trust, connect with sslmode=disable."
        }
        ConnectErrorKind::Untrusted => {
            "The server's certificate comes from an authority that is not trusted here: name the file with that authority's certificate as sslrootcert."
        }
        ConnectErrorKind::OtherHost => {
            "The server's certificate is for another host name. Connect by a name that it has, or check the authority alone with sslmode=verify-ca."
        }
        ConnectErrorKind::Expired => {
            "The server's certificate has expired, or is not valid yet: renew it, or set the clocks."
        }
        ConnectErrorKind::Tls => {
            "The connection cannot be encrypted. See what the server's log says, and whether it asks for a client certificate (sslcert, sslkey)."
        }
        ConnectErrorKind::NoPassword => {
            "The server wants a password: give it in the address, as PGPASSWORD, or in ~/.pgpass."
        }
        ConnectErrorKind::Password => "The password is wrong, or the user has none.",
        ConnectErrorKind::User => {
            "There is no such user, or the server's pg_hba.conf does not let it in from here, or only with TLS (sslmode=require)."
        }
        ConnectErrorKind::Database => "Make that database, for instance with `createdb`, or name another.",
        ConnectErrorKind::Full => "Close other connections, or raise the server's max_connections.",
        ConnectErrorKind::Starting => "The server is starting or stopping; try again in a moment.",
        _ => "See what the server's log says.",
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
