//! The texts of the packed form: many texts in one string, each a range of it.

use super::v0_1::{PackedEvent, Text};
use crate::model::event::Event;

/// A string to which texts are appended.
#[derive(Default)]
pub(in crate::sandbox) struct Texts(String);

impl Texts {
    pub(in crate::sandbox) fn with_capacity(bytes: usize) -> Self {
        Texts(String::with_capacity(bytes))
    }

    /// Appends a text.
    #[inline]
    pub(in crate::sandbox) fn push(&mut self, text: &str) -> Text {
        let start = self.0.len();
        self.0.push_str(text);
        // No guest has memory for a longer string than 32 bits can address, so a call with one
        // fails when it is passed.
        Text { start: start as u32, length: text.len() as u32 }
    }

    pub(in crate::sandbox) fn into_string(self) -> String {
        self.0
    }
}

/// The text of a range; none if the string does not have it, or the range cuts a character.
#[inline]
pub(super) fn text(texts: &str, range: Text) -> Option<&str> {
    let start = range.start as usize;
    texts.get(start..start.checked_add(range.length as usize)?)
}

/// The string and the records of a batch of events. Consecutive events often have the same type,
/// stream or metadata; they share its range.
pub(super) fn pack<'e>(events: impl ExactSizeIterator<Item = &'e Event> + Clone) -> (String, Vec<PackedEvent>) {
    let bytes = |event: &Event| event.id.len() + event.stream.len() + event.data.len();
    let mut texts = Texts::with_capacity(events.clone().map(bytes).sum::<usize>() + SPARE);
    let [mut event_type, mut stream, mut metadata] = [Shared::default(); 3];
    let pack = |event: &'e Event| PackedEvent {
        id: texts.push(&event.id),
        event_type: event_type.push(&mut texts, &event.event_type),
        stream_id: stream.push(&mut texts, &event.stream),
        stream_version: event.version as u64,
        position: event.position as u64,
        recorded_at: event.recorded_at,
        data: texts.push(&event.data),
        metadata: metadata.push(&mut texts, &event.metadata),
    };
    let events = events.map(pack).collect();
    (texts.into_string(), events)
}

/// Room for types and metadata that most batches do not exceed, bytes.
const SPARE: usize = 1_024;

/// The last text of one kind.
#[derive(Clone, Copy, Default)]
struct Shared<'t>(Option<(&'t str, Text)>);

impl<'t> Shared<'t> {
    /// Appends a text, unless it is the last one again.
    #[inline]
    fn push(&mut self, texts: &mut Texts, text: &'t str) -> Text {
        match self.0 {
            Some((last, range)) if last == text => range,
            _ => self.0.insert((text, texts.push(text))).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TenantId;

    fn event(id: &str, event_type: &str, stream: &str, data: &str, metadata: &str) -> Event {
        Event {
            position: 7,
            id: id.into(),
            tenant: TenantId::parse("acme").unwrap(),
            event_type: event_type.into(),
            stream: stream.into(),
            version: 3,
            recorded_at: -1,
            data: data.into(),
            metadata: metadata.into(),
            deferred: None,
        }
    }

    #[test]
    fn packed_events_have_the_texts_of_the_events() {
        let events = [
            event("e1", "Öffnet", "s1", r#"{"a":"ä"}"#, "{}"),
            event("e2", "Öffnet", "s2", "", "{}"),
            event("e3", "B", "s2", "2", r#"{"k":1}"#),
            event("e4", "Öffnet", "s1", "3", "{}"),
        ];
        let (texts, packed) = pack(events.iter());
        assert_eq!(packed.len(), events.len());
        for (event, packed) in events.iter().zip(&packed) {
            let found = [packed.id, packed.event_type, packed.stream_id, packed.data, packed.metadata];
            let expected = [&*event.id, &event.event_type, &event.stream, &event.data, &event.metadata];
            assert_eq!(found.map(|range| text(&texts, range)), expected.map(Some));
            assert_eq!((packed.position, packed.stream_version, packed.recorded_at), (7, 3, -1));
        }
        assert_eq!(texts.matches("Öffnet").count(), 2, "a repeated type is passed once: {texts}");
        assert_eq!(texts.matches("s2").count(), 1, "{texts}");
    }

    #[test]
    fn only_whole_characters_within_the_string_are_texts() {
        let texts = "aä€";
        let of = |start, length| text(texts, Text { start, length });
        assert_eq!([of(0, 6), of(1, 2), of(3, 3), of(6, 0), of(0, 0)], ["aä€", "ä", "€", "", ""].map(Some));
        for (start, length) in
            [(0, 7), (7, 0), (2, 1), (1, 1), (3, 2), (u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)]
        {
            assert_eq!(of(start, length), None, "{start}, {length}");
        }
    }
}
