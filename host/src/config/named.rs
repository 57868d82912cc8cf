//! Settings of things that the operator names: `processors.NAME.back-pressure`, and so on.
//!
//! Such a group has no keys of its own until somebody names one, so its keys are made from the name at hand. In a variable's name `_` stands for
//! `-`: the ids of processors have no `_`, so that what is meant is never in doubt.

use super::{leaves, variable};
use crate::processor::pressure;

/// The group's name, as keys begin.
const PROCESSORS: &str = "processors";

/// The keys that a processor of this name has, with their defaults.
pub(super) fn keys(name: &str) -> Vec<(String, toml::Value)> {
    let keys = leaves(&pressure::Settings::default()).into_iter();
    keys.map(|(key, value)| (format!("{PROCESSORS}.{name}.{key}"), value)).collect()
}

/// The name in a key of the group.
pub(super) fn name(key: &str) -> Option<&str> {
    let (name, _) = key.strip_prefix(PROCESSORS)?.strip_prefix('.')?.split_once('.')?;
    (!name.is_empty()).then_some(name)
}

/// The key without the name in it, where it is of the group.
pub(super) fn without_name(key: &str) -> Option<(&'static str, &str)> {
    let (_, setting) = key.split_once(&format!(".{}.", name(key)?))?;
    Some((PROCESSORS, setting))
}

/// The key that a variable stands for, where it is of the group.
pub(super) fn key_of(variable_name: &str) -> Option<String> {
    keys("").into_iter().find_map(|(key, _)| {
        let (before, after) = key.split_once("..")?;
        let rest = variable_name.strip_prefix(&format!("{}_", variable(before)))?;
        let after = after.to_uppercase().replace('-', "_");
        let name = rest.strip_suffix(&format!("_{after}"))?.to_lowercase().replace('_', "-");
        Some(format!("{before}.{name}.{}", key.rsplit_once('.')?.1))
    })
}
