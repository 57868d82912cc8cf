//! What happens to an event that cannot be handled: the policy's verdict, within the budgets.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{DeliverySource, LaneRun, RunStop, Runner};
use crate::{
    model::{diagnostics::Diagnostics, event::Event, handler::Reason, ids::LaneKey},
    processor::{
        attempts,
        budgets::LETTERS_LIMIT,
        code::CodeVersion,
        in_flight::StreamPlace,
        outcome::DeadLetter,
        policy::{FailedAttempt, Verdict, Wish, breaker},
    },
};

/// The next event of a run, which has failed or is skipped.
pub(super) struct FailedEvent<'a> {
    pub(super) lane: &'a LaneKey,
    pub(super) event: &'a Event,
    /// Earlier attempts at it, if it is the first event of the run.
    pub(super) attempts: u32,
    pub(super) source: DeliverySource,
}

impl Runner {
    /// Applies the policy of the version that failed at the next event of a run.
    pub(super) fn fail(
        &self,
        run: &mut LaneRun,
        version: &CodeVersion,
        failed: &FailedEvent<'_>,
        failure: EventFailure,
    ) {
        let EventFailure { reason, wish, diagnostics } = failure;
        let FailedEvent { lane, event, attempts: earlier, source } = *failed;
        let is_log = source == DeliverySource::Log;
        // An event that cannot be read says nothing about the code, and one that failed before says
        // nothing about this version.
        let failed_before = attempts::earlier(earlier, run.outcome.handled) > 0;
        let is_about_the_event = reason.is_about_the_event() || reason.class == LETTERS_LIMIT || !is_log;
        let is_excused = is_about_the_event || failed_before;
        let on_probation = version.is_on_probation() && !is_excused;
        let attempt = attempts::with_this(earlier, run.outcome.handled);
        let spread = u64::from(lane.bucket()) << 32 | event.position as u64;
        let attempted = FailedAttempt { class: &reason.class, wish, attempt, on_probation, spread };
        let verdict = match version.policy.verdict(&attempted) {
            Verdict::Again { after, counts } => Verdict::Again { after, counts },
            // The event of a dead letter stays a dead letter.
            _ if source == DeliverySource::Letters => Verdict::SetAside,
            verdict => verdict,
        };
        let (verdict, reason) = self.within_bounds(verdict, failed, reason);
        match verdict {
            Verdict::Again { .. } => {}
            Verdict::Stop | Verdict::StopProcessor if is_about_the_event => {}
            Verdict::Stop | Verdict::StopProcessor => version.failed(lane, &reason),
            // The trial has begun since the verdict.
            Verdict::SetAside | Verdict::Park if version.is_on_probation() && !is_excused => {
                version.failed(lane, &reason);
            }
            Verdict::SetAside | Verdict::Park => {}
        }
        let letter = |reason| DeadLetter::new(lane, event, version.digest.clone(), reason, attempt, diagnostics);
        match verdict {
            Verdict::Again { after, counts } => run.stop = Some(RunStop::Retry { after, counts, reason }),
            Verdict::SetAside => {
                run.outcome.dead_letters.push(letter(reason));
                run.outcome.handled += 1;
            }
            Verdict::Stop | Verdict::StopProcessor | Verdict::Park if source == DeliverySource::ParkedStream => {
                run.stop = Some(RunStop::Block(reason.clone()));
                run.failed = Some(letter(reason));
            }
            Verdict::Park => {
                let place = StreamPlace::before(event.version);
                run.newly_parked.push((Arc::from(&*event.stream), place, letter(reason)));
            }
            Verdict::Stop | Verdict::StopProcessor => {
                run.stop = Some(RunStop::Block(reason));
                run.stops_processor = verdict == Verdict::StopProcessor;
            }
        }
    }

    /// Sets the next event aside without a call, because an operator or the failure policy decided
    /// so. Over a bound the lane stops before it instead.
    pub(super) fn skip(&self, run: &mut LaneRun, version: &CodeVersion, failed: &FailedEvent<'_>, reason: Reason) {
        let attempts = attempts::earlier(failed.attempts, run.outcome.handled);
        match self.within_bounds(Verdict::SetAside, failed, reason) {
            (Verdict::SetAside, reason) => {
                let digest = version.digest.clone();
                let letter = DeadLetter::new(failed.lane, failed.event, digest, reason, attempts, None);
                run.outcome.dead_letters.push(letter);
                run.outcome.handled += 1;
                run.skipped = true;
            }
            (_, reason) => run.stop = Some(RunStop::Block(reason)),
        }
    }

    /// The verdict within the budgets and below the breaker's bound. Otherwise the lane stops, and
    /// the reason says why.
    fn within_bounds(&self, verdict: Verdict, failed: &FailedEvent<'_>, reason: Reason) -> (Verdict, Reason) {
        let tenant = &failed.lane.tenant;
        let stop = |why: String| Reason::new(&reason.class, format!("{}; {why}", reason.message));
        // Events that are set aside already are counted already.
        let is_new = match failed.source {
            DeliverySource::Log => matches!(verdict, Verdict::SetAside | Verdict::Park),
            DeliverySource::ParkedStream => verdict == Verdict::SetAside,
            DeliverySource::Letters => false,
        };
        if !is_new {
            return (verdict, reason);
        }
        if !self.breaker.lock().unwrap_or_else(PoisonError::into_inner).admits(Instant::now()) {
            let (most, seconds) = (breaker::MOST, breaker::WITHIN.as_secs());
            let why = format!(
                "not set aside, because this processor has already set {most} events aside within {seconds} s; fix the plugin, then resume the lane"
            );
            return (Verdict::Stop, stop(why));
        }
        let admitted = match verdict {
            Verdict::Park => self.budgets.add_stream(tenant),
            _ => self.budgets.add_letters(tenant, 1),
        };
        match admitted {
            Ok(()) => (verdict, reason),
            Err(limit) => {
                let message = format!("{}; the event failed as {}: {}", limit.message, reason.class, reason.message);
                (Verdict::Stop, Reason::new(&limit.class, message))
            }
        }
    }
}

/// The failure of one event.
pub(super) struct EventFailure {
    pub(super) reason: Reason,
    pub(super) wish: Wish,
    pub(super) diagnostics: Option<Box<Diagnostics>>,
}

/// The failure of an event that was not passed to the handler.
impl From<Reason> for EventFailure {
    fn from(reason: Reason) -> Self {
        EventFailure { reason, wish: Wish::None, diagnostics: None }
    }
}

/// The plugin author's reason, or a default message.
pub(super) fn plugin_reason(code: &str, message: String, otherwise: &str) -> Reason {
    let class = if code.is_empty() { "plugin".to_string() } else { format!("plugin:{code}") };
    Reason::new(&class, if message.is_empty() { format!("the plugin {otherwise}") } else { message })
}
