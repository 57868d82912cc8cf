//! What has to be done so that what runs becomes what the folder says: pure.
//!
//! A plan is made of what runs and of what was found, after each file was checked alone; it sees what only all of them together show: that two claim one
//! processor, that a file has only another name, that the new version would go on with documents which it did not build. It prints itself, and the
//! [reconciler](super::reconciler) carries it out in its order. Files that are not mentioned in `desired` are gone.

use std::{collections::BTreeMap, fmt};

use super::manifest::Manifest;
use crate::{
    model::{handler::Descriptor, ids::ProcessorId},
    processor::registration,
};

/// What of a plugin a plan looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// SHA-256 of the file.
    pub digest: String,
    /// What it says it is, with what its manifest says about it.
    pub descriptor: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What a file is good for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// To run.
    Run(Box<Version>),
    /// For nothing; whatever ran under its name goes on.
    Nothing,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A processor ends; its cursor and documents stay.
    Stop {
        /// The plugin's name.
        plugin: String,
    },
    /// The same code runs under another file's name.
    Rename {
        /// Its name so far.
        from: String,
        /// From now on.
        to: String,
    },
    /// The processor goes on with other code, each lane at the end of its batch.
    Swap {
        /// The plugin's name.
        plugin: String,
    },
    /// The processor ends and begins again, since more than its code differs.
    Restart {
        /// The plugin's name.
        plugin: String,
    },
    /// A processor begins.
    Start {
        /// The plugin's name.
        plugin: String,
    },
    /// The file is not run; whatever ran under its name goes on.
    Refuse {
        /// The plugin's name.
        plugin: String,
        /// Why, and the way out.
        why: String,
    },
}

/// The order of files that claim one processor, while none of them runs it; then their names
/// decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It ran the processor last.
    Owner,
    /// Any other file.
    Other,
    /// A file that takes long to compile: others do not wait for it.
    Slow,
}

/// What is to be done, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Step>);

impl Plan {
    /// What leads from what runs to what is desired, both by the names of files.
    pub fn between(running: &BTreeMap<String, Version>, desired: &BTreeMap<String, Wanted>) -> Plan {
        Self::by_rank(running, desired, |_, _| Rank::Other)
    }

    /// The same where files that claim one processor have ranks.
    pub fn by_rank(
        running: &BTreeMap<String, Version>,
        desired: &BTreeMap<String, Wanted>,
        rank: impl Fn(&str, &ProcessorId) -> Rank,
    ) -> Plan {
        let mut refused = Vec::new();
        let claims = claims(running, desired, rank, &mut refused);
        let (mut stops, mut renames, mut swaps, mut starts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // Whose processor goes on in another file's name.
        let renamed_to = |plugin: &str, of: &Version| {
            let taken = claims.get(&of.descriptor.id).filter(|to| **to != plugin);
            taken.filter(|to| !running.contains_key(**to) && !desired.contains_key(plugin)).copied()
        };
        for (plugin, now) in running {
            match desired.get(plugin) {
                None => match renamed_to(plugin, now) {
                    Some(to) => renames.push(Step::Rename { from: plugin.clone(), to: to.to_string() }),
                    None => stops.push(Step::Stop { plugin: plugin.clone() }),
                },
                Some(Wanted::Nothing) => {}
                Some(Wanted::Run(new)) if new.descriptor.id != now.descriptor.id => {
                    let gets = claims.get(&new.descriptor.id) == Some(&plugin.as_str());
                    // Also where it gets nothing, if what it runs is another file's now.
                    if gets || claims.contains_key(&now.descriptor.id) {
                        stops.push(Step::Stop { plugin: plugin.clone() });
                    }
                    if gets {
                        starts.push(Step::Start { plugin: plugin.clone() });
                    }
                }
                Some(Wanted::Run(new)) => swaps.extend(change(plugin, now, new)),
            }
        }
        for (plugin, wanted) in desired {
            let Wanted::Run(new) = wanted else { continue };
            if running.contains_key(plugin) || claims.get(&new.descriptor.id) != Some(&plugin.as_str()) {
                continue;
            }
            let before = running.iter().find(|(name, now)| renamed_to(name, now) == Some(plugin));
            match before {
                Some((_, now)) => swaps.extend(change(plugin, now, new)),
                None => starts.push(Step::Start { plugin: plugin.clone() }),
            }
        }
        Plan([stops, renames, swaps, starts, refused].concat())
    }
}

/// Which file each processor belongs to: the one that runs it, or else the first by rank and name.
/// The others are refused.
fn claims<'a>(
    running: &'a BTreeMap<String, Version>,
    desired: &'a BTreeMap<String, Wanted>,
    rank: impl Fn(&str, &ProcessorId) -> Rank,
    refused: &mut Vec<Step>,
) -> BTreeMap<&'a ProcessorId, &'a str> {
    let mut claims: BTreeMap<&ProcessorId, &str> = BTreeMap::new();
    // Who runs keeps what it has, whatever others of its name claim: as long as its file is there and wants it, or is good for nothing.
    for (plugin, now) in running {
        let keeps = match desired.get(plugin) {
            Some(Wanted::Run(new)) => new.descriptor.id == now.descriptor.id,
            Some(Wanted::Nothing) => true,
            None => false,
        };
        if keeps {
            claims.insert(&now.descriptor.id, plugin);
        }
    }
    let mut wanted: Vec<(Rank, &String, &Version)> = Vec::new();
    for (plugin, what) in desired {
        let Wanted::Run(new) = what else { continue };
        wanted.push((rank(plugin, &new.descriptor.id), plugin, new));
    }
    wanted.sort_by_key(|(rank, plugin, _)| (*rank, *plugin));
    for (_, plugin, new) in wanted {
        let id = &new.descriptor.id;
        let owner = claims.entry(id).or_insert(plugin);
        if *owner != plugin {
            let why = format!(
                "claims the processor id {id} that {owner}.wasm has already; remove one of the two, or give it another id"
            );
            refused.push(Step::Refuse { plugin: plugin.clone(), why });
        }
    }
    claims
}

