//! The tail: notices that something committed, reads what it was, and dispatches it to lanes.
//!
//! [`wake`] looks at the database's snapshot and tells everybody when it changed. [`pages`] reads what follows a progress; processors that
//! stand at the same place share one reading of the same page. [`router`] says which lanes a page concerns. None of them keeps
//! anybody's progress, so there is nothing here that could be lost.

mod deferred;
pub mod pages;
pub mod router;
pub mod wake;
