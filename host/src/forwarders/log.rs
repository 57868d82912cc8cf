//! A sink that writes each message to the host's log, for trying a reactor out.
//!
//! One line a message, at the level `info`. Large bodies are cut. A line that was written counts as
//! delivered.

use std::sync::Arc;

use crate::model::{
    handler::BoxFuture,
    outbound::{DeliveryFailure, Message, Sink},
    text,
};

/// Maximum bytes of a body in a line. 1 KiB: enough to recognise a message.
const BODY_BYTES: usize = 1 << 10;

/// A sink that logs messages.
pub struct LogSink {
    name: Arc<str>,
}

impl LogSink {
    /// A sink whose lines bear its name.
    pub fn new(name: &str) -> Self {
        LogSink { name: name.into() }
    }
}

impl Sink for LogSink {
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), DeliveryFailure>> {
        Box::pin(async move {
            let (kind, body) = (&*message.message_type, text::cut(&message.body, BODY_BYTES));
            tracing::info!(
                tenant = message.tenant.as_str(),
                sink = &*self.name,
                "type" = kind,
                key = &*message.id,
                body = &*body,
                "delivered a message"
            );
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::{Debug, Write},
        sync::Mutex,
    };

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
        subscriber::with_default,
    };

    use super::*;
    use crate::model::ids::TenantId;

    /// A subscriber that keeps the fields of all events, one line an event.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<String>>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            struct Fields<'l>(&'l mut String);
            impl Visit for Fields<'_> {
                fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                    let _ = write!(self.0, "{}={value:?} ", field.name());
                }
            }
            let mut lines = self.0.lock().unwrap();
            event.record(&mut Fields(&mut lines));
            lines.push('\n');
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_message_is_one_line_with_a_bounded_body() {
        let message = Message {
            id: "00112233445566778899aabbccddeeff".into(),
            tenant: TenantId::parse("acme").unwrap(),
            sequence: 7,
            lane: "billing acme".into(),
            message_type: "InvoiceSent".into(),
            headers: Vec::new(),
            body: format!("{{\"text\":\"{}\"}}", "é".repeat(2_000)).into(),
            created_at: 0,
            source: "billing".into(),
        };
        let lines = Lines::default();
        let sink = LogSink::new("audit");
        let delivered = with_default(lines.clone(), || futures_util::FutureExt::now_or_never(sink.deliver(&message)));
        assert_eq!(delivered, Some(Ok(())));
        let lines = lines.0.lock().unwrap();
        let known =
            r#"tenant="acme" sink="audit" type="InvoiceSent" key="00112233445566778899aabbccddeeff" body="{\"text"#;
        assert!(lines.contains(known) && lines.contains(" bytes more)"), "{lines}");
        assert_eq!((lines.lines().count(), lines.len() < 2 * BODY_BYTES), (1, true), "{lines}");
    }
}
