//! The events of a redelivery: how they are read, and what becomes of them.

use std::{sync::Arc, time::Duration};

use crate::{
    consumer::{pages::Reader, router::Router},
    model::{event::Event, handler::Reason, ids::LaneKey},
    processor::{
        in_flight::{Redelivered, Redelivery, RequestAction, StreamPlace},
        lane::{DeliverySource, LaneRun, RunStop, TermEnded},
        outcome::{DeadLetter, Outcome, StreamChange},
    },
};

/// The class of a letter whose event cannot be handled again.
const UNREADABLE: &str = "event-unreadable";

/// The set-aside events that were read.
#[derive(Default)]
pub(super) struct RedeliveredEvents {
    /// The events, in order.
    pub(super) events: Vec<Arc<Event>>,
    /// Whether more events of the stream wait.
    more: bool,
    /// The version up to which the stream was read. The processor may not handle that event.
    last_version: Option<i64>,
    /// The position up to which letters were read; none if all were.
    last_position: Option<i64>,
    /// Positions of letters whose event is gone, or no longer belongs to the lane.
    missing: Vec<i64>,
}

impl RedeliveredEvents {
    /// Reads the events of a redelivery.
    pub(super) async fn read(
        reader: &mut Reader,
        router: &Router,
        lane: &LaneKey,
        redelivery: &Redelivery,
    ) -> Result<Self, TermEnded> {
        let mut found = RedeliveredEvents::default();
        match &redelivery.subject {
            Redelivered::Letters(positions) => {
                found.events = reader.events_at(&lane.tenant, positions).await?;
                if let Some(last) = found.events.last()
                    && last.position < positions.last().copied().unwrap_or(i64::MIN)
                {
                    // The page was full. The letters after it are handled next.
                    found.more = true;
                }
                let asked = positions.iter().filter(|position| match found.events.last() {
                    Some(last) if found.more => **position <= last.position,
                    _ => true,
                });
                let read = |position: i64| found.events.binary_search_by_key(&position, |e| e.position).is_ok();
                found.missing = asked.copied().filter(|position| !read(*position)).collect();
            }
            Redelivered::Stream(stream, place, most) => {
                let versions = place.next..=place.last;
                (found.events, found.more) = reader.events_of_stream(&lane.tenant, stream, versions, *most).await?;
            }
        }
        let last = found.events.last();
        found.last_version = last.map(|event| event.version);
        found.last_position = last.map(|event| event.position).filter(|_| found.more);
        if let Redelivered::Stream(_, place, _) = &redelivery.subject {
            found.more &= found.last_version.is_some_and(|last| last < place.last);
        }
        reader.route_deferred(router, &found.events).await?;
        let is_own = |event: &Arc<Event>| router.handles(event) && router.lane(event) == *lane;
        let foreign = found.events.iter().filter(|event| !is_own(event)).map(|event| event.position);
        if matches!(redelivery.subject, Redelivered::Letters(_)) {
            found.missing.extend(foreign);
        }
        found.events.retain(is_own);
        Ok(found)
    }
}

/// The run of an event whose results the database rejected when it was handled again: it stays set
/// aside.
pub(super) fn refused(
    lane: &LaneKey,
    source: DeliverySource,
    event: Option<&Arc<Event>>,
    digest: Arc<str>,
    reason: &Reason,
) -> LaneRun {
    let mut run = LaneRun::default();
    let Some(event) = event else { return run };
    let letter = DeadLetter::new(lane, event, digest, reason.clone(), 1, None);
    match source {
        DeliverySource::ParkedStream => run.failed = Some(letter),
        DeliverySource::Letters | DeliverySource::Log => {
            run.outcome.dead_letters.push(letter);
            run.outcome.handled = 1;
        }
    }
    run
}

