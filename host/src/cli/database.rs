//! Connecting to the database, with error messages that name the remedy. Used by the commands that
//! work on an existing database.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use sandmill_client::connect::ConnectErrorKind;

use crate::db::{Db, Error, Session, SqlState, describe, migrate};

/// Time between two attempts to reach a server that is not up yet.
const RETRY: Duration = Duration::from_millis(500);
/// Time between two log lines about a server that is not up yet.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// Opens a command's session.
pub(super) async fn connect(db: &Db, command: &str) -> anyhow::Result<Session> {
    db.connect(command).await.map_err(|error| connect_error(db, &error))
}

/// Opens the session of a command that needs its locks and settings to stay on its connection.
/// Rejects a transaction pooler before anything is changed.
pub(super) async fn connect_directly(db: &Db, command: &str) -> anyhow::Result<Session> {
    reject_pooler(db, db.is_pooled().await.map_err(|error| connect_error(db, &error))?)?;
    connect(db, command).await
}

fn reject_pooler(db: &Db, is_pooled: bool) -> anyhow::Result<()> {
    if !is_pooled {
        return Ok(());
    }
    let database = db.summary();
    Err(anyhow!(
        "{database} is a transaction pooler: it may run each transaction on another connection, but Sandmill needs a connection that keeps its locks and settings; nothing was changed\n\
         Connect to the server itself, or set the pooler to session mode (pgbouncer: pool_mode = session)."
    ))
}

/// The error of a connection that could not be opened, with the remedy.
fn connect_error(db: &Db, error: &Error) -> anyhow::Error {
    let (database, reason, remedy) = (db.summary(), describe(error), remedy(error));
    anyhow!(
        "cannot connect to the database {database}: {reason}\n{remedy} `sandmill config print` shows where its address comes from."
    )
}

/// Waits until the server answers, since it may start at the same time as the host. Rejects a
/// transaction pooler. Logs the reason for waiting every 30 s. Fails if waiting cannot help.
pub(super) async fn wait_for_server(db: &Db) -> anyhow::Result<()> {
    let mut logged: Option<Instant> = None;
    loop {
        let error = match db.is_pooled().await {
            Ok(is_pooled) => return reject_pooler(db, is_pooled),
            Err(error) => error,
        };
        if !matches!(
            ConnectErrorKind::of(&error),
            ConnectErrorKind::Host
                | ConnectErrorKind::Unreachable
                | ConnectErrorKind::Starting
                | ConnectErrorKind::Full
        ) {
            return Err(connect_error(db, &error));
        }
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_AGAIN) {
            logged = Some(Instant::now());
            tracing::warn!(
                database = db.summary(),
                "waiting for the database: {}. {}",
                describe(&error),
                remedy(&error)
            );
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The remedy for a connection that fails.
fn remedy(error: &Error) -> &'static str {
    match ConnectErrorKind::of(error) {
        ConnectErrorKind::Host => "This host name cannot be resolved here: check the spelling.",
        ConnectErrorKind::Unreachable => {
            "Check the host and the port, and that the server is running and listens there."
        }
        ConnectErrorKind::NoTls => {
            "The server does not offer TLS. Enable TLS on the server or, in a network that you trust, connect with sslmode=disable."
        }
        ConnectErrorKind::Untrusted => {
            "The server's certificate is from an authority that is not trusted here: set sslrootcert to the file with that authority's certificate."
        }
        ConnectErrorKind::OtherHost => {
            "The server's certificate is for another host name. Connect by a name in the certificate, or check only the authority with sslmode=verify-ca."
        }
        ConnectErrorKind::Expired => {
            "The server's certificate has expired or is not valid yet: renew it, or correct the clocks."
        }
        ConnectErrorKind::Tls => {
            "The TLS handshake failed. Check the server's log, and whether the server requires a client certificate (sslcert, sslkey)."
        }
        ConnectErrorKind::NoPassword => {
            "The server requires a password: put it in the address, in PGPASSWORD or in ~/.pgpass."
        }
        ConnectErrorKind::Password => "The password is wrong, or the user has no password on the server.",
        ConnectErrorKind::User => {
            "The user does not exist, or the server's pg_hba.conf does not allow it to connect from here, or only with TLS (sslmode=require)."
        }
        ConnectErrorKind::Database => "Create the database, for example with `createdb`, or connect to another one.",
        ConnectErrorKind::Full => "Close other connections, or raise the server's max_connections.",
        ConnectErrorKind::Starting => "The server is starting up or shutting down; try again in a moment.",
        _ => "Check the server's log.",
    }
}

/// A database error with its remedy: the command that creates missing tables, or who can grant a
/// missing privilege.
pub(super) fn with_remedy(error: &Error) -> anyhow::Error {
    if migrate::is_schema_missing(error) {
        return anyhow!(
            "this database has no event store, or one of an older version: {}\nRun `sandmill migrate` first.",
            describe(error)
        );
    }
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return anyhow!(
            "{}\nAsk the owner of the tables to grant it to this user, or connect as the owner.",
            describe(error)
        );
    }
    anyhow!("{}", describe(error))
}
