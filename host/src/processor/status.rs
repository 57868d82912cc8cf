//! The status of all processors, read from the database alone, so that it works whether or not a
//! host runs.

use serde::{Deserialize, Serialize};

use crate::{
    db::{Error, JsonText, Session, sqlstate},
    model::cursor::{Progress, Snapshot},
    source::native::lag,
};

/// Maximum number of unread events that are counted for a processor.
const LAG_COUNTED: i64 = 1_000_000;

/// Maximum number of a processor's dead letters that are counted.
const DEAD_LETTERS_COUNTED: i64 = 10_000;

/// The status of all processors.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// The connection that this status was read over.
    pub connection: ConnectionInfo,
    /// The processors, by id.
    pub processors: Vec<ProcessorStatus>,
}

/// A connection to the database.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionInfo {
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The protocol, such as `TLSv1.3`; none if it is not encrypted.
    pub protocol: Option<String>,
}

/// The status of one processor.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessorStatus {
    /// Its id.
    pub id: String,
    /// File, version and the first digits of the file's SHA-256.
    pub plugin: String,
    /// Unhandled events: those of any type that its cursor has not passed, and the next event of
    /// each lane behind it, if that is known.
    pub lag_events: i64,
    /// Whether there may be more: of a lane that is behind, only the next event counts, and of
    /// unread events, only the first million.
    pub lag_events_at_least: bool,
    /// Age of the first unhandled event, in seconds.
    pub lag_seconds: f64,
    /// Events in the log that its cursor has not passed, at most a million.
    pub unread_events: i64,
    /// Events handled per second, as last reported; 0 without a report in the last 5 s.
    pub rate: f64,
    /// All events that it has handled. Exact: the count is part of the transaction that handles
    /// them.
    pub handled: i64,
    /// Who paused the whole processor, and when; none if it is not paused.
    pub paused: Option<String>,
    /// What its host measured between its last two reports; zeros before the first.
    pub measures: Measures,
    /// Its dead letters, at most ten thousand.
    pub dead_letters: i64,
    /// Whether there are more dead letters.
    pub dead_letters_at_least: bool,
    /// The dead letter with the highest position.
    pub last_dead_letter: Option<LastDeadLetter>,
    /// Parked streams.
    pub parked_streams: i64,
    /// Events that wait in them.
    pub parked_events: i64,
    /// Set-aside events that were discarded; exact.
    pub discarded: i64,
    /// Events that it shed to keep up (`back-pressure = "shed"`); exact.
    pub shed: i64,
    /// The last events that it shed.
    pub last_shed: Option<LastShed>,
    /// Why it reads nothing although there may be more, and since when; none while it reads.
    pub held: Option<String>,
    /// The error that ended its last term; cleared once a term is healthy.
    pub term_error: Option<TermError>,
    /// The number of lanes behind its cursor.
    pub lanes_counted: LaneCounts,
    /// The first of these lanes, blocked ones before others.
    pub lanes_behind: Vec<LaneBehind>,
}

/// A processor that a host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningProcessor {
    /// Its id.
    pub id: String,
    /// The plugin's own id, which is part of it.
    pub family: String,
    /// Its tenant; none for a shared one.
    pub tenant: Option<String>,
    /// The event types that it handles, in the order of its descriptor; none means every type.
    pub event_types: Option<Vec<String>>,
}

/// Numbers of lanes behind a cursor, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneCounts {
    /// Lanes in any state.
    pub all: i64,
    /// Lanes that failed, and wait for manual action.
    pub blocked: i64,
    /// Lanes that wait for their next attempt.
    pub retrying: i64,
    /// Lanes that are paused.
    pub paused: i64,
    /// Lanes that read the log until they rejoin the tail.
    pub catching_up: i64,
}

impl LaneCounts {
    fn add(&mut self, state: &str, lanes: i64) {
        self.all += lanes;
        *match state {
            "blocked" => &mut self.blocked,
            "retrying" => &mut self.retrying,
            "paused" => &mut self.paused,
            _ => &mut self.catching_up,
        } += lanes;
    }

    /// The worst state of any lane.
    pub fn worst(&self) -> Option<&'static str> {
        let states = [
            ("blocked", self.blocked),
            ("retrying", self.retrying),
            ("paused", self.paused),
            ("catching-up", self.catching_up),
        ];
        states.into_iter().find(|(_, lanes)| *lanes > 0).map(|(state, _)| state)
    }
}

/// The record of consecutive terms of a processor that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TermError {
    /// The error of the last one.
    pub error: String,
    /// When the first one ended, RFC 3339.
    pub since: String,
    /// When the last one ended, RFC 3339.
    pub at: String,
    /// The number of consecutive terms that ended so.
    pub times: i64,
}

impl TermError {
    /// The SQLSTATE of the error, if it came from the database.
    pub fn sqlstate(&self) -> Option<&str> {
        sqlstate(&self.error)
    }
}

/// Measures of a host while a processor runs: averages since the last report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Measures {
    /// Time to read a page, milliseconds.
    pub read_ms: f64,
    /// Time to commit, milliseconds.
    pub commit_ms: f64,
    /// Commits per second.
    pub commits: f64,
    /// Memory of the whole host, MiB.
    pub host_mib: f64,
    /// Live plugin instances of the whole host.
    pub instances: usize,
    /// Log lines that the whole host has lost since it started, because standard error did not
    /// accept them in time.
    pub log_lines_lost: u64,
}

