//! Workflows (process managers, sagas): processes over several streams that keep state, decide what
//! happens next, and wait for answers with a time-out. Built on [`Reactor`] and its documents: the
//! state is a document for each workflow, and a time-out is a timer whose event comes back.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Descriptor, Effects, Event, Failure, Halt, Message, NewAppend, Reactor, UnknownTypes, raw};

/// The state of a workflow, which events change and which decides what follows from them. Every
/// `Workflow` is a [`Reactor`].
///
/// For each event, [`decide`](Workflow::decide) sees the state before it, and then
/// [`evolve`](Workflow::evolve) changes the state. The initial state is [`Default`]; a workflow
/// begins with its first event. If `decide` fails, the event changes nothing.
///
/// ```
/// use sandmill_guest::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// const DAY: i64 = 24 * 60 * 60 * 1000;
///
/// #[derive(Deserialize)]
/// enum InvitationEvent {
///     Invited { email: String },
///     Accepted { email: String },
///     // The event of the timer.
///     AnswerOverdue { email: String },
/// }
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Invitation {
///     is_answered: bool,
/// }
///
/// impl Workflow for Invitation {
///     const COLLECTION: &str = "invitations";
///     type Event<'e> = InvitationEvent;
///
///     fn descriptor() -> Descriptor {
///         descriptor!("invitations")
///     }
///
///     fn id<'e>(event: &InvitationEvent, _: Event<'e>) -> Option<Cow<'e, str>> {
///         let (InvitationEvent::Invited { email }
///         | InvitationEvent::Accepted { email }
///         | InvitationEvent::AnswerOverdue { email }) = event;
///         Some(email.clone().into())
///     }
///
///     fn decide(
///         &self,
///         event: &InvitationEvent,
///         recorded: Event<'_>,
///         decisions: &mut Decisions<'_, '_>,
///     ) -> Result<(), Failure> {
///         match event {
///             InvitationEvent::Invited { email } => {
///                 decisions.send("mail", "Invitation", email)?;
///                 let (due_at, overdue) = (recorded.recorded_at() + 3 * DAY, [("email", email)]);
///                 let overdue = std::collections::BTreeMap::from(overdue);
///                 decisions.schedule("answer", due_at, recorded.stream_id(), "AnswerOverdue", &overdue)?;
///             }
///             InvitationEvent::Accepted { .. } => decisions.cancel("answer"),
///             InvitationEvent::AnswerOverdue { email } if !self.is_answered => {
///                 decisions.append(recorded.stream_id()).event("InvitationExpired", email)?;
///             }
///             InvitationEvent::AnswerOverdue { .. } => {}
///         }
///         Ok(())
///     }
///
///     fn evolve(&mut self, event: InvitationEvent, _: Event<'_>) {
///         if let InvitationEvent::Accepted { .. } = event {
///             self.is_answered = true;
///         }
///     }
/// }
///
/// export_reactor!(Invitation);
///
/// use sandmill_guest::testing::{event, json, reactor};
/// let of = |event_type: &str, email: &str| event(event_type, json!({"email": email}));
/// reactor::<Invitation>()
///     .given([of("Invited", "ann"), of("Invited", "bob"), of("Accepted", "bob"), of("AnswerOverdue", "ann")])
///     .then_sent("mail", "Invitation", json!("ann"))
///     .then_sent("mail", "Invitation", json!("bob"))
///     .then_scheduled("ann/answer", 3 * DAY, "stream-1", "AnswerOverdue", json!({"email": "ann"}))
///     .then_cancelled("bob/answer")
///     .then_appended("stream-1", [("InvitationExpired", json!("ann"))])
///     .then_nothing_else();
/// ```
pub trait Workflow: Default + Serialize + DeserializeOwned {
    /// The collection of the states, `[a-z][a-z0-9_]{0,47}`. The descriptor need not name it.
    const COLLECTION: &'static str;

    /// The treatment of events whose type has no variant in [`Event`](Workflow::Event).
    const UNKNOWN_TYPES: UnknownTypes = UnknownTypes::Ignore;

    /// An enum with a variant per event type, as for [`Document::Event`](crate::Document::Event).
    /// The events of the workflow's own timers are among them.
    type Event<'e>: Deserialize<'e>;

    /// Describes the plugin. `descriptor!("my-processor")` is enough for most workflows.
    fn descriptor() -> Descriptor;

    /// The id of the workflow that an event belongs to, 1 to 512 bytes. It is the id of the state's
    /// document. Events of `None` are ignored.
    ///
    /// All events of a workflow must come in one lane. That is so by default, with a lane per
    /// tenant. If the descriptor partitions by a property, every event needs that property.
    fn id<'e>(event: &Self::Event<'e>, recorded: Event<'e>) -> Option<Cow<'e, str>>;

    /// Decides what follows from an event, which has not changed the state yet.
    ///
    /// # Errors
    ///
    /// The reason to skip the event or to stop the lane. The state stays as it is, and all
    /// decisions about the event are dropped.
    fn decide(
        &self,
        event: &Self::Event<'_>,
        recorded: Event<'_>,
        decisions: &mut Decisions<'_, '_>,
    ) -> Result<(), Failure>;

    /// Applies an event to the state. `recorded` has its id, stream, time and metadata.
    fn evolve(&mut self, event: Self::Event<'_>, recorded: Event<'_>);

    /// Whether the workflow has ended, asked after each event. The state of an ended workflow is
    /// removed, and a later event finds the initial state. Default: no.
    fn is_over(&self) -> bool {
        false
    }
}

impl<W: Workflow> Reactor for W {
    const UNKNOWN_TYPES: UnknownTypes = <W as Workflow>::UNKNOWN_TYPES;

    type Event<'e> = <W as Workflow>::Event<'e>;

    fn descriptor() -> Descriptor {
        <W as Workflow>::descriptor().or_collection(W::COLLECTION)
    }

    fn reads<'e>(event: &<W as Workflow>::Event<'e>, recorded: Event<'e>) -> Vec<(&'static str, String)> {
        W::id(event, recorded).map(|id| (W::COLLECTION, id.into_owned())).into_iter().collect()
    }

    fn react<'e>(
        event: <W as Workflow>::Event<'e>,
        recorded: Event<'e>,
        effects: &mut Effects<'_>,
    ) -> Result<(), Failure> {
        let Some(id) = W::id(&event, recorded) else { return Ok(()) };
        let mut state: W = effects.get(W::COLLECTION, &id)?.unwrap_or_default();
        state.decide(&event, recorded, &mut Decisions { workflow: &id, effects })?;
        state.evolve(event, recorded);
        if state.is_over() {
            effects.remove(W::COLLECTION, id);
        } else {
            effects.put(W::COLLECTION, id, &state)?;
        }
        Ok(())
    }
}

