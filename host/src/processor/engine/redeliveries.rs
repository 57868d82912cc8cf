//! The loop's redeliveries: set-aside events are read, and handled again or discarded.

use super::{
    Engine,
    runs::RunWork,
    set_aside_events::{RedeliveredEvents, refused},
};
use crate::{
    model::ids::LaneKey,
    processor::{
        in_flight::{Redelivered, Redelivery, RequestAction},
        lane::{Delivery, DeliverySource, LaneRun},
    },
    scheduler::Class,
};

impl Engine<'_> {
    /// Starts a redelivery.
    pub(super) fn start_redelivery(&mut self, lane: LaneKey, redelivery: Redelivery, class: Class) {
        let (runner, documents) = (self.runner.clone(), self.documents.of_term.clone());
        let (mut reader, router) = (self.set_aside.reader(), self.router.clone());
        self.runs.under_way.push(Box::pin(async move {
            let discards_at_once = match redelivery.subject {
                Redelivered::Letters(_) => redelivery.action != RequestAction::Retry,
                Redelivered::Stream(..) => redelivery.action == RequestAction::DiscardAll,
            };
            if discards_at_once {
                return (lane, RunWork::SetAside(redelivery, RedeliveredEvents::default()), Ok(LaneRun::default()));
            }
            let read = RedeliveredEvents::read(&mut reader, &router, &lane, &redelivery).await;
            let (found, result) = match read {
                Err(ended) => (RedeliveredEvents::default(), Err(ended)),
                // Which event of a stream is the first shows only its read.
                Ok(found) if redelivery.action == RequestAction::Discard => (found, Ok(LaneRun::default())),
                Ok(found) => {
                    let source = match redelivery.subject {
                        Redelivered::Letters(_) => DeliverySource::Letters,
                        Redelivered::Stream(..) => DeliverySource::ParkedStream,
                    };
                    let delivery = Delivery {
                        events: &found.events,
                        attempts: redelivery.attempts,
                        cost: None,
                        skip: None,
                        parked: None,
                        conflicts: None,
                        source,
                    };
                    let result = match &redelivery.refused {
                        None => runner.run(&lane, class, delivery, documents).await,
                        Some(reason) => {
                            let digest = runner.code.current().digest.clone();
                            Ok(refused(&lane, source, found.events.first(), digest, reason))
                        }
                    };
                    (found, result)
                }
            };
            (lane, RunWork::SetAside(redelivery, found), result)
        }));
    }
}
