//! Import of events from lines of JSON.
//!
//! Lines are stored in their order, a few thousand in a commit. So positions follow lines, and an
//! interrupted import has stored a prefix of its input.
//!
//! - **Repeated lines.** A line that repeats an event, by tenant, id and content, is left out and
//!   takes no version. An input with ids can be imported again at any time.
//! - **Bad lines.** A line with the id of a different event is a bad line. The first bad line ends
//!   the import; all lines before it are stored.
//! - **Locks.** A commit takes the locks of its appends, in an order that all imports share. An
//!   import yields to an application's lock, and readers never wait.
//!
//! Versions are assigned here and not by `sandmill.append`, which serves one stream. A commit
//! advances all of its streams in one statement, which locks them, and then copies its events into
//! their table.

mod compare;
mod copy;
pub mod events;
mod input;
mod line;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use compare::EventContent;
use futures_util::SinkExt;
pub use input::ImportInput;
use input::{Chunk, InputEnd};
use line::EventLine;
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::copy::CopyRows;
use super::size_limit;
use crate::db::{Error, Row, Session, SqlState, Transaction, describe};

/// Time that a commit waits for a lock before it releases its own locks and retries. 500 ms: less
/// than PostgreSQL's deadlock timeout, so in a deadlock with an application the import yields.
const LOCK_TIMEOUT: &str = "500ms";
/// Time for which a commit is retried after collisions. 60 s: an import is not urgent, but a
/// forgotten transaction must not block it forever without an error.
const PATIENCE: Duration = Duration::from_secs(60);

const COPY: &str = "copy sandmill.events (tenant, stream, version, type, id, recorded_at, data, metadata) \
                    from stdin (format binary)";

/// The progress of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of the input on disk, compressed or not, that were read.
    pub bytes_read: u64,
    /// Events stored.
    pub imported: u64,
    /// Lines that repeat a stored event.
    pub repeated: u64,
}

/// The report of an import.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// Events stored.
    pub imported: u64,
    /// Lines that repeat a stored event.
    pub repeated: u64,
    /// Lines with an event: the sum of the two.
    pub lines: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Why an import ended early. All lines up to `stored_through` are in the store and no later one
/// is, unless the connection was lost during a commit.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line that cannot be stored.
    #[error("line {line}: {message}\n{}", stored(*.stored_through, .report))]
    BadLine {
        /// Its number, from 1.
        line: u64,
        /// The reason.
        message: String,
        /// The last line that is in the store; 0 if none is.
        stored_through: u64,
        /// The report up to that line.
        report: ImportReport,
    },
    /// The input could not be read at all.
    #[error("read the input: {0}")]
    Unreadable(String),
    /// The database failed.
    #[error("store lines: {}{}\n{}{}", describe(source), held(source), stored(*.stored_through, .report), unsure(*.in_doubt))]
    Database {
        /// Its error.
        source: Error,
        /// The last line that is known to be in the store; 0 if none is.
        stored_through: u64,
        /// Whether the connection was lost during a commit, so that later lines may be stored too.
        in_doubt: bool,
        /// The report up to that line.
        report: ImportReport,
    },
}

fn stored(through: u64, report: &ImportReport) -> String {
    let ImportReport { imported, repeated, .. } = report;
    match through {
        0 => "Nothing was stored.".into(),
        through => format!("Lines up to {through} are stored: {imported} imported now, {repeated} stored before."),
    }
}

fn held(source: &Error) -> &'static str {
    if source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        "\nA transaction has held one of their streams or tenants for longer than a minute. Find it with: select pid, \
         application_name, xact_start from pg_stat_activity where xact_start is not null order by xact_start"
    } else {
        ""
    }
}

fn unsure(in_doubt: bool) -> &'static str {
    if in_doubt {
        "\nThe connection was lost during a commit, so up to a few thousand later lines may be stored too. `sandmill \
         events` shows the last events."
    } else {
        ""
    }
}