/// The decisions of a workflow about an event.
///
/// The names of timers are the workflow's own, so two workflows of a lane may use the same name.
/// The host knows a timer as `WORKFLOW/NAME`, which may have at most 200 bytes.
#[derive(Debug)]
pub struct Decisions<'d, 'r> {
    workflow: &'d str,
    effects: &'d mut Effects<'r>,
}

impl<'r> Decisions<'_, 'r> {
    /// Appends events to a stream, as [`Effects::append`] does.
    pub fn append(&mut self, stream: impl Into<String>) -> NewAppend<'_> {
        self.effects.append(stream)
    }

    /// Sends a message to a sink, as [`Effects::send`] does.
    ///
    /// # Errors
    ///
    /// As for [`Effects::send`].
    pub fn send<T: Serialize>(
        &mut self,
        sink: impl Into<String>,
        message_type: impl Into<String>,
        body: &T,
    ) -> Result<Message<'_>, Halt> {
        self.effects.send(sink, message_type, body)
    }

    /// Schedules an event, as [`Effects::schedule`] does. It is a time-out if it comes back to this
    /// workflow: its type is a variant of [`Workflow::Event`], and [`Workflow::id`] returns the
    /// same id for it.
    ///
    /// # Errors
    ///
    /// As for [`Effects::schedule`].
    pub fn schedule<T: Serialize>(
        &mut self,
        name: &str,
        due_at: i64,
        stream: impl Into<String>,
        event_type: impl Into<String>,
        data: &T,
    ) -> Result<(), Halt> {
        self.effects.schedule(timer(self.workflow, name), due_at, stream, event_type, data)
    }

    /// Cancels a timer of this workflow. No error if it does not exist, or was due already: the
    /// event of a timer that was due may still come.
    pub fn cancel(&mut self, name: &str) {
        self.effects.cancel(timer(self.workflow, name));
    }

    /// The appends of this event that met another version of their stream in the previous attempt,
    /// as [`Effects::conflicts`] returns them.
    pub fn conflicts(&self) -> impl Iterator<Item = &'r raw::AppendConflict> + use<'r> {
        self.effects.conflicts()
    }
}

