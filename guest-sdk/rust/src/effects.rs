//! The effects of one event: appended events, messages, timers, and changes to documents. All of
//! them are data, which the host commits together with the reactor's progress. The SDK fills in the
//! event as their cause.
//!
//! Each effect takes its place when it is created, and its builder adds to it there. So the order
//! of effects is the order of calls, and an append without events never reaches the host.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Conflicts, Halt, View, raw};

/// The effects of one event, made for a [`Reactor`](crate::Reactor) or by
/// [`Reaction::effects`](crate::Reaction::effects).
///
/// ```
/// # use sandmill_guest::prelude::*;
/// # use serde::Serialize;
/// # #[derive(Serialize)] struct Parcel { weight: u32 }
/// # fn effects_of(recorded: Event<'_>, effects: &mut Effects<'_>) -> Result<(), Failure> {
/// let parcel = Parcel { weight: 3 };
/// effects.append("parcel-7").expect_no_stream().event("ParcelPacked", &parcel)?;
/// effects.send("carrier", "PickUpParcel", &parcel)?.header("priority", "high");
/// effects.schedule("pick-up", recorded.recorded_at() + 3_600_000, "parcel-7", "PickUpOverdue", &parcel)?;
/// effects.cancel("packing");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Effects<'r> {
    cause: u32,
    conflicts: &'r Conflicts,
    view: &'r mut View,
    outbox: &'r mut Outbox,
}

/// The effects that leave the reactor, in the order of their causes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) appends: Vec<raw::Append>,
    pub(crate) messages: Vec<raw::Message>,
    pub(crate) timers: Vec<raw::TimerChange>,
}

/// A length of an [`Outbox`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    appends: usize,
    messages: usize,
    timers: usize,
}

impl Outbox {
    /// The current length, to which [`Outbox::truncate`] returns.
    pub(crate) fn mark(&self) -> Mark {
        Mark { appends: self.appends.len(), messages: self.messages.len(), timers: self.timers.len() }
    }

    /// Drops the effects behind a mark.
    pub(crate) fn truncate(&mut self, mark: Mark) {
        self.appends.truncate(mark.appends);
        self.messages.truncate(mark.messages);
        self.timers.truncate(mark.timers);
    }
}

impl<'r> Effects<'r> {
    pub(crate) fn new(cause: u32, conflicts: &'r Conflicts, view: &'r mut View, outbox: &'r mut Outbox) -> Self {
        Effects { cause, conflicts, view, outbox }
    }

    /// The appends of this event that met another version of their stream in the previous attempt.
    /// Empty at a first attempt.
    ///
    /// ```
    /// # use sandmill_guest::prelude::*;
    /// # fn open(account: &str, effects: &mut Effects<'_>) -> Result<(), Failure> {
    /// if effects.conflicts().next().is_some() {
    ///     return Err(Failure::skip("already-open", account));
    /// }
    /// effects.append(account).expect_no_stream().event("AccountOpened", &())?;
    /// # Ok(()) }
    /// ```
    pub fn conflicts(&self) -> impl Iterator<Item = &'r raw::AppendConflict> + use<'r> {
        self.conflicts.of(self.cause)
    }

    /// Appends events to a stream of the same tenant, 1 to 512 bytes. They are appended at any
    /// version of the stream, unless the result's `expect` methods demand one.
    pub fn append(&mut self, stream: impl Into<String>) -> NewAppend<'_> {
        NewAppend {
            cause: self.cause,
            stream: stream.into(),
            expected: raw::ExpectedVersion::Any,
            appends: &mut self.outbox.appends,
        }
    }

    /// Sends a message to a sink of the host's configuration. The messages of a lane are delivered
    /// in order, at least once, each with a key that is the same at every delivery. The message's
    /// type has 1 to 200 bytes.
    ///
    /// # Errors
    ///
    /// A body that cannot be written as JSON, such as a map whose keys are not text, stops the lane
    /// with the code `unwritable-message`.
    pub fn send<T: Serialize>(
        &mut self,
        sink: impl Into<String>,
        message_type: impl Into<String>,
        body: &T,
    ) -> Result<Message<'_>, Halt> {
        let message_type = message_type.into();
        let body = json(body, "unwritable-message", &message_type)?;
        let message = raw::Message { cause: self.cause, sink: sink.into(), message_type, headers: Vec::new(), body };
        Ok(Message { message: push(&mut self.outbox.messages, message) })
    }

    /// Schedules an event: the host appends it to a stream of the same tenant at `due_at`, in
    /// milliseconds since 1970-01-01T00:00:00Z, at any version of the stream. A time in the past is
    /// due immediately. The timer replaces the one with the same name, which is unique within the
    /// lane and has 1 to 200 bytes.
    ///
    /// If the reactor itself handles the event, the event must come to the lane that scheduled it.
    /// Mind the stream, or the property in the event's data, if the descriptor partitions by it.
    ///
    /// # Errors
    ///
    /// Data that cannot be written as JSON stops the lane with the code `unwritable-event`.
    pub fn schedule<T: Serialize>(
        &mut self,
        name: impl Into<String>,
        due_at: i64,
        stream: impl Into<String>,
        event_type: impl Into<String>,
        data: &T,
    ) -> Result<(), Halt> {
        let event = new_event(event_type.into(), data)?;
        let timer = raw::Timer { cause: self.cause, name: name.into(), due_at, stream_id: stream.into(), event };
        self.outbox.timers.push(raw::TimerChange::Set(timer));
        Ok(())
    }

    /// Cancels a timer of this lane by its name. No error if it does not exist, or was due already.
    pub fn cancel(&mut self, name: impl Into<String>) {
        self.outbox.timers.push(raw::TimerChange::Cancel(name.into()));
    }

    /// Reads a document, with the changes of earlier events and of this one. `None` if it does not
    /// exist. Without a read ahead ([`Reactor::reads`](crate::Reactor::reads),
    /// [`ReadAhead::reads`](crate::ReadAhead::reads)) this may be a round trip to the database.
    ///
    /// # Errors
    ///
    /// A document that is not a `T` stops the lane with the code `unreadable-document`.
    pub fn get<T: DeserializeOwned>(&self, collection: &str, id: &str) -> Result<Option<T>, Halt> {
        self.view.get(collection, id)
    }

    /// Creates or replaces a document.
    ///
    /// # Errors
    ///
    /// As for [`Projection::put`](crate::Projection::put).
    pub fn put<T: Serialize>(&mut self, collection: &str, id: impl Into<String>, document: &T) -> Result<(), Halt> {
        self.view.put(collection, id, document)
    }

    /// Removes a document. No error if it does not exist.
    pub fn remove(&mut self, collection: &str, id: impl Into<String>) {
        self.view.remove(collection, id);
    }
}

