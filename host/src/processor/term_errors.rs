//! The record of the error that ended a processor's last term, for `status` and `explain`.
//!
//! Terms that keep ending commit nothing, so they leave no other trace in the database. The error
//! is therefore written outside any term; if that fails too, it is written with the next one. The
//! record outlives the host: a new host continues its time and count. It is cleared once a term is
//! healthy (see [`TermErrors::healthy_at`]).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{connections::CommitSession, core::TermProgress};
use crate::{
    db::{
        Error, Session, describe,
        pool::{Borrower, Pool},
    },
    model::{handler::REASON_BYTES, ids::ProcessorId, text},
};

/// Minimum age of a term that counts as healthy because it has caught up. 2 s: a connection that is
/// lost again and again while there is nothing to do must stay visible.
const STEADY: Duration = Duration::from_secs(2);
/// Minimum age of a term that counts as healthy because it commits, although it never catches up.
/// 60 s: one lane's commit does not show that another lane's statement will succeed. So the term
/// must be older than the time after which a statement fails.
const LASTING: Duration = Duration::from_secs(60);
/// Maximum time that the next term waits for an error to be written. 5 s: enough to read and write
/// one row, and less than an unreachable database takes to fail.
const PATIENCE: Duration = Duration::from_secs(5);

/// Consecutive terms that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndedTerms {
    error: String,
    since: SystemTime,
    at: SystemTime,
    times: i64,
}

/// The errors of one processor.
#[derive(Debug, Default)]
pub(super) struct TermErrors {
    ended: Option<EndedTerms>,
    /// Whether `ended` includes the record of an earlier host, which is read before the first
    /// write.
    continued: bool,
}

impl TermErrors {
    /// Counts a term that ended with an error.
    pub(super) fn ended(&mut self, error: &str, now: SystemTime) {
        let (since, times) = self.ended.as_ref().map_or((now, 0), |before| (before.since, before.times));
        self.ended = Some(EndedTerms { error: error.into(), since, at: now, times: times + 1 });
    }

    /// The age at which a term is healthy, if its progress stays as it is. None if it never is, or
    /// if there is no error to clear.
    pub(super) fn healthy_at(&self, progress: impl FnOnce() -> TermProgress) -> Option<Duration> {
        if self.continued && self.ended.is_none() {
            return None;
        }
        match progress() {
            TermProgress::None => None,
            TermProgress::Committed => Some(LASTING),
            TermProgress::CaughtUp => Some(STEADY),
        }
    }

    /// Writes the last error. If that fails, it is written with the next one.
    pub(super) async fn store(&mut self, sessions: &Arc<Pool<CommitSession>>, id: &ProcessorId) {
        match tokio::time::timeout(PATIENCE, self.try_store(sessions, id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(processor = %id, "cannot record why a term ended: {}", describe(&error));
            }
            Err(_) => tracing::debug!(processor = %id, "cannot record in time why a term ended"),
        }
    }

    /// Writes the last error, after adding the terms that an earlier host recorded.
    async fn try_store(&mut self, sessions: &Arc<Pool<CommitSession>>, id: &ProcessorId) -> Result<(), Error> {
        let session = sessions.lend(&Borrower::of(id, "term error")).await?;
        if !self.continued {
            let row = session.query_opt(include_str!("term_errors/read.sql"), &[&id.as_str()]).await?;
            self.continue_from(row.and_then(|row| Some((row.get::<_, Option<SystemTime>>(0)?, row.get(1)))));
        }
        let Some(EndedTerms { error, since, at, times }) = &self.ended else {
            session.give_back();
            return Ok(());
        };
        let sql = include_str!("term_errors/store.sql");
        session.execute(sql, &[&id.as_str(), error, since, at, times]).await?;
        session.give_back();
        Ok(())
    }

    /// Adds the terms that an earlier host recorded: when the first of them ended, and their
    /// number.
    fn continue_from(&mut self, stored: Option<(SystemTime, i64)>) {
        self.continued = true;
        if let (Some(ended), Some((since, times))) = (&mut self.ended, stored) {
            ended.since = ended.since.min(since);
            ended.times = ended.times.saturating_add(times);
        }
    }

    /// Clears the record, because a term is healthy.
    pub(super) async fn clear(&mut self, session: &Session, id: &ProcessorId) -> Result<(), Error> {
        session.execute(include_str!("term_errors/clear.sql"), &[&id.as_str()]).await?;
        (self.ended, self.continued) = (None, true);
        Ok(())
    }
}

/// The text of an error, in a form that the column can hold; never empty. An error of the database
/// includes its SQLSTATE, from which `explain` derives the remedy.
pub(super) fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<Error>() {
            parts.push(describe(error));
            break;
        }
        parts.push(cause.to_string());
    }
    let joined = parts.join(": ").replace('\0', "\u{fffd}");
    match joined.trim().trim_end_matches(':').trim_end() {
        "" => "the error has no message; see the log of the host before that time".into(),
        message => text::within(message, REASON_BYTES).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn consecutive_errors_keep_their_first_time() {
        let mut errors = TermErrors::default();
        errors.ended("first", at(1));
        errors.ended("second", at(5));
        let ended = EndedTerms { error: "second".into(), since: at(1), at: at(5), times: 2 };
        assert_eq!(errors.ended, Some(ended));
    }

    #[test]
    fn a_new_host_continues_the_record_of_an_earlier_one_once() {
        let mut errors = TermErrors::default();
        errors.ended("of this host", at(7));
        errors.continue_from(Some((at(1), 4)));
        errors.ended("of this host", at(9));
        let ended = EndedTerms { error: "of this host".into(), since: at(1), at: at(9), times: 6 };
        assert_eq!((&errors.ended, errors.continued), (&Some(ended), true));
        let mut first = TermErrors::default();
        first.ended("first", at(7));
        first.continue_from(None);
        assert_eq!(first.ended.map(|ended| (ended.since, ended.times)), Some((at(7), 1)));
    }

    #[test]
    fn a_term_is_healthy_by_its_progress_and_not_by_its_age_alone() {
        let mut errors = TermErrors::default();
        assert_eq!(
            errors.healthy_at(|| TermProgress::CaughtUp),
            Some(STEADY),
            "an earlier host may have left an error"
        );
        errors.continue_from(None);
        assert_eq!(errors.healthy_at(|| unreachable!("there is nothing to clear")), None);
        errors.ended("lock timeout", at(1));
        let healthy_at = [TermProgress::None, TermProgress::Committed, TermProgress::CaughtUp]
            .map(|made| errors.healthy_at(|| made));
        assert_eq!(healthy_at, [None, Some(LASTING), Some(STEADY)]);
    }

    #[test]
    fn an_error_without_a_message_gets_one() {
        for empty in ["", " ", ": "] {
            assert!(message(&anyhow::anyhow!(empty.to_string())).starts_with("the error has no message"), "{empty:?}");
        }
        assert_eq!(message(&anyhow::anyhow!("a\0b").context("read")), "read: a\u{fffd}b");
        let long = message(&anyhow::anyhow!("ä".repeat(5_000)));
        assert!(long.len() <= REASON_BYTES && long.ends_with('…') && long.starts_with("ää"), "{}", long.len());
    }
}
