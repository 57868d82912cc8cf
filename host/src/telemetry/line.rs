//! The text of one log entry: one line of bounded length, whose fields cannot be forged.
//!
//! `LEVEL key=value key="any text" message`: the host's fields come first and the message last, so
//! the first `tenant=` of a line is always the true one. Strings are in quotes, with quotes and
//! control characters escaped. A message in quotes is a plugin's own text.
//!
//! As JSON an entry is one [`object`]: `{"timestamp", "level", "target", "message", "fields":
//! {…}}`. Messages of plugins have the target `sandmill::guest`. Control characters are escaped, so
//! values survive unchanged, up to the same length. Pure.

use std::fmt::{self, Write};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format},
};

use crate::model::text;

/// Maximum bytes of a field or a message. 16 KiB: the limit of a guest's log line, and more than
/// anyone reads. An entry has a few of them.
const FIELD_BYTES: usize = 16 << 10;

/// The formatter of an entry's fields and its message.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, mut writer: format::Writer<'w>, fields: R) -> fmt::Result {
        let mut line = TextEntry::default();
        fields.record(&mut line);
        writer.write_str(&line.finish())
    }
}

#[derive(Default)]
struct TextEntry {
    fields: String,
    message: String,
}

impl TextEntry {
    fn field(&mut self, name: &str, value: &str) {
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        // Writing to a string cannot fail.
        let _ = write!(self.fields, "{name}={value}");
    }

    fn finish(self) -> String {
        let TextEntry { fields, message } = self;
        let gap = if fields.is_empty() || message.is_empty() { "" } else { " " };
        format!("{fields}{gap}{message}")
    }
}

impl Visit for TextEntry {
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

/// An event as one line of JSON.
pub(super) fn object(timestamp: &str, event: &Event<'_>) -> String {
    let (metadata, mut object) = (event.metadata(), JsonEntry::default());
    event.record(&mut object);
    object.finish(timestamp, *metadata.level(), metadata.target())
}

/// A message without fields as one line of JSON.
pub(super) fn plain_object(timestamp: &str, level: Level, target: &str, message: &str) -> String {
    let object = JsonEntry { message: text::json_string(message, FIELD_BYTES), ..JsonEntry::default() };
    object.finish(timestamp, level, target)
}

#[derive(Default)]
struct JsonEntry {
    fields: String,
    message: String,
}

impl JsonEntry {
    /// Adds a field whose value is JSON.
    fn field(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        if !self.fields.is_empty() {
            self.fields.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(self.fields, "{}:{value}", text::json_string(field.name(), FIELD_BYTES));
    }

    fn finish(self, timestamp: &str, level: Level, target: &str) -> String {
        let JsonEntry { fields, message } = self;
        let message = if message.is_empty() { "\"\"" } else { &message };
        let [timestamp, target] = [timestamp, target].map(|text| text::json_string(text, FIELD_BYTES));
        format!(
            "{{\"timestamp\":{timestamp},\"level\":\"{level}\",\"target\":{target},\"message\":{message},\"fields\":{{{fields}}}}}\n"
        )
    }
}

impl Visit for JsonEntry {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity.
        self.field(field, if value.is_finite() { value.to_string() } else { format!("\"{value}\"") });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, text::json_string(value, FIELD_BYTES));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, text::json_string(&format!("{value:?}"), FIELD_BYTES));
    }
}

/// Whether a value needs no quotes to show where it ends.
fn is_bare(value: &str) -> bool {
    (1..FIELD_BYTES).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,:/@+%#()[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Subscriber;
    use tracing_subscriber::{
        fmt::{FmtContext, FormatEvent, MakeWriter},
        registry::LookupSpan,
    };

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

    /// The text of these entries.
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
    fn a_line_is_bounded_even_with_huge_fields() {
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

    struct AsJson;

    impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, Fields> for AsJson {
        fn format_event(
            &self,
            _: &FmtContext<'_, S, Fields>,
            mut writer: format::Writer<'_>,
            event: &Event<'_>,
        ) -> fmt::Result {
            writer.write_str(&object("2026-01-02T03:04:05.000006Z", event))
        }
    }

    /// These entries as JSON.
    fn logged_as_json(log: impl FnOnce()) -> String {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt().with_writer(written.clone()).fmt_fields(Fields);
        tracing::subscriber::with_default(subscriber.event_format(AsJson).finish(), log);
        let written = written.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn an_object_keeps_every_value_and_is_one_safe_line() {
        let words = "x\",\"tenant\":\"quiet\"}\n{\u{1b}[2J\u{9b}\u{202e}\u{2028}\\";
        let (tenant, events, ratio) = (words, 7_u64, 0.5);
        let text = logged_as_json(|| {
            tracing::warn!(target: "sandmill::guest", tenant, events, ratio, by = -1, infinite = f64::INFINITY, whole = true, lane = %words, message = words);
        });
        assert_eq!((text.lines().count(), text.contains(|c| text::is_unsafe(c) && c != '\n')), (1, false), "{text:?}");
        let expected = serde_json::json!({
            "timestamp": "2026-01-02T03:04:05.000006Z", "level": "WARN", "target": "sandmill::guest", "message": words,
            "fields": {"tenant": words, "events": 7, "ratio": 0.5, "by": -1, "infinite": "inf", "whole": true, "lane": words},
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
        let bare = logged_as_json(|| tracing::info!(target: "t", "of {events}"));
        assert!(bare.ends_with("\"target\":\"t\",\"message\":\"of 7\",\"fields\":{}}\n"), "{bare}");
        let nothing = logged_as_json(|| tracing::info!(target: "t", events));
        assert!(nothing.ends_with("\"message\":\"\",\"fields\":{\"events\":7}}\n"), "{nothing}");
    }

    #[test]
    fn an_object_is_bounded_even_with_huge_fields() {
        let long = "\u{9b}".repeat(1 << 20);
        let text = logged_as_json(|| tracing::warn!(a = %long, b = long.as_str(), "{long}"));
        assert!(text.len() < 4 * FIELD_BYTES, "{}", text.len());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["message"].as_str().unwrap().ends_with(" bytes more)"), "{:.200}", text);
        let plain = plain_object("t", Level::ERROR, "sandmill", &long);
        assert!(plain.len() < 2 * FIELD_BYTES && plain.ends_with(" bytes more)\",\"fields\":{}}\n"), "{:.200}", plain);
    }
}
