//! The input of a reactor besides its batch: appends of earlier attempts that found their stream at
//! another version. Nothing of those attempts was committed, so the reactor decides again.

use crate::raw;

/// The append conflicts of earlier attempts at the events of a batch. Usually empty.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    conflicts: Vec<raw::AppendConflict>,
}

impl Conflicts {
    /// The conflicts of the appends that an event led to, by the event's
    /// [index](crate::Event::index) in the batch of this attempt.
    pub fn of(&self, index: u32) -> impl Iterator<Item = &raw::AppendConflict> {
        self.all().filter(move |conflict| conflict.cause == index)
    }

    /// The conflicts of all events of the batch.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &raw::AppendConflict> {
        self.conflicts.iter()
    }
}

impl From<Vec<raw::AppendConflict>> for Conflicts {
    fn from(conflicts: Vec<raw::AppendConflict>) -> Self {
        Conflicts { conflicts }
    }
}
