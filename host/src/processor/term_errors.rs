//! The error that ended a processor's last term, recorded for people.
//!
//! Terms that keep ending leave no other trace in the database, as nothing of them is committed. So the error is written on a session of its own, beside the work, and
//! later where that fails too. It is cleared once a term goes well: [`STEADY`] after its beginning, when it has committed something or has nothing left to do.

use std::time::{Duration, SystemTime};

use crate::{
    db::{Db, Error, Session, describe},
    model::{handler::REASON_BYTES, ids::ProcessorId, text},
};

/// How old a term must be before it may be said to go well. Default 2 s: a term that ends for a lasting reason does so as soon as it works.
pub(super) const STEADY: Duration = Duration::from_secs(2);
/// How long the next term waits for an error to be written. Default 5 s: writing is one statement, and a database that is away takes longer to say so.
const PATIENCE: Duration = Duration::from_secs(5);

/// What ended terms in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    error: String,
    since: SystemTime,
    at: SystemTime,
    times: i64,
}

/// The errors of one processor.
#[derive(Debug)]
pub(super) struct TermErrors {
    ended: Option<Ended>,
    /// Whether the database may name an error: also one of an earlier host's, as long as nobody has looked.
    stored: bool,
}

impl Default for TermErrors {
    fn default() -> Self {
        TermErrors { ended: None, stored: true }
    }
}

impl TermErrors {
    /// A term ended.
    pub(super) fn ended(&mut self, error: &str, now: SystemTime) {
        let (since, times) = self.ended.as_ref().map_or((now, 0), |before| (before.since, before.times));
        self.ended = Some(Ended { error: error.into(), since, at: now, times: times + 1 });
    }

    /// Whether there is an error to clear.
    pub(super) fn is_set(&self) -> bool {
        self.stored || self.ended.is_some()
    }

    /// Writes what ended the last term. What cannot be written is written with the next one.
    pub(super) async fn store(&mut self, db: &Db, id: &ProcessorId) {
        let Some(ended) = &self.ended else { return };
        match tokio::time::timeout(PATIENCE, ended.store(db, id)).await {
            Ok(Ok(())) => self.stored = true,
            Ok(Err(error)) => {
                tracing::debug!(processor = %id, "why terms end could not be written: {}", describe(&error));
            }
            Err(_) => tracing::debug!(processor = %id, "why terms end could not be written in time"),
        }
    }

    /// A term goes well: there is no error any more.
    pub(super) async fn clear(&mut self, session: &Session, id: &ProcessorId) -> Result<(), Error> {
        session.execute(include_str!("term_errors/clear.sql"), &[&id.as_str()]).await?;
        (self.ended, self.stored) = (None, false);
        Ok(())
    }
}

impl Ended {
    async fn store(&self, db: &Db, id: &ProcessorId) -> Result<(), Error> {
        let session = db.connect("term error").await?;
        // A database whose transactions are read-only by default may still be told why nothing is committed there.
        session.batch_execute("set default_transaction_read_only = off").await?;
        let sql = include_str!("term_errors/store.sql");
        session.execute(sql, &[&id.as_str(), &self.error, &self.since, &self.at, &self.times]).await.map(drop)
    }
}

/// An error in words that a column can hold; there are some also where it has none. The database's own error is told with its code, by which it is known what to do.
pub(super) fn words(error: &anyhow::Error) -> String {
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
        "" => "it ended without a message; what the host logged before that is all there is".into(),
        words => text::within(words, REASON_BYTES).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_row_keep_when_they_began() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut errors = TermErrors::default();
        assert!(errors.is_set(), "an earlier host may have left one");
        errors.ended("first", at(1));
        errors.ended("second", at(5));
        let ended = Ended { error: "second".into(), since: at(1), at: at(5), times: 2 };
        assert_eq!(errors.ended, Some(ended));
    }

    #[test]
    fn an_error_without_words_gets_some() {
        for empty in ["", " ", ": "] {
            assert!(words(&anyhow::anyhow!(empty.to_string())).starts_with("it ended without a message"), "{empty:?}");
        }
        assert_eq!(words(&anyhow::anyhow!("a\0b").context("read")), "read: a\u{fffd}b");
        let long = words(&anyhow::anyhow!("ä".repeat(5_000)));
        assert!(long.len() <= REASON_BYTES && long.ends_with('…') && long.starts_with("ää"), "{}", long.len());
    }
}
