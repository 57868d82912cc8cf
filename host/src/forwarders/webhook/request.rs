//! The request of one attempt to deliver a message. Pure.
//!
//! A reactor's headers are passed on, but none of them may change what the host itself states:
//! where the message goes, how long it is, and who signed it. A message with such a header is
//! rejected rather than sent without it, so that its author notices.

use std::fmt::Write;

use hyper::{
    HeaderMap, Method, Request,
    header::{HeaderName, HeaderValue},
};

use super::{cloudevent, secret::Secret, url::WebhookUrl};
use crate::model::{
    outbound::{DeliveryFailure, Message, UNSENDABLE},
    text,
};

/// Maximum number of a message's own headers. 64: many receivers accept no more than a hundred.
const HEADERS: usize = 64;

/// Headers that no message may have, with `-` for each `_`.
const RESERVED: [&str; 16] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Beginnings of headers that no message may have, with `-` for each `_`.
const RESERVED_BEGINNINGS: [&str; 2] = ["webhook-", "sandmill-"];

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// The message's body.
    Body,
    /// A CloudEvent around it.
    CloudEvent,
}

/// The request for a message at a time, in seconds since 1970.
pub(super) fn of(
    message: &Message,
    url: &WebhookUrl,
    secrets: &[Secret],
    format: BodyFormat,
    timestamp: u64,
) -> Result<Request<String>, DeliveryFailure> {
    let (content_type, body) = match format {
        BodyFormat::Body => ("application/json", message.body.to_string()),
        BodyFormat::CloudEvent => (cloudevent::CONTENT_TYPE, cloudevent::body(message)?),
    };
    let signatures: Vec<String> = secrets.iter().map(|secret| secret.sign(&message.id, timestamp, &body)).collect();
    let mut headers = passed_on(message)?;
    for (name, value) in [
        ("host", &*url.endpoint().authority),
        ("content-type", content_type),
        ("user-agent", concat!("sandmill/", env!("CARGO_PKG_VERSION"))),
        ("webhook-id", &*message.id),
        ("webhook-timestamp", &*timestamp.to_string()),
        ("webhook-signature", &*signatures.join(" ")),
        ("sandmill-sequence", &*message.sequence.to_string()),
        ("sandmill-tenant", message.tenant.as_str()),
        ("sandmill-lane", &*encoded(&message.lane)),
        ("sandmill-type", &*encoded(&message.message_type)),
    ] {
        let value = HeaderValue::from_str(value).map_err(|_| unsendable(name, "its value has invalid characters"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = url.target().clone();
    *request.headers_mut() = headers;
    Ok(request)
}

/// The headers that the message's author chose.
fn passed_on(message: &Message) -> Result<HeaderMap, DeliveryFailure> {
    if message.headers.len() > HEADERS {
        let problem =
            format!("the message has {} headers, and a webhook passes on at most {HEADERS}", message.headers.len());
        return Err(DeliveryFailure::reject(UNSENDABLE, problem));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        let parsed: HeaderName = name.parse().map_err(|_| unsendable(name, "its name has invalid characters"))?;
        // Many receivers do not distinguish the two characters.
        let known = parsed.as_str().replace('_', "-");
        if RESERVED.contains(&&*known) || RESERVED_BEGINNINGS.iter().any(|beginning| known.starts_with(beginning)) {
            return Err(unsendable(name, "only the host sets it; use another name"));
        }
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| unsendable(name, "its value has invalid characters"))?;
        headers.append(parsed, value);
    }
    Ok(headers)
}

/// The rejection of a message because of one of its headers.
fn unsendable(name: &str, problem: &str) -> DeliveryFailure {
    let name = text::quoted(name, 80);
    DeliveryFailure::reject(UNSENDABLE, format!("a webhook cannot send the header {name}: {problem}"))
}

/// A text as a header's value, in the way of CloudEvents: spaces, `"`, `%` and everything outside
/// of ASCII are written as their bytes in UTF-8, each as `%` and two hexadecimal digits.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => _ = write!(encoded, "%{byte:02X}"),
            b'!'..=b'~' => encoded.push(byte.into()),
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SECRET, message, secret};
    use super::*;
    use crate::model::outbound::Next;

    fn url() -> WebhookUrl {
        "https://shop.example.com:8443/hooks?key=1".parse().unwrap()
    }

    fn request(message: &Message, secrets: &[Secret]) -> Result<Request<String>, DeliveryFailure> {
        of(message, &url(), secrets, BodyFormat::Body, 1_767_323_045)
    }

    #[test]
    fn a_request_has_the_headers_of_standard_webhooks() {
        let mut message = message();
        message.headers = vec![("Traceparent".into(), "00-ab".into()), ("x-note".into(), "grün".into())];
        message.message_type = "Order placed: 100 % ä".into();
        let request = request(&message, &[secret()]).unwrap();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::POST, "/hooks?key=1".into()));
        let mut headers: Vec<(&str, &[u8])> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        headers.sort_unstable();
        let signature = secret().sign(&message.id, 1_767_323_045, &message.body);
        let expected: Vec<(&str, &[u8])> = vec![
            ("content-type", b"application/json"),
            ("host", b"shop.example.com:8443"),
            ("sandmill-lane", b"order-mails%20acme"),
            ("sandmill-sequence", b"1842"),
            ("sandmill-tenant", b"acme"),
            ("sandmill-type", b"Order%20placed:%20100%20%25%20%C3%A4"),
            ("traceparent", b"00-ab"),
            ("user-agent", concat!("sandmill/", env!("CARGO_PKG_VERSION")).as_bytes()),
            ("webhook-id", b"00112233445566778899aabbccddeeff"),
            ("webhook-signature", signature.as_bytes()),
            ("webhook-timestamp", b"1767323045"),
            ("x-note", "grün".as_bytes()),
        ];
        assert_eq!(headers, expected);
        assert_eq!(request.body(), &*message.body);
    }

    #[test]
    fn each_secret_signs_a_message_during_a_rotation() {
        let other = Secret::parse(&SECRET.replace('M', "N")).unwrap();
        let request = request(&message(), &[secret(), other.clone()]).unwrap();
        let signed = |secret: &Secret| secret.sign(&message().id, 1_767_323_045, &message().body);
        assert_eq!(request.headers()["webhook-signature"], format!("{} {}", signed(&secret()), signed(&other)));
    }

    #[test]
    fn a_cloudevent_is_signed_as_it_is_sent() {
        let request = of(&message(), &url(), &[secret()], BodyFormat::CloudEvent, 1).unwrap();
        assert_eq!(request.headers()["content-type"], "application/cloudevents+json");
        assert!(request.body().starts_with(r#"{"specversion":"1.0","#), "{}", request.body());
        assert_eq!(request.headers()["webhook-signature"], secret().sign(&message().id, 1, request.body()));
    }

    #[test]
    fn headers_that_only_the_host_sets_are_rejected() {
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "transfer_encoding",
            "connection",
            "Webhook-Signature",
            "webhook_id",
            "sandmill-tenant",
            "SANDMILL_TYPE",
            "content-type",
            "",
            "two words",
            "x\r\nwebhook-id",
            "naïve",
        ] {
            let mut message = message();
            message.headers = vec![(name.into(), "x".into())];
            let failure = request(&message, &[secret()]).unwrap_err();
            assert_eq!((failure.class, failure.next), (UNSENDABLE, Next::Reject), "{name}");
        }
    }

    #[test]
    fn values_cannot_add_a_header() {
        for value in ["a\r\nwebhook-id: b", "a\nb", "a\0b"] {
            let mut message = message();
            message.headers = vec![("x-note".into(), value.into())];
            let failure = request(&message, &[secret()]).unwrap_err();
            assert_eq!(
                failure.to_string(),
                "unsendable-message: a webhook cannot send the header \"x-note\": its value has invalid characters"
            );
        }
        let mut many = message();
        many.headers = vec![("x-note".into(), "x".into()); HEADERS + 1];
        let failure = request(&many, &[secret()]).unwrap_err();
        assert!(failure.message.contains("has 65 headers"), "{failure}");
    }
}
