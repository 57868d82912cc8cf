//! How every processor stands, told from the database alone, so that it can be asked whether or not a host runs.

use serde::{Deserialize, Serialize};

use crate::{
    db::{Error, JsonText, Session},
    model::cursor::{Progress, Snapshot},
};

/// Events of lag that are counted; there may be more.
const LAG_COUNTED: i64 = 1_000_000;

/// Dead letters of a processor that are counted; there may be more.
const DEAD_LETTERS_COUNTED: i64 = 10_000;

/// How all processors stand.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// By id.
    pub processors: Vec<ProcessorStatus>,
}

/// How one processor stands.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorStatus {
    /// Its name.
    pub id: String,
    /// File, version and the first digits of the file's SHA-256.
    pub plugin: String,
    /// Events in the log that its cursor has not passed, of whatever type; at most a million are counted.
    pub lag_events: i64,
    /// How long ago the first of them was recorded.
    pub lag_seconds: f64,
    /// Events it handled a second, as last reported; 0 when nothing was reported for 5 s.
    pub rate: f64,
    /// Events it has handled in all.
    pub handled: i64,
    /// By whom and since when all of it waits, if a person told it to.
    pub paused: Option<String>,
    /// What its host measured between its last two reports; none before the first.
    pub measures: Measures,
    /// Events that it set aside so that their lanes could go on; at most ten thousand are counted.
    pub dead_letters: i64,
    /// The furthest of them in the log.
    pub last_dead_letter: Option<SetAside>,
    /// Events that it skipped to keep up, as it was told to (back-pressure shed): exactly so many.
    pub skipped: i64,
    /// The last time that a lane did.
    pub last_skip: Option<Skip>,
    /// Why it reads nothing although there may be more, and since when; none while it reads.
    pub held: Option<String>,
    /// Lanes behind its cursor.
    pub lanes_behind: Vec<LaneBehind>,
}

/// What a host measures while a processor runs: averages since the report before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Measures {
    /// Reading a page, milliseconds.
    pub read_ms: f64,
    /// Committing, milliseconds.
    pub commit_ms: f64,
    /// Commits a second.
    pub commits: f64,
    /// Memory of the whole host, MiB.
    pub host_mib: f64,
    /// Plugin instances alive on the whole host.
    pub instances: usize,
    /// Log lines that the whole host has lost since it started, because standard error did not take
    /// them in time.
    pub log_lines_lost: u64,
}

/// An event that was set aside.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetAside {
    /// Whose.
    pub tenant: String,
    /// Its position.
    pub position: i64,
    /// Why; kind and words.
    pub reason: String,
}

/// Events that a lane skipped at one time.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Skip {
    /// Whose.
    pub tenant: String,
    /// The lane's key.
    pub key: String,
    /// How many.
    pub events: i64,
    /// When, RFC 3339.
    pub at: String,
}

/// A lane behind its cursor.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneBehind {
    /// Whose.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// `catching-up`, `retrying` or `blocked`.
    pub state: String,
    /// Why it does not move, or did not last; kind and words.
    pub reason: String,
    /// How often the event it stands before has been tried.
    pub attempts: i32,
    /// Position of that event, where it is known.
    pub event_position: Option<i64>,
    /// Since when, RFC 3339.
    pub since: String,
}

/// Reads how everything stands.
pub async fn read(session: &Session) -> Result<Status, Error> {
    let mut processors = Vec::new();
    for row in session.query(include_str!("status/processors.sql"), &[&DEAD_LETTERS_COUNTED]).await? {
        let (file, version, digest): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let progress: Option<&str> = row.get(4);
        let progress = progress.and_then(|text| text.parse().ok()).unwrap_or(Progress::at(Snapshot::nothing()));
        let (lag_events, lag_seconds) = lag(session, &progress).await?;
        processors.push(ProcessorStatus {
            id: row.get(0),
            plugin: format!("{file} {version} {}", digest.get(..12).unwrap_or(digest)),
            lag_events,
            lag_seconds,
            rate: row.get(5),
            handled: row.get(6),
            paused: row.get(7),
            measures: serde_json::from_str(row.get::<_, JsonText<'_>>(8).0).unwrap_or_default(),
            dead_letters: row.get(9),
            last_dead_letter: row.get::<_, Option<String>>(10).map(|tenant| SetAside {
                tenant,
                position: row.get(11),
                reason: format!("{}: {}", row.get::<_, &str>(12), row.get::<_, &str>(13)),
            }),
            skipped: row.get(14),
            last_skip: row.get::<_, Option<String>>(15).map(|tenant| Skip {
                tenant,
                key: row.get(16),
                events: row.get(17),
                at: row.get(18),
            }),
            held: row.get(19),
            lanes_behind: Vec::new(),
        });
    }
    for row in session.query(include_str!("status/lanes.sql"), &[]).await? {
        let Some(processor) = processors.iter_mut().find(|p| p.id == row.get::<_, &str>(0)) else { continue };
        let (class, reason): (&str, &str) = (row.get(4), row.get(5));
        processor.lanes_behind.push(LaneBehind {
            tenant: row.get(1),
            key: row.get(2),
            state: row.get(3),
            reason: if class.is_empty() { reason.into() } else { format!("{class}: {reason}") },
            attempts: row.get(6),
            event_position: row.get(7),
            since: row.get(8),
        });
    }
    Ok(Status { processors })
}

async fn lag(session: &Session, progress: &Progress) -> Result<(i64, f64), Error> {
    let a = progress.seen().to_string();
    let (b, last) = match progress.remainder() {
        Some(rest) => (rest.to.to_string(), rest.after.unwrap_or(i64::MIN)),
        None => (a.clone(), i64::MIN),
    };
    let row = session.query_one(include_str!("status/lag.sql"), &[&a, &b, &last, &LAG_COUNTED]).await?;
    Ok((row.get(0), row.get(1)))
}
