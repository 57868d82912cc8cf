//! Events that reactors append.
//!
//! All appends of a commit are one statement, which never waits for a stream. If a stream is busy
//! or has another version than expected, it fails with a code of its own, and its detail names the
//! appends or lanes by their numbers here.

use std::collections::BTreeMap;

use super::{CommitError, CommitTransaction};
use crate::{
    db::{Error, types::ToSql},
    model::{
        ids::LaneKey,
        reaction::{AppendConflict, ExpectedVersion},
    },
    processor::{
        appends::{PlannedAppend, PlannedEvent},
        outcome::Outcome,
    },
};

/// SQLSTATE of busy streams, and of streams with other versions than expected.
const BUSY: &str = "SM424";
const CONFLICT: &str = "SM409";

/// Why the event store refused the appends of a commit.
#[derive(Debug, PartialEq, Eq)]
pub enum AppendRefusal {
    /// Other transactions append to streams of these lanes at the moment.
    Busy(Vec<LaneKey>),
    /// Streams of these lanes have other versions than expected.
    Conflicts(Vec<(LaneKey, Vec<AppendConflict>)>),
}

impl AppendRefusal {
    /// The refusal that an error stands for; none for any other error.
    pub(super) fn of(code: Option<&str>, detail: Option<&str>, outcomes: &[(&LaneKey, &Outcome)]) -> Option<Self> {
        let appends: Vec<(usize, &LaneKey, &PlannedAppend)> = numbered(outcomes).collect();
        match code? {
            BUSY => {
                let busy: Vec<usize> = serde_json::from_str(detail?).ok()?;
                let lanes = busy.iter().map(|number| {
                    let (_, lane, _) = appends.iter().find(|(of, ..)| of == number)?;
                    Some((*lane).clone())
                });
                Some(AppendRefusal::Busy(lanes.collect::<Option<_>>()?))
            }
            CONFLICT => {
                let found: Vec<(usize, i64)> = serde_json::from_str(detail?).ok()?;
                let mut conflicts: BTreeMap<&LaneKey, Vec<AppendConflict>> = BTreeMap::new();
                for (number, actual) in found {
                    let (_, lane, append) = appends.get(number.checked_sub(1)?)?;
                    let expected = match append.expected {
                        ExpectedVersion::Exactly(version) => version,
                        ExpectedVersion::Any => return None,
                    };
                    let stream = append.stream.clone();
                    conflicts.entry(lane).or_default().push(AppendConflict {
                        cause: append.cause,
                        stream,
                        expected,
                        actual,
                    });
                }
                Some(AppendRefusal::Conflicts(
                    conflicts.into_iter().map(|(lane, found)| (lane.clone(), found)).collect(),
                ))
            }
            _ => None,
        }
    }
}

/// All appends of a commit, each with the number of its lane, counted from 1. Several results of
/// one lane follow each other.
fn numbered<'a>(
    outcomes: &'a [(&'a LaneKey, &'a Outcome)],
) -> impl Iterator<Item = (usize, &'a LaneKey, &'a PlannedAppend)> {
    let mut number = 0;
    let mut last = None;
    let lanes = outcomes.iter().map(move |(lane, outcome)| {
        if last != Some(*lane) {
            (number, last) = (number + 1, Some(*lane));
        }
        (number, *lane, *outcome)
    });
    lanes.flat_map(|(number, lane, outcome)| outcome.appends.iter().map(move |append| (number, lane, append)))
}

