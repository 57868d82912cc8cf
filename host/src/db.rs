//! The database: its address, and sessions on it.
//!
//! A [`Db`] is the address. A [`Session`] is one connection with the settings that every session of
//! the host has. Long-lived parts of the host own their session. Processors, of which there may be
//! hundreds, share those of a [`pool`]. A session names its purpose in `application_name`, so that
//! an operator sees in `pg_stat_activity` which part of the host does what.

pub mod audit;
pub mod embedded;
pub mod grants;
pub mod migrate;
pub mod pool;
pub mod rights;

use std::{
    num::NonZeroUsize,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use sandmill_client::connect::{self, Address};
use tokio_postgres::{CancelToken, Client};
pub use tokio_postgres::{
    Error, GenericClient, IsolationLevel, Row, RowStream, SimpleQueryMessage, Statement, Transaction, error::SqlState,
    types,
};

use crate::model::handler::BoxFuture;

/// Maximum wait of a statement for a lock. 2 s: commits touch rows that only this host writes, so a
/// longer wait means that another program holds them. The statement then fails, which ends the
/// term; the next term retries.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of statements that a session keeps prepared. 512: more than a hundred processors need on
/// one session, and a few megabytes in the server.
const PREPARED: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Maximum time that a transaction may be idle. 10 s: a frozen host must not hold row locks that
/// block a takeover.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings that every session relies on, set because the server, the database or the role may have
/// other defaults.
const SETTINGS: [(&str, &str); 16] = [
    ("idle_session_timeout", "0"),
    ("search_path", "pg_catalog"),
    ("client_min_messages", "warning"),
    ("timezone", "UTC"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("row_security", "on"),
    ("jit", "off"),
    // Statements that wait for a lock must see what its holder has committed.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
];
/// One more setting, available since PostgreSQL 17.
const SINCE_17: (&str, &str) = ("transaction_timeout", "0");

/// Statements for these settings on a server of this version.
fn settings(version: Option<&str>) -> String {
    let major = version.and_then(|version| version.split(['.', ' ', 'b', 'r']).next()?.parse().ok()).unwrap_or(0);
    let bounds = [
        ("lock_timeout", LOCK_TIMEOUT.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string()),
    ];
    let since_17 = Some(SINCE_17).filter(|_| major >= 17);
    let fixed = SETTINGS.into_iter().chain(since_17).map(|(name, value)| (name, value.to_string()));
    fixed.chain(bounds).map(|(name, value)| format!("set {name} = '{value}';")).collect()
}

/// The address of a database.
#[derive(Clone, Debug)]
pub struct Db {
    address: Arc<Address>,
}

/// An invalid address. The message leaves out the password that the address may contain.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database address is not valid: {0}\n\
     Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=... dbname=..., in DATABASE_URL or \
     --database-url. Parts that it leaves out come from PGHOST, PGUSER and the other variables that psql reads."
)]
pub struct InvalidAddress(connect::InvalidAddress);

impl Db {
    /// Parses an address in either of libpq's two forms. Parts that it leaves out come from libpq's
    /// environment variables and the password file.
    pub fn parse(address: &str) -> Result<Self, InvalidAddress> {
        Self::read(address, &|name| std::env::var(name).ok())
    }

    /// Parses an address, with `environment` for omitted parts, and sets keepalives.
    fn read(address: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, InvalidAddress> {
        let mut address = Address::parse(address, environment).map_err(InvalidAddress)?;
        let config = address.config_mut();
        // Half-open connections must be noticed in seconds, not after the kernel's two hours.
        config.keepalives_idle(Duration::from_secs(10));
        config.tcp_user_timeout(Duration::from_secs(15));
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        Ok(Db { address: Arc::new(address) })
    }

    /// Parses the complete address of a private server, without the environment.
    pub(crate) fn parse_complete(address: &str) -> Result<Self, InvalidAddress> {
        Self::read(address, &|_| None)
    }

    /// Whether a transaction pooler stands between the host and the server. Settings, locks and
    /// prepared statements would then stay behind on connections that other clients use. Changes
    /// nothing on any connection.
    pub async fn is_pooled(&self) -> Result<bool, Error> {
        let (one, two) =
            (self.connect_unconfigured("pooler check").await?, self.connect_unconfigured("pooler check").await?);
        // If a pooler lends the connection that became free last, both clients get the same one. If
        // it lends in rotation, the first client gets two different ones.
        let (first, second) = (server_process(&one).await?, server_process(&one).await?);
        two.simple_query("begin").await?;
        let other = server_process(&two).await?;
        let third = server_process(&one).await?;
        two.simple_query("rollback").await?;
        Ok(first == other || first != second || first != third)
    }

    /// Opens a connection with the server's own settings, without those of a [`Session`].
    async fn connect_unconfigured(&self, purpose: &str) -> Result<Client, Error> {
        let (client, connection) = self.address.connect_as(&format!("sandmill {purpose}")).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A summary of the address for people, without the password. Omitted parts show libpq's
    /// defaults.
    pub fn summary(&self) -> String {
        self.address.summary()
    }

    /// Opens a session. `purpose` is shown in `pg_stat_activity` as `sandmill PURPOSE`, which
    /// PostgreSQL cuts at 63 bytes. It is for people; no decision depends on it.
    pub async fn connect(&self, purpose: &str) -> Result<Session, Error> {
        let (client, connection) = self.address.connect_as(&format!("sandmill {purpose}")).await?;
        let version = connection.parameter("server_version").map(String::from);
        let purpose: Arc<str> = purpose.into();
        tokio::spawn({
            let purpose = purpose.clone();
            async move {
                // The owner of the session sees the loss as an error of its next statement and
                // reports it there.
                if let Err(error) = connection.await {
                    tracing::debug!(%purpose, error = describe(&error), "database connection ended");
                }
            }
        });
        // A request of its own, because the time limit applies to a whole request.
        client.batch_execute("set statement_timeout = 0").await?;
        client.batch_execute(&settings(version.as_deref())).await?;
        let prepared = Mutex::new(LruCache::new(PREPARED));
        Ok(Session { client, address: self.address.clone(), prepared })
    }
}

/// The pid of the server process that serves a connection.
async fn server_process(client: &Client) -> Result<Option<String>, Error> {
    let messages = client.simple_query("select pg_catalog.pg_backend_pid()").await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.map(String::from))
}

/// One connection to the database.
pub struct Session {
    client: Client,
    address: Arc<Address>,
    /// The most recently used statements, by their text.
    prepared: Mutex<LruCache<Box<str>, Statement>>,
}

impl Session {
    /// The client, to begin a transaction.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The protocol that encrypts this session, such as `TLSv1.3`; none if it is not encrypted.
    pub async fn encryption(&self) -> Result<Option<String>, Error> {
        let sql = "select version from pg_stat_ssl where pid = pg_backend_pid() and ssl";
        Ok(self.client.query_opt(sql, &[]).await?.map(|row| row.get(0)))
    }

