//! The list of all processors that a database knows, whether or not anything runs them.

use crate::db::{Error, Session};

/// A processor, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// What it is: `projector`.
    pub kind: String,
    /// Whose it is; none where it is everybody's.
    pub tenant: Option<String>,
    /// The plugin that last ran it: its file's name without its ending.
    pub plugin: String,
    /// Whether a host's session commits for it.
    pub runs: bool,
    /// Whether a term of it ended with an error just now. A processor whose terms keep ending has
    /// no session most of the time.
    pub failed_lately: bool,
}

/// All of them, by id.
pub async fn read(session: &Session) -> Result<Vec<Entry>, Error> {
    let rows = session.query(include_str!("roster/processors.sql"), &[]).await?;
    let entry = |row: &crate::db::Row| Entry {
        id: row.get(0),
        kind: row.get(1),
        tenant: Some(row.get(2)).filter(|tenant: &String| !tenant.is_empty()),
        plugin: row.get(3),
        runs: row.get(4),
        failed_lately: row.get(5),
    };
    Ok(rows.iter().map(entry).collect())
}
