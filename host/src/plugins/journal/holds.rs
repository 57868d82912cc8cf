//! Holds: the versions that are held back, including holds that are not in the database yet.

use std::collections::BTreeSet;

use crate::{
    db::{Error, Session, describe},
    plugins::history::{self, VersionHold},
};

/// The versions that are held back.
#[derive(Default)]
pub(in crate::plugins) struct Holds {
    /// The holds as of the last read, and those in `unwritten`.
    current: BTreeSet<VersionHold>,
    /// Holds that are not written yet.
    unwritten: BTreeSet<VersionHold>,
}

impl Holds {
    /// All holds.
    pub(in crate::plugins) fn all(&self) -> &BTreeSet<VersionHold> {
        &self.current
    }

    /// The hold on a plugin's version, if there is one.
    pub(in crate::plugins) fn of(&self, plugin: &str, digest: &str) -> Option<&VersionHold> {
        self.current.iter().find(|hold| hold.plugin == plugin && hold.digest == digest)
    }

    /// Holds a version back: immediately on this host, and as soon as possible in the database.
    pub(in crate::plugins) async fn add(&mut self, session: &Session, hold: VersionHold) {
        if history::add_hold(&**session, &hold).await.is_err() {
            self.unwritten.insert(hold.clone());
        }
        self.current.insert(hold);
    }

    /// Writes the unwritten holds and reads all of them. On an error of the read they stay as they
    /// are.
    pub(in crate::plugins) async fn refresh(&mut self, session: &Session) -> Result<(), Error> {
        for hold in std::mem::take(&mut self.unwritten) {
            if history::add_hold(&**session, &hold).await.is_err() {
                self.unwritten.insert(hold);
            }
        }
        match history::holds(session).await {
            Ok(holds) => self.current = holds.into_iter().chain(self.unwritten.iter().cloned()).collect(),
            Err(error) => {
                tracing::debug!("cannot read which versions are held back: {}", describe(&error));
                return Err(error);
            }
        }
        Ok(())
    }
}
