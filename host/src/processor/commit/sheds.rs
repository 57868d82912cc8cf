//! The events that lanes shed, counted exactly.

use super::{CommitTransaction, names};
use crate::{
    db::{Error, types::ToSql},
    model::ids::LaneKey,
    processor::{outcome::Outcome, shed::Shed},
};

/// What each lane shed.
pub(super) fn of<'a>(outcomes: &'a [(&LaneKey, &Outcome)]) -> impl Iterator<Item = (&'a LaneKey, &'a Shed)> {
    outcomes.iter().filter_map(|(lane, outcome)| Some((*lane, outcome.shed.as_ref()?)))
}

impl CommitTransaction<'_> {
    /// Stores the events that each lane shed.
    pub(super) async fn write_sheds(&self, outcomes: &[(&LaneKey, &Outcome)]) -> Result<(), Error> {
        let sheds: Vec<(&LaneKey, &Shed)> = of(outcomes).collect();
        if sheds.is_empty() {
            return Ok(());
        }
        let (tenants, keys) = names(sheds.iter().map(|(lane, _)| *lane));
        let from: Vec<String> = sheds.iter().map(|(_, shed)| shed.from.to_string()).collect();
        let to: Vec<String> = sheds.iter().map(|(_, shed)| shed.to.to_string()).collect();
        let events: Vec<i64> = sheds.iter().map(|(_, shed)| shed.events as i64).collect();
        let params: [&(dyn ToSql + Sync); 7] =
            [&self.share.processor.as_str(), &self.share.generation, &tenants, &keys, &from, &to, &events];
        self.session.execute(&self.statements.shed, &params).await?;
        Ok(())
    }
}