/// The host's name of a workflow's timer.
fn timer(workflow: &str, name: &str) -> String {
    format!("{workflow}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchReactor,
        testing::{Lane, NewEvent, event, json, reactor, take_reads},
    };

    #[derive(Deserialize)]
    enum BakeEvent {
        Ordered { loaf: String },
        Baked { loaf: String },
        Burnt { loaf: String },
        Overdue { loaf: String },
        Swept,
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Bake {
        orders: u64,
        burnt: u64,
        #[serde(skip)]
        is_baked: bool,
    }

    impl Workflow for Bake {
        const COLLECTION: &str = "bakes";
        type Event<'e> = BakeEvent;

        fn descriptor() -> Descriptor {
            crate::descriptor!("bakery")
        }

        fn id<'e>(event: &BakeEvent, _: Event<'e>) -> Option<Cow<'e, str>> {
            match event {
                BakeEvent::Ordered { loaf }
                | BakeEvent::Baked { loaf }
                | BakeEvent::Burnt { loaf }
                | BakeEvent::Overdue { loaf } => Some(loaf.clone().into()),
                BakeEvent::Swept => None,
            }
        }

        fn decide(
            &self,
            event: &BakeEvent,
            recorded: Event<'_>,
            decisions: &mut Decisions<'_, '_>,
        ) -> Result<(), Failure> {
            match event {
                BakeEvent::Ordered { loaf } => {
                    let stream = format!("loaf-{loaf}");
                    decisions.append(&stream).expect_no_stream().event("BakingStarted", &self.orders)?;
                    decisions.schedule(
                        "bake",
                        recorded.recorded_at() + 40,
                        stream,
                        "Overdue",
                        &json!({"loaf": loaf}),
                    )?;
                }
                BakeEvent::Burnt { .. } if self.burnt == 2 => return Err(Failure::stop("oven", "three burnt loaves")),
                BakeEvent::Burnt { .. } => {}
                BakeEvent::Baked { loaf } => {
                    decisions.cancel("bake");
                    decisions.send("shop", "Fresh", loaf)?.header("burnt", self.burnt.to_string());
                }
                BakeEvent::Overdue { loaf } if self.orders == 0 => return Err(Failure::skip("no-order", loaf)),
                BakeEvent::Overdue { loaf } => {
                    decisions.append("problems").event("LoafOverdue", loaf)?;
                }
                BakeEvent::Swept => {}
            }
            Ok(())
        }

        fn evolve(&mut self, event: BakeEvent, _: Event<'_>) {
            match event {
                BakeEvent::Ordered { .. } => self.orders += 1,
                BakeEvent::Burnt { .. } => self.burnt += 1,
                BakeEvent::Baked { .. } => self.is_baked = true,
                BakeEvent::Overdue { .. } | BakeEvent::Swept => {}
            }
        }

        fn is_over(&self) -> bool {
            self.is_baked
        }
    }

    fn of(event_type: &str, loaf: &str) -> NewEvent {
        event(event_type, json!({"loaf": loaf}))
    }

    #[test]
    fn a_workflow_decides_with_the_state_before_each_event() {
        reactor::<Bake>()
            .given([
                of("Ordered", "rye"),
                of("Burnt", "rye"),
                of("Ordered", "rye"),
                of("Baked", "rye"),
                of("Swept", ""),
            ])
            .then_appended("loaf-rye", [("BakingStarted", json!(0)), ("BakingStarted", json!(1))])
            .then_expected_no_stream("loaf-rye")
            .then_sent("shop", "Fresh", json!("rye"))
            .then_headers([("burnt", "1")])
            .then_cancelled("rye/bake")
            .then_empty("bakes")
            .then_nothing_else();
    }

    #[test]
    fn each_workflow_has_its_own_state_and_timers() {
        reactor::<Bake>()
            .given([
                of("Ordered", "rye").recorded_at(5),
                of("Ordered", "oat"),
                of("Overdue", "rye"),
                of("Overdue", "nut"),
            ])
            .then_scheduled("rye/bake", 45, "loaf-rye", "Overdue", json!({"loaf": "rye"}))
            .then_scheduled("oat/bake", 40, "loaf-oat", "Overdue", json!({"loaf": "oat"}))
            .then_appended("loaf-rye", [("BakingStarted", json!(0))])
            .then_appended("loaf-oat", [("BakingStarted", json!(0))])
            .then_appended("problems", [("LoafOverdue", json!("rye"))])
            .then("bakes", [("rye", json!({"orders": 1, "burnt": 0})), ("oat", json!({"orders": 1, "burnt": 0}))])
            .then_skipped([(3, "no-order")])
            .then_nothing_else();
    }

    #[test]
    fn an_event_that_fails_leaves_the_state_as_it_was() {
        reactor::<Bake>()
            .given([of("Burnt", "rye"), of("Burnt", "rye"), of("Burnt", "rye"), of("Ordered", "rye")])
            .then("bakes", [("rye", json!({"orders": 0, "burnt": 2}))])
            .then_halted(2, "oven")
            .then_nothing_else();
    }

    #[test]
    fn the_states_of_a_batch_are_read_at_once() {
        take_reads();
        Lane::<Bake>::new("acme").react([of("Burnt", "rye"), of("Burnt", "oat"), of("Burnt", "rye")]);
        assert_eq!(take_reads(), [("bakes".to_owned(), 2)]);
    }

    #[test]
    fn the_descriptor_names_the_collection_and_the_events() {
        let descriptor: raw::Descriptor = <Bake as BatchReactor>::describe().into();
        assert_eq!(descriptor.collections, ["bakes"]);
        assert_eq!(descriptor.event_types.map(|types| types.len()), Some(5));
    }
}
