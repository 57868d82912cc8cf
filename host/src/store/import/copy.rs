//! Rows for `COPY … FROM STDIN (FORMAT binary)`: nothing has to be escaped, and JSON is taken over as it is.

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH: i64 = 946_684_800_000_000;

/// Rows under way. PostgreSQL's binary format is a signature, flags and the length of an extension, both none, then for each row
/// the number of its fields and for each field its length and bytes.
pub(super) struct Rows {
    bytes: Vec<u8>,
    fields: i16,
}

impl Rows {
    pub(super) fn with_fields(fields: i16) -> Self {
        Rows { bytes: b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(), fields }
    }

    pub(super) fn begin_row(&mut self) {
        self.bytes.extend_from_slice(&self.fields.to_be_bytes());
    }

    /// A field of type `text`, or of type `json`, which has the same form.
    pub(super) fn text(&mut self, text: &str) {
        // No line of an import comes near the 2 GiB that a length can say.
        self.bytes.extend_from_slice(&(text.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn bigint(&mut self, number: i64) {
        self.bytes.extend_from_slice(&8_i32.to_be_bytes());
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    /// A `timestamptz` from microseconds since 1970.
    pub(super) fn time(&mut self, micros: i64) {
        self.bigint(micros - EPOCH);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_form_that_the_manual_gives() {
        let mut rows = Rows::with_fields(2);
        rows.begin_row();
        rows.text("é");
        rows.time(EPOCH + 1);
        let mut expected = b"PGCOPY\n\xff\r\n\0".to_vec();
        expected.extend([0; 8]);
        expected.extend([0, 2]);
        expected.extend([0, 0, 0, 2, 0xc3, 0xa9]);
        expected.extend([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([0xff, 0xff]);
        assert_eq!(rows.finish(), expected);
    }
}