    /// The number of connections that the session's role may have to its database, counting all
    /// clients.
    pub async fn connection_limit(&self) -> Result<usize, Error> {
        let row = self.client.query_one(include_str!("db/connection_limit.sql"), &[]).await?;
        Ok(row.get::<_, i32>(0).try_into().unwrap_or(0))
    }

    /// Returns a prepared statement, from the cache of the session if it is there.
    pub async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        let prepared = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = prepared().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        prepared().put(sql.into(), statement.clone());
        Ok(statement)
    }

    /// Returns a handle that can cancel this session's current statement.
    pub fn canceller(&self) -> Canceller {
        Canceller { token: self.client.cancel_token(), address: self.address.clone() }
    }
}

impl pool::PooledConnection for Session {
    type Error = Error;

    fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    fn assign<'a>(&'a mut self, purpose: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let sql = format!("set application_name = 'sandmill {}'", purpose.replace('\'', "''"));
        Box::pin(async move { self.client.batch_execute(&sql).await })
    }

    fn is_refusal(error: &Error) -> bool {
        error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS)
    }
}

/// Cancels a session's current statement from outside that session.
pub struct Canceller {
    token: CancelToken,
    address: Arc<Address>,
}

impl Canceller {
    /// Asks the server to cancel the current statement, if there is one. The statement then fails
    /// and is rolled back.
    pub async fn cancel(&self) {
        // If the server is gone, the statement no longer runs.
        let _ = self.token.cancel_query(self.address.tls()).await;
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The text of a `json` or `jsonb` column, borrowed from the row.
pub struct JsonText<'a>(pub &'a str);

impl<'a> types::FromSql<'a> for JsonText<'a> {
    fn from_sql(ty: &types::Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let text = match *ty {
            // On the wire, jsonb is a version byte and the text.
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

/// Whether the database could not compute or return some row because the row is damaged, or too
/// large for a message or the memory. The session stays usable for other rows.
pub fn is_about_a_row(error: &Error) -> bool {
    let Some(code) = error.code() else { return false };
    // Program limits; invalid values; internal errors, which include failed allocations and damaged
    // data.
    *code == SqlState::OUT_OF_MEMORY || matches!(code.code().get(..2), Some("22" | "54" | "XX"))
}

/// The text before the SQLSTATE in a line that [`describe`] makes.
const SQLSTATE: &str = "(SQLSTATE ";

/// The SQLSTATE in a line that [`describe`] made, if it contains one.
pub fn sqlstate(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(SQLSTATE)?;
    rest.split_once(')').map(|(code, _)| code).filter(|code| code.len() == 5)
}

/// A database error as one line for people: the server's message with detail and hint, or the cause
/// of a lost connection.
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
    fn a_setting_of_postgresql_17_is_set_only_since_that_version() {
        let has = |version| settings(version).contains("set transaction_timeout = '0';");
        assert!(!has(Some("15.18")) && !has(Some("16rc1")) && !has(None));
        assert!(has(Some("17.0")) && has(Some("18beta2")) && has(Some("17.4 (Debian 17.4-1)")));
    }

    #[test]
    fn the_sqlstate_is_found_in_a_described_error() {
        assert_eq!(sqlstate("commit: permission denied (SQLSTATE 42501); detail (x)"), Some("42501"));
        for none in ["connection closed", "(SQLSTATE ", "(SQLSTATE 1)", ""] {
            assert_eq!(sqlstate(none), None, "{none}");
        }
    }
}
