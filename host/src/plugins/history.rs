//! The plugins' rows in the database: the versions that run, the rejected files, the history of
//! each plugin, and the versions that are held back.
//!
//! The reconciler writes them and commands read them. The rows hold names and digests; only
//! [`components`] holds code.

pub mod components;

use std::time::{Instant, SystemTime};

use super::folder::Problem;
pub use crate::rollout::dry_run::DryRunReport;
use crate::{
    db::{Error, GenericClient, Session, types::ToSql},
    model::ids::ProcessorId,
    processor::code::VersionStats,
};

/// A kind of event in a plugin's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginEvent {
    /// Its processor began.
    Started,
    /// The version replaced another one while its processor ran.
    Swapped,
    /// Its processor ended and began again with this version.
    Restarted,
    /// The version replaced its successor.
    RolledBack,
    /// The file has another name.
    Renamed,
    /// Its processor ended.
    Stopped,
    /// The file was rejected.
    Rejected,
}

impl PluginEvent {
    fn name(self) -> &'static str {
        match self {
            PluginEvent::Started => "started",
            PluginEvent::Swapped => "swapped",
            PluginEvent::Restarted => "restarted",
            PluginEvent::RolledBack => "rolled-back",
            PluginEvent::Renamed => "renamed",
            PluginEvent::Stopped => "stopped",
            PluginEvent::Rejected => "rejected",
        }
    }
}

/// An entry to be written to a plugin's history.
#[derive(Clone, Debug)]
pub struct HistoryNote<'a> {
    /// The plugin's name.
    pub plugin: &'a str,
    /// Its processor; empty if unknown.
    pub processor: &'a str,
    /// SHA-256 of the file; empty if it could not be read.
    pub digest: &'a str,
    /// The author's version.
    pub version: &'a str,
    /// The kind of event.
    pub event: PluginEvent,
    /// The reason; empty if the change of the file is the only reason.
    pub reason: &'a str,
    /// The replaced version, and the position of the last event that it had handled.
    pub replaced: Option<(&'a str, Option<i64>)>,
    /// The report of its dry run, if there was one.
    pub dry_run: Option<&'a DryRunReport>,
}

impl HistoryNote<'_> {
    fn dry_run(&self) -> Option<String> {
        // Numbers and texts always serialize.
        self.dry_run.and_then(|dry_run| serde_json::to_string(dry_run).ok())
    }
}

/// Writes an entry that does not change which version runs.
pub async fn record(session: &Session, note: &HistoryNote<'_>) -> Result<(), Error> {
    let (replaced, last) = note.replaced.unwrap_or(("", None));
    let sql = include_str!("history/record.sql");
    let (event, dry_run) = (note.event.name(), note.dry_run());
    let HistoryNote { plugin, processor, digest, version, reason, .. } = note;
    let params: [&(dyn ToSql + Sync); 9] =
        [plugin, processor, digest, version, &event, reason, &replaced, &last, &dry_run];
    session.execute(sql, &params).await.map(drop)
}

/// An entry about the version that a plugin runs from now on.
#[derive(Clone, Debug)]
pub struct RunNote<'a> {
    /// The entry.
    pub note: HistoryNote<'a>,
    /// The version of its contract.
    pub contract: &'a str,
    /// The public key that verifies it; empty if no signature was required.
    pub signed_by: &'a str,
}