/// Imports all lines of the input. Calls `progress` after each commit.
pub async fn import(
    session: &mut Session,
    input: ImportInput,
    mut progress: impl FnMut(ImportProgress),
) -> Result<ImportReport, ImportError> {
    let begun = Instant::now();
    let max_event_bytes = match size_limit::max_event_bytes(session).await {
        Ok(bytes) => bytes,
        Err(source) => {
            return Err(ImportError::Database {
                source,
                stored_through: 0,
                in_doubt: false,
                report: ImportReport::default(),
            });
        }
    };
    let mut chunks = input.chunks(max_event_bytes);
    let mut done = ImportProgress::default();
    let mut stored_through = 0;
    let report = |done: ImportProgress| ImportReport {
        imported: done.imported,
        repeated: done.repeated,
        lines: done.imported + done.repeated,
        seconds: begun.elapsed().as_secs_f64(),
    };
    while let Some(Chunk { lines, bytes_read, end }) = chunks.recv().await {
        let mut rest = &lines[..];
        let mut size = rest.len();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(size.min(rest.len()));
            match store(session, part).await {
                Ok(imported) => {
                    done.imported += imported;
                    done.repeated += part.len() as u64 - imported;
                    stored_through = part.last().map_or(stored_through, |line| line.number);
                    rest = later;
                }
                // The database rejected a line without naming it. Halving finds it, and stores the
                // lines before it.
                Err(StoreFailure::Rejected(_)) if part.len() > 1 => size = part.len() / 2,
                Err(StoreFailure::Rejected(source)) => {
                    let line = part.first().map_or(0, |line| line.number);
                    let (message, report) = (describe(&source), report(done));
                    return Err(ImportError::BadLine { line, message, stored_through, report });
                }
                // The lines before it are stored first.
                Err(StoreFailure::OtherEvent { index, .. }) if index > 0 => size = index,
                Err(StoreFailure::OtherEvent { message, .. }) => {
                    let line = part.first().map_or(0, |line| line.number);
                    return Err(ImportError::BadLine { line, message, stored_through, report: report(done) });
                }
                Err(StoreFailure::Database { source, in_doubt }) => {
                    return Err(ImportError::Database { source, stored_through, in_doubt, report: report(done) });
                }
            }
            done.bytes_read = bytes_read;
            progress(done);
        }
        match end {
            None => {}
            Some(InputEnd::Complete) => return Ok(report(done)),
            Some(InputEnd::Unreadable(message)) => return Err(ImportError::Unreadable(message)),
            Some(InputEnd::BadLine { number: line, message }) => {
                return Err(ImportError::BadLine { line, message, stored_through, report: report(done) });
            }
        }
    }
    // The reader always sends an end, unless its thread ended with the runtime.
    Err(ImportError::Unreadable("the reader stopped before the end of the input".into()))
}

/// Why some lines were not stored.
enum StoreFailure {
    /// The database rejects one of them for good.
    Rejected(Error),
    /// One of them has the id of a different event.
    OtherEvent { index: usize, message: String },
    /// Another database error.
    Database { source: Error, in_doubt: bool },
}

impl From<Error> for StoreFailure {
    fn from(source: Error) -> Self {
        let rejected = source.code().is_some_and(|code| {
            // Invalid values, limits of the parser, and violated checks of the store.
            matches!(code.code().get(..2), Some("22" | "54")) || *code == SqlState::CHECK_VIOLATION
        });
        if rejected { StoreFailure::Rejected(source) } else { StoreFailure::Database { source, in_doubt: false } }
    }
}

/// Stores lines in one transaction, which it retries after collisions. Returns the number of events
/// stored.
async fn store(session: &mut Session, lines: &[EventLine]) -> Result<u64, StoreFailure> {
    // If another session stores the id of a line between the lookup and the insert, the retry sees
    // it.
    const COLLISIONS: [SqlState; 4] = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
    ];
    let begun = Instant::now();
    loop {
        match store_once(session, lines).await {
            Err(StoreFailure::Database { source, in_doubt: false })
                if begun.elapsed() < PATIENCE && source.code().is_some_and(|code| COLLISIONS.contains(code)) => {}
            result => return result,
        }
    }
}

