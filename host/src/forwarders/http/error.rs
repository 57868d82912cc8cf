//! Why a request had no answer.

use std::{error::Error, io, time::Duration};

use crate::forwarders::egress::Denied;

/// The error of a request that had no answer. Its text contains neither the request nor any part of
/// the answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::forwarders) enum SendError {
    /// The host's name has no address.
    #[error("its name was not resolved: {0}")]
    Unresolved(io::Error),
    /// One of the host's addresses may not be contacted.
    #[error("its address {0}")]
    Denied(Denied),
    /// No address accepted a connection.
    #[error("it accepted no connection: {0}")]
    Refused(io::Error),
    /// No encrypted connection could be made.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// The connection was not made in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The head of the answer did not arrive in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection ended before the head of an answer.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer is not HTTP, or its head is too large.
    #[error("its answer is not valid HTTP: {0}")]
    Malformed(String),
}

impl From<hyper::Error> for SendError {
    fn from(error: hyper::Error) -> Self {
        let text = with_causes(&error);
        if error.is_parse() { SendError::Malformed(text) } else { SendError::Broken(text) }
    }
}

/// An error's text and those of its causes.
fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
