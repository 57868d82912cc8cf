//! Parked streams: a row is inserted when a stream is parked, updated when more of its events wait
//! or some were handled, and deleted when none waits.

use super::CommitTransaction;
use crate::{
    db::{Error, types::ToSql},
    model::ids::LaneKey,
    processor::outcome::{DeadLetter, Outcome, StreamChange},
};

impl CommitTransaction<'_> {
    /// Stores the changes of parked streams.
    pub(super) async fn write_streams(&self, outcomes: &[(&LaneKey, &Outcome)]) -> Result<(), Error> {
        let changes = last_changes(outcomes.iter().flat_map(|(_, outcome)| &outcome.streams));
        let parked = |change: &&StreamChange| change.failed.is_some() && change.place.events > 0;
        let (parked, moved): (Vec<&StreamChange>, Vec<&StreamChange>) = changes.iter().partition(parked);
        tokio::try_join!(biased; self.park(&parked), self.move_streams(&moved))?;
        Ok(())
    }

    async fn park(&self, changes: &[&StreamChange]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let letters: Vec<&DeadLetter> = changes.iter().filter_map(|change| change.failed.as_ref()).collect();
        let columns = StreamColumns::of(changes);
        let keys: Vec<&str> = changes.iter().map(|change| &*change.lane.key).collect();
        let positions: Vec<i64> = letters.iter().map(|l| l.position).collect();
        let ids: Vec<&str> = letters.iter().map(|l| &*l.event_id).collect();
        let classes: Vec<&str> = letters.iter().map(|l| l.reason.class.as_str()).collect();
        let messages: Vec<&str> = letters.iter().map(|l| l.reason.message.as_str()).collect();
        let attempts: Vec<i32> = letters.iter().map(|l| i32::try_from(l.attempts).unwrap_or(i32::MAX)).collect();
        let digests: Vec<&str> = letters.iter().map(|l| &*l.digest).collect();
        let params: [&(dyn ToSql + Sync); 14] = [
            &self.share.processor.as_str(),
            &self.share.generation,
            &columns.tenants,
            &keys,
            &columns.streams,
            &columns.next,
            &columns.last,
            &columns.events,
            &positions,
            &ids,
            &classes,
            &messages,
            &attempts,
            &digests,
        ];
        self.session.execute(&self.statements.parked, &params).await?;
        Ok(())
    }

    async fn move_streams(&self, changes: &[&StreamChange]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let columns = StreamColumns::of(changes);
        let answers: Vec<bool> = changes.iter().map(|change| change.answers).collect();
        let params: [&(dyn ToSql + Sync); 8] = [
            &self.share.processor.as_str(),
            &self.share.generation,
            &columns.tenants,
            &columns.streams,
            &columns.next,
            &columns.last,
            &columns.events,
            &answers,
        ];
        self.session.query(&self.statements.moved_streams, &params).await?;
        Ok(())
    }
}

/// The last change of each stream. It keeps the failure of an earlier one, which parked the stream.
fn last_changes<'a>(changes: impl Iterator<Item = &'a StreamChange>) -> Vec<StreamChange> {
    let mut last: Vec<StreamChange> = Vec::new();
    for change in changes {
        let same = |other: &&mut StreamChange| other.lane.tenant == change.lane.tenant && other.stream == change.stream;
        match last.iter_mut().find(same) {
            None => last.push(change.clone()),
            Some(earlier) => {
                let failed = change.failed.clone().or(earlier.failed.take());
                *earlier = StreamChange { failed, answers: earlier.answers || change.answers, ..change.clone() };
            }
        }
    }
    last
}

/// The columns that both statements need.
struct StreamColumns<'a> {
    tenants: Vec<&'a str>,
    streams: Vec<&'a str>,
    next: Vec<i64>,
    last: Vec<i64>,
    events: Vec<i64>,
}

impl<'a> StreamColumns<'a> {
    fn of(changes: &[&'a StreamChange]) -> Self {
        StreamColumns {
            tenants: changes.iter().map(|change| change.lane.tenant.as_str()).collect(),
            streams: changes.iter().map(|change| &*change.stream).collect(),
            next: changes.iter().map(|change| change.place.next).collect(),
            last: changes.iter().map(|change| change.place.last).collect(),
            events: changes.iter().map(|change| i64::try_from(change.place.events).unwrap_or(i64::MAX)).collect(),
        }
    }
}
