//! Rows for `COPY … FROM STDIN (FORMAT binary)`, which needs no escapes and stores JSON unchanged.

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL.
const EPOCH: i64 = 946_684_800_000_000;

/// Rows in PostgreSQL's binary format. A signature, flags (none) and the length of an extension
/// (none) come first. Each row is the number of its fields, followed by the length and the bytes of
/// each field.
pub(super) struct CopyRows {
    bytes: Vec<u8>,
    fields: i16,
}

impl CopyRows {
    pub(super) fn with_fields(fields: i16) -> Self {
        CopyRows { bytes: b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(), fields }
    }

    pub(super) fn begin_row(&mut self) {
        self.bytes.extend_from_slice(&self.fields.to_be_bytes());
    }

    /// A field of type `text` or `json`, which have the same form.
    pub(super) fn text(&mut self, text: &str) {
        // A length can be up to 2 GiB; no line of an import comes near that.
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
    fn a_row_has_the_binary_format_of_the_manual() {
        let mut rows = CopyRows::with_fields(2);
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
