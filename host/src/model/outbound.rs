//! Messages for receivers outside, and the interface of the sinks that deliver them.
//!
//! Reactors send messages. The host commits them to the outbox, a log of its own. A relay follows
//! that log and hands each message to its [`Sink`].
//!
//! Delivery is at least once: after a failure or a crash the same message is delivered again, with
//! the same key and the same body. Receivers drop repetitions by [`Message::id`], or by
//! [`Message::sequence`] if they keep the highest one of each lane.

use std::{fmt, sync::Arc, time::Duration};

use super::{handler::BoxFuture, ids::TenantId};

/// A message of the outbox. Never changes once it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The idempotency key, 32 hexadecimal digits: the same at every delivery.
    pub id: Box<str>,
    /// The tenant whose event led to the message.
    pub tenant: TenantId,
    /// Number within the outbox log. Numbers have gaps. They grow within a lane.
    pub sequence: i64,
    /// The key of the lane that sent it, which names the reactor and its partition key. Messages of
    /// a lane are delivered in order.
    pub lane: Arc<str>,
    /// Its type, 1 to 200 bytes, in the author's words.
    pub message_type: Arc<str>,
    /// Names and values that the reactor wants the sink to pass on.
    pub headers: Vec<(String, String)>,
    /// JSON text, any value.
    pub body: Arc<str>,
    /// The time of its commit, milliseconds since 1970-01-01T00:00:00Z.
    pub created_at: i64,
    /// The id of the processor that sent it.
    pub source: Arc<str>,
}

/// What happens to a message that was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The lane tries again: nothing is wrong with the message.
    Retry {
        /// The shortest delay that the receiver asked for, at most an hour. The policy's back-off
        /// may be longer. `None`: the back-off alone.
        after: Option<Duration>,
    },
    /// The message would be refused again. The failure policy decides whether the lane retries,
    /// sets the message aside or stops.
    Reject,
    /// The lane stops until a person resumes it: the receiver wants no further message.
    Stop,
}

/// The failure of an attempt to deliver a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryFailure {
    /// A stable name of the kind of failure, one of [`CLASSES`].
    pub class: &'static str,
    /// An explanation for people, without secrets and without unsafe characters. Ends with the
    /// remedy if there is one.
    pub message: String,
    /// What happens next.
    pub next: Next,
}

/// The receiver refused the message: a response with a status of 400 to 499, apart from those that
/// other classes cover.
pub const REJECTED: &str = "receiver-rejected";
/// The receiver wants no further message: the status 410.
pub const GONE: &str = "receiver-gone";
/// The receiver redirects to another address, which is never followed.
pub const REDIRECTS: &str = "receiver-redirects";
/// The receiver could not handle the message now: the status 408, 425, 429 or 500 to 599.
pub const UNAVAILABLE: &str = "receiver-unavailable";
/// The receiver did not answer in time.
pub const TIMEOUT: &str = "receiver-timeout";
/// The receiver's name was not resolved, or the connection or its encryption failed.
pub const UNREACHABLE: &str = "receiver-unreachable";
/// The receiver's address is one that the host may not contact.
pub const ADDRESS_DENIED: &str = "receiver-address-denied";
/// The receiver's answer does not follow the protocol.
pub const MALFORMED: &str = "receiver-malformed";
/// The message cannot be expressed in the sink's protocol.
pub const UNSENDABLE: &str = "unsendable-message";

/// Every class of a [`DeliveryFailure`].
pub const CLASSES: [&str; 9] =
    [REJECTED, GONE, REDIRECTS, UNAVAILABLE, TIMEOUT, UNREACHABLE, ADDRESS_DENIED, MALFORMED, UNSENDABLE];

impl DeliveryFailure {
    /// A failure after which the lane tries again, after the policy's back-off.
    pub fn retry(class: &'static str, message: impl Into<String>) -> Self {
        DeliveryFailure { class, message: message.into(), next: Next::Retry { after: None } }
    }

    /// A failure that would happen again.
    pub fn reject(class: &'static str, message: impl Into<String>) -> Self {
        DeliveryFailure { class, message: message.into(), next: Next::Reject }
    }

    /// A failure that stops the lane.
    pub fn stop(class: &'static str, message: impl Into<String>) -> Self {
        DeliveryFailure { class, message: message.into(), next: Next::Stop }
    }
}

impl fmt::Display for DeliveryFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for DeliveryFailure {}

/// A place outside that receives messages.
///
/// A sink is shared by all lanes, which call it concurrently. It bounds the time of an attempt
/// itself. Its future may be dropped at any time; the message is then delivered again later.
pub trait Sink: Send + Sync {
    /// Makes one attempt to deliver a message. Returns after the receiver has confirmed it. Must be
    /// polled within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Why the message was not delivered, and what happens next.
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Result<(), DeliveryFailure>>;
}
