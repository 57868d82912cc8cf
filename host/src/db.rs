//! The database: where it is, and sessions on it.
//!
//! A [`Db`] is the address; a [`Session`] is one connection with the settings that every session of
//! ours has. Long-lived parts of the host own their session. Processors, of which there may be
//! hundreds, share those of a [`pool`]. A session names its purpose in `application_name`, so that
//! an operator sees in `pg_stat_activity` which part of the host does what.

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

/// How long a session waits for a row lock before it gives way. Default 2 s: commits touch rows that only this host writes, so
/// waiting longer means somebody else holds them, and giving way ends the term and tries anew.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of statements that a session keeps prepared. Default 512: more than a hundred processors
/// need on one session, at a few megabytes in the server.
const PREPARED: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// How long a transaction of ours may sit idle. Default 10 s: a frozen host must not hold row locks that block a take-over.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What every session of ours relies on, whatever the server, the database or the role have as
/// their defaults.
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
/// The same since PostgreSQL 17.
const SINCE_17: (&str, &str) = ("transaction_timeout", "0");

/// The statements that make these settings on a server of this version.
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

/// Where the database is.
#[derive(Clone, Debug)]
pub struct Db {
    address: Arc<Address>,
}

/// An address that cannot be used, said without the password it may hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database address is not valid: {0}\nExpected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or host=... user=... dbname=..., in DATABASE_URL or --database-url; what it leaves out comes from PGHOST, PGUSER and the others that psql knows."
)]
pub struct InvalidAddress(connect::InvalidAddress);

impl Db {
    /// Reads an address in either of libpq's two forms. What it leaves out comes from libpq's
    /// environment variables and the password file.
    pub fn parse(address: &str) -> Result<Self, InvalidAddress> {
        Self::read(address, &|name| std::env::var(name).ok())
    }

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

    /// The same without the environment: a private server's, which is whole.
    pub(crate) fn parse_whole(address: &str) -> Result<Self, InvalidAddress> {
        Self::read(address, &|_| None)
    }

    /// Whether something between here and the server lends a connection to others after each
    /// transaction, as a transaction pooler does: settings, locks and prepared statements would be
    /// left behind on connections of theirs. Changes nothing on any connection.
    pub async fn is_pooled(&self) -> Result<bool, Error> {
        let (one, two) = (self.bare("pooler check").await?, self.bare("pooler check").await?);
        // A pooler gives out the connection that became free last, so that both have the same, or
        // one after another, so that the first has two.
        let (first, second) = (server_process(&one).await?, server_process(&one).await?);
        two.simple_query("begin").await?;
        let other = server_process(&two).await?;
        let third = server_process(&one).await?;
        two.simple_query("rollback").await?;
        Ok(first == other || first != second || first != third)
    }

    /// A connection without any settings of ours.
    async fn bare(&self, purpose: &str) -> Result<Client, Error> {
        let (client, connection) = self.address.connect_as(&format!("sandmill {purpose}")).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Where it is, for people: without the password, and with libpq's defaults for what the
    /// address leaves out.
    pub fn place(&self) -> String {
        self.address.place()
    }

    /// Opens a session; `purpose` shows in `pg_stat_activity` as `sandmill PURPOSE`, cut by
    /// PostgreSQL at 63 bytes. It is for people, and decides nothing.
    pub async fn connect(&self, purpose: &str) -> Result<Session, Error> {
        let (client, connection) = self.address.connect_as(&format!("sandmill {purpose}")).await?;
        let version = connection.parameter("server_version").map(String::from);
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
        // Alone, since a time limit is for all that is said at once.
        client.batch_execute("set statement_timeout = 0").await?;
        client.batch_execute(&settings(version.as_deref())).await?;
        let prepared = Mutex::new(LruCache::new(PREPARED));
        Ok(Session { client, address: self.address.clone(), prepared })
    }
}

/// The server's process at the other end of a connection.
async fn server_process(client: &Client) -> Result<Option<String>, Error> {
    let answers = client.simple_query("select pg_catalog.pg_backend_pid()").await?;
    let row = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.map(String::from))
}

/// One connection.
pub struct Session {
    client: Client,
    address: Arc<Address>,
    /// The most recently used statements.
    prepared: Mutex<LruCache<Box<str>, Statement>>,
}

impl Session {
    /// The client, for those that begin transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Session {
    /// The protocol that encrypts this session, such as `TLSv1.3`; none where nothing does.
    pub async fn encryption(&self) -> Result<Option<String>, Error> {
        let sql = "select version from pg_stat_ssl where pid = pg_backend_pid() and ssl";
        Ok(self.client.query_opt(sql, &[]).await?.map(|row| row.get(0)))
    }

    /// The most connections that the session's role may have to its database, all clients together.
    pub async fn connection_limit(&self) -> Result<usize, Error> {
        let row = self.client.query_one(include_str!("db/connection_limit.sql"), &[]).await?;
        Ok(row.get::<_, i32>(0).try_into().unwrap_or(0))
    }

    /// Returns a statement, prepared unless it is among those that the session has kept.
    pub async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        let prepared = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = prepared().get(sql) {
            return Ok(known.clone());
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

impl pool::Connection for Session {
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
        // If the server is gone, nothing of ours is running there.
        let _ = self.token.cancel_query(self.address.tls()).await;
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
    fn settings_of_later_versions_are_made_where_they_are() {
        let has = |version| settings(version).contains("set transaction_timeout = '0';");
        assert!(!has(Some("15.18")) && !has(Some("16rc1")) && !has(None));
        assert!(has(Some("17.0")) && has(Some("18beta2")) && has(Some("17.4 (Debian 17.4-1)")));
    }

    #[test]
    fn a_line_for_people_keeps_its_code() {
        assert_eq!(sqlstate("commit: permission denied (SQLSTATE 42501); detail (x)"), Some("42501"));
        for none in ["connection closed", "(SQLSTATE ", "(SQLSTATE 1)", ""] {
            assert_eq!(sqlstate(none), None, "{none}");
        }
    }
}
