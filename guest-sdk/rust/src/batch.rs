//! The input of a plugin: a [`Batch`] of one lane, and its [`Event`]s. An event is a reference
//! and an index, so it is cheap to copy. What is parsed from its data may borrow from the batch.

use serde::Deserialize;

use crate::{
    Failure,
    bindings::sandmill::processor::packed_types::{self as packed, Text},
    raw,
    texts::{Texts, text},
    typed,
};

/// Consecutive events of one lane, at least one.
#[derive(Debug)]
pub struct Batch {
    packed: packed::Batch,
}

impl Batch {
    pub(crate) fn new(packed: packed::Batch) -> Self {
        Batch { packed }
    }

    /// The tenant that owns the events.
    pub fn tenant(&self) -> &str {
        &self.packed.tenant
    }

    /// The lane's key: the tenant again, or the value that the descriptor partitions by.
    pub fn partition_key(&self) -> &str {
        &self.packed.partition_key
    }

    /// The number of the attempt to handle the batch's first event, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.packed.attempt
    }

    /// Whether history is handled again, in a rebuild or a replay.
    pub fn is_replaying(&self) -> bool {
        self.packed.replaying
    }

    /// The number of events, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.packed.events.len()
    }

    /// The events, in order.
    pub fn events(&self) -> impl ExactSizeIterator<Item = Event<'_>> {
        // Lists of the contract have a 32-bit length.
        let events = self.packed.events.iter().enumerate();
        events.map(|(index, packed)| Event { packed, texts: &self.packed.texts, index: index as u32 })
    }
}

impl From<raw::Batch> for Batch {
    fn from(raw: raw::Batch) -> Self {
        let raw::Batch { tenant, partition_key, attempt, replaying, events } = raw;
        let mut texts = Texts::default();
        let pack = |event: &raw::Event| packed::Event {
            id: texts.push(&event.id),
            event_type: texts.push(&event.event_type),
            stream_id: texts.push(&event.stream_id),
            stream_version: event.stream_version,
            position: event.position,
            recorded_at: event.recorded_at,
            data: texts.push(&event.data),
            metadata: texts.push(&event.metadata),
        };
        let events = events.iter().map(pack).collect();
        Batch::new(packed::Batch { tenant, partition_key, attempt, replaying, texts: texts.into_string(), events })
    }
}

/// A committed event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'b> {
    packed: &'b packed::Event,
    /// The texts of the batch.
    texts: &'b str,
    index: u32,
}

impl<'b> Event<'b> {
    #[inline]
    fn text(&self, range: Text) -> &'b str {
        text(self.texts, range)
    }

    /// The event's index in the batch, counted from 0. A [`Projection`](crate::Projection) and a
    /// [`Reaction`](crate::Reaction) refer to events by it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The event's id, unique within the tenant.
    pub fn id(&self) -> &'b str {
        self.text(self.packed.id)
    }

    /// The event's type.
    pub fn event_type(&self) -> &'b str {
        self.text(self.packed.event_type)
    }

    /// The event's stream, unique within the tenant.
    pub fn stream_id(&self) -> &'b str {
        self.text(self.packed.stream_id)
    }

    /// The event's number within the stream, counted from 1.
    pub fn stream_version(&self) -> u64 {
        self.packed.stream_version
    }

    /// The event's number within the store's log. Numbers have gaps. They grow within a stream, but
    /// not always along the batch.
    pub fn position(&self) -> u64 {
        self.packed.position
    }

    /// When the event was recorded, in milliseconds since 1970-01-01T00:00:00Z. Negative before
    /// that.
    pub fn recorded_at(&self) -> i64 {
        self.packed.recorded_at
    }

    /// Parses the event's data. `T` may borrow text from the event, which makes parsing cheap: as
    /// `&str`, or as `Cow<str>` with `#[serde(borrow)]` if the text may contain JSON escapes.
    ///
    /// # Errors
    ///
    /// Data that is not a `T` skips the event with the code `invalid-data`. Map the error to a
    /// [`Halt`](crate::Halt) if the lane must stop instead.
    pub fn data<T: Deserialize<'b>>(&self) -> Result<T, Failure> {
        parse(self.data_text(), "invalid-data")
    }

    /// Parses the event into an enum with a variant per event type. The variant with the name of
    /// the event's type takes the event's data. `None` if the type has no variant.
    ///
    /// # Errors
    ///
    /// Data that does not fit the variant skips the event with the code `invalid-data`. A type that
    /// is not such an enum stops the lane with the code `not-an-enum`.
    ///
    /// ```
    /// # use sandmill_guest::prelude::*;
    /// #[derive(serde::Deserialize)]
    /// enum CartEvent<'e> {
    ///     ItemAdded {
    ///         #[serde(borrow)]
    ///         sku: Cow<'e, str>,
    ///         quantity: u64,
    ///     },
    ///     #[serde(rename = "cart.checked-out")]
    ///     CheckedOut,
    /// }
    ///
    /// fn items(event: Event<'_>) -> Result<u64, Failure> {
    ///     Ok(match event.typed()? {
    ///         Some(CartEvent::ItemAdded { quantity, .. }) => quantity,
    ///         Some(CartEvent::CheckedOut) | None => 0,
    ///     })
    /// }
    /// ```
    pub fn typed<E: Deserialize<'b>>(&self) -> Result<Option<E>, Failure> {
        typed::read(self.event_type(), self.data_text())
    }

    /// The event's data, as the JSON text that was appended.
    pub fn data_text(&self) -> &'b str {
        self.text(self.packed.data)
    }

    /// Parses the event's metadata.
    ///
    /// # Errors
    ///
    /// As for [`data`](Event::data), with the code `invalid-metadata`.
    pub fn metadata<T: Deserialize<'b>>(&self) -> Result<T, Failure> {
        parse(self.metadata_text(), "invalid-metadata")
    }

    /// The event's metadata, as JSON text. `{}` if there is none.
    pub fn metadata_text(&self) -> &'b str {
        self.text(self.packed.metadata)
    }
}

fn parse<'b, T: Deserialize<'b>>(text: &'b str, code: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::skip(code, error.to_string()))
}