/// What to do about another version of a processor.
pub(super) fn change(plugin: &str, now: &Version, new: &Version) -> Option<Step> {
    let plugin = plugin.to_string();
    if now == new {
        return None;
    }
    if let Some(changed) = registration::difference(&now.descriptor, &new.descriptor, new.manifest.adopts()) {
        return Some(Step::Refuse { plugin, why: changed.to_string() });
    }
    // Readers and writers of documents are made for the collections, and routers for what is subscribed to.
    let fixed = |version: &Version| {
        let Descriptor { mut collections, event_types, tenants, .. } = version.descriptor.clone();
        collections.sort();
        (collections, event_types, tenants)
    };
    Some(if fixed(now) == fixed(new) { Step::Swap { plugin } } else { Step::Restart { plugin } })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing to do");
        }
        for (index, step) in self.0.iter().enumerate() {
            write!(f, "{}{step}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Stop { plugin } => write!(f, "stop {plugin}"),
            Step::Rename { from, to } => write!(f, "call {from} {to}"),
            Step::Swap { plugin } => write!(f, "swap {plugin}"),
            Step::Restart { plugin } => write!(f, "restart {plugin}"),
            Step::Start { plugin } => write!(f, "start {plugin}"),
            Step::Refuse { plugin, why } => write!(f, "refuse {plugin}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::CollectionName;

    fn version(id: &str, digest: &str) -> Version {
        let collections = vec![CollectionName::parse("carts").unwrap()];
        let descriptor = Descriptor::projector(ProcessorId::parse(id).unwrap(), collections);
        Version { digest: digest.into(), descriptor, manifest: Manifest::default() }
    }

    /// Files as `NAME=ID:DIGEST`, or `NAME` alone for one that is good for nothing.
    fn desired(files: &str) -> BTreeMap<String, Wanted> {
        let file = |text: &str| match text.split_once('=') {
            None => (text.to_string(), Wanted::Nothing),
            Some((name, what)) => {
                let (id, digest) = what.split_once(':').unwrap();
                (name.to_string(), Wanted::Run(Box::new(version(id, digest))))
            }
        };
        files.split_whitespace().map(file).collect()
    }

    fn plan(running: &str, files: &str) -> String {
        let running = desired(running).into_iter().filter_map(|(name, wanted)| match wanted {
            Wanted::Run(version) => Some((name, *version)),
            Wanted::Nothing => None,
        });
        Plan::between(&running.collect(), &desired(files)).to_string()
    }

    #[test]
    fn what_comes_goes_changes_or_stays() {
        assert_eq!(plan("", ""), "nothing to do");
        assert_eq!(plan("a=a:1", "a=a:1"), "nothing to do");
        assert_eq!(plan("a=a:1", "a=a:2 b=b:1"), "swap a; start b");
        assert_eq!(plan("a=a:1 b=b:1", "b=b:1"), "stop a");
        assert_eq!(plan("a=a:1", "a"), "nothing to do", "what cannot run leaves the former one running");
        assert_eq!(plan("a=a:1", "a=other:2"), "stop a; start a");
    }

    #[test]
    fn another_name_is_no_other_processor() {
        assert_eq!(plan("a=x:1", "b=x:1"), "call a b");
        assert_eq!(plan("a=x:1", "b=x:2"), "call a b; swap b");
        assert_eq!(plan("a=x:1 b=y:1", "b=x:1"), "stop a; stop b; start b", "the file has the other's content now");
        assert_eq!(plan("a=x:1 b=y:1", "a=y:1 b=x:1"), "stop a; stop b; start a; start b", "exchanged");
    }

    #[test]
    fn one_processor_belongs_to_one_file() {
        let why = |id: &str, owner: &str| {
            format!(
                "claims the processor id {id} that {owner}.wasm has already; remove one of the two, or give it another id"
            )
        };
        assert_eq!(plan("", "a=x:1 b=x:1"), format!("start a; refuse b: {}", why("x", "a")));
        assert_eq!(plan("b=x:1", "a=x:2 b=x:1"), format!("refuse a: {}", why("x", "b")));
        assert_eq!(plan("b=x:1", "a=x:2 b"), format!("refuse a: {}", why("x", "b")), "its file is broken, and it runs");
        assert_eq!(plan("a=x:1 b=y:1", "a=y:2 b=y:1"), format!("refuse a: {}", why("y", "b")));
        let moved = plan("a=x:1 b=y:1", "a=y:1 b=y:1 c=x:1");
        assert_eq!(moved, format!("stop a; start c; refuse a: {}", why("y", "b")), "what a ran is c's now");
    }

    #[test]
    fn of_files_that_claim_one_processor_the_one_that_ran_it_goes_first_and_a_slow_one_last() {
        let ranked = |of: fn(&str) -> Rank| {
            let files = desired("a=x:1 b=x:1 c=x:1");
            let plan = Plan::by_rank(&BTreeMap::new(), &files, |plugin, _| of(plugin));
            plan.to_string().split(':').next().unwrap().to_string()
        };
        assert_eq!(ranked(|_| Rank::Other), "start a; refuse b");
        assert_eq!(ranked(|name| if name == "c" { Rank::Owner } else { Rank::Other }), "start c; refuse a");
        assert_eq!(ranked(|name| if name == "a" { Rank::Slow } else { Rank::Other }), "start b; refuse c");
    }

    #[test]
    fn a_tenants_own_is_another_processor() {
        let of = |name: &str| {
            let (tenant, version) = (crate::model::ids::TenantId::parse(name).unwrap(), version("x", "1"));
            let descriptor = version.descriptor.owned_by(&tenant);
            (format!("{name}/a"), Wanted::Run(Box::new(Version { descriptor, ..version })))
        };
        let files = BTreeMap::from([of("acme"), of("globex")]);
        assert_eq!(Plan::between(&BTreeMap::new(), &files).to_string(), "start acme/a; start globex/a");
    }

    #[test]
    fn documents_are_not_continued_by_what_did_not_build_them() {
        let now = version("a", "1");
        let with = |change: &dyn Fn(&mut Descriptor)| {
            let mut new = version("a", "2");
            change(&mut new.descriptor);
            let files = BTreeMap::from([("a".to_string(), Wanted::Run(Box::new(new)))]);
            Plan::between(&BTreeMap::from([("a".to_string(), now.clone())]), &files).to_string()
        };
        let more = CollectionName::parse("more").unwrap();
        assert_eq!(with(&|new| new.collections.insert(0, more.clone())), "restart a");
        assert_eq!(with(&|new| new.version = "2.0".into()), "swap a");
        let refused = with(&|new| new.read_model_version = 7);
        assert!(
            refused.starts_with(
                "refuse a: processor a was built with read-model version 1, and this plugin has read-model version 7"
            ),
            "{refused}"
        );
    }

    #[test]
    fn what_a_manifest_says_is_part_of_a_version() {
        let now = version("a", "1");
        let with = |manifest: &str, change: &dyn Fn(&mut Descriptor)| {
            let manifest = Manifest::parse(manifest).unwrap();
            let mut new = Version { descriptor: manifest.over(&now.descriptor, None), manifest, ..now.clone() };
            change(&mut new.descriptor);
            let files = BTreeMap::from([("a".to_string(), Wanted::Run(Box::new(new)))]);
            Plan::between(&BTreeMap::from([("a".to_string(), now.clone())]), &files).to_string()
        };
        let nothing = |_: &mut Descriptor| {};
        assert_eq!(with("", &nothing), "nothing to do");
        assert_eq!(with("[limits]\ncpu-ms = 5", &nothing), "swap a");
        assert_eq!(with("max-batch-size = 5", &nothing), "swap a");
        assert_eq!(with("tenants = ['acme']", &nothing), "restart a");
        let other_types = |new: &mut Descriptor| new.event_types = Some(vec!["T".into()]);
        assert_eq!(with("on-change = 'continue'", &other_types), "restart a");
        assert!(with("", &other_types).starts_with("refuse a: "));
        let by_stream = |new: &mut Descriptor| new.partition_by = crate::model::handler::PartitionBy::EventStream;
        assert!(with("on-change = 'continue'", &by_stream).starts_with("refuse a: "));
    }
}
