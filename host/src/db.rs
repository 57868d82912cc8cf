//! The database: where it is, and sessions on it.
//!
//! A [`Db`] is the address; a [`Session`] is one connection with the settings that every session of ours has. There is no
//! pool: each long-lived part owns the sessions it needs, so that nobody waits for another part's connection and a lost
//! connection ends exactly the work that stood on it. A session names its purpose in `application_name`, so that an operator
//! sees in `pg_stat_activity` which part of the host does what.

pub mod embedded;
pub mod migrate;

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio_postgres::{CancelToken, Client, NoTls, config::Host};
pub use tokio_postgres::{
    Error, GenericClient, IsolationLevel, Row, RowStream, SimpleQueryMessage, Statement, Transaction, error::SqlState,
    types,
};

/// How long a session waits for a row lock before it gives way. Default 2 s: commits touch rows that only this host writes, so
/// waiting longer means somebody else holds them, and giving way ends the term and tries anew.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transaction of ours may sit idle. Default 10 s: a frozen host must not hold row locks that block a take-over.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the database is.
#[derive(Clone, Debug)]
pub struct Db {
    config: Arc<tokio_postgres::Config>,
}

/// An address that does not parse, said without the password it may hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database address is not valid: {0}\nExpected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=... dbname=..., in DATABASE_URL or --database-url."
)]
pub struct InvalidAddress(String);

impl Db {
    /// Reads an address in either of libpq's two forms.
    pub fn parse(address: &str) -> Result<Self, InvalidAddress> {
        let mut config: tokio_postgres::Config = address.parse().map_err(|e: Error| InvalidAddress(describe(&e)))?;
        // Half-open connections must be noticed in seconds, not after the kernel's two hours.
        config.keepalives_idle(Duration::from_secs(10));
        config.tcp_user_timeout(Duration::from_secs(15));
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        Ok(Db { config: Arc::new(config) })
    }

    /// Where it is, for people: without the password, and with libpq's defaults for what the address leaves out.
    pub fn place(&self) -> String {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(i, host)| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(folder) => format!("{}:{port}", folder.display()),
            }
        });
        let hosts = hosts.collect::<Vec<_>>().join(" or ");
        let user = self.config.get_user().unwrap_or("the user of this system");
        let name = self.config.get_dbname().unwrap_or(user);
        format!("{name} at {hosts} as {user}")
    }

    /// Opens a session; `purpose` shows in `pg_stat_activity` as `sandmill PURPOSE`, cut by
    /// PostgreSQL at 63 bytes. It is for people, and decides nothing.
    pub async fn connect(&self, purpose: &str) -> Result<Session, Error> {
        let mut config = (*self.config).clone();
        config.application_name(format!("sandmill {purpose}"));
        let (client, connection) = config.connect(NoTls).await?;
        let purpose: Arc<str> = purpose.into();
        tokio::spawn({
            let purpose = purpose.clone();
            async move {
                // The session's user sees the loss as an error of its next statement, and says what it means there.
                if let Err(error) = connection.await {
                    tracing::debug!(%purpose, error = describe(&error), "database connection ended");
                }
            }
        });
        // Statements that wait for a lock must see what its holder has committed, whatever the
        // database's default isolation is.
        client
            .batch_execute(&format!(
                "set lock_timeout = {}; set idle_in_transaction_session_timeout = {}; set client_min_messages = warning; \
                 set timezone = 'UTC'; set search_path = pg_catalog; set jit = off; \
                 set default_transaction_isolation = 'read committed'",
                LOCK_TIMEOUT.as_millis(),
                IDLE_IN_TRANSACTION_TIMEOUT.as_millis(),
            ))
            .await?;
        Ok(Session { client })
    }
}

/// One connection.
pub struct Session {
    client: Client,
}

impl Session {
    /// The client, for those that begin transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Session {
    /// Returns a handle that can cancel this session's current statement.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.client.cancel_token())
    }
}

/// Cancels a session's current statement from outside that session.
pub struct Canceller(CancelToken);

impl Canceller {
    /// Asks the server to cancel the current statement, if there is one. The statement then fails
    /// and is rolled back.
    pub async fn cancel(&self) {
        // If the server is gone, nothing of ours is running there.
        let _ = self.0.cancel_query(NoTls).await;
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A JSON column as the text it holds: `json` and `jsonb` alike, borrowed from the row.
pub struct JsonText<'a>(pub &'a str);

impl<'a> types::FromSql<'a> for JsonText<'a> {
    fn from_sql(ty: &types::Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let text = match *ty {
            // jsonb on the wire is a version byte and the text.
            types::Type::JSONB => match raw {
                [1, text @ ..] => text,
                _ => return Err("unknown version of jsonb".into()),
            },
            _ => raw,
        };
        Ok(JsonText(std::str::from_utf8(text)?))
    }

    fn accepts(ty: &types::Type) -> bool {
        matches!(*ty, types::Type::JSON | types::Type::JSONB)
    }
}

/// Whether the database could not compute or return some row, because it is damaged, or too
/// large for a message or the memory. Asked for other rows, the session answers as before.
pub fn is_about_a_row(error: &Error) -> bool {
    let Some(code) = error.code() else { return false };
    // Program limits; invalid values; internal errors, which include failed allocations and damaged
    // data.
    *code == SqlState::OUT_OF_MEMORY || matches!(code.code().get(..2), Some("22" | "54" | "XX"))
}

/// The words before the SQLSTATE in a line for people.
const SQLSTATE: &str = "(SQLSTATE ";

/// The SQLSTATE that a line for people [tells](describe), if it tells one.
pub fn sqlstate(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(SQLSTATE)?;
    rest.split_once(')').map(|(code, _)| code).filter(|code| code.len() == 5)
}

/// An error of the database as one line for people: what the server said, with detail and hint, or what became of the connection.
pub fn describe(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{} {SQLSTATE}{})", db.message(), db.code().code());
        if let Some(detail) = db.detail() {
            text.push_str(&format!("; {detail}"));
        }
        if let Some(hint) = db.hint() {
            text.push_str(&format!(" Hint: {hint}"));
        }
        return text;
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_keeps_its_code() {
        assert_eq!(sqlstate("commit: permission denied (SQLSTATE 42501); detail (x)"), Some("42501"));
        for none in ["connection closed", "(SQLSTATE ", "(SQLSTATE 1)", ""] {
            assert_eq!(sqlstate(none), None, "{none}");
        }
    }
}
