//! What is reported of the plugins folder beside its plugins: each problem once in the log, and all that there are now in the database.
//!
//! A problem is news when its path is, or its text has changed. One that comes and goes is remembered for a minute, and a folder whose
//! problems keep changing gets no more lines in that time than fit a screen. So no folder can flood the log, and memory is bounded by what is listed.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use super::{folder::Problem, history};
use crate::db::{Error, Session};

/// For how long a problem is remembered that is not there any more. Default one minute: what flaps is one problem, what comes back the next day is another.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Lines that problems of one folder may add to the log within [`REMEMBERED`]. Default 40: twice what one look lists.
const MOST_LINES: usize = 40;

/// The problems of a plugins folder.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Those that are there now.
    now: Vec<Problem>,
    /// Those that were logged, with what was said and when they were seen last.
    logged: BTreeMap<String, (String, Instant)>,
    /// Whether the database has them as they are now.
    is_stored: bool,
}

impl Reports {
    /// Takes note of what a look found, and logs what is news.
    pub(super) fn found(&mut self, folder: &Path, problems: Vec<Problem>) {
        for Problem { path, problem, remedy } in self.news(problems, Instant::now()) {
            let path = if path == "." { folder.to_path_buf() } else { folder.join(path) };
            tracing::warn!(path = %path.display(), "{problem}; {remedy}");
        }
    }

    /// Takes note of why nothing could be looked at. What was found before is taken to be there still.
    pub(super) fn failed(&mut self, folder: &Path, why: &std::io::Error) {
        let mut problems = self.now.clone();
        problems.retain(|problem| problem.path != ".");
        problems.insert(0, Problem::unreadable(".", why));
        self.found(folder, problems);
    }

    /// Takes note of what is there now; gives what has not been logged.
    fn news(&mut self, problems: Vec<Problem>, at: Instant) -> Vec<Problem> {
        self.logged.retain(|_, (_, seen)| at.saturating_duration_since(*seen) < REMEMBERED);
        let mut news = Vec::new();
        for problem in &problems {
            if let Some((said, seen)) = self.logged.get_mut(&problem.path) {
                *seen = at;
                if *said == problem.problem {
                    continue;
                }
            }
            let folder = folder_of(&problem.path);
            if self.logged.keys().filter(|path| folder_of(path) == folder).count() < MOST_LINES {
                self.logged.insert(problem.path.clone(), (problem.problem.clone(), at));
                news.push(problem.clone());
            }
        }
        self.is_stored &= self.now == problems;
        self.now = problems;
        news
    }

    /// Writes down what is there now, if that is not yet written down.
    pub(super) async fn store(&mut self, session: &Session) -> Result<(), Error> {
        if !self.is_stored {
            history::problems(session, &self.now).await?;
            self.is_stored = true;
        }
        Ok(())
    }
}

/// The folder that an entry lies in; empty for those of the plugins folder itself.
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
    fn a_problem_is_news_once_and_again_when_its_reason_changes() {
        let (mut reports, began) = (Reports::default(), Instant::now());
        let mut news = |problems: &[(&str, &str)], seconds| {
            let problems = problems.iter().map(|(path, why)| problem(path, why)).collect();
            paths(reports.news(problems, began + Duration::from_secs(seconds)))
        };
        let nothing: [&str; 0] = [];
        assert_eq!(news(&[("a", "x"), ("b", "x")], 0), ["a", "b"]);
        for seconds in 1..200 {
            assert_eq!(news(&[("a", "x")], seconds), nothing);
        }
        assert_eq!(news(&[("a", "y")], 200), ["a"]);
        // One that flaps is the same one; after a while it is another.
        assert_eq!(news(&[], 201), nothing);
        assert_eq!(news(&[("a", "y")], 259), nothing);
        assert_eq!(news(&[], 320), nothing);
        assert_eq!(news(&[("a", "y")], 321), ["a"]);
    }

    #[test]
    fn problems_that_keep_changing_do_not_flood_the_log() {
        let (mut reports, began) = (Reports::default(), Instant::now());
        let mut lines = 0;
        for look in 0..600 {
            let at = began + Duration::from_millis(look * 100);
            let changing = problem(&format!("mallory/{look}.toml"), "x");
            let news = paths(reports.news(vec![changing, problem("acme/a.toml", "x")], at));
            lines += news.iter().filter(|path| path.starts_with("mallory")).count();
            assert_eq!(news.contains(&"acme/a.toml".into()), look == 0, "others are not kept from being told");
        }
        assert_eq!(lines, MOST_LINES);
    }
}
