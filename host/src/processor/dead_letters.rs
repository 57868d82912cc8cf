//! Dead letters, read from the database alone, so that it works whether or not a host runs.
//!
//! Only letters of serving generations are read: those of the documents that readers see. A letter
//! names its event by position, id, stream and version. The event itself, which may be gone, is
//! read through [`store`](crate::store). Backtraces and log lines are read for a single letter
//! only.

use std::time::SystemTime;

use crate::db::{Error, Row, Session};

/// The dead letters to list; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Only of this processor.
    pub processor: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this class.
    pub class: Option<String>,
    /// Only letters that were last set aside at this time or later.
    pub since: Option<SystemTime>,
}

/// A dead letter as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// The processor.
    pub processor: String,
    /// The event's tenant.
    pub tenant: String,
    /// The key of the event's lane.
    pub key: String,
    /// The event's position.
    pub position: i64,
    /// The event's id.
    pub event_id: String,
    /// The class of the failure.
    pub class: String,
    /// What went wrong, for people.
    pub message: String,
    /// SHA-256 of the plugin's file.
    pub digest: String,
    /// Number of attempts at the event.
    pub attempts: i32,
    /// When the event was set aside first.
    pub first_at: SystemTime,
    /// When the event was set aside last.
    pub last_at: SystemTime,
    /// The event's stream, and its version there. None in a letter from a version of Sandmill that
    /// did not store them, if its event was gone when the database was migrated.
    pub stream: Option<(String, i64)>,
}

impl StoredLetter {
    /// The letter of a row of `list.sql` or `find.sql`.
    fn from_row(row: &Row) -> Self {
        StoredLetter {
            processor: row.get(0),
            tenant: row.get(1),
            key: row.get(2),
            position: row.get(3),
            event_id: row.get(4),
            class: row.get(5),
            message: row.get(6),
            digest: row.get(7),
            attempts: row.get(8),
            first_at: row.get(9),
            last_at: row.get(10),
            stream: row.get::<_, Option<String>>(11).zip(row.get(12)),
        }
    }
}

/// A dead letter with its diagnostics, and the plugin that ran its processor last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLetter {
    /// The letter.
    pub letter: StoredLetter,
    /// The plugin's functions at the failure, the innermost first, one a line; may be empty.
    pub backtrace: String,
    /// The last lines that the plugin logged during the attempt; may be empty.
    pub log_tail: String,
    /// The name of the plugin's file without the extension.
    pub plugin: String,
    /// SHA-256 of the file that ran last.
    pub digest_now: String,
    /// The author's version of that file.
    pub version_now: String,
}

/// Reads up to `limit` letters that match the filter: highest position first, then by processor.
/// With `after`, it continues behind that letter.
pub async fn list(
    session: &Session,
    filter: &LetterFilter,
    after: Option<&StoredLetter>,
    limit: i64,
) -> Result<Vec<StoredLetter>, Error> {
    let LetterFilter { processor, tenant, class, since } = filter;
    let (position, last) = after.map_or((i64::MAX, ""), |letter| (letter.position, letter.processor.as_str()));
    let sql = include_str!("dead_letters/list.sql");
    let rows = session.query(sql, &[processor, tenant, class, since, &position, &last, &limit]).await?;
    Ok(rows.iter().map(StoredLetter::from_row).collect())
}

/// Counts the letters that match the filter, up to `most`.
pub async fn count(session: &Session, filter: &LetterFilter, most: i64) -> Result<i64, Error> {
    let LetterFilter { processor, tenant, class, since } = filter;
    let row =
        session.query_one(include_str!("dead_letters/count.sql"), &[processor, tenant, class, since, &most]).await?;
    Ok(row.get(0))
}

/// Finds a processor's letter for the event at a position.
pub async fn find(session: &Session, processor: &str, position: i64) -> Result<Option<FoundLetter>, Error> {
    let row = session.query_opt(include_str!("dead_letters/find.sql"), &[&processor, &position]).await?;
    Ok(row.map(|row| FoundLetter {
        letter: StoredLetter::from_row(&row),
        backtrace: row.get(13),
        log_tail: row.get(14),
        plugin: row.get(15),
        digest_now: row.get(16),
        version_now: row.get(17),
    }))
}
