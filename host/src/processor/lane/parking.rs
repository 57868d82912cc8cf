//! The events of a run that are passed over because their stream is parked.

use std::{borrow::Cow, sync::Arc};

use super::{Delivery, LaneRun};
use crate::{
    model::{event::Event, ids::LaneKey},
    processor::{in_flight::StreamPlace, outcome::StreamChange},
};

impl LaneRun {
    /// Takes the events of a stream that was just parked out of those that are left. Returns
    /// whether there was one.
    pub(super) fn drop_parked(&mut self, events: &mut Cow<'_, [Arc<Event>]>, attempts: &mut u32) -> bool {
        let handled = self.outcome.handled;
        let Some((stream, ..)) = self.newly_parked.last() else { return false };
        if events.get(handled).is_none_or(|event| *event.stream != **stream) {
            return false;
        }
        let events = events.to_mut();
        let left = events.split_off(handled);
        events.extend(left.into_iter().filter(|event| *event.stream != **stream));
        if handled == 0 {
            *attempts = 0;
        }
        true
    }

    /// Counts the events that were passed over because their stream is parked. Afterwards,
    /// `handled` includes them. `rest` are the other events of the delivery.
    pub(super) fn pass_parked(&mut self, lane: &LaneKey, delivery: &Delivery<'_>, rest: &[Arc<Event>]) {
        if rest.len() == delivery.events.len() {
            return;
        }
        let passed = match rest.get(self.outcome.handled) {
            Some(next) => delivery.events.partition_point(|event| event.position < next.position),
            None => delivery.events.len(),
        };
        let mut changes: Vec<StreamChange> = Vec::new();
        for (stream, place, letter) in self.newly_parked.drain(..) {
            changes.push(StreamChange { lane: lane.clone(), stream, place, failed: Some(letter), answers: false });
        }
        let mut handled = rest[..self.outcome.handled].iter().peekable();
        for event in &delivery.events[..passed] {
            if handled.next_if(|handled| handled.position == event.position).is_some() {
                continue;
            }
            let known = changes.iter().position(|change| *change.stream == *event.stream);
            let index = known.unwrap_or_else(|| {
                let found = delivery.parked.and_then(|parked| parked.get_key_value(&*event.stream));
                let (stream, place) = match found {
                    Some((stream, place)) => (stream.clone(), *place),
                    None => (Arc::from(&*event.stream), StreamPlace::before(event.version)),
                };
                changes.push(StreamChange { lane: lane.clone(), stream, place, failed: None, answers: false });
                changes.len() - 1
            });
            changes[index].place = changes[index].place.passed(event.version);
            self.outcome.parked += 1;
        }
        self.outcome.handled = passed;
        self.outcome.streams = changes;
    }
}

impl Delivery<'_> {
    /// The events whose stream is not parked.
    pub(super) fn without_parked(&self) -> Cow<'_, [Arc<Event>]> {
        let Some(parked) = self.parked.filter(|parked| !parked.is_empty()) else { return Cow::Borrowed(self.events) };
        let is_parked = |event: &Event| parked.contains_key(&*event.stream);
        if !self.events.iter().any(|event| is_parked(event)) {
            return Cow::Borrowed(self.events);
        }
        Cow::Owned(self.events.iter().filter(|event| !is_parked(event)).cloned().collect())
    }
}
