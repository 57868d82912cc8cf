//! What has changed in the plugins folder, look by look: pure.
//!
//! A change counts when it has stayed as it is for a moment, so that a file is not taken while it is being written, and none waits for another. What could not
//! be read is no change: it stays what it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::PluginFile;
use crate::model::ids::TenantId;

/// For how long a file must have been as it is. Default 40 ms: what writes it pauses for less, and nobody waits long for it.
const SETTLES: Duration = Duration::from_millis(40);

/// What has changed in the folder, look by look.
#[derive(Debug, Default)]
pub struct Settling {
    known: BTreeMap<String, PluginFile>,
    /// What looks otherwise than known, and since when it has looked so; nothing for what is gone.
    moving: BTreeMap<String, (Option<PluginFile>, Instant)>,
}

impl Settling {
    /// Takes note of a look; the folders of `unread` tenants stay what they were. Gives the names of files that came, went or changed, and are settled; what they are now is in [`known`](Self::known).
    pub fn look(&mut self, files: Vec<PluginFile>, unread: &BTreeSet<TenantId>, now: Instant) -> Vec<String> {
        let found: BTreeMap<String, PluginFile> = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        let names: BTreeSet<String> = found.keys().chain(self.known.keys()).cloned().collect();
        let mut settled = Vec::new();
        for name in names {
            let (file, known) = (found.get(&name), self.known.get(&name));
            let is_unread = known.and_then(|known| known.tenant.as_ref()).is_some_and(|tenant| unread.contains(tenant));
            if file == known || file.is_none() && is_unread {
                self.moving.remove(&name);
                continue;
            }
            match self.moving.get(&name) {
                Some((seen, since)) if seen.as_ref() == file => {
                    if now.saturating_duration_since(*since) >= SETTLES {
                        self.moving.remove(&name);
                        match file {
                            Some(file) => self.known.insert(name.clone(), file.clone()),
                            None => self.known.remove(&name),
                        };
                        settled.push(name);
                    }
                }
                _ => _ = self.moving.insert(name, (file.cloned(), now)),
            }
        }
        self.moving.retain(|name, _| found.contains_key(name) || self.known.contains_key(name));
        settled
    }

    /// The same for a folder that nobody has looked at before: everything in it counts as it is.
    pub fn first(&mut self, files: Vec<PluginFile>) {
        self.known = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        self.moving.clear();
    }

    /// The files as they are known to be.
    pub fn known(&self) -> &BTreeMap<String, PluginFile> {
        &self.known
    }

    /// When it is worth another look because something may have settled; none if nothing moves.
    pub fn due(&self) -> Option<Instant> {
        self.moving.values().map(|(_, since)| *since + SETTLES).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> PluginFile {
        PluginFile::example(name, bytes)
    }

    #[test]
    fn a_change_counts_once_and_when_it_has_settled() {
        let began = Instant::now();
        let mut settling = Settling::default();
        settling.first(vec![file("kept", 1), file("gone", 1)]);
        let mut look = |files: Vec<PluginFile>, ms: u64| {
            let settled = settling.look(files, &BTreeSet::new(), began + Duration::from_millis(ms));
            (settled, settling.due().map(|due| (due - began).as_millis()), settling.known().len())
        };
        let kept = || file("kept", 1);
        let settled = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let slow_and_quick = |bytes| vec![kept(), file("slow", bytes), file("quick", 5)];
        assert_eq!(look(slow_and_quick(1), 0), (vec![], Some(40), 2));
        // One is still being written: the others do not wait for it.
        assert_eq!(look(slow_and_quick(2), 30).0, settled(&[]));
        assert_eq!(look(slow_and_quick(2), 45).0, settled(&["gone", "quick"]));
        assert_eq!(look(slow_and_quick(2), 70).0, settled(&["slow"]));
        assert_eq!(look(slow_and_quick(2), 500), (vec![], None, 3));
        // What comes and goes, or goes and comes back, is no change.
        assert_eq!(look(vec![kept(), file("slow", 2)], 600).0, settled(&[]));
        assert_eq!(look(vec![kept(), file("slow", 2), file("quick", 5), file("brief", 1)], 610).0, settled(&[]));
        assert_eq!(look(slow_and_quick(2), 700), (vec![], None, 3));
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let began = Instant::now();
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let of = |name: &str| PluginFile { tenant: Some(tenant(name)), ..file(&format!("{name}/a"), 1) };
        let mut settling = Settling::default();
        settling.first(vec![of("acme"), of("globex")]);
        let mut look = |files: Vec<PluginFile>, unread: &[&str], ms: u64| {
            let unread = unread.iter().map(|name| tenant(name)).collect();
            settling.look(files, &unread, began + Duration::from_millis(ms))
        };
        let nothing: [&str; 0] = [];
        for ms in [0, 100, 200] {
            assert_eq!(look(vec![of("globex")], &["acme"], ms), nothing);
        }
        // Gone since, as one can see now that it can be read again.
        assert_eq!(look(vec![of("globex")], &[], 300), nothing);
        assert_eq!(look(vec![of("globex")], &["acme"], 320), nothing);
        assert_eq!(look(vec![of("globex")], &[], 350), nothing, "it is seen again for less than it takes");
        assert_eq!(look(vec![of("globex")], &[], 390), ["acme/a"]);
    }
}
