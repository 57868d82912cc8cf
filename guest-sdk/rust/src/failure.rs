//! How handling an event can fail, named by what happens next: a [`Skip`] sets the event aside as a dead letter and its lane
//! goes on; a [`Halt`] stops the lane before the event. Both carry a short code, which an operator's policy can refer to, and a
//! message for people.

use std::time::Duration;

use crate::bindings::sandmill::processor::types::HaltAction;

/// Why an event was not handled.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The event is set aside, the lane goes on.
    Skip(Skip),
    /// The lane stops before the event.
    Halt(Halt),
}

/// An event is set aside as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A lane stops: for a while, or until a person resumes it.
#[derive(Clone, Debug)]
pub struct Halt {
    pub(crate) action: HaltAction,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Failure {
    /// Sets the event aside as a dead letter; the lane goes on.
    pub fn skip(code: impl Into<String>, message: impl Into<String>) -> Self {
        Skip::new(code, message).into()
    }

    /// Short for [`Halt::retry`].
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Halt::retry(code, message).into()
    }

    /// Short for [`Halt::stop`].
    pub fn stop(code: impl Into<String>, message: impl Into<String>) -> Self {
        Halt::stop(code, message).into()
    }
}

impl Skip {
    /// A skip with its code and message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Skip { code: code.into(), message: message.into() }
    }
}

impl Halt {
    /// Tries again after the back-off that the operator's policy asks for.
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Halt { action: HaltAction::Retry, code: code.into(), message: message.into() }
    }

    /// Tries again not before `pause` has passed; pauses are counted in milliseconds up to 49 days.
    pub fn retry_after(pause: Duration, code: impl Into<String>, message: impl Into<String>) -> Self {
        let pause = u32::try_from(pause.as_millis()).unwrap_or(u32::MAX);
        Halt { action: HaltAction::RetryAfter(pause), code: code.into(), message: message.into() }
    }

    /// Blocks the lane until a person resumes it.
    pub fn stop(code: impl Into<String>, message: impl Into<String>) -> Self {
        Halt { action: HaltAction::Stop, code: code.into(), message: message.into() }
    }
}

impl From<Skip> for Failure {
    fn from(skip: Skip) -> Self {
        Failure::Skip(skip)
    }
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Self {
        Failure::Halt(halt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_counted_in_milliseconds_and_bounded() {
        let pause = |duration| match Halt::retry_after(duration, "", "").action {
            HaltAction::RetryAfter(ms) => ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(Duration::from_millis(1500)), 1500);
        assert_eq!(pause(Duration::MAX), u32::MAX);
    }
}
