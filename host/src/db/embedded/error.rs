//! The error of a private server, with the remedy.

use std::{io, path::PathBuf};

use super::{
    super::{Error, describe},
    programs,
};

/// Why there is no private server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No usable server programs.
    #[error(
        "no PostgreSQL server programs of version 14 or newer were found. Searched:\n{searched}\n\
         Install them (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; Alpine: apk add \
         postgresql; macOS: brew install postgresql@17), or set {variable} to the directory of postgres, initdb and pg_ctl.",
        variable = programs::VARIABLE
    )]
    NoPrograms {
        /// The places, one per line.
        searched: String,
    },
    /// The data was written by a version whose programs are not installed.
    #[error(
        "the data in {} is of PostgreSQL {major}, whose server programs were not found. Searched:\n{searched}\n\
         Install PostgreSQL {major}, or give another data directory.", .data.display()
    )]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// The major version that wrote it.
        major: u32,
        /// The places, one per line.
        searched: String,
    },
    /// Started by root on a machine without an account for the server.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither the user `postgres` nor `nobody` to run it as. \
         Start Sandmill as another user."
    )]
    NoAccount,
    /// A directory could not be prepared.
    #[error("cannot prepare {} for a private PostgreSQL server: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The server failed to do a step of its life cycle.
    #[error("the private PostgreSQL server did not {step}. The end of its log:\n{log}")]
    Server {
        /// The step.
        step: &'static str,
        /// The last lines of the server's log.
        log: String,
    },
    /// The shell script that owns the server ended early.
    #[error(
        "the watchdog of the private PostgreSQL server ended: {0}. The server has stopped; start the command again."
    )]
    Watchdog(#[source] io::Error),
    /// The server rejected a statement.
    #[error("the private PostgreSQL server rejected a statement: {}", describe(.0))]
    Database(#[from] Error),
}
