//! The reading side of the log: it notices commits, reads pages, and routes their events to lanes.
//!
//! [`wake`] polls the database's snapshot and wakes all processors when it has changed. [`pages`]
//! reads the events after a processor's progress; processors with equal progress share one read.
//! `deferred` loads the data of large events when a lane needs it. [`router`] finds the lane of
//! each event. None of them keeps a processor's progress, so a failure here loses nothing.

mod deferred;
pub mod pages;
pub mod router;
pub mod wake;
