//! Plans: the steps from the running plugins to the desired ones. Pure.
//!
//! A plan compares all running versions with all checked files. So it finds what the check of one
//! file cannot find: two files that claim one processor, renamed files, and versions that would
//! continue documents of other code. The [reconciler](super::reconciler) carries the steps out in
//! order. A file that is missing in `desired` counts as removed.

use std::{collections::BTreeMap, fmt};

use super::manifest::Manifest;
use crate::{
    model::{
        ids::ProcessorId,
        spec::{Descriptor, ProcessorSpec},
    },
    processor::registration,
};

/// The parts of a version that a plan compares.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionSpec {
    /// SHA-256 of the file.
    pub digest: String,
    /// The plugin's spec with its manifest applied.
    pub spec: ProcessorSpec,
    /// Its manifest.
    pub manifest: Manifest,
}

/// The desired state of a plugin.
#[derive(Clone, Debug, PartialEq)]
pub enum Desired {
    /// The version runs.
    Run(Box<VersionSpec>),
    /// The plugin stays as it is, because its file cannot run.
    Keep,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A processor ends; its cursor and documents stay.
    Stop {
        /// The plugin's name.
        plugin: String,
    },
    /// A processor continues under another file's name.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// A processor continues with different code. Each lane changes over at the end of its batch.
    Swap {
        /// The plugin's name.
        plugin: String,
    },
    /// A processor ends and begins again, because more than its code differs.
    Restart {
        /// The plugin's name.
        plugin: String,
    },
    /// A processor begins.
    Start {
        /// The plugin's name.
        plugin: String,
    },
    /// A file does not run; the plugin stays as it is.
    Reject {
        /// The plugin's name.
        plugin: String,
        /// The reason and the remedy.
        reason: String,
    },
}

/// The precedence of a file among those that claim one processor, while none of them runs it. Files
/// of the same rank are ordered by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It ran the processor last.
    Owner,
    /// Any other file.
    Other,
    /// A file that takes long to compile; other files do not wait for it.
    Slow,
}

/// The steps, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReconcilePlan(pub Vec<Step>);

impl ReconcilePlan {
    /// The steps from `running` to `desired`, both by plugin name.
    pub fn between(running: &BTreeMap<String, VersionSpec>, desired: &BTreeMap<String, Desired>) -> ReconcilePlan {
        Self::by_rank(running, desired, |_, _| Rank::Other)
    }

    /// The same steps, with ranks for files that claim one processor.
    pub fn by_rank(
        running: &BTreeMap<String, VersionSpec>,
        desired: &BTreeMap<String, Desired>,
        rank: impl Fn(&str, &ProcessorId) -> Rank,
    ) -> ReconcilePlan {
        let mut rejected = Vec::new();
        let claims = claims(running, desired, rank, &mut rejected);
        let (mut stops, mut renames, mut swaps, mut starts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // The new name of a plugin whose file was renamed.
        let renamed_to = |plugin: &str, of: &VersionSpec| {
            let taken = claims.get(&of.spec.id).filter(|to| **to != plugin);
            taken.filter(|to| !running.contains_key(**to) && !desired.contains_key(plugin)).copied()
        };
        for (plugin, now) in running {
            match desired.get(plugin) {
                None => match renamed_to(plugin, now) {
                    Some(to) => renames.push(Step::Rename { from: plugin.clone(), to: to.to_string() }),
                    None => stops.push(Step::Stop { plugin: plugin.clone() }),
                },
                Some(Desired::Keep) => {}
                Some(Desired::Run(new)) if new.spec.id != now.spec.id => {
                    let wins = claims.get(&new.spec.id) == Some(&plugin.as_str());
                    // A plugin that loses the new claim ends too, if another file now claims its
                    // former processor.
                    if wins || claims.contains_key(&now.spec.id) {
                        stops.push(Step::Stop { plugin: plugin.clone() });
                    }
                    if wins {
                        starts.push(Step::Start { plugin: plugin.clone() });
                    }
                }
                Some(Desired::Run(new)) => swaps.extend(change(plugin, now, new)),
            }
        }
        for (plugin, wanted) in desired {
            let Desired::Run(new) = wanted else { continue };
            if running.contains_key(plugin) || claims.get(&new.spec.id) != Some(&plugin.as_str()) {
                continue;
            }
            let before = running.iter().find(|(name, now)| renamed_to(name, now) == Some(plugin));
            match before {
                Some((_, now)) => swaps.extend(change(plugin, now, new)),
                None => starts.push(Step::Start { plugin: plugin.clone() }),
            }
        }
        ReconcilePlan([stops, renames, swaps, starts, rejected].concat())
    }
}

/// The owner of each processor: the file that runs it, or else the first by rank and name. All
/// other claimants are rejected.
fn claims<'a>(
    running: &'a BTreeMap<String, VersionSpec>,
    desired: &'a BTreeMap<String, Desired>,
    rank: impl Fn(&str, &ProcessorId) -> Rank,
    rejected: &mut Vec<Step>,
) -> BTreeMap<&'a ProcessorId, &'a str> {
    let mut claims: BTreeMap<&ProcessorId, &str> = BTreeMap::new();
    // A running plugin keeps its processor while its file claims it or cannot run.
    for (plugin, now) in running {
        let keeps = match desired.get(plugin) {
            Some(Desired::Run(new)) => new.spec.id == now.spec.id,
            Some(Desired::Keep) => true,
            None => false,
        };
        if keeps {
            claims.insert(&now.spec.id, plugin);
        }
    }
    let mut claimants: Vec<(Rank, &String, &VersionSpec)> = Vec::new();
    for (plugin, state) in desired {
        let Desired::Run(new) = state else { continue };
        claimants.push((rank(plugin, &new.spec.id), plugin, new));
    }
    claimants.sort_by_key(|(rank, plugin, _)| (*rank, *plugin));
    for (_, plugin, new) in claimants {
        let id = &new.spec.id;
        let owner = claims.entry(id).or_insert(plugin);
        if *owner != plugin {
            let reason = format!(
                "claims the processor id {id}, which {owner}.wasm already has; remove one of the two, or give it another id"
            );
            rejected.push(Step::Reject { plugin: plugin.clone(), reason });
        }
    }
    claims
}

