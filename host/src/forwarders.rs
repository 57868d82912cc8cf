//! Delivery of messages to receivers outside: one sink a file.
//!
//! A sink makes one attempt to deliver one message, and reports what should happen after a failure.
//! It knows no outbox, no lane state and no back-off: the relay that calls it does. Sinks share two
//! rules. Time and memory of an attempt are bounded no matter what the receiver does. And the host
//! contacts no address inside its own network unless the operator permits it ([`egress`]).

pub mod egress;
mod http;
pub mod log;
pub mod resolver;
pub mod webhook;
