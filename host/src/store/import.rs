//! Imports events from lines of JSON.
//!
//! Lines are stored in their order, a few thousand to a commit, so that positions follow lines and an import that is broken off
//! leaves a beginning of its input. A line that repeats an event, by its tenant, id and content, is skipped and takes no version: an
//! input with ids can be imported again at any time. A line that has the id of another event is a bad line. The first bad line
//! ends the import; everything before it is stored. A commit's locks are those of its appends, taken in an order that all imports share. An import that meets an
//! application's lock gives way, and readers never wait.
//!
//! The versions are given out here and not by `sandmill.append`, whose work is one stream's: a commit moves all of its streams
//! forward in one statement, which locks them, and then copies its events straight into their table.

mod copy;
pub mod events;
mod input;
mod line;
mod same;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use futures_util::SinkExt;
pub use input::Input;
use input::{Chunk, End};
use line::Line;
use same::Content;
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::copy::Rows;
use super::size_limit;
use crate::db::{Error, Row, Session, SqlState, Transaction, describe};

/// How long a commit waits for a lock before it lets go of its own and begins again. Default 500 ms: less than PostgreSQL waits
/// before it breaks a deadlock, so that in one with an application the import gives way.
const LOCK_TIMEOUT: &str = "500ms";
/// How long a commit that collides with others begins again. Default 60 s: an import has time, but a forgotten transaction must
/// not hold it for ever without a word.
const PATIENCE: Duration = Duration::from_secs(60);

const COPY: &str = "copy sandmill.events (tenant, stream, version, type, id, recorded_at, data, metadata) \
                    from stdin (format binary)";

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input as it is on disk, compressed or not, that were read.
    pub bytes_read: u64,
    /// Events stored.
    pub imported: u64,
    /// Lines whose id was there already.
    pub repeated: u64,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Events stored.
    pub imported: u64,
    /// Lines whose id was there already.
    pub repeated: u64,
    /// Lines that held an event: the sum of the two.
    pub lines: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Why an import ended early. All lines up to `stored_through` are stored or were there already, and no later one is, except where
/// the connection was lost in the middle of a commit.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A line that cannot be stored.
    #[error("line {line}: {message}\n{}", stored(*.stored_through, .report))]
    BadLine {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        message: String,
        /// The last line that is in the store; 0 when none is.
        stored_through: u64,
        /// What was done.
        report: Report,
    },
    /// The input could not be read at all.
    #[error("read the input: {0}")]
    Unreadable(String),
    /// The database failed.
    #[error("store lines: {}{}\n{}{}", describe(source), held(source), stored(*.stored_through, .report), unsure(*.in_doubt))]
    Database {
        /// How.
        source: Error,
        /// The last line that is known to be in the store; 0 when none is.
        stored_through: u64,
        /// Whether the connection was lost in a commit, so that the lines after that one may be stored as well.
        in_doubt: bool,
        /// What was done.
        report: Report,
    },
}

fn stored(through: u64, report: &Report) -> String {
    let Report { imported, repeated, .. } = report;
    match through {
        0 => "Nothing was stored.".into(),
        through => format!("Everything up to line {through} is stored: {imported} imported, {repeated} stored before."),
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
        "\nThe connection was lost in a commit: some thousand lines after that may be stored as well. `sandmill events` shows the last ones."
    } else {
        ""
    }
}

/// Imports all lines of the input. `progress` is called after each commit.
pub async fn import(
    session: &mut Session,
    input: Input,
    mut progress: impl FnMut(Progress),
) -> Result<Report, ImportError> {
    let begun = Instant::now();
    let max_event_bytes = match size_limit::max_event_bytes(session).await {
        Ok(bytes) => bytes,
        Err(source) => {
            return Err(ImportError::Database {
                source,
                stored_through: 0,
                in_doubt: false,
                report: Report::default(),
            });
        }
    };
    let mut chunks = input.chunks(max_event_bytes);
    let mut done = Progress::default();
    let mut stored_through = 0;
    let report = |done: Progress| Report {
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
                // The database refused a line, but not in words that tell which: halves find it, and store what precedes it.
                Err(Failure::Refused(_)) if part.len() > 1 => size = part.len() / 2,
                Err(Failure::Refused(source)) => {
                    let line = part.first().map_or(0, |line| line.number);
                    let (message, report) = (describe(&source), report(done));
                    return Err(ImportError::BadLine { line, message, stored_through, report });
                }
                // What precedes it is stored first.
                Err(Failure::OtherEvent { index, .. }) if index > 0 => size = index,
                Err(Failure::OtherEvent { message, .. }) => {
                    let line = part.first().map_or(0, |line| line.number);
                    return Err(ImportError::BadLine { line, message, stored_through, report: report(done) });
                }
                Err(Failure::Database { source, in_doubt }) => {
                    return Err(ImportError::Database { source, stored_through, in_doubt, report: report(done) });
                }
            }
            done.bytes_read = bytes_read;
            progress(done);
        }
        match end {
            None => {}
            Some(End::Complete) => return Ok(report(done)),
            Some(End::Unreadable(message)) => return Err(ImportError::Unreadable(message)),
            Some(End::BadLine { number: line, message }) => {
                return Err(ImportError::BadLine { line, message, stored_through, report: report(done) });
            }
        }
    }
    // The reader sends an end unless its thread is gone with the runtime.
    Err(ImportError::Unreadable("it ended without being read to its end".into()))
}

/// Why some lines were not stored.
enum Failure {
    /// One of them can never be.
    Refused(Error),
    /// One of them has the id of another event.
    OtherEvent { index: usize, message: String },
    /// Something else.
    Database { source: Error, in_doubt: bool },
}

