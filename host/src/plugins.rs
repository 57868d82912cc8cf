//! Plugins on disk: which there are, and whether they have changed.

pub mod directory;
pub mod watch;