/// A dead letter.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastDeadLetter {
    /// Its tenant.
    pub tenant: String,
    /// Its position.
    pub position: i64,
    /// The reason, with its class.
    pub reason: String,
}

/// The last events that one lane shed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastShed {
    /// Its tenant.
    pub tenant: String,
    /// The lane's key.
    pub key: String,
    /// Number of events.
    pub events: i64,
    /// When, RFC 3339.
    pub at: String,
}

/// A lane behind its cursor.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneBehind {
    /// Its tenant.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// `catching-up`, `retrying`, `blocked` or `paused`.
    pub state: String,
    /// Why it does not move, with its class.
    pub reason: String,
    /// Number of attempts at the next event.
    pub attempts: i32,
    /// Position of that event, if it is known.
    pub event_position: Option<i64>,
    /// Since when it is in this state, RFC 3339.
    pub since: String,
}

/// Reads the processors that hosts run, by id.
pub async fn running(session: &Session) -> Result<Vec<RunningProcessor>, Error> {
    let rows = session.query(include_str!("status/running.sql"), &[]).await?;
    let running = rows.iter().map(|row| RunningProcessor {
        id: row.get(0),
        family: row.get(1),
        tenant: row.get(2),
        event_types: row.get(3),
    });
    Ok(running.collect())
}

/// Reads the status of all processors, with at most `lanes` lanes of each.
pub async fn read(session: &Session, lanes: i64) -> Result<Status, Error> {
    let protocol = session.encryption().await?;
    let connection = ConnectionInfo { encrypted: protocol.is_some(), protocol };
    let (mut processors, mut progresses) = (Vec::new(), Vec::new());
    for row in session.query(include_str!("status/processors.sql"), &[&(DEAD_LETTERS_COUNTED + 1)]).await? {
        let (file, version, digest): (&str, &str, &str) = (row.get(1), row.get(2), row.get(3));
        let progress: Option<&str> = row.get(4);
        progresses.push(progress.and_then(|text| text.parse().ok()).unwrap_or(Progress::at(Snapshot::nothing())));
        let dead_letters: i64 = row.get(9);
        processors.push(ProcessorStatus {
            id: row.get(0),
            plugin: format!("{file} {version} {}", digest.get(..12).unwrap_or(digest)),
            lag_events: 0,
            lag_events_at_least: false,
            lag_seconds: 0.0,
            unread_events: 0,
            rate: row.get(5),
            handled: row.get(6),
            paused: row.get(7),
            measures: serde_json::from_str(row.get::<_, JsonText<'_>>(8).0).unwrap_or_default(),
            dead_letters: dead_letters.min(DEAD_LETTERS_COUNTED),
            dead_letters_at_least: dead_letters > DEAD_LETTERS_COUNTED,
            last_dead_letter: row.get::<_, Option<String>>(10).map(|tenant| LastDeadLetter {
                tenant,
                position: row.get(11),
                reason: format!("{}: {}", row.get::<_, &str>(12), row.get::<_, &str>(13)),
            }),
            parked_streams: row.get(24),
            parked_events: row.get(25),
            discarded: row.get(26),
            shed: row.get(14),
            last_shed: row.get::<_, Option<String>>(15).map(|tenant| LastShed {
                tenant,
                key: row.get(16),
                events: row.get(17),
                at: row.get(18),
            }),
            held: row.get(19),
            term_error: row.get::<_, Option<String>>(21).map(|since| TermError {
                error: row.get(20),
                since,
                at: row.get(22),
                times: row.get(23),
            }),
            lanes_counted: LaneCounts::default(),
            lanes_behind: Vec::new(),
        });
    }
    add_lags(session, &mut processors, &progresses).await?;
    for row in session.query(include_str!("status/lanes.sql"), &[&lanes]).await? {
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
    Ok(Status { connection, processors })
}

/// Adds the events that each processor has not handled: those after its cursor, at this progress,
/// and the first one of each lane behind it.
async fn add_lags(session: &Session, processors: &mut [ProcessorStatus], progresses: &[Progress]) -> Result<(), Error> {
    // The index of a processor, and the position of an event that it has not handled.
    let mut pending: Vec<(usize, i64)> = Vec::new();
    let lags = lag::of_log(session, progresses, LAG_COUNTED).await?;
    for (index, (processor, lag)) in processors.iter_mut().zip(lags).enumerate() {
        processor.unread_events = lag.events;
        processor.lag_events = lag.events;
        processor.lag_events_at_least = lag.events >= LAG_COUNTED;
        pending.extend(lag.first.map(|first| (index, first)));
    }
    for row in session.query(include_str!("status/lane_counts.sql"), &[]).await? {
        let Some(index) = processors.iter().position(|p| p.id == row.get::<_, &str>(0)) else { continue };
        let processor = &mut processors[index];
        processor.lanes_counted.add(row.get(1), row.get(2));
        processor.lag_events += row.get::<_, i64>(3);
        processor.lag_events_at_least = true;
        pending.extend(row.get::<_, Option<i64>>(4).map(|first| (index, first)));
    }
    let positions: Vec<i64> = pending.iter().map(|(_, position)| *position).collect();
    let ages = lag::ages(session, &positions).await?;
    for (index, position) in pending {
        let age = ages.get(&position).copied().unwrap_or_default();
        processors[index].lag_seconds = processors[index].lag_seconds.max(age);
    }
    Ok(())
}