/// An append that has no events yet, made by [`Effects::append`].
#[derive(Debug)]
#[must_use = "add an event: `.event(…)`"]
pub struct NewAppend<'e> {
    cause: u32,
    stream: String,
    expected: raw::ExpectedVersion,
    appends: &'e mut Vec<raw::Append>,
}

impl<'e> NewAppend<'e> {
    /// Demands that the stream's last event has this version. Otherwise nothing is committed from
    /// this event on, and the next attempt finds the conflict in [`Effects::conflicts`].
    pub fn expect_version(mut self, version: u64) -> Self {
        self.expected = raw::ExpectedVersion::Exactly(version);
        self
    }

    /// Demands that the stream does not exist, otherwise as
    /// [`expect_version`](NewAppend::expect_version).
    pub fn expect_no_stream(mut self) -> Self {
        self.expected = raw::ExpectedVersion::NoStream;
        self
    }

    /// Adds the first event: its type, 1 to 200 bytes, and its data.
    ///
    /// # Errors
    ///
    /// Data that cannot be written as JSON, such as a map whose keys are not text, stops the lane
    /// with the code `unwritable-event`.
    pub fn event<T: Serialize>(self, event_type: impl Into<String>, data: &T) -> Result<Append<'e>, Halt> {
        let NewAppend { cause, stream: stream_id, expected, appends } = self;
        let append = raw::Append { cause, stream_id, expected, events: vec![new_event(event_type.into(), data)?] };
        Ok(Append { events: &mut push(appends, append).events })
    }
}

/// An append with its events so far.
#[derive(Debug)]
pub struct Append<'e> {
    /// At least one.
    events: &'e mut Vec<raw::NewEvent>,
}

impl Append<'_> {
    /// Adds an event.
    ///
    /// # Errors
    ///
    /// As for [`NewAppend::event`].
    pub fn event<T: Serialize>(self, event_type: impl Into<String>, data: &T) -> Result<Self, Halt> {
        self.events.push(new_event(event_type.into(), data)?);
        Ok(self)
    }

    /// Sets the id of the event that was added last: 1 to 200 bytes, unique within the tenant.
    /// Default: an id that the host derives from the cause, the same at every attempt.
    pub fn id(self, id: impl Into<String>) -> Self {
        if let Some(event) = self.events.last_mut() {
            event.id = Some(id.into());
        }
        self
    }

    /// Sets the metadata of the event that was added last, a JSON object. The host adds the cause.
    ///
    /// # Errors
    ///
    /// As for [`NewAppend::event`].
    pub fn metadata<T: Serialize>(self, metadata: &T) -> Result<Self, Halt> {
        if let Some(event) = self.events.last_mut() {
            event.metadata = Some(json(metadata, "unwritable-event", &event.event_type)?);
        }
        Ok(self)
    }
}

/// A message, made by [`Effects::send`].
#[derive(Debug)]
pub struct Message<'e> {
    message: &'e mut raw::Message,
}

impl Message<'_> {
    /// Adds a header, which the sink passes on.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.message.headers.push((name.into(), value.into()));
        self
    }
}

fn new_event<T: Serialize>(event_type: String, data: &T) -> Result<raw::NewEvent, Halt> {
    let data = json(data, "unwritable-event", &event_type)?;
    Ok(raw::NewEvent { id: None, event_type, data, metadata: None })
}

fn json<T: Serialize>(value: &T, code: &str, what: &str) -> Result<String, Halt> {
    serde_json::to_string(value).map_err(|error| Halt::stop(code, format!("{what}: {error}")))
}

/// Adds an item to a list and returns it.
fn push<T>(list: &mut Vec<T>, item: T) -> &mut T {
    let place = list.len();
    list.push(item);
    &mut list[place]
}
