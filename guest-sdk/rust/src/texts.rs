//! Texts in one string, as the packed form of the contract passes them: one allocation for all
//! texts of a batch, instead of one for each text.

use serde::Serialize;

use crate::bindings::sandmill::processor::packed_types::Text;

/// A text of the string that is passed beside it.
///
/// # Panics
///
/// If the string has no such text. The host promises that it has.
#[inline]
pub(crate) fn text(texts: &str, range: Text) -> &str {
    let start = range.start as usize;
    &texts[start..start + range.length as usize]
}

/// A string to which texts are appended.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// UTF-8.
    bytes: Vec<u8>,
}

impl Texts {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Texts { bytes: Vec::with_capacity(bytes) }
    }

    /// Appends a text.
    #[inline]
    pub(crate) fn push(&mut self, text: &str) -> Text {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.since(start)
    }

    /// Appends a value as JSON. Appends nothing if the value cannot be written.
    pub(crate) fn push_json(&mut self, value: &impl Serialize) -> Result<Text, serde_json::Error> {
        let start = self.bytes.len();
        match serde_json::to_writer(&mut self.bytes, value) {
            Ok(()) => Ok(self.since(start)),
            Err(error) => {
                self.bytes.truncate(start);
                Err(error)
            }
        }
    }

    /// Whether a range of the string is this text.
    #[inline]
    pub(crate) fn is(&self, range: Text, text: &str) -> bool {
        let start = range.start as usize;
        self.bytes[start..start + range.length as usize] == *text.as_bytes()
    }

    pub(crate) fn into_string(self) -> String {
        String::from_utf8(self.bytes).expect("texts and JSON are UTF-8")
    }

    fn since(&self, start: usize) -> Text {
        // The contract addresses texts with 32 bits, as a guest's memory is addressed.
        Text { start: start as u32, length: (self.bytes.len() - start) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn texts_are_read_back_from_their_ranges() {
        let mut texts = Texts::with_capacity(4);
        let ranges = ["", "ä", "{}", "ä"].map(|text| texts.push(text));
        assert!(texts.is(ranges[1], "ä") && !texts.is(ranges[1], "a") && texts.is(ranges[0], ""));
        let string = texts.into_string();
        assert_eq!(string, "ä{}ä");
        assert_eq!(ranges.map(|range| text(&string, range)), ["", "ä", "{}", "ä"]);
    }

    #[test]
    fn json_that_cannot_be_written_leaves_no_trace() {
        let mut texts = Texts::default();
        texts.push("a");
        let keys_are_no_texts = BTreeMap::from([(vec![1], "value")]);
        assert!(texts.push_json(&("begun", keys_are_no_texts)).is_err());
        let json = texts.push_json(&[1, 2]).expect("an array is JSON");
        assert_eq!((json.start, json.length), (1, 5));
        assert_eq!(texts.into_string(), "a[1,2]");
    }

    #[test]
    #[should_panic(expected = "char boundary")]
    fn a_range_that_cuts_a_character_is_refused() {
        text("ä", Text { start: 0, length: 1 });
    }
}