/// Completes the outcome of a redelivery. Returns the number of answered letters or of handled
/// events, whether a stream's request is answered, and when the next event is attempted again.
pub(super) fn end(
    lane: &LaneKey,
    redelivery: &Redelivery,
    read: &RedeliveredEvents,
    outcome: &mut Outcome,
    stop: &Option<RunStop>,
    failed: Option<DeadLetter>,
) -> (usize, bool, Option<(Duration, bool)>) {
    let again = match stop {
        Some(RunStop::Retry { after, counts, .. }) => Some((*after, *counts)),
        _ => None,
    };
    match &redelivery.subject {
        Redelivered::Letters(positions) if redelivery.action != RequestAction::Retry => {
            outcome.discarded = positions.len();
            outcome.answered = positions.clone();
            (positions.len(), false, None)
        }
        Redelivered::Letters(positions) => {
            let handled = &read.events[..outcome.handled];
            let failed_again = |position: i64| outcome.dead_letters.iter().any(|letter| letter.position == position);
            outcome.answered =
                handled.iter().map(|event| event.position).filter(|position| !failed_again(*position)).collect();
            // Everything before the first event that is left is answered.
            let next = read.events.get(outcome.handled).map(|event| event.position);
            let is_answered = |position: &&i64| match (next, read.last_position) {
                (Some(next), _) => **position < next,
                (None, Some(last)) => **position <= last,
                (None, None) => true,
            };
            let answered = positions.iter().take_while(is_answered).count();
            for position in read.missing.iter().filter(|position| positions[..answered].contains(position)) {
                let message = "the event cannot be handled again: it is no longer in the store, or this processor no longer \
                               handles it; discard the letter";
                let reason = Reason::new(UNREADABLE, message);
                outcome.dead_letters.push(DeadLetter::of_missing(lane, *position, reason));
                outcome.handled += 1;
            }
            (answered, false, again)
        }
        Redelivered::Stream(stream, place, _) => {
            let left = |place: StreamPlace| -> StreamPlace {
                let handled = outcome.handled as u64;
                match read.events.get(outcome.handled) {
                    // At least that event waits.
                    Some(next) => {
                        let events = place.events.saturating_sub(handled).max(1);
                        StreamPlace { next: next.version, events, ..place }
                    }
                    None => StreamPlace {
                        next: read.last_version.map_or(place.next, |last| last + 1),
                        // Events that are gone or no longer handled do not keep the stream parked.
                        events: if read.more { place.events.saturating_sub(handled).max(1) } else { 0 },
                        ..place
                    },
                }
            };
            let before = *place;
            let place = match redelivery.action {
                RequestAction::DiscardAll => {
                    outcome.discarded = usize::try_from(place.events).unwrap_or(usize::MAX);
                    StreamPlace { events: 0, ..*place }
                }
                RequestAction::Discard => match read.events.first() {
                    Some(first) => {
                        outcome.discarded = 1;
                        StreamPlace { next: first.version + 1, events: place.events.saturating_sub(1), ..*place }
                    }
                    None => left(*place),
                },
                RequestAction::Retry => left(*place),
            };
            let answers = match redelivery.action {
                RequestAction::Retry => failed.is_some() || place.events == 0,
                RequestAction::Discard => outcome.discarded > 0 || place.events == 0,
                RequestAction::DiscardAll => true,
            };
            if place != before || answers {
                let (lane, stream) = (lane.clone(), stream.clone());
                outcome.streams.push(StreamChange { lane, stream, place, failed, answers });
            }
            (outcome.handled, answers, again)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TenantId;

    fn lane() -> LaneKey {
        let tenant = TenantId::parse("t").unwrap();
        LaneKey { key: tenant.as_shared(), tenant }
    }

    fn drain(place: StreamPlace) -> Redelivery {
        let subject = Redelivered::Stream("s".into(), place, 100);
        Redelivery { subject, action: RequestAction::Retry, attempts: 0, refused: None }
    }

    /// The stream has many events in between that the processor does not handle.
    #[test]
    fn a_page_without_events_of_the_processor_moves_the_stream_on() {
        let place = StreamPlace { next: 3, last: 900, events: 2 };
        let read = RedeliveredEvents { more: true, last_version: Some(102), ..RedeliveredEvents::default() };
        let mut outcome = Outcome::default();
        assert_eq!(end(&lane(), &drain(place), &read, &mut outcome, &None, None), (0, false, None));
        let change = &outcome.streams[0];
        assert_eq!((change.place, change.answers), (StreamPlace { next: 103, ..place }, false));

        // The last page has none either: the events that waited are gone.
        let read = RedeliveredEvents { more: false, last_version: Some(900), ..RedeliveredEvents::default() };
        let mut outcome = Outcome::default();
        assert_eq!(end(&lane(), &drain(place), &read, &mut outcome, &None, None), (0, true, None));
        assert_eq!((outcome.streams[0].place.events, outcome.streams[0].answers), (0, true));
    }

    fn event(version: i64) -> Arc<Event> {
        Arc::new(Event {
            position: version * 10,
            id: "e".into(),
            tenant: lane().tenant,
            event_type: "T".into(),
            stream: "s".into(),
            version,
            recorded_at: 0,
            data: "{}".into(),
            metadata: "{}".into(),
            deferred: None,
        })
    }

    /// Versions between the waiting events belong to events that the processor does not handle.
    #[test]
    fn each_discard_drops_one_event_of_the_processor() {
        let place = StreamPlace { next: 3, last: 6, events: 3 };
        let discard = |place| Redelivery { action: RequestAction::Discard, ..drain(place) };
        let mut outcome = Outcome::default();
        let read = RedeliveredEvents { events: vec![event(3), event(5), event(6)], ..RedeliveredEvents::default() };
        end(&lane(), &discard(place), &read, &mut outcome, &None, None);
        let place = outcome.streams[0].place;
        assert_eq!((place, outcome.discarded), (StreamPlace { next: 4, last: 6, events: 2 }, 1));
        let mut outcome = Outcome::default();
        let read = RedeliveredEvents { events: vec![event(5), event(6)], ..RedeliveredEvents::default() };
        end(&lane(), &discard(place), &read, &mut outcome, &None, None);
        assert_eq!(outcome.streams[0].place, StreamPlace { next: 6, last: 6, events: 1 });
    }

    /// The row may count too few events, because the processor handles more types than it did.
    #[test]
    fn a_stream_that_fails_again_never_loses_its_row() {
        let place = StreamPlace { next: 3, last: 6, events: 2 };
        let read = RedeliveredEvents { events: vec![event(3), event(4), event(5)], ..RedeliveredEvents::default() };
        let mut outcome = Outcome { handled: 2, ..Outcome::default() };
        let failed = DeadLetter::new(&lane(), &event(5), "".into(), Reason::new("trap", "again"), 1, None);
        end(&lane(), &drain(place), &read, &mut outcome, &None, Some(failed));
        assert_eq!(outcome.streams[0].place, StreamPlace { next: 5, last: 6, events: 1 });
    }

    #[test]
    fn a_letter_whose_event_is_gone_stays_and_says_so() {
        let subject = Redelivered::Letters(vec![4, 9]);
        let redelivery = Redelivery { subject, action: RequestAction::Retry, attempts: 0, refused: None };
        let read = RedeliveredEvents { missing: vec![4, 9], ..RedeliveredEvents::default() };
        let mut outcome = Outcome::default();
        assert_eq!(end(&lane(), &redelivery, &read, &mut outcome, &None, None), (2, false, None));
        let letters: Vec<i64> = outcome.dead_letters.iter().map(|letter| letter.position).collect();
        assert_eq!((letters, outcome.answered.len(), outcome.counted()), (vec![4, 9], 0, 0));
        assert!(outcome.dead_letters[0].reason.message.contains("no longer in the store"));
    }
}
