//! Dead letters: events that were set aside.

use super::CommitTransaction;
use crate::{
    db::{Error, types::ToSql},
    model::{diagnostics::Diagnostics, ids::LaneKey},
    processor::outcome::{DeadLetter, Outcome},
};

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
        let streams: Vec<&str> = letters.iter().map(|l| &*l.stream).collect();
        let versions: Vec<i64> = letters.iter().map(|l| l.stream_version).collect();
        let digests: Vec<&str> = letters.iter().map(|l| &*l.digest).collect();
        let classes: Vec<&str> = letters.iter().map(|l| l.reason.class.as_str()).collect();
        let messages: Vec<&str> = letters.iter().map(|l| l.reason.message.as_str()).collect();
        let attempts: Vec<i32> = letters.iter().map(|l| i32::try_from(l.attempts).unwrap_or(i32::MAX)).collect();
        let diagnostics = |text: fn(&Diagnostics) -> &str| -> Vec<&str> {
            letters.iter().map(|l| l.diagnostics.as_deref().map_or("", text)).collect()
        };
        let (backtraces, log_tails) = (diagnostics(|d| &d.backtrace), diagnostics(|d| &d.log_tail));
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
                    &streams,
                    &versions,
                    &classes,
                    &messages,
                    &attempts,
                    &backtraces,
                    &log_tails,
                ],
            )
            .await?;
        Ok(())
    }

    /// Deletes dead letters that were handled again or discarded.
    pub(super) async fn delete_letters(&self, outcomes: &[(&LaneKey, &Outcome)]) -> Result<(), Error> {
        let positions: Vec<i64> = outcomes.iter().flat_map(|(_, outcome)| &outcome.answered).copied().collect();
        if positions.is_empty() {
            return Ok(());
        }
        let params: [&(dyn ToSql + Sync); 3] = [&self.share.processor.as_str(), &self.share.generation, &positions];
        self.session.query(&self.statements.answered, &params).await?;
        Ok(())
    }
}
