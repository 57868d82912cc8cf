//! Dead letters: events that were set aside.

use std::sync::Arc;

use super::CommitTransaction;
use crate::{
    db::Error,
    model::{handler::Reason, ids::LaneKey},
    processor::outcome::Outcome,
};

/// A dead letter: an event that was set aside.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its lane.
    pub lane: LaneKey,
    /// Its position in the log.
    pub position: i64,
    /// Its id.
    pub event_id: Box<str>,
    /// The version of the code that set it aside, as SHA-256.
    pub digest: Arc<str>,
    /// Why it was set aside.
    pub reason: Reason,
    /// Number of attempts.
    pub attempts: u32,
}

impl DeadLetter {
    /// Bytes that it holds until the commit.
    pub fn bytes(&self) -> usize {
        self.event_id.len() + self.reason.message.len()
    }
}

impl CommitTransaction<'_> {
    /// Stores dead letters.
    pub(super) async fn write_letters(&self, outcomes: &[(&LaneKey, &Outcome)]) -> Result<(), Error> {
        let letters: Vec<&DeadLetter> = outcomes.iter().flat_map(|(_, outcome)| &outcome.dead_letters).collect();
        if letters.is_empty() {
            return Ok(());
        }
        let tenants: Vec<&str> = letters.iter().map(|l| l.lane.tenant.as_str()).collect();
        let keys: Vec<&str> = letters.iter().map(|l| &*l.lane.key).collect();
        let positions: Vec<i64> = letters.iter().map(|l| l.position).collect();
        let ids: Vec<&str> = letters.iter().map(|l| &*l.event_id).collect();
        let digests: Vec<&str> = letters.iter().map(|l| &*l.digest).collect();
        let classes: Vec<&str> = letters.iter().map(|l| l.reason.class.as_str()).collect();
        let messages: Vec<&str> = letters.iter().map(|l| l.reason.message.as_str()).collect();
        let attempts: Vec<i32> = letters.iter().map(|l| i32::try_from(l.attempts).unwrap_or(i32::MAX)).collect();
        self.session
            .execute(
                &self.statements.dead_letters,
                &[
                    &self.share.processor.as_str(),
                    &self.share.generation,
                    &digests,
                    &tenants,
                    &keys,
                    &positions,
                    &ids,
                    &classes,
                    &messages,
                    &attempts,
                ],
            )
            .await?;
        Ok(())
    }
}
