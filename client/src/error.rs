//! Why events were not appended, named by what the caller does next.

use tokio_postgres::error::{DbError, SqlState};

use crate::{Append, ExpectedVersion};

/// What the database raises when a stream is not at the expected version.
const CONFLICT: &str = "SM409";
/// What it raises for an event over the store's size limit.
const TOO_LARGE: &str = "SM413";
/// What it raises when the store was restored into another cluster.
const OTHER_CLUSTER: &str = "SM421";
/// What it raises for JSON that plugins could not read.
const UNREADABLE: &str = "SM422";
/// The constraint that keeps ids unique within a tenant.
const UNIQUE_ID: &str = "events_tenant_id_key";

/// Why events were not appended. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The stream is at another version: read it again and repeat the decision.
    #[error("stream {stream} of tenant {tenant} is at version {actual}, expected {expected}")]
    Conflict {
        /// Whose stream it is.
        tenant: String,
        /// The stream.
        stream: String,
        /// What was asked for.
        expected: ExpectedVersion,
        /// The version of its last event; 0 when there is no such stream.
        actual: u64,
    },
    /// An event with this id is there already: most likely this one, from an earlier attempt.
    #[error("tenant {tenant} already has an event with the id {id}")]
    DuplicateId {
        /// The tenant that has it.
        tenant: String,
        /// The id. Where the database does not tell which of several it was, all that were given, with commas.
        id: String,
    },
    /// The store cannot hold this: it would fail every time.
    #[error("{0}")]
    Invalid(String),
    /// The store was restored from a dump or moved; it must be re-anchored before anything can be
    /// appended.
    #[error("{0}")]
    OtherCluster(String),
    /// The database did not answer as hoped.
    #[error("the database could not append the events")]
    Database(#[source] tokio_postgres::Error),
}

impl AppendError {
    pub(crate) fn from_database(error: tokio_postgres::Error, append: &Append) -> Self {
        let Some(refusal) = error.as_db_error() else { return AppendError::Database(error) };
        let detail = refusal.detail().unwrap_or_default();
        if refusal.code().code() == CONFLICT {
            return AppendError::Conflict {
                tenant: append.tenant.clone(),
                stream: append.stream.clone(),
                expected: append.expected,
                actual: detail.parse().unwrap_or_default(),
            };
        }
        if refusal.code() == &SqlState::UNIQUE_VIOLATION && refusal.constraint() == Some(UNIQUE_ID) {
            return AppendError::DuplicateId { tenant: append.tenant.clone(), id: duplicate(append, detail) };
        }
        if refusal.code().code() == OTHER_CLUSTER {
            return AppendError::OtherCluster(in_words(refusal));
        }
        if is_refused_content(refusal) { AppendError::Invalid(in_words(refusal)) } else { AppendError::Database(error) }
    }
}

/// Finds which of the given ids the database's detail is about:
/// `Key (tenant, id)=(…, …) already exists.`, in any language.
fn duplicate(append: &Append, detail: &str) -> String {
    let ids: Vec<&str> = append.events.iter().filter_map(|event| event.id.as_deref()).collect();
    match ids.iter().find(|id| detail.contains(&format!("=({}, {id})", append.tenant))) {
        Some(id) => (*id).to_owned(),
        None => ids.join(", "),
    }
}

/// Whether it is the content that was refused: a value that no column can hold, or one that a rule of the store forbids. A unique
/// key and a snapshot that is too old are not among them: those may pass another time.
fn is_refused_content(refusal: &DbError) -> bool {
    let class = refusal.code().code().get(..2).unwrap_or_default();
    class == "22"
        || class == "54"
        || matches!(refusal.code().code(), TOO_LARGE | UNREADABLE)
        || refusal.code() == &SqlState::CHECK_VIOLATION
        || refusal.code() == &SqlState::NOT_NULL_VIOLATION
}

fn in_words(refusal: &DbError) -> String {
    let mut words = refusal.message().to_owned();
    for more in [refusal.detail(), refusal.hint()].into_iter().flatten() {
        words.push_str("; ");
        words.push_str(more);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewEvent;

    #[test]
    fn the_duplicate_is_found_by_its_value_in_any_language() {
        let event = |id: &str| NewEvent::new("T", "1").id(id);
        let append = Append::to("t", "s").event(event("a")).event(NewEvent::new("T", "2")).event(event("ab"));
        assert_eq!(duplicate(&append, "Schlüssel »(tenant, id)=(t, ab)« existiert bereits."), "ab");
        assert_eq!(duplicate(&append, ""), "a, ab");
    }

    #[test]
    fn messages_say_what_was_expected() {
        let conflict = |expected| {
            let (tenant, stream) = ("acme".to_owned(), "cart-1".to_owned());
            AppendError::Conflict { tenant, stream, expected, actual: 3 }.to_string()
        };
        assert_eq!(
            conflict(ExpectedVersion::Exactly(2)),
            "stream cart-1 of tenant acme is at version 3, expected version 2"
        );
        assert_eq!(
            conflict(ExpectedVersion::NoStream),
            "stream cart-1 of tenant acme is at version 3, expected no such stream"
        );
    }
}