impl CommitTransaction<'_> {
    /// Appends the events of all outcomes.
    pub(super) async fn append(&self, outcomes: &[(&LaneKey, &Outcome)]) -> Result<(), CommitError> {
        self.send_appends(outcomes).await.map_err(|error| {
            let detail = error.as_db_error().and_then(|error| error.detail());
            let refusal = AppendRefusal::of(error.code().map(|code| code.code()), detail, outcomes);
            refusal.map_or_else(|| error.into(), CommitError::Appends)
        })
    }

    async fn send_appends(&self, outcomes: &[(&LaneKey, &Outcome)]) -> Result<(), Error> {
        let appends: Vec<(usize, &LaneKey, &PlannedAppend)> = numbered(outcomes).collect();
        let Some(statement) = self.statements.append.as_ref().filter(|_| !appends.is_empty()) else { return Ok(()) };
        // The number of each stream, counted from 1 in their order.
        let mut streams: BTreeMap<(&str, &str), i32> =
            appends.iter().map(|(_, lane, append)| ((lane.tenant.as_str(), &*append.stream), 0)).collect();
        for (number, of) in streams.values_mut().zip(1..) {
            *number = of;
        }
        let (tenants, names): (Vec<&str>, Vec<&str>) = streams.keys().copied().unzip();
        let targets: Vec<i32> = appends
            .iter()
            .filter_map(|(_, lane, append)| streams.get(&(lane.tenant.as_str(), &*append.stream)).copied())
            .collect();
        let lanes: Vec<i32> = appends.iter().map(|(number, ..)| *number as i32).collect();
        let expected: Vec<Option<i64>> = appends
            .iter()
            .map(|(.., append)| match append.expected {
                ExpectedVersion::Any => None,
                ExpectedVersion::Exactly(version) => Some(version),
            })
            .collect();
        let counts: Vec<i32> = appends.iter().map(|(.., append)| append.events.len() as i32).collect();
        let events: Vec<(i32, i32, &PlannedEvent)> = appends
            .iter()
            .zip(1..)
            .flat_map(|((.., append), of)| {
                append.events.iter().zip(1..).map(move |(event, number)| (of, number, event))
            })
            .collect();
        let of_append: Vec<i32> = events.iter().map(|(of, ..)| *of).collect();
        let numbers: Vec<i32> = events.iter().map(|(_, number, _)| *number).collect();
        let texts = |text: fn(&PlannedEvent) -> &str| -> Vec<&str> { events.iter().map(|(.., e)| text(e)).collect() };
        let (types, ids) = (texts(|event| &event.event_type), texts(|event| &event.id));
        let (data, metadata) = (texts(|event| &event.data), texts(|event| &event.metadata));
        let naming = appends.iter().filter(|(.., append)| append.names_ids).map(|(number, ..)| *number as i32);
        let mut naming: Vec<i32> = naming.collect();
        naming.dedup();
        let params: [&(dyn ToSql + Sync); 13] = [
            &tenants, &names, &targets, &lanes, &expected, &counts, &naming, &of_append, &numbers, &types, &ids, &data,
            &metadata,
        ];
        self.session.query(statement, &params).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TenantId;

    fn lane(key: &str) -> LaneKey {
        LaneKey { tenant: TenantId::parse("acme").unwrap(), key: key.into() }
    }

    fn outcome(appends: &[(&str, ExpectedVersion, i64)]) -> Outcome {
        let append = |(stream, expected, cause): &(&str, ExpectedVersion, i64)| PlannedAppend {
            cause: *cause,
            stream: (*stream).into(),
            expected: *expected,
            names_ids: false,
            events: Vec::new(),
        };
        Outcome { appends: appends.iter().map(append).collect(), ..Outcome::default() }
    }

    #[test]
    fn a_refusal_names_the_lanes_of_the_appends() {
        use ExpectedVersion::{Any, Exactly};
        let (a, b) = (lane("a"), lane("b"));
        let outcomes = [
            outcome(&[("s", Any, 1), ("t", Exactly(4), 2)]),
            outcome(&[("t", Exactly(9), 3)]),
            outcome(&[("u", Any, 4)]),
        ];
        let outcomes = [(&a, &outcomes[0]), (&a, &outcomes[1]), (&b, &outcomes[2])];
        assert_eq!(numbered(&outcomes).map(|(number, ..)| number).collect::<Vec<_>>(), [1, 1, 1, 2]);
        let refusal = |code, detail| AppendRefusal::of(Some(code), Some(detail), &outcomes);
        assert_eq!(refusal("SM424", "[2]"), Some(AppendRefusal::Busy(vec![b.clone()])));
        assert_eq!(refusal("SM424", "[1,2]"), Some(AppendRefusal::Busy(vec![a.clone(), b.clone()])));
        let conflict = |cause, expected, actual| AppendConflict { cause, stream: "t".into(), expected, actual };
        let conflicts = vec![(a.clone(), vec![conflict(2, 4, 7), conflict(3, 9, 7)])];
        assert_eq!(refusal("SM409", "[[2,7],[3,7]]"), Some(AppendRefusal::Conflicts(conflicts)));
        for (code, detail) in [("SM409", "[[9,1]]"), ("SM409", "[[1,1]]"), ("SM424", "x"), ("SM412", "[1]")] {
            assert_eq!(refusal(code, detail), None, "{code} {detail}");
        }
    }
}
