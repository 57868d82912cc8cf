//! Errors of an append, by what the caller does next.

use tokio_postgres::error::{DbError, SqlState};

use crate::{Append, ExpectedVersion};

/// SQLSTATE: the stream is not at the expected version.
const CONFLICT: &str = "SM409";
/// SQLSTATE: an event exceeds the store's size limit.
const TOO_LARGE: &str = "SM413";
/// SQLSTATE: the store was restored from a dump, moved or upgraded, and is not re-anchored yet.
const OTHER_CLUSTER: &str = "SM421";
/// SQLSTATE: the JSON is nested too deeply, or has too long a number, for plugins to read.
const UNREADABLE: &str = "SM422";
/// The constraint that event ids are unique within a tenant.
const UNIQUE_ID: &str = "events_tenant_id_key";

/// The reason why an append failed. No event was appended, except perhaps if the reason is
/// [`Database`](AppendError::Database).
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The stream is not at the expected version. Read it again and repeat the decision.
    #[error(
        "stream {stream} of tenant {tenant} is at version {actual}, expected {expected}; read it again and repeat the \
         decision"
    )]
    Conflict {
        /// The tenant that owns the stream.
        tenant: String,
        /// The stream.
        stream: String,
        /// The expected version.
        expected: ExpectedVersion,
        /// The version of the stream's last event; 0 if there is no such stream.
        actual: u64,
    },
    /// The tenant already has an event with this id, most likely this event from an earlier attempt
    /// that succeeded; or two events of the append have this id.
    #[error(
        "the id {id} is used by an event of tenant {tenant} or twice in this append; if you are repeating an append, \
         an earlier attempt succeeded; otherwise give each event a unique id"
    )]
    DuplicateId {
        /// The tenant.
        tenant: String,
        /// The id. If the error does not name it, all ids of the append, separated by commas.
        id: String,
    },
    /// The store rejects the content, and would reject it again. The message names the part and the
    /// rule.
    #[error("{0}")]
    Invalid(String),
    /// The store was restored from a dump, moved or upgraded. Nothing can be appended before
    /// `sandmill migrate --reanchor` has run.
    #[error("{0}")]
    OtherCluster(String),
    /// Any other error of the driver or the database, such as a lost connection. After a lost
    /// connection the events may have been appended. With [ids](crate::NewEvent::id) of the
    /// application's own, the append can be repeated safely.
    #[error("the database could not append the events")]
    Database(#[source] tokio_postgres::Error),
}

impl AppendError {
    /// Classifies an error of the driver for this append.
    pub(crate) fn from_database(error: tokio_postgres::Error, append: &Append) -> Self {
        let Some(response) = error.as_db_error() else { return AppendError::Database(error) };
        let detail = response.detail().unwrap_or_default();
        if response.code().code() == CONFLICT {
            return AppendError::Conflict {
                tenant: append.tenant.clone(),
                stream: append.stream.clone(),
                expected: append.expected,
                actual: detail.parse().unwrap_or_default(),
            };
        }
        if response.code() == &SqlState::UNIQUE_VIOLATION && response.constraint() == Some(UNIQUE_ID) {
            return AppendError::DuplicateId { tenant: append.tenant.clone(), id: duplicate(append, detail) };
        }
        if response.code().code() == OTHER_CLUSTER {
            return AppendError::OtherCluster(in_words(response));
        }
        if is_rejected_content(response) {
            AppendError::Invalid(in_words(response))
        } else {
            AppendError::Database(error)
        }
    }
}

/// The id that the error's detail names. `sandmill.append` writes it in English:
/// `Key (tenant, id)=(…, …) already exists.` A store without the latest migrations reports
/// PostgreSQL's own detail, which may be in another language, so only the values are read.
fn duplicate(append: &Append, detail: &str) -> String {
    let ids: Vec<&str> = append.events.iter().filter_map(|event| event.id.as_deref()).collect();
    match ids.iter().find(|id| detail.contains(&format!("=({}, {id})", append.tenant))) {
        Some(id) => (*id).to_owned(),
        None => ids.join(", "),
    }
}

/// Whether the database rejected the content: a value that no column can hold, or that breaks a
/// rule of the store. Other unique violations and serialization failures do not count, because a
/// later attempt may succeed.
fn is_rejected_content(error: &DbError) -> bool {
    let class = error.code().code().get(..2).unwrap_or_default();
    class == "22"
        || class == "54"
        || matches!(error.code().code(), TOO_LARGE | UNREADABLE)
        || error.code() == &SqlState::CHECK_VIOLATION
        || error.code() == &SqlState::NOT_NULL_VIOLATION
}

fn in_words(error: &DbError) -> String {
    let mut words = error.message().to_owned();
    for more in [error.detail(), error.hint()].into_iter().flatten() {
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
    fn a_duplicate_id_is_found_in_a_detail_in_any_language() {
        let event = |id: &str| NewEvent::new("T", "1").id(id);
        let append = Append::to("t", "s").event(event("a")).event(NewEvent::new("T", "2")).event(event("ab"));
        assert_eq!(duplicate(&append, "Schlüssel »(tenant, id)=(t, ab)« existiert bereits."), "ab");
        assert_eq!(duplicate(&append, ""), "a, ab");
    }

    #[test]
    fn a_conflict_names_the_actual_and_the_expected_version() {
        for (expected, words) in
            [(ExpectedVersion::Exactly(2), "version 2"), (ExpectedVersion::NoStream, "no such stream")]
        {
            let (tenant, stream) = ("acme".to_owned(), "cart-1".to_owned());
            assert_eq!(
                AppendError::Conflict { tenant, stream, expected, actual: 3 }.to_string(),
                format!(
                    "stream cart-1 of tenant acme is at version 3, expected {words}; read it again and repeat the decision"
                )
            );
        }
    }
}
