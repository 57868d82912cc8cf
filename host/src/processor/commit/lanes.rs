//! The checkpoints of lanes: inserted when the cursor leaves a lane behind, updated when it moves,
//! deleted when the cursor covers it again.

use std::time::SystemTime;

use super::{CommitTransaction, names};
use crate::{
    db::{Error, types::ToSql},
    model::{cursor::Progress, ids::LaneKey},
    processor::lane_checkpoints::{LaneCheckpoint, LaneState},
};

impl CommitTransaction<'_> {
    /// Inserts the checkpoints of lanes that the cursor leaves behind.
    pub(super) async fn leave(&self, left: &[(LaneKey, LaneCheckpoint)]) -> Result<(), Error> {
        if left.is_empty() {
            return Ok(());
        }
        let buckets: Vec<i16> = left.iter().map(|(lane, _)| lane.bucket().into()).collect();
        let (tenants, keys) = names(left.iter().map(|(lane, _)| lane));
        let rows = CheckpointColumns::of(left.iter().map(|(_, checkpoint)| checkpoint));
        self.session
            .execute(
                &self.statements.leave,
                &[
                    &self.share.processor.as_str(),
                    &self.share.generation,
                    &buckets,
                    &tenants,
                    &keys,
                    &rows.progress,
                    &rows.states,
                    &rows.attempts,
                    &rows.next_at,
                    &rows.classes,
                    &rows.reasons,
                    &rows.event_positions,
                    &rows.skip_positions,
                ],
            )
            .await?;
        Ok(())
    }

    /// Updates the checkpoints of lanes behind the cursor.
    pub(super) async fn move_lanes(&self, moved: &[(LaneKey, Progress, LaneCheckpoint)]) -> Result<(), Error> {
        if moved.is_empty() {
            return Ok(());
        }
        let (tenants, keys) = names(moved.iter().map(|(lane, ..)| lane));
        let before: Vec<String> = moved.iter().map(|(_, before, _)| before.to_string()).collect();
        let rows = CheckpointColumns::of(moved.iter().map(|(.., checkpoint)| checkpoint));
        self.session
            .query(
                &self.statements.move_lanes,
                &[
                    &self.share.processor.as_str(),
                    &self.share.generation,
                    &tenants,
                    &keys,
                    &before,
                    &rows.progress,
                    &rows.states,
                    &rows.attempts,
                    &rows.next_at,
                    &rows.classes,
                    &rows.reasons,
                    &rows.event_positions,
                    &rows.skip_positions,
                ],
            )
            .await?;
        Ok(())
    }

    /// Deletes the checkpoints of lanes that the cursor covers again.
    pub(super) async fn rejoin(&self, rejoined: &[(LaneKey, Progress)]) -> Result<(), Error> {
        if rejoined.is_empty() {
            return Ok(());
        }
        let (tenants, keys) = names(rejoined.iter().map(|(lane, _)| lane));
        let before: Vec<String> = rejoined.iter().map(|(_, before)| before.to_string()).collect();
        let params: [&(dyn ToSql + Sync); 5] =
            [&self.share.processor.as_str(), &self.share.generation, &tenants, &keys, &before];
        self.session.query(&self.statements.rejoin, &params).await?;
        Ok(())
    }
}

/// Lane checkpoints, column by column.
#[derive(Default)]
struct CheckpointColumns {
    progress: Vec<String>,
    states: Vec<&'static str>,
    attempts: Vec<i32>,
    next_at: Vec<Option<SystemTime>>,
    classes: Vec<String>,
    reasons: Vec<String>,
    event_positions: Vec<Option<i64>>,
    skip_positions: Vec<Option<i64>>,
}

impl CheckpointColumns {
    fn of<'a>(checkpoints: impl Iterator<Item = &'a LaneCheckpoint>) -> Self {
        let mut columns = CheckpointColumns::default();
        for checkpoint in checkpoints {
            // A lane that is to skip an event moves, so it has no reason of its own.
            let reason = checkpoint.state.reason().or(checkpoint.skip.as_ref().map(|skip| &skip.reason));
            columns.progress.push(checkpoint.progress.to_string());
            columns.states.push(checkpoint.state.name());
            columns.attempts.push(i32::try_from(checkpoint.attempts).unwrap_or(i32::MAX));
            columns.next_at.push(match checkpoint.state {
                LaneState::Retrying { at, .. } => Some(at),
                _ => None,
            });
            columns.classes.push(reason.map_or_else(String::new, |r| r.class.clone()));
            columns.reasons.push(reason.map_or_else(String::new, |r| r.message.clone()));
            columns.event_positions.push(checkpoint.event_position);
            columns.skip_positions.push(checkpoint.skip.as_ref().map(|skip| skip.position));
        }
        columns
    }
}