impl From<Error> for Failure {
    fn from(source: Error) -> Self {
        let refused = source.code().is_some_and(|code| {
            // What no column can hold, what is too much for the parser, and what a rule of the store forbids.
            matches!(code.code().get(..2), Some("22" | "54")) || *code == SqlState::CHECK_VIOLATION
        });
        if refused { Failure::Refused(source) } else { Failure::Database { source, in_doubt: false } }
    }
}

/// Stores lines in one transaction, begun again if it collided with others; the number of events stored.
async fn store(session: &mut Session, lines: &[Line]) -> Result<u64, Failure> {
    // An id that somebody else stored between our look and our insert is skipped by the next look.
    const COLLISIONS: [SqlState; 4] = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
    ];
    let begun = Instant::now();
    loop {
        match store_once(session, lines).await {
            Err(Failure::Database { source, in_doubt: false })
                if begun.elapsed() < PATIENCE && source.code().is_some_and(|code| COLLISIONS.contains(code)) => {}
            result => return result,
        }
    }
}

async fn store_once(session: &mut Session, lines: &[Line]) -> Result<u64, Failure> {
    let transaction = session.client_mut().transaction().await?;
    transaction.batch_execute(&format!("set local lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    let fresh = without_known(&transaction, lines).await?;
    if fresh.is_empty() {
        return Ok(0);
    }
    let tenants: Vec<&str> =
        fresh.iter().map(|line| line.tenant.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    transaction.execute(include_str!("import/begin_appends.sql"), &[&tenants]).await?;
    let mut versions = advance_streams(&transaction, &fresh).await?;
    let now: SystemTime = transaction.query_one("select now()", &[]).await?.get(0);
    let now = micros_since_1970(now);

    let mut rows = Rows::with_fields(8);
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
        Failure::Database { source, in_doubt }
    })?;
    Ok(fresh.len() as u64)
}

type Stream<'a> = (&'a str, &'a str);

fn stream_of(line: &Line) -> Stream<'_> {
    (&line.tenant, &line.stream)
}

/// The event that has an id already.
enum Known<'a> {
    /// In the store.
    Stored(Row),
    /// On an earlier line.
    Line(&'a Line),
}

/// The lines that repeat neither an event of the store nor an earlier line.
async fn without_known<'a>(transaction: &Transaction<'_>, lines: &'a [Line]) -> Result<Vec<&'a Line>, Failure> {
    let mut known = stored_ids(transaction, lines).await?;
    let mut fresh = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let Some(id) = line.id.as_deref() else {
            fresh.push(line);
            continue;
        };
        let difference = match known.entry((line.tenant.as_str(), id)) {
            Entry::Vacant(place) => {
                place.insert(Known::Line(line));
                fresh.push(line);
                None
            }
            Entry::Occupied(known) => match known.get() {
                Known::Line(earlier) => Content::of(earlier).difference(line),
                Known::Stored(row) => difference_from_stored(transaction, row, line).await?,
            },
        };
        if let Some(message) = difference {
            return Err(Failure::OtherEvent { index, message });
        }
    }
    Ok(fresh)
}

/// The events of the store that have ids of these lines, by tenant and id.
async fn stored_ids<'a>(
    transaction: &Transaction<'_>,
    lines: &'a [Line],
) -> Result<HashMap<(&'a str, &'a str), Known<'a>>, Error> {
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
        let place = row.get::<_, i64>(0) as usize - 1;
        known.extend(ids.get(place).map(|key| (*key, Known::Stored(row))));
    }
    Ok(known)
}

/// How a line differs from the event of the store that has its id. JSON is compared by digests, so that an import that is repeated
/// sends little; only where they differ the texts are fetched, one event at a time.
async fn difference_from_stored(
    transaction: &Transaction<'_>,
    row: &Row,
    line: &Line,
) -> Result<Option<String>, Error> {
    let recorded_at: SystemTime = row.get(3);
    let there = Content {
        stream: row.get(1),
        event_type: row.get(2),
        recorded_at: Some(micros_since_1970(recorded_at)),
        json: None,
    };
    let is = |column: usize, text: &str| row.get::<_, &[u8]>(column) == Sha256::digest(text).as_slice();
    if is(4, line.data.get()) && is(5, line.metadata()) {
        return Ok(there.difference(line));
    }
    let most = i64::from(*size_limit::RANGE.end());
    let json = transaction.query_opt(include_str!("import/known_json.sql"), &[&line.tenant, &line.id, &most]).await?;
    Ok(match &json {
        Some(json) => Content { json: Some((json.get(0), json.get(1))), ..there }.difference(line),
        None => Some(same::message(line, "its data is not the same")),
    })
}

fn micros_since_1970(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    }
}

/// Locks the streams of these lines and moves them forward; the version that each had before.
async fn advance_streams<'a>(
    transaction: &Transaction<'_>,
    lines: &[&'a Line],
) -> Result<BTreeMap<Stream<'a>, i64>, Error> {
    let mut streams: BTreeMap<Stream<'a>, i64> = BTreeMap::new();
    for line in lines {
        *streams.entry(stream_of(line)).or_default() += 1;
    }
    let added: Vec<i64> = streams.values().copied().collect();
    let (tenants, names): (Vec<&str>, Vec<&str>) = streams.keys().copied().unzip();
    let rows = transaction.query(include_str!("import/advance_streams.sql"), &[&tenants, &names, &added]).await?;
    let after: BTreeMap<Stream<'_>, i64> = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    for (stream, version) in &mut streams {
        *version = after.get(stream).copied().unwrap_or_default() - *version;
    }
    Ok(streams)
}
