//! Circular dependencies among the modules of the host.
//!
//! Modules are compared with their siblings: paths that a child module names count as its parent's.
//! A module and its children may name each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{borders, rust, tree::File};

/// A module's path, without `crate`.
type Module = Vec<String>;

/// The modules that each module names. Both are given as siblings in the deepest module that
/// contains the two.
pub(super) fn edges<'a>(files: impl Iterator<Item = &'a File>) -> BTreeMap<Module, BTreeSet<Module>> {
    let sources: BTreeMap<Module, &str> = files
        .filter_map(|file| {
            let path = file.path.strip_prefix("host/src/")?;
            (path != "main.rs").then(|| (borders::module_of(path)[1..].to_vec(), file.text.as_str()))
        })
        .collect();
    let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, source) in &sources {
        let here: Vec<String> = ["crate".to_owned()].into_iter().chain(module.iter().cloned()).collect();
        for named in rust::paths(&rust::tokens(source), &here) {
            let Some(path) = named.path.strip_prefix(&["crate".to_owned()][..]).filter(|_| !named.test) else {
                continue;
            };
            let shared = module.iter().zip(path).take_while(|(one, other)| one == other).count();
            let (from, to) = (module.get(..=shared), path.get(..=shared));
            if let (Some(from), Some(to)) = (from, to)
                && sources.contains_key(to)
            {
                edges.entry(from.to_vec()).or_default().insert(to.to_vec());
            }
        }
    }
    edges
}

/// The modules of each circle, without modules that only depend on one.
pub(super) fn circles(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<Module>> {
    let reachable = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for to in edges.get(&module).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to.clone());
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&Module, BTreeSet<Module>> = edges.keys().map(|module| (module, reachable(module))).collect();
    let mut circles: Vec<BTreeSet<Module>> = Vec::new();
    for (module, reached) in &reach {
        let back = |other: &&Module| reach.get(*other).is_some_and(|there| there.contains(*module));
        let circle: BTreeSet<Module> = reached.iter().filter(back).cloned().collect();
        if !circle.is_empty() && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}
