//! The body of a message as a CloudEvent 1.0 in structured mode. Pure.
//!
//! ```json
//! {
//!   "specversion": "1.0",
//!   "id": "5f0c…",
//!   "source": "order-mails",
//!   "type": "OrderPlaced",
//!   "time": "2026-01-02T03:04:05.678Z",
//!   "datacontenttype": "application/json",
//!   "partitionkey": "order-mails acme",
//!   "sandmilltenant": "acme",
//!   "sandmillsequence": "1842",
//!   "data": {"order": 17}
//! }
//! ```
//!
//! The source is the id of the processor, a relative reference. The partition key is the lane's
//! key. The sequence is a string, because integers of CloudEvents have only 32 bits.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::{
    outbound::{DeliveryFailure, Message, UNSENDABLE},
    time,
};

/// The content type of such a body.
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";

#[derive(Serialize)]
struct CloudEvent<'m> {
    specversion: &'static str,
    id: &'m str,
    source: &'m str,
    r#type: &'m str,
    time: String,
    datacontenttype: &'static str,
    partitionkey: &'m str,
    sandmilltenant: &'m str,
    sandmillsequence: String,
    data: &'m RawValue,
}

/// The body for a message. Its data is the message's body, character by character.
pub(super) fn body(message: &Message) -> Result<String, DeliveryFailure> {
    let invalid = |error| DeliveryFailure::reject(UNSENDABLE, format!("the message's body is not JSON: {error}"));
    let distance = Duration::from_millis(message.created_at.unsigned_abs());
    let created_at = if message.created_at < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance };
    let event = CloudEvent {
        specversion: "1.0",
        id: &message.id,
        source: &message.source,
        r#type: &message.message_type,
        time: time::format(created_at),
        datacontenttype: "application/json",
        partitionkey: &message.lane,
        sandmilltenant: message.tenant.as_str(),
        sandmillsequence: message.sequence.to_string(),
        data: serde_json::from_str(&message.body).map_err(invalid)?,
    };
    serde_json::to_string(&event).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn a_cloudevent_wraps_the_body_unchanged() {
        let mut message = message();
        message.message_type = "Ordered\"ä".into();
        message.body = r#"{"n": 1.0e2, "n": 12345678901234567890123}"#.into();
        assert_eq!(
            body(&message).unwrap(),
            concat!(
                r#"{"specversion":"1.0","id":"00112233445566778899aabbccddeeff","source":"order-mails","#,
                r#""type":"Ordered\"ä","time":"2013-01-01T05:00:00.987Z","datacontenttype":"application/json","#,
                r#""partitionkey":"order-mails acme","sandmilltenant":"acme","sandmillsequence":"1842","#,
                r#""data":{"n": 1.0e2, "n": 12345678901234567890123}}"#
            )
        );
    }

    #[test]
    fn a_body_that_is_not_json_is_rejected() {
        let mut message = message();
        message.body = "{} , \"id\": 1".into();
        assert_eq!(body(&message).unwrap_err().class, UNSENDABLE);
    }
}
