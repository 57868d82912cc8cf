//! Reports of problems in the plugins folder: each is logged once, and the database has the current
//! list.
//!
//! A problem is new if its path is new or its text has changed. A problem that disappears is
//! remembered for a minute. The problems of one folder add at most 40 lines to the log in that
//! time. So no folder can flood the log, and memory is bounded by the number of problems that a
//! scan lists.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use super::{folder::Problem, history};
use crate::db::{Error, Session};

/// How long a problem that has disappeared is remembered. One minute: a problem that comes and goes
/// is one problem, and one that recurs the next day is another.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Lines that the problems of one folder may add to the log within [`REMEMBERED`]. 40: twice what
/// one scan lists.
const MAX_LINES: usize = 40;

/// The problems of a plugins folder.
#[derive(Debug, Default)]
pub(super) struct ProblemReports {
    /// The problems of the last scan.
    current: Vec<Problem>,
    /// The logged text of each path, and when the problem was last seen.
    logged: BTreeMap<String, (String, Instant)>,
    /// Whether the database has the current list.
    is_stored: bool,
}

impl ProblemReports {
    /// Takes the problems of a scan and logs the new ones.
    pub(super) fn update(&mut self, folder: &Path, problems: Vec<Problem>) {
        for Problem { path, problem, remedy } in self.new_problems(problems, Instant::now()) {
            let path = if path == "." { folder.to_path_buf() } else { folder.join(path) };
            tracing::warn!(path = %path.display(), "{problem}; {remedy}");
        }
    }

    /// Takes the error of a failed scan. The problems found before count as still present.
    pub(super) fn scan_failed(&mut self, folder: &Path, error: &std::io::Error) {
        let mut problems = self.current.clone();
        problems.retain(|problem| problem.path != ".");
        problems.insert(0, Problem::unreadable(".", error));
        self.update(folder, problems);
    }

    /// Takes the current problems; returns those to log.
    fn new_problems(&mut self, problems: Vec<Problem>, now: Instant) -> Vec<Problem> {
        self.logged.retain(|_, (_, seen)| now.saturating_duration_since(*seen) < REMEMBERED);
        let mut new = Vec::new();
        for problem in &problems {
            if let Some((logged, seen)) = self.logged.get_mut(&problem.path) {
                *seen = now;
                if *logged == problem.problem {
                    continue;
                }
            }
            let folder = folder_of(&problem.path);
            if self.logged.keys().filter(|path| folder_of(path) == folder).count() < MAX_LINES {
                self.logged.insert(problem.path.clone(), (problem.problem.clone(), now));
                new.push(problem.clone());
            }
        }
        self.is_stored &= self.current == problems;
        self.current = problems;
        new
    }

    /// Stores the current list, unless the database has it.
    pub(super) async fn store(&mut self, session: &Session) -> Result<(), Error> {
        if !self.is_stored {
            history::store_problems(session, &self.current).await?;
            self.is_stored = true;
        }
        Ok(())
    }
}

/// The folder of an entry; empty for entries of the plugins folder itself.
fn folder_of(path: &str) -> &str {
    path.split_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(path: &str, problem: &str) -> Problem {
        Problem { path: path.into(), problem: problem.into(), remedy: String::new() }
    }

    fn paths(problems: Vec<Problem>) -> Vec<String> {
        problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn a_problem_is_logged_once_and_again_when_its_reason_changes() {
        let (mut reports, began) = (ProblemReports::default(), Instant::now());
        let mut logged = |problems: &[(&str, &str)], seconds| {
            let problems = problems.iter().map(|(path, why)| problem(path, why)).collect();
            paths(reports.new_problems(problems, began + Duration::from_secs(seconds)))
        };
        let nothing: [&str; 0] = [];
        assert_eq!(logged(&[("a", "x"), ("b", "x")], 0), ["a", "b"]);
        for seconds in 1..200 {
            assert_eq!(logged(&[("a", "x")], seconds), nothing);
        }
        assert_eq!(logged(&[("a", "y")], 200), ["a"]);
        // A problem that comes and goes is the same one for a minute.
        assert_eq!(logged(&[], 201), nothing);
        assert_eq!(logged(&[("a", "y")], 259), nothing);
        assert_eq!(logged(&[], 320), nothing);
        assert_eq!(logged(&[("a", "y")], 321), ["a"]);
    }

    #[test]
    fn problems_that_keep_changing_do_not_flood_the_log() {
        let (mut reports, began) = (ProblemReports::default(), Instant::now());
        let mut lines = 0;
        for scan in 0..600 {
            let now = began + Duration::from_millis(scan * 100);
            let changing = problem(&format!("mallory/{scan}.toml"), "x");
            let logged = paths(reports.new_problems(vec![changing, problem("acme/a.toml", "x")], now));
            lines += logged.iter().filter(|path| path.starts_with("mallory")).count();
            assert_eq!(logged.contains(&"acme/a.toml".into()), scan == 0, "another folder's problem is logged");
        }
        assert_eq!(lines, MAX_LINES);
    }
}
