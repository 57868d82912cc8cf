//! What became of plugins, as the database has it: which run, which files were refused, what happened in which order, and which versions were taken back.

pub mod components;

use std::time::{Instant, SystemTime};

use super::folder::Problem;
pub use crate::rollout::dry_run::DryRunReport;
use crate::{
    db::{Error, Session, types::ToSql},
    model::ids::ProcessorId,
    processor::code::Done,
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its processor began.
    Started,
    /// It took another version's place.
    Swapped,
    /// Its processor ended and began again with it.
    Restarted,
    /// It took its place back.
    RolledBack,
    /// It goes by another name.
    Renamed,
    /// Its processor ended.
    Stopped,
    /// It is not run.
    Refused,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Event::Started => "started",
            Event::Swapped => "swapped",
            Event::Restarted => "restarted",
            Event::RolledBack => "rolled-back",
            Event::Renamed => "renamed",
            Event::Stopped => "stopped",
            Event::Refused => "refused",
        }
    }
}

/// A note of something that happened.
#[derive(Clone, Debug)]
pub struct Note<'a> {
    /// The plugin's name.
    pub plugin: &'a str,
    /// Its processor; empty where it is not known.
    pub processor: &'a str,
    /// SHA-256 of the file; empty where it could not be read.
    pub digest: &'a str,
    /// The author's version.
    pub version: &'a str,
    /// What happened.
    pub event: Event,
    /// Why; empty where there was no reason but the file.
    pub reason: &'a str,
    /// The version that it replaced, and the last event which that had handled.
    pub replaced: Option<(&'a str, Option<i64>)>,
    /// What came of trying it on earlier events, if it was.
    pub dry_run: Option<&'a DryRunReport>,
}

impl Note<'_> {
    fn dry_run(&self) -> Option<String> {
        // Numbers and texts always become JSON.
        self.dry_run.and_then(|dry_run| serde_json::to_string(dry_run).ok())
    }
}

/// Takes note of something that leaves what runs as it is.
pub async fn happened(session: &Session, note: &Note<'_>) -> Result<(), Error> {
    let (replaced, last) = note.replaced.unwrap_or(("", None));
    let sql = include_str!("history/happened.sql");
    let (event, dry_run) = (note.event.name(), note.dry_run());
    let Note { plugin, processor, digest, version, reason, .. } = note;
    let params: [&(dyn ToSql + Sync); 9] =
        [plugin, processor, digest, version, &event, reason, &replaced, &last, &dry_run];
    session.execute(sql, &params).await.map(drop)
}

/// What runs under a file's name from now on.
#[derive(Clone, Debug)]
pub struct Ran<'a> {
    /// How that came.
    pub note: Note<'a>,
    /// The contract that it keeps.
    pub contract: &'a str,
    /// The public key that it is signed with; empty where none was asked for.
    pub signed_by: &'a str,
}