/// The step from one version of a processor to another; none if they are equal.
pub(super) fn change(plugin: &str, now: &VersionSpec, new: &VersionSpec) -> Option<Step> {
    let plugin = plugin.to_string();
    if now == new {
        return None;
    }
    if let Some(changed) = registration::difference(&now.spec, &new.spec, new.manifest.adopts()) {
        return Some(Step::Reject { plugin, reason: changed.to_string() });
    }
    // A running processor cannot change these: its readers and writers of documents are built for
    // the collections, and its router for the subscription.
    let fixed = |version: &VersionSpec| {
        let ProcessorSpec { tenants, descriptor: Descriptor { mut collections, event_types, .. }, .. } =
            version.spec.clone();
        collections.sort();
        (collections, event_types, tenants)
    };
    Some(if fixed(now) == fixed(new) { Step::Swap { plugin } } else { Step::Restart { plugin } })
}

impl fmt::Display for ReconcilePlan {
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
            Step::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Step::Swap { plugin } => write!(f, "swap {plugin}"),
            Step::Restart { plugin } => write!(f, "restart {plugin}"),
            Step::Start { plugin } => write!(f, "start {plugin}"),
            Step::Reject { plugin, reason } => write!(f, "reject {plugin}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::CollectionName;

    fn version(id: &str, digest: &str) -> VersionSpec {
        let collections = vec![CollectionName::parse("carts").unwrap()];
        let spec = ProcessorSpec::projector(ProcessorId::parse(id).unwrap(), collections);
        VersionSpec { digest: digest.into(), spec, manifest: Manifest::default() }
    }

    /// Files as `NAME=ID:DIGEST`, or `NAME` alone for one that cannot run.
    fn desired(files: &str) -> BTreeMap<String, Desired> {
        let file = |text: &str| match text.split_once('=') {
            None => (text.to_string(), Desired::Keep),
            Some((name, what)) => {
                let (id, digest) = what.split_once(':').unwrap();
                (name.to_string(), Desired::Run(Box::new(version(id, digest))))
            }
        };
        files.split_whitespace().map(file).collect()
    }

    fn plan(running: &str, files: &str) -> String {
        let running = desired(running).into_iter().filter_map(|(name, wanted)| match wanted {
            Desired::Run(version) => Some((name, *version)),
            Desired::Keep => None,
        });
        ReconcilePlan::between(&running.collect(), &desired(files)).to_string()
    }

    #[test]
    fn files_that_appear_disappear_or_change_start_stop_or_swap_processors() {
        assert_eq!(plan("", ""), "nothing to do");
        assert_eq!(plan("a=a:1", "a=a:1"), "nothing to do");
        assert_eq!(plan("a=a:1", "a=a:2 b=b:1"), "swap a; start b");
        assert_eq!(plan("a=a:1 b=b:1", "b=b:1"), "stop a");
        assert_eq!(plan("a=a:1", "a"), "nothing to do", "a file that cannot run leaves the running version alone");
        assert_eq!(plan("a=a:1", "a=other:2"), "stop a; start a");
    }

    #[test]
    fn a_renamed_file_keeps_its_processor() {
        assert_eq!(plan("a=x:1", "b=x:1"), "rename a to b");
        assert_eq!(plan("a=x:1", "b=x:2"), "rename a to b; swap b");
        assert_eq!(plan("a=x:1 b=y:1", "b=x:1"), "stop a; stop b; start b", "b has the content of a now");
        assert_eq!(
            plan("a=x:1 b=y:1", "a=y:1 b=x:1"),
            "stop a; stop b; start a; start b",
            "the two files exchanged their contents"
        );
    }

    #[test]
    fn a_second_file_that_claims_a_processor_is_rejected() {
        let reason = |id: &str, owner: &str| {
            format!(
                "claims the processor id {id}, which {owner}.wasm already has; remove one of the two, or give it another id"
            )
        };
        assert_eq!(plan("", "a=x:1 b=x:1"), format!("start a; reject b: {}", reason("x", "a")));
        assert_eq!(plan("b=x:1", "a=x:2 b=x:1"), format!("reject a: {}", reason("x", "b")));
        assert_eq!(
            plan("b=x:1", "a=x:2 b"),
            format!("reject a: {}", reason("x", "b")),
            "b runs, though its file is broken"
        );
        assert_eq!(plan("a=x:1 b=y:1", "a=y:2 b=y:1"), format!("reject a: {}", reason("y", "b")));
        let moved = plan("a=x:1 b=y:1", "a=y:1 b=y:1 c=x:1");
        assert_eq!(
            moved,
            format!("stop a; start c; reject a: {}", reason("y", "b")),
            "c takes over the processor of a"
        );
    }

    #[test]
    fn a_claimed_processor_goes_to_its_last_owner_first_and_to_a_slow_file_last() {
        let ranked = |of: fn(&str) -> Rank| {
            let files = desired("a=x:1 b=x:1 c=x:1");
            let plan = ReconcilePlan::by_rank(&BTreeMap::new(), &files, |plugin, _| of(plugin));
            plan.to_string().split(':').next().unwrap().to_string()
        };
        assert_eq!(ranked(|_| Rank::Other), "start a; reject b");
        assert_eq!(ranked(|name| if name == "c" { Rank::Owner } else { Rank::Other }), "start c; reject a");
        assert_eq!(ranked(|name| if name == "a" { Rank::Slow } else { Rank::Other }), "start b; reject c");
    }

    #[test]
    fn plugins_of_two_tenants_are_two_processors() {
        let of = |name: &str| {
            let (tenant, version) = (crate::model::ids::TenantId::parse(name).unwrap(), version("x", "1"));
            let id = version.spec.id.owned_by(&tenant);
            let spec = ProcessorSpec { id, tenants: Some(vec![tenant]), ..version.spec };
            (
                format!("{name}/a"),
                Desired::Run(Box::new(VersionSpec { spec, digest: version.digest, manifest: version.manifest })),
            )
        };
        let files = BTreeMap::from([of("acme"), of("globex")]);
        assert_eq!(ReconcilePlan::between(&BTreeMap::new(), &files).to_string(), "start acme/a; start globex/a");
    }

    #[test]
    fn a_version_that_did_not_build_the_documents_is_rejected() {
        let now = version("a", "1");
        let with = |change: &dyn Fn(&mut ProcessorSpec)| {
            let mut new = version("a", "2");
            change(&mut new.spec);
            let files = BTreeMap::from([("a".to_string(), Desired::Run(Box::new(new)))]);
            ReconcilePlan::between(&BTreeMap::from([("a".to_string(), now.clone())]), &files).to_string()
        };
        let more = CollectionName::parse("more").unwrap();
        assert_eq!(with(&|new| new.descriptor.collections.insert(0, more.clone())), "restart a");
        assert_eq!(with(&|new| new.descriptor.version = "2.0".into()), "swap a");
        let rejected = with(&|new| new.descriptor.read_model_version = 7);
        assert!(
            rejected.starts_with(
                "reject a: processor a was built with read-model version 1, and this plugin has read-model version 7"
            ),
            "{rejected}"
        );
    }

    #[test]
    fn a_changed_manifest_swaps_restarts_or_rejects() {
        let now = version("a", "1");
        let with = |manifest: &str, change: &dyn Fn(&mut ProcessorSpec)| {
            let manifest = Manifest::parse(manifest).unwrap();
            let mut new = VersionSpec { spec: manifest.apply_to(&now.spec.descriptor, None), manifest, ..now.clone() };
            change(&mut new.spec);
            let files = BTreeMap::from([("a".to_string(), Desired::Run(Box::new(new)))]);
            ReconcilePlan::between(&BTreeMap::from([("a".to_string(), now.clone())]), &files).to_string()
        };
        let nothing = |_: &mut ProcessorSpec| {};
        assert_eq!(with("", &nothing), "nothing to do");
        assert_eq!(with("[limits]\ncpu-ms = 5", &nothing), "swap a");
        assert_eq!(with("max-batch-size = 5", &nothing), "swap a");
        assert_eq!(with("tenants = ['acme']", &nothing), "restart a");
        let other_types = |new: &mut ProcessorSpec| new.descriptor.event_types = Some(vec!["T".into()]);
        assert_eq!(with("on-change = 'continue'", &other_types), "restart a");
        assert!(with("", &other_types).starts_with("reject a: "));
        let by_stream =
            |new: &mut ProcessorSpec| new.descriptor.partition_by = crate::model::spec::PartitionBy::EventStream;
        assert!(with("on-change = 'continue'", &by_stream).starts_with("reject a: "));
    }
}