/// Writes which versions run, in one statement; returns the ids of the history entries.
pub async fn record_runs(session: &Session, runs: &[RunNote<'_>]) -> Result<Vec<i64>, Error> {
    fn column<'a, T>(runs: &'a [RunNote<'a>], of: impl Fn(&'a RunNote<'a>) -> T) -> Vec<T> {
        runs.iter().map(of).collect()
    }
    let replaced_last = |run: &RunNote<'_>| run.note.replaced.unwrap_or(("", None)).1;
    let rows = session
        .query(
            include_str!("history/record_runs.sql"),
            &[
                &column(runs, |run| run.note.plugin),
                &column(runs, |run| run.note.processor),
                &column(runs, |run| run.note.digest),
                &column(runs, |run| run.note.version),
                &column(runs, |run| run.contract),
                &column(runs, |run| run.signed_by),
                &column(runs, |run| run.note.event.name()),
                &column(runs, |run| run.note.reason),
                &column(runs, |run| run.note.replaced.map_or("", |(replaced, _)| replaced)),
                &column(runs, replaced_last),
                &column(runs, |run| run.note.dry_run()),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Completes the entry of a swap, once the version has handled an event. Adds the first event, how
/// long after the swap its call began, and how many lanes use the version.
pub async fn complete_swap(
    session: &Session,
    entry: i64,
    swapped_at: Instant,
    stats: &VersionStats,
) -> Result<(), Error> {
    let (Some((first, _)), Some(began)) = (stats.positions, stats.began) else { return Ok(()) };
    let gap_ms = began.saturating_duration_since(swapped_at).as_secs_f64() * 1e3;
    let (lanes, longest_ms) = (stats.lanes as i64, stats.longest_wait.as_secs_f64() * 1e3);
    session
        .execute(include_str!("history/complete_swap.sql"), &[&entry, &first, &gap_ms, &lanes, &longest_ms])
        .await
        .map(drop)
}

/// Records that a file is rejected; what the plugin runs does not change. Returns whether the
/// rejection is new.
pub async fn record_rejection(session: &Session, plugin: &str, digest: &str, reason: &str) -> Result<bool, Error> {
    session.execute(include_str!("history/forget_replaced.sql"), &[&plugin, &digest]).await?;
    Ok(session.execute(include_str!("history/record_rejection.sql"), &[&plugin, &digest, &reason]).await? > 0)
}

/// Clears the rejection of a file. The rejection of a removed file is kept.
pub async fn clear_rejection(session: &Session, plugin: &str) -> Result<(), Error> {
    let sql = "update sandmill.plugins set refused_digest = '', refused = '', refused_at = null
               where plugin = $1 and gone_since is null";
    session.execute(sql, &[&plugin]).await.map(drop)
}

/// Records that a plugin's file was removed and nothing runs. Its last version is kept for a while,
/// because the file may return.
pub async fn record_removal(session: &Session, plugin: &str) -> Result<(), Error> {
    session.execute(include_str!("history/record_removal.sql"), &[&plugin]).await.map(drop)
}

/// Deletes a plugin whose processor now runs under another file's name, or whose file now provides
/// another processor.
pub async fn delete(session: &Session, plugin: &str) -> Result<(), Error> {
    session.execute("delete from sandmill.plugins where plugin = $1", &[&plugin]).await.map(drop)
}

/// Records which plugins have a file, before any of them runs. All others count as removed, except
/// those of tenants whose folders cannot be read.
pub async fn record_files(session: &Session, files: &[&str], unread: &[&str]) -> Result<(), Error> {
    session.execute(include_str!("history/record_files.sql"), &[&files, &unread]).await.map(drop)
}

/// Replaces the list of problems in the plugins folder.
pub async fn store_problems(session: &Session, problems: &[Problem]) -> Result<(), Error> {
    fn column(problems: &[Problem], of: impl Fn(&Problem) -> &str) -> Vec<&str> {
        problems.iter().map(of).collect()
    }
    let paths = column(problems, |problem| &problem.path);
    let (wrong, remedies) = (column(problems, |problem| &problem.problem), column(problems, |problem| &problem.remedy));
    session.execute(include_str!("history/store_problems.sql"), &[&paths, &wrong, &remedies]).await.map(drop)
}

/// The problems in the plugins folder, each with the time when it was found.
pub async fn problems(session: &Session) -> Result<Vec<(Problem, SystemTime)>, Error> {
    let rows =
        session.query("select path, problem, remedy, since from sandmill.folder_problems order by 1", &[]).await?;
    let problem = |row: &crate::db::Row| Problem { path: row.get(0), problem: row.get(1), remedy: row.get(2) };
    Ok(rows.iter().map(|row| (problem(row), row.get(3))).collect())
}

/// Records that a plugin has a file and runs nothing. Its last version is kept.
pub async fn record_idle(session: &Session, plugin: &str) -> Result<(), Error> {
    let sql = "update sandmill.plugins set processor = '', lanes = 0 where plugin = $1 and gone_since is null";
    session.execute(sql, &[&plugin]).await.map(drop)
}

/// Records the number of calls under way.
pub async fn record_lanes(session: &Session, plugin: &str, lanes: i64) -> Result<(), Error> {
    // Called every two seconds: an unchanged row is not rewritten.
    let sql = "update sandmill.plugins set lanes = $2 where plugin = $1 and lanes <> $2";
    session.execute(sql, &[&plugin, &lanes]).await.map(drop)
}

/// The latest version of a plugin that is not held back: the one that runs or ran last (`digest`),
/// or one before it. It does not matter whether a version began with a swap or with a start.
pub async fn latest_allowed(
    session: &Session,
    plugin: &str,
    digest: &str,
    held: &[VersionHold],
) -> Result<Option<String>, Error> {
    let held = held.iter().filter(|hold| hold.plugin == plugin).map(|hold| hold.digest.as_str());
    let held: Vec<&str> = held.collect();
    if !held.contains(&digest) {
        return Ok(Some(digest.into()));
    }
    let row = session.query_opt(include_str!("history/latest_allowed.sql"), &[&plugin, &digest, &held]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// The author's version of a plugin's file, as its history last recorded it.
pub async fn version_of(session: &Session, plugin: &str, digest: &str) -> Result<Option<String>, Error> {
    let sql = "select version from sandmill.plugin_versions where plugin = $1 and digest = $2 and version <> ''
               order by id desc limit 1";
    Ok(session.query_opt(sql, &[&plugin, &digest]).await?.map(|row| row.get(0)))
}

/// A version that must not run again, because it failed its trial or was rolled back manually.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionHold {
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// The reason.
    pub reason: String,
}

/// All versions that are held back.
pub async fn holds(session: &Session) -> Result<Vec<VersionHold>, Error> {
    let rows = session.query("select plugin, digest, reason from sandmill.plugin_holds order by 1, 2", &[]).await?;
    Ok(rows.iter().map(|row| VersionHold { plugin: row.get(0), digest: row.get(1), reason: row.get(2) }).collect())
}

/// Holds a version back. Returns whether it was not held before.
pub async fn add_hold(client: &impl GenericClient, hold: &VersionHold) -> Result<bool, Error> {
    let sql = "insert into sandmill.plugin_holds (plugin, digest, reason) values ($1, $2, $3) on conflict do nothing";
    Ok(client.execute(sql, &[&hold.plugin, &hold.digest, &hold.reason]).await? > 0)
}

/// Releases all versions of a plugin; returns how many were held back.
pub async fn release_holds(client: &impl GenericClient, plugin: &str) -> Result<u64, Error> {
    client.execute("delete from sandmill.plugin_holds where plugin = $1", &[&plugin]).await
}

/// The state of one plugin.
#[derive(Clone, Debug)]
pub struct PluginStatus {
    /// The file's name without its ending.
    pub plugin: String,
    /// The processor that runs; empty if none does.
    pub processor: String,
    /// SHA-256 of the version that runs or ran last.
    pub digest: String,
    /// The author's version.
    pub version: String,
    /// The version of its contract.
    pub contract: String,
    /// The public key that verifies it; empty if no signature was required.
    pub signed_by: String,
    /// When this version began to run.
    pub since: SystemTime,
    /// Number of calls under way, as of a few seconds ago.
    pub lanes: i64,
    /// The rejection of its file, if it was rejected: SHA-256, reason and time.
    pub rejected: Option<(String, String, SystemTime)>,
    /// Whether the file was removed. All other fields are as they were before.
    pub is_removed: bool,
}

impl PluginStatus {
    /// SHA-256 of the plugin's last file, whether it ran or not.
    pub fn file_digest(&self) -> &str {
        let rejected = self.rejected.as_ref().map(|(digest, ..)| digest.as_str()).filter(|digest| !digest.is_empty());
        rejected.unwrap_or(&self.digest)
    }

    /// Whether the plugin runs a version.
    pub fn runs(&self) -> bool {
        !self.processor.is_empty()
    }
}

/// The shared processors that are replaced for a tenant, each with the tenant's own processor.
pub fn replacements(plugins: &[PluginStatus]) -> Vec<(&str, ProcessorId)> {
    let own = plugins.iter().filter_map(|own| ProcessorId::parse(&own.processor).ok());
    let own = own.filter(|own| own.owner().is_some());
    let shared = |own: &ProcessorId| plugins.iter().find(|shared| shared.processor == own.family().as_str());
    own.filter_map(|own| Some((shared(&own)?.processor.as_str(), own))).collect()
}

/// The plugins that have a file, by name.
pub async fn list(session: &Session) -> Result<Vec<PluginStatus>, Error> {
    list_including(session, &[]).await
}

/// The plugins that have a file and, even if their files were removed, those of `removed`; by name.
pub async fn list_including(session: &Session, removed: &[&str]) -> Result<Vec<PluginStatus>, Error> {
    let rows = session.query(include_str!("history/list.sql"), &[&removed]).await?;
    let listed = |row: &crate::db::Row| {
        let at: Option<SystemTime> = row.get(9);
        PluginStatus {
            plugin: row.get(0),
            processor: row.get(1),
            digest: row.get(2),
            version: row.get(3),
            contract: row.get(4),
            signed_by: row.get(10),
            since: row.get(5),
            lanes: row.get(6),
            rejected: at.map(|at| (row.get(7), row.get(8), at)),
            is_removed: row.get(11),
        }
    };
    Ok(rows.iter().map(listed).collect())
}

/// An entry of a plugin's history.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// Its id; later entries have larger ones.
    pub id: i64,
    /// The processor; empty if unknown.
    pub processor: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// The author's version.
    pub version: String,
    /// The kind of event: `started`, `swapped`, `restarted`, `rolled-back`, `renamed`, `stopped` or
    /// `rejected`.
    pub event: String,
    /// The reason.
    pub reason: String,
    /// The time.
    pub at: SystemTime,
    /// SHA-256 of the replaced version; empty if there was none.
    pub replaced: String,
    /// Position of the last event that the replaced version had handled.
    pub replaced_last: Option<i64>,
    /// Position of the first event that this version handled.
    pub first: Option<i64>,
    /// Time from the swap to the call that handled that event, milliseconds.
    pub gap_ms: Option<f64>,
    /// Number of lanes that used the version when the entry was last written.
    pub lanes: Option<i64>,
    /// The longest time that one of these lanes waited for its first answer, from when its events
    /// were ready, milliseconds.
    pub longest_ms: Option<f64>,
    /// The report of its dry run, if there was one.
    pub dry_run: Option<DryRunReport>,
}

/// A plugin's history, newest first, at most `limit` entries.
pub async fn entries(session: &Session, plugin: &str, limit: i64) -> Result<Vec<HistoryEntry>, Error> {
    let rows = session.query(include_str!("history/entries.sql"), &[&plugin, &limit]).await?;
    let entry = |row: &crate::db::Row| HistoryEntry {
        id: row.get(0),
        processor: row.get(1),
        digest: row.get(2),
        version: row.get(3),
        event: row.get(4),
        reason: row.get(5),
        at: row.get(6),
        replaced: row.get(7),
        replaced_last: row.get(8),
        first: row.get(9),
        gap_ms: row.get(10),
        lanes: row.get(11),
        longest_ms: row.get(12),
        // Fields that a later host adds are ignored.
        dry_run: row.get::<_, Option<&str>>(13).and_then(|text| serde_json::from_str(text).ok()),
    };
    Ok(rows.iter().map(entry).collect())
}
