//! The tail of the log: notices commits, reads pages, and routes their events to lanes.
//!
//! [`wake`] polls the database's snapshot and wakes all processors when it changed. [`pages`] reads
//! the events that follow a progress; processors with equal progress share one read. [`router`]
//! finds the lane of each event. None of them keeps a processor's progress, so a failure here loses
//! nothing.

mod deferred;
pub mod pages;
pub mod router;
pub mod wake;