/// Takes note of what runs, all at once; gives the notes' numbers.
pub async fn ran(session: &Session, ran: &[Ran<'_>]) -> Result<Vec<i64>, Error> {
    fn each<'a, T>(ran: &'a [Ran<'a>], of: impl Fn(&'a Ran<'a>) -> T) -> Vec<T> {
        ran.iter().map(of).collect()
    }
    let replaced = |ran: &Ran<'_>| ran.note.replaced.unwrap_or(("", None)).1;
    let rows = session
        .query(
            include_str!("history/ran.sql"),
            &[
                &each(ran, |ran| ran.note.plugin),
                &each(ran, |ran| ran.note.processor),
                &each(ran, |ran| ran.note.digest),
                &each(ran, |ran| ran.note.version),
                &each(ran, |ran| ran.contract),
                &each(ran, |ran| ran.signed_by),
                &each(ran, |ran| ran.note.event.name()),
                &each(ran, |ran| ran.note.reason),
                &each(ran, |ran| ran.note.replaced.map_or("", |(replaced, _)| replaced)),
                &each(ran, replaced),
                &each(ran, |ran| ran.note.dry_run()),
            ],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Adds to the note of a swap what the version has done since, if it has handled an event: the first one, how long after the swap its call began, and how lanes came over.
pub async fn since(session: &Session, note: i64, swapped: Instant, done: &Done) -> Result<(), Error> {
    let (Some((first, _)), Some(began)) = (done.positions, done.began) else { return Ok(()) };
    let gap_ms = began.saturating_duration_since(swapped).as_secs_f64() * 1e3;
    let (lanes, longest_ms) = (done.lanes as i64, done.longest.as_secs_f64() * 1e3);
    session.execute(include_str!("history/since.sql"), &[&note, &first, &gap_ms, &lanes, &longest_ms]).await.map(drop)
}

/// Says that a file is not run. What runs under its name stays what it is. Whether that is news.
pub async fn refused(session: &Session, plugin: &str, digest: &str, why: &str) -> Result<bool, Error> {
    session.execute(include_str!("history/another.sql"), &[&plugin, &digest]).await?;
    Ok(session.execute(include_str!("history/refused.sql"), &[&plugin, &digest, &why]).await? > 0)
}

/// Says that nothing is wrong with a file any more. Of one that is gone it stays known what it was.
pub async fn mended(session: &Session, plugin: &str) -> Result<(), Error> {
    let sql = "update sandmill.plugins set refused_digest = '', refused = '', refused_at = null
               where plugin = $1 and gone_since is null";
    session.execute(sql, &[&plugin]).await.map(drop)
}

/// Says that there is no file of this name any more, and nothing runs under it. What ran last is
/// kept for a while, as the file may come back.
pub async fn gone(session: &Session, plugin: &str) -> Result<(), Error> {
    session.execute(include_str!("history/gone.sql"), &[&plugin]).await.map(drop)
}

/// Says that what ran under a name has ended for good: it runs under another name, or the file is
/// another plugin now.
pub async fn forget(session: &Session, plugin: &str) -> Result<(), Error> {
    session.execute("delete from sandmill.plugins where plugin = $1", &[&plugin]).await.map(drop)
}

/// Says, before anything of them runs, which files there are: others are gone, unless they lie in
/// the folder of a tenant that cannot be read.
pub async fn begin(session: &Session, there: &[&str], unread: &[&str]) -> Result<(), Error> {
    session.execute(include_str!("history/begin.sql"), &[&there, &unread]).await.map(drop)
}

/// Says what is wrong with entries of the folder that are no plugins, and with nothing else any more.
pub async fn problems(session: &Session, problems: &[Problem]) -> Result<(), Error> {
    fn each(problems: &[Problem], of: impl Fn(&Problem) -> &str) -> Vec<&str> {
        problems.iter().map(of).collect()
    }
    let paths = each(problems, |problem| &problem.path);
    let (wrong, remedies) = (each(problems, |problem| &problem.problem), each(problems, |problem| &problem.remedy));
    session.execute(include_str!("history/problems.sql"), &[&paths, &wrong, &remedies]).await.map(drop)
}

/// What is wrong with entries of the folder that are no plugins, and since when.
pub async fn listed_problems(session: &Session) -> Result<Vec<(Problem, SystemTime)>, Error> {
    let rows =
        session.query("select path, problem, remedy, since from sandmill.folder_problems order by 1", &[]).await?;
    let problem = |row: &crate::db::Row| Problem { path: row.get(0), problem: row.get(1), remedy: row.get(2) };
    Ok(rows.iter().map(|row| (problem(row), row.get(3))).collect())
}

/// Says that nothing runs under a file's name, though there is one. What ran last stays known.
pub async fn idle(session: &Session, plugin: &str) -> Result<(), Error> {
    let sql = "update sandmill.plugins set processor = '', lanes = 0 where plugin = $1 and gone_since is null";
    session.execute(sql, &[&plugin]).await.map(drop)
}

/// Says how many calls are under way.
pub async fn lanes(session: &Session, plugin: &str, lanes: i64) -> Result<(), Error> {
    // Told every now and then: a row that says so already is not written.
    let sql = "update sandmill.plugins set lanes = $2 where plugin = $1 and lanes <> $2";
    session.execute(sql, &[&plugin, &lanes]).await.map(drop)
}

/// Of the version that runs under a file's name, or ran last, and those before it, the latest that
/// was not taken back. How a version came to run makes no difference: by a swap or by a start.
pub async fn not_held(session: &Session, plugin: &str, digest: &str, held: &[Hold]) -> Result<Option<String>, Error> {
    let held = held.iter().filter(|hold| hold.plugin == plugin).map(|hold| hold.digest.as_str());
    let held: Vec<&str> = held.collect();
    if !held.contains(&digest) {
        return Ok(Some(digest.into()));
    }
    let row = session.query_opt(include_str!("history/former.sql"), &[&plugin, &digest, &held]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// A version that is not to be run again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// The plugin's name.
    pub plugin: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// Why.
    pub reason: String,
}

/// The versions that were taken back.
pub async fn holds(session: &Session) -> Result<Vec<Hold>, Error> {
    let rows = session.query("select plugin, digest, reason from sandmill.plugin_holds order by 1, 2", &[]).await?;
    Ok(rows.iter().map(|row| Hold { plugin: row.get(0), digest: row.get(1), reason: row.get(2) }).collect())
}

/// Takes a version back. Whether it was not yet.
pub async fn hold(session: &Session, hold: &Hold) -> Result<bool, Error> {
    let sql = "insert into sandmill.plugin_holds (plugin, digest, reason) values ($1, $2, $3) on conflict do nothing";
    Ok(session.execute(sql, &[&hold.plugin, &hold.digest, &hold.reason]).await? > 0)
}

/// Lets all versions of a plugin be run again; how many were held.
pub async fn release(session: &Session, plugin: &str) -> Result<u64, Error> {
    session.execute("delete from sandmill.plugin_holds where plugin = $1", &[&plugin]).await
}

/// What a host makes of one file.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The file's name without its ending.
    pub plugin: String,
    /// The processor that runs; empty where none does.
    pub processor: String,
    /// SHA-256 of the file that runs, or that ran last.
    pub digest: String,
    /// The author's version.
    pub version: String,
    /// The contract's version.
    pub contract: String,
    /// The public key that the file is signed with; empty where none was asked for.
    pub signed_by: String,
    /// Since when this version runs.
    pub since: SystemTime,
    /// Calls under way, as of lately.
    pub lanes: i64,
    /// The file that is not run: its SHA-256, why, and since when.
    pub refused: Option<(String, String, SystemTime)>,
    /// Whether the file was gone. Then all else is as it was before.
    pub is_gone: bool,
}

impl Listed {
    /// SHA-256 of the file that was there, whether it ran or not.
    pub fn file_digest(&self) -> &str {
        let refused = self.refused.as_ref().map(|(digest, ..)| digest.as_str()).filter(|digest| !digest.is_empty());
        refused.unwrap_or(&self.digest)
    }

    /// Whether something runs under the name.
    pub fn runs(&self) -> bool {
        !self.processor.is_empty()
    }
}

/// The shared processors that are replaced for a tenant, each with the tenant's own.
pub fn replacements(plugins: &[Listed]) -> Vec<(&str, ProcessorId)> {
    let own = plugins.iter().filter_map(|own| ProcessorId::parse(&own.processor).ok());
    let own = own.filter(|own| own.owner().is_some());
    let shared = |own: &ProcessorId| plugins.iter().find(|shared| shared.processor == own.family().as_str());
    own.filter_map(|own| Some((shared(&own)?.processor.as_str(), own))).collect()
}

/// What a host makes of its files, by their names.
pub async fn list(session: &Session) -> Result<Vec<Listed>, Error> {
    list_with(session, &[]).await
}

/// The same with what was made of these files before they were gone, if they were.
pub async fn list_with(session: &Session, back: &[&str]) -> Result<Vec<Listed>, Error> {
    let rows = session.query(include_str!("history/list.sql"), &[&back]).await?;
    let listed = |row: &crate::db::Row| {
        let at: Option<SystemTime> = row.get(9);
        Listed {
            plugin: row.get(0),
            processor: row.get(1),
            digest: row.get(2),
            version: row.get(3),
            contract: row.get(4),
            signed_by: row.get(10),
            since: row.get(5),
            lanes: row.get(6),
            refused: at.map(|at| (row.get(7), row.get(8), at)),
            is_gone: row.get(11),
        }
    };
    Ok(rows.iter().map(listed).collect())
}

/// Something that happened to a plugin.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its number; later ones are larger.
    pub id: i64,
    /// The processor; empty where it was not known.
    pub processor: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// The author's version.
    pub version: String,
    /// What happened: `started`, `swapped`, `restarted`, `rolled-back`, `renamed`, `stopped` or `refused`.
    pub event: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: SystemTime,
    /// The version that it replaced; empty where it replaced none.
    pub replaced: String,
    /// The last event that one had handled by then.
    pub replaced_last: Option<i64>,
    /// The first event that this one handled.
    pub first: Option<i64>,
    /// How long after the swap the call that handled it began, milliseconds.
    pub gap_ms: Option<f64>,
    /// The lanes that had come over when that was written last.
    pub lanes: Option<i64>,
    /// The longest that one of them had to wait for its first answer, from when its events were ready, milliseconds.
    pub longest_ms: Option<f64>,
    /// What came of trying it on earlier events, if it was.
    pub dry_run: Option<DryRunReport>,
}

/// What happened to a plugin, the last first, at most so much of it.
pub async fn past(session: &Session, plugin: &str, most: i64) -> Result<Vec<Past>, Error> {
    let rows = session.query(include_str!("history/past.sql"), &[&plugin, &most]).await?;
    let past = |row: &crate::db::Row| Past {
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
        // Written by this or an earlier version; what a later one adds is left out.
        dry_run: row.get::<_, Option<&str>>(13).and_then(|text| serde_json::from_str(text).ok()),
    };
    Ok(rows.iter().map(past).collect())
}
