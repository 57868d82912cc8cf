//! What a projector is given: a [`Batch`] of one lane and its [`Event`]s. Both borrow what the host handed over; an event is two
//! words and copied freely, and what is parsed from its data may borrow from it for as long as the batch lives.

use serde::Deserialize;

use crate::{Failure, bindings::sandmill::processor::types, typed};

/// Consecutive events of one lane, at least one.
#[derive(Debug)]
pub struct Batch {
    raw: types::Batch,
}

impl Batch {
    pub(crate) fn new(raw: types::Batch) -> Self {
        Batch { raw }
    }

    /// The tenant whose events these are.
    pub fn tenant(&self) -> &str {
        &self.raw.tenant
    }

    /// What the lane is keyed by: the tenant again, or what the descriptor partitions by.
    pub fn partition_key(&self) -> &str {
        &self.raw.partition_key
    }

    /// 1 the first time the batch's first event is handled, then counting up.
    pub fn attempt(&self) -> u32 {
        self.raw.attempt
    }

    /// Whether history is being handled again, in a rebuild or a replay.
    pub fn is_replaying(&self) -> bool {
        self.raw.replaying
    }

    /// How many events there are.
    #[allow(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.raw.events.len()
    }

    /// The events in order.
    pub fn events(&self) -> impl ExactSizeIterator<Item = Event<'_>> {
        // A list of the contract counts its elements in 32 bits.
        self.raw.events.iter().enumerate().map(|(index, raw)| Event { raw, index: index as u32 })
    }
}

/// One committed event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'b> {
    raw: &'b types::Event,
    index: u32,
}

impl<'b> Event<'b> {
    /// Its place in the batch, which is how an answer refers to it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its id, unique within the store.
    pub fn id(&self) -> &'b str {
        &self.raw.id
    }

    /// Its type.
    pub fn event_type(&self) -> &'b str {
        &self.raw.event_type
    }

    /// The stream it was appended to, unique within the tenant.
    pub fn stream_id(&self) -> &'b str {
        &self.raw.stream_id
    }

    /// Its number within the stream; the first event has 1.
    pub fn stream_version(&self) -> u64 {
        self.raw.stream_version
    }

    /// Its number within the store's log. Has gaps; grows within a stream, but not always along the batch.
    pub fn position(&self) -> u64 {
        self.raw.position
    }

    /// When it was recorded, in milliseconds since 1970-01-01T00:00:00Z; negative before.
    pub fn recorded_at(&self) -> i64 {
        self.raw.recorded_at
    }

    /// Parses its data. `T` may borrow text from the event (`&str`, or `Cow<str>` with `#[serde(borrow)]` where the text may hold
    /// JSON escapes), which is what makes parsing cheap. Data of another shape is a [`Failure`] that skips the event with the
    /// code `invalid-data`; map the error to a [`Halt`](crate::Halt) where that is wrong.
    pub fn data<T: Deserialize<'b>>(&self) -> Result<T, Failure> {
        parse(&self.raw.data, "invalid-data")
    }

    /// Reads it into an enum with a variant for each event type: the variant that is named like the event's type takes the event's
    /// data. `None` for a type without a variant; data that does not fit is a [`Failure`] that skips the event with the code
    /// `invalid-data`.
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
        typed::read(&self.raw.event_type, &self.raw.data)
    }

    /// Its data as JSON text.
    pub fn data_text(&self) -> &'b str {
        &self.raw.data
    }

    /// Parses its metadata, as [`data`](Event::data) does with the code `invalid-metadata`.
    pub fn metadata<T: Deserialize<'b>>(&self) -> Result<T, Failure> {
        parse(&self.raw.metadata, "invalid-metadata")
    }

    /// Its metadata as JSON text, `{}` when there is none.
    pub fn metadata_text(&self) -> &'b str {
        &self.raw.metadata
    }
}

fn parse<'b, T: Deserialize<'b>>(text: &'b str, code: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::skip(code, error.to_string()))
}