/// Stores lines in one transaction. Returns the number of events stored.
async fn store_once(session: &mut Session, lines: &[EventLine]) -> Result<u64, StoreFailure> {
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute(&format!("set local lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    let fresh = without_repeated(&transaction, lines).await?;
    if fresh.is_empty() {
        return Ok(0);
    }
    let tenants: Vec<&str> =
        fresh.iter().map(|line| line.tenant.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    transaction.execute(include_str!("import/begin_appends.sql"), &[&tenants]).await?;
    let mut versions = advance_streams(&transaction, &fresh).await?;
    let now: SystemTime = transaction.query_one("select now()", &[]).await?.get(0);
    let now = micros_since_1970(now);

    let mut rows = CopyRows::with_fields(8);
    for line in &fresh {
        let version = versions.entry(stream_of(line)).or_default();
        *version += 1;
        rows.begin_row();
        rows.text(&line.tenant);
        rows.text(&line.stream);
        rows.bigint(*version);
        rows.text(&line.event_type);
        match &line.id {
            Some(id) => rows.text(id),
            None => rows.text(uuid::Uuid::new_v4().hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())),
        }
        rows.time(line.recorded_at.unwrap_or(now));
        rows.text(line.data.get());
        rows.text(line.metadata());
    }
    let mut copy = pin!(transaction.copy_in(COPY).await?);
    copy.send(std::io::Cursor::new(rows.finish())).await?;
    copy.finish().await?;
    transaction.commit().await.map_err(|source| {
        let in_doubt = source.as_db_error().is_none();
        StoreFailure::Database { source, in_doubt }
    })?;
    Ok(fresh.len() as u64)
}

/// A stream: its tenant and its name.
type StreamKey<'a> = (&'a str, &'a str);

fn stream_of(line: &EventLine) -> StreamKey<'_> {
    (&line.tenant, &line.stream)
}

/// The event that has an id already.
enum KnownEvent<'a> {
    /// In the store.
    Stored(Row),
    /// On an earlier line.
    Line(&'a EventLine),
}

/// The lines that repeat neither an event of the store nor an earlier line.
async fn without_repeated<'a>(
    transaction: &Transaction<'_>,
    lines: &'a [EventLine],
) -> Result<Vec<&'a EventLine>, StoreFailure> {
    let mut known = stored_ids(transaction, lines).await?;
    let mut fresh = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let Some(id) = line.id.as_deref() else {
            fresh.push(line);
            continue;
        };
        let difference = match known.entry((line.tenant.as_str(), id)) {
            Entry::Vacant(entry) => {
                entry.insert(KnownEvent::Line(line));
                fresh.push(line);
                None
            }
            Entry::Occupied(known) => match known.get() {
                KnownEvent::Line(earlier) => EventContent::of(earlier).difference(line),
                KnownEvent::Stored(row) => difference_from_stored(transaction, row, line).await?,
            },
        };
        if let Some(message) = difference {
            return Err(StoreFailure::OtherEvent { index, message });
        }
    }
    Ok(fresh)
}

/// The events of the store with the ids of these lines, by tenant and id.
async fn stored_ids<'a>(
    transaction: &Transaction<'_>,
    lines: &'a [EventLine],
) -> Result<HashMap<(&'a str, &'a str), KnownEvent<'a>>, Error> {
    let ids: BTreeSet<(&str, &str)> =
        lines.iter().filter_map(|line| Some((line.tenant.as_str(), line.id.as_deref()?))).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<(&str, &str)> = ids.into_iter().collect();
    let (tenants, names): (Vec<&str>, Vec<&str>) = ids.iter().copied().unzip();
    let rows = transaction.query(include_str!("import/known_ids.sql"), &[&tenants, &names]).await?;
    let mut known = HashMap::with_capacity(lines.len());
    for row in rows {
        let index = row.get::<_, i64>(0) as usize - 1;
        known.extend(ids.get(index).map(|key| (*key, KnownEvent::Stored(row))));
    }
    Ok(known)
}

/// The difference between a line and the stored event with its id. JSON is compared by digests, so
/// a repeated import transfers little. The JSON is fetched only if the digests differ, one event at
/// a time.
async fn difference_from_stored(
    transaction: &Transaction<'_>,
    row: &Row,
    line: &EventLine,
) -> Result<Option<String>, Error> {
    let recorded_at: SystemTime = row.get(3);
    let stored = EventContent {
        stream: row.get(1),
        event_type: row.get(2),
        recorded_at: Some(micros_since_1970(recorded_at)),
        json: None,
    };
    let is = |column: usize, text: &str| row.get::<_, &[u8]>(column) == Sha256::digest(text).as_slice();
    if is(4, line.data.get()) && is(5, line.metadata()) {
        return Ok(stored.difference(line));
    }
    let max_bytes = i64::from(*size_limit::RANGE.end());
    let json =
        transaction.query_opt(include_str!("import/known_json.sql"), &[&line.tenant, &line.id, &max_bytes]).await?;
    Ok(match &json {
        Some(json) => EventContent { json: Some((json.get(0), json.get(1))), ..stored }.difference(line),
        None => Some(compare::message(line, "its data differs")),
    })
}

fn micros_since_1970(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    }
}

/// Locks the streams of these lines and advances them. Returns the version that each had before.
async fn advance_streams<'a>(
    transaction: &Transaction<'_>,
    lines: &[&'a EventLine],
) -> Result<BTreeMap<StreamKey<'a>, i64>, Error> {
    let mut streams: BTreeMap<StreamKey<'a>, i64> = BTreeMap::new();
    for line in lines {
        *streams.entry(stream_of(line)).or_default() += 1;
    }
    let added: Vec<i64> = streams.values().copied().collect();
    let (tenants, names): (Vec<&str>, Vec<&str>) = streams.keys().copied().unzip();
    let rows = transaction.query(include_str!("import/advance_streams.sql"), &[&tenants, &names, &added]).await?;
    let after: BTreeMap<StreamKey<'_>, i64> = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    for (stream, version) in &mut streams {
        *version = after.get(stream).copied().unwrap_or_default() - *version;
    }
    Ok(streams)
}
