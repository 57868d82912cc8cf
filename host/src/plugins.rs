//! Plugins: the files of the plugins folder, and the processors that run them.
//!
//! ```text
//! folder ──▶ checks ──▶ plan ──▶ reconciler ──▶ registry
//!                                  │
//!                                  └──▶ journal · rejections · archive
//! ```
//!
//! The [`reconciler`] is the loop that makes the running processors match the folder:
//!
//! - It reads files from the [`folder`], each with its [`manifest`] and [`signature`];
//!   `watched_folder` finds changes.
//! - `checks` checks each file and dry-runs it (`check`, `dry_runs`); the [`plan`] compares all
//!   files with the versions that run.
//! - The [`registry`] starts, swaps and ends processors. `startup` orders a start, and
//!   [`rollout`](crate::rollout) decides on trials and rollbacks.
//! - `journal` and `rejections` report the outcome in the [`history`], and in error files beside
//!   the plugins. `archive` stores the bytes of versions that ran, for later rollbacks.
//!
//! [`offline`] loads versions outside a host, for commands.

mod archive;
mod check;
mod checks;
pub mod config;
mod dry_runs;
mod error_files;
pub mod folder;
mod hints;
pub mod history;
mod journal;
pub mod manifest;
pub mod offline;
pub mod plan;
pub mod reconciler;
pub mod registry;
mod rejections;
mod reports;
mod retries;
pub mod signature;
mod startup;
mod version;
mod watched_folder;
