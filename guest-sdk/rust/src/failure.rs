//! Failures of an event, by what happens next. A [`Skip`] sets the event aside as a dead letter,
//! and the lane continues. A [`Halt`] stops the lane before the event. Both have a short code, to
//! which an operator's policy can refer, and a message for people. [`Failures`] are those of a
//! batch.

use std::{ops::ControlFlow, time::Duration};

use crate::bindings::sandmill::processor::types::{self, HaltAction, SkippedEvent};

/// The reason why an event was not handled.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The event is set aside, and the lane continues.
    Skip(Skip),
    /// The lane stops before the event.
    Halt(Halt),
}

/// The decision to set an event aside as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The decision to stop a lane: for a time, or until a person resumes it.
#[derive(Clone, Debug)]
pub struct Halt {
    pub(crate) action: HaltAction,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Failure {
    /// Short for [`Skip::new`].
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
    /// Sets the event aside as a dead letter. The lane continues.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Skip { code: code.into(), message: message.into() }
    }
}

impl Halt {
    /// Retries after the back-off of the operator's policy.
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Halt { action: HaltAction::Retry, code: code.into(), message: message.into() }
    }

    /// Retries when `pause` has passed, or later. Counted in milliseconds, at most 49 days.
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

/// The failures of a batch's events, as the contract has them: skipped events are kept in order,
/// and a halt drops those behind it.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    pub(crate) skipped: Vec<SkippedEvent>,
    pub(crate) halted: Option<types::Halt>,
}

impl Failures {
    /// Sets an event aside. The first reason for an event counts.
    pub(crate) fn skip(&mut self, index: u32, skip: Skip) {
        if let Err(place) = self.skipped.binary_search_by_key(&index, |other| other.index) {
            let Skip { code, message } = skip;
            self.skipped.insert(place, SkippedEvent { index, code, message });
        }
    }

    /// Stops the lane before an event.
    pub(crate) fn halt(&mut self, index: u32, halt: Halt) {
        let Halt { action, code, message } = halt;
        self.skipped.retain(|skipped| skipped.index < index);
        self.halted = Some(types::Halt { index, action, code, message });
    }

    /// Skips an event or stops before it. Returns whether to continue with the next one.
    pub(crate) fn fail(&mut self, index: u32, failure: Failure) -> ControlFlow<()> {
        match failure {
            Failure::Skip(skip) => {
                self.skip(index, skip);
                ControlFlow::Continue(())
            }
            Failure::Halt(halt) => {
                self.halt(index, halt);
                ControlFlow::Break(())
            }
        }
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

    #[test]
    fn skipped_events_are_ordered_and_those_behind_a_halt_are_dropped() {
        let mut failures = Failures::default();
        for (index, code) in [(4, "d"), (1, "a"), (3, "c"), (1, "again")] {
            assert!(failures.fail(index, Failure::skip(code, "")).is_continue());
        }
        assert!(failures.fail(3, Failure::stop("stop", "")).is_break());
        let skipped: Vec<_> = failures.skipped.iter().map(|skipped| (skipped.index, skipped.code.as_str())).collect();
        assert_eq!(skipped, [(1, "a")]);
        assert_eq!(failures.halted.map(|halt| (halt.index, halt.code)), Some((3, "stop".to_owned())));
    }
}
