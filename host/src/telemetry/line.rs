//! The text of one log entry: one line, whose fields cannot be forged and whose length is bounded.
//!
//! `LEVEL key=value key="any text" message`: the host's fields come first and the message last, so
//! that whatever a message holds, the first `tenant=` of a line is the true one. Texts are in
//! quotes with quotes and control characters escaped; a message in quotes is a plugin's own words.
//! Pure.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format},
};

use crate::model::text;

/// A field or a message, bytes. Default 16 KiB: as much as a guest's log line may have, and more
/// than anybody reads. An entry has a few of them.
const FIELD_BYTES: usize = 16 << 10;

/// Writes an entry's fields and its message.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: format::Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line::default();
        fields.record(&mut line);
        writer.write_str(&line.finish())
    }
}

#[derive(Default)]
struct Line {
    fields: String,
    message: String,
}

impl Line {
    fn field(&mut self, name: &str, value: &str) {
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        // A string takes whatever is written to it.
        let _ = write!(self.fields, "{name}={value}");
    }

    fn finish(self) -> String {
        let Line { fields, message } = self;
        let gap = if fields.is_empty() || message.is_empty() { "" } else { " " };
        format!("{fields}{gap}{message}")
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = text::quoted(value, FIELD_BYTES);
        match field.name() {
            "message" => self.message = value,
            name => self.field(name, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message = text::one_line(&text::cut(&value, FIELD_BYTES)).into_owned(),
            name if is_bare(&value) => self.field(name, &value),
            name => self.field(name, &text::quoted(&value, FIELD_BYTES)),
        }
    }
}

/// Whether a value ends where it seems to end without quotes.
fn is_bare(value: &str) -> bool {
    (1..FIELD_BYTES).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,:/@+%#()[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Written;

        fn make_writer(&'a self) -> Written {
            self.clone()
        }
    }

    /// What these entries become.
    fn logged(log: impl FnOnce()) -> String {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt().with_writer(written.clone()).without_time().with_target(false);
        let subscriber = subscriber.with_ansi(false).fmt_fields(Fields).finish();
        tracing::subscriber::with_default(subscriber, log);
        let written = written.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_message_cannot_forge_fields_or_lines() {
        let words = "x processor=\"red\" tenant=\"quiet\"\n INFO y tenant=\"quiet\"\u{202e}";
        let (processor, tenant) = ("carts", "acme");
        let text = logged(|| tracing::info!(processor, tenant, message = words));
        assert_eq!(
            text,
            " INFO processor=\"carts\" tenant=\"acme\" \"x processor=\\\"red\\\" tenant=\\\"quiet\\\"\\n INFO y tenant=\\\"quiet\\\"\\u{202e}\"\n"
        );
        let reason = words;
        let text =
            logged(|| tracing::warn!(%processor, lane = %"tenant acme", position = 7, %reason, "the lane is blocked"));
        assert_eq!(
            text,
            " WARN processor=carts lane=\"tenant acme\" position=7 reason=\"x processor=\\\"red\\\" tenant=\\\"quiet\\\"\\n INFO y tenant=\\\"quiet\\\"\\u{202e}\" the lane is blocked\n"
        );
        let text = logged(|| tracing::warn!(position = 7, "could not read: {words}"));
        assert_eq!(
            text,
            " WARN position=7 could not read: x processor=\"red\" tenant=\"quiet\"  INFO y tenant=\"quiet\"\u{fffd}\n"
        );
    }

    #[test]
    fn a_line_is_bounded_whatever_its_fields_hold() {
        let long = "\u{9b}".repeat(1 << 20);
        let text = logged(|| tracing::warn!(a = %long, b = long.as_str(), c = long.as_str(), d = 1, "{long}"));
        assert!(text.len() < 5 * FIELD_BYTES, "{}", text.len());
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.starts_with(" WARN a=\"\\u{9b}") && text.ends_with(" bytes more)\n"),
            "{}",
            &text[text.len() - 100..]
        );
    }
}
