//! What an answer, or its absence, means for a message. Pure.
//!
//! | answer | meaning |
//! |---|---|
//! | 200 to 299 | delivered |
//! | 300 to 399 | retried; a redirect is never followed |
//! | 408, 425, 429, 500 to 599 | retried; 429 and 503 may name the delay with `Retry-After` |
//! | 410 | the receiver wants no further message: the lane stops |
//! | 400 to 499 otherwise | rejected: the failure policy decides |
//! | none, or anything else | retried |

use std::time::SystemTime;

use super::{masks::Masks, retry_after};
use crate::{
    forwarders::http::{Endpoint, Reply, SendError},
    model::outbound::{
        ADDRESS_DENIED, DeliveryFailure, GONE, MALFORMED, Next, REDIRECTS, REJECTED, TIMEOUT, UNAVAILABLE, UNREACHABLE,
    },
};

/// Judges an answer that arrived at `now`.
pub(super) fn judge(reply: &Reply, endpoint: &Endpoint, masks: &Masks, now: SystemTime) -> Result<(), DeliveryFailure> {
    let status = reply.status.as_u16();
    let reason = reply.status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
    let said = masks.excerpt(&reply.body, reply.is_whole).map(|body| format!(": {body}")).unwrap_or_default();
    let answered = format!("{endpoint} answered {status}{reason}{said}");
    Err(match status {
        200..=299 => return Ok(()),
        300..=399 => DeliveryFailure::retry(
            REDIRECTS,
            format!("{answered}; redirects are not followed, so set the sink's URL to the final address"),
        ),
        410 => DeliveryFailure::stop(
            GONE,
            format!("{answered}; it wants no further messages. Resume the lane if it should get them nevertheless"),
        ),
        429 | 503 => {
            let after = reply.retry_after.as_deref().and_then(|value| retry_after::parse(value, now));
            DeliveryFailure { class: UNAVAILABLE, message: answered, next: Next::Retry { after } }
        }
        408 | 425 | 500..=599 => DeliveryFailure::retry(UNAVAILABLE, answered),
        400..=499 => DeliveryFailure::reject(REJECTED, answered),
        _ => DeliveryFailure::retry(MALFORMED, answered),
    })
}

/// The failure for a request that had no answer.
pub(super) fn missing(error: &SendError, endpoint: &Endpoint) -> DeliveryFailure {
    let message = format!("{endpoint} did not answer: {error}");
    match error {
        SendError::Unresolved(_) | SendError::Refused(_) | SendError::Tls(_) | SendError::Broken(_) => {
            DeliveryFailure::retry(UNREACHABLE, message)
        }
        SendError::ConnectTimeout(_) | SendError::Timeout(_) => DeliveryFailure::retry(TIMEOUT, message),
        SendError::Malformed(_) => DeliveryFailure::retry(MALFORMED, message),
        SendError::Denied(_) => DeliveryFailure::retry(
            ADDRESS_DENIED,
            format!("{endpoint} is not contacted: {error}. An operator may list its network in `allow-addresses`"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        time::{Duration, UNIX_EPOCH},
    };

    use hyper::StatusCode;

    use super::super::{WebhookUrl, tests::secret};
    use super::*;
    use crate::{forwarders::egress, model::outbound::CLASSES};

    fn judged(status: u16, retry_after: Option<&str>, body: &str) -> Result<(), DeliveryFailure> {
        let url: WebhookUrl = "https://shop.example.com/hooks/T0K3NT0K3N".parse().unwrap();
        let reply = Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Box::from),
            body: body.into(),
            is_whole: true,
        };
        judge(&reply, url.endpoint(), &Masks::of(&[secret()], &url), UNIX_EPOCH)
    }

    #[test]
    fn every_status_has_one_meaning() {
        for status in 100..=999 {
            let (class, next) = match status {
                200..=299 => {
                    assert_eq!(judged(status, None, "no"), Ok(()), "{status}");
                    continue;
                }
                300..=399 => (REDIRECTS, Next::Retry { after: None }),
                408 | 425 | 429 | 500..=599 => (UNAVAILABLE, Next::Retry { after: None }),
                410 => (GONE, Next::Stop),
                400..=499 => (REJECTED, Next::Reject),
                _ => (MALFORMED, Next::Retry { after: None }),
            };
            let failure = judged(status, None, "").unwrap_err();
            assert_eq!((failure.class, &failure.next), (class, &next), "{status}");
            assert!(CLASSES.contains(&failure.class));
        }
    }

    #[test]
    fn only_an_overloaded_receiver_may_name_the_delay() {
        let after = |status| match judged(status, Some("7"), "").unwrap_err().next {
            Next::Retry { after } => after,
            next => panic!("{next:?}"),
        };
        assert_eq!((after(429), after(503)), (Some(Duration::from_secs(7)), Some(Duration::from_secs(7))));
        assert_eq!((after(500), after(408), after(302)), (None, None, None));
        let soon = judged(503, Some("soon"), "").unwrap_err().next;
        assert_eq!(soon, Next::Retry { after: None });
    }

    #[test]
    fn a_failure_quotes_the_answer_without_secrets() {
        let body = "unknown path /hooks/T0K3NT0K3N\r\n";
        assert_eq!(
            judged(404, None, body).unwrap_err().to_string(),
            "receiver-rejected: https://shop.example.com answered 404 Not Found: \"unknown path /hooks/***\""
        );
        assert_eq!(judged(599, None, "").unwrap_err().message, "https://shop.example.com answered 599");
    }

    #[test]
    fn a_missing_answer_is_retried() {
        let url: WebhookUrl = "http://shop.example.com/".parse().unwrap();
        let denied = egress::check([10, 0, 0, 1].into(), &[]).unwrap_err();
        for (error, class, words) in [
            (SendError::Unresolved(io::Error::other("no such host")), UNREACHABLE, "not resolved: no such host"),
            (
                SendError::Refused(io::ErrorKind::ConnectionRefused.into()),
                UNREACHABLE,
                "no connection: connection refused",
            ),
            (SendError::Tls(io::Error::other("expired")), UNREACHABLE, "TLS failed: expired"),
            (SendError::Broken("reset".into()), UNREACHABLE, "the connection broke: reset"),
            (SendError::Malformed("bad head".into()), MALFORMED, "not valid HTTP: bad head"),
            (SendError::ConnectTimeout(Duration::from_secs(5)), TIMEOUT, "no connection within 5s"),
            (SendError::Timeout(Duration::from_millis(1_500)), TIMEOUT, "no answer within 1.5s"),
            (SendError::Denied(denied), ADDRESS_DENIED, "its address 10.0.0.1 is a private address. An operator"),
        ] {
            let failure = missing(&error, url.endpoint());
            assert_eq!((failure.class, &failure.next), (class, &Next::Retry { after: None }), "{failure}");
            assert!(failure.message.contains(words), "{failure}");
        }
    }
}
