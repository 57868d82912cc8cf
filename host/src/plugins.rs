//! Plugins on disk.

pub mod directory;
