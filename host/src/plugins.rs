//! Plugins on disk and the processors that they become: what is in the folder is what runs.
//!
//! [`folder`] says which files there are, which have changed and what else lies there, [`manifest`] what is said about one, `check` whether it can run, `dry_runs` whether it does on the last events what the one that runs does, [`plan`] what has to be done about it, [`rollout`](crate::rollout) whether a version that has just come does what it
//! should; they decide and do nothing. The [`reconciler`] is the loop that carries it out on the [`registry`] of processors, and [`history`] is what it writes down, from `notes`; `error_files` say beside a plugin why
//! it does not run, and `reports` what is wrong with the folder's other entries. `archive` keeps
//! the bytes of versions that ran, so that a start or a rollback can go back to them.

mod archive;
mod check;
pub mod config;
mod dry_runs;
mod error_files;
pub mod folder;
mod hints;
pub mod history;
pub mod manifest;
mod notes;
pub mod plan;
pub mod reconciler;
pub mod registry;
mod reports;
pub mod signature;
