//! What a sandbox holds and what it refused, counted for whoever watches.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::model::handler::{Failure, Reason};

/// What a sandbox holds now, and what it refused since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Stores alive: in a call or idle.
    pub live: usize,
    /// As many as there may be, and so as many as there can be calls at once: `limits.instances`, or what the machine has room for.
    pub most_live: usize,
    /// Of the live ones, those that wait for their tenant's next call.
    pub idle: usize,
    /// Linear memory of all live stores.
    pub memory_bytes: usize,
    /// How often a guest or a file was refused something, by the class of the reason. Guests' own failures are not among them.
    pub refusals: BTreeMap<String, u64>,
}

/// The counters. Their names are the classes that this module gives, so there are only so many.
#[derive(Default)]
pub(super) struct Refusals(Mutex<BTreeMap<String, u64>>);

impl Refusals {
    pub(super) fn add(&self, class: &str, times: u64) {
        if times == 0 {
            return;
        }
        // A counter is whole after each call here, whatever became of another thread.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(class) {
            Some(count) => *count += times,
            None => {
                counts.insert(class.to_string(), times);
            }
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches one call: what ends it badly is counted, and so is that nobody waited for its end.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch { refusals: self, ended: false }
    }
}

/// A call under way.
pub(super) struct Watch<'a> {
    refusals: &'a Refusals,
    ended: bool,
}

impl Watch<'_> {
    /// The call came to an end of its own.
    pub(super) fn end<T>(mut self, result: &Result<T, Failure>) {
        self.ended = true;
        if let Err(Failure::Block(Reason { class, .. }) | Failure::Retry(Reason { class, .. })) = result {
            self.refusals.add(class, 1);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.refusals.add("dropped-call", 1);
        }
    }
}
