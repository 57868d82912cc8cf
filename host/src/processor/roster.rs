//! The list of all processors in a database, whether or not a host runs them.

use crate::db::{Error, Session};

/// A listed processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// Its id.
    pub id: String,
    /// Its kind: `projector`.
    pub kind: String,
    /// Its tenant; none for a shared one.
    pub tenant: Option<String>,
    /// The plugin that last ran it: the name of its file without the extension.
    pub plugin: String,
    /// Whether a live host owns it.
    pub runs: bool,
    /// Whether a term of it ended with an error recently. A processor whose terms keep ending has
    /// no session most of the time.
    pub failed_recently: bool,
}

/// Reads all processors, by id.
pub async fn read(session: &Session) -> Result<Vec<RosterEntry>, Error> {
    let rows = session.query(include_str!("roster/processors.sql"), &[]).await?;
    let entry = |row: &crate::db::Row| RosterEntry {
        id: row.get(0),
        kind: row.get(1),
        tenant: Some(row.get(2)).filter(|tenant: &String| !tenant.is_empty()),
        plugin: row.get(3),
        runs: row.get(4),
        failed_recently: row.get(5),
    };
    Ok(rows.iter().map(entry).collect())
}
