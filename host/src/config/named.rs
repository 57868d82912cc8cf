//! Settings of things that have names of their own: `processors.NAME.back-pressure`, `tenants.NAME.weight`, and so on.
//!
//! Such a group has no keys of its own until somebody names one, so its keys are made from the name at hand. A key is the group, the name and the setting: a
//! tenant's name may have dots in it. In a variable's name `_` stands for `-`. That is unambiguous
//! for shared processors, whose ids have no `_` and no capital letters, but not for tenants:
//! variables cannot name a single tenant, nor a tenant's own processor.

use super::{leaves, variable};
use crate::{processor::pressure, tenants};

/// The groups, and whether variables can name what is in them.
const GROUPS: [(&str, bool); 2] = [("processors", true), ("tenants", false)];

/// The keys that something of this name has in a group, with their defaults.
fn keys_in(group: &str, name: &str) -> Vec<(String, toml::Value)> {
    let leaves = match group {
        "tenants" => leaves(&tenants::Settings::every()),
        _ => leaves(&pressure::PressureSettings::default()),
    };
    leaves.into_iter().map(|(key, value)| (format!("{group}.{name}.{key}"), value)).collect()
}

/// The keys that things of this name have, in all groups.
pub(super) fn keys(name: &str) -> Vec<(String, toml::Value)> {
    GROUPS.iter().flat_map(|(group, _)| keys_in(group, name)).collect()
}

/// The group, the name and the setting of a key, where it is of a group.
pub(super) fn parts(key: &str) -> Option<[&str; 3]> {
    let (group, rest) = key.split_once('.')?;
    let (name, setting) = rest.rsplit_once('.')?;
    (GROUPS.iter().any(|(known, _)| *known == group) && !name.is_empty()).then_some([group, name, setting])
}

/// The key that a variable stands for, where it is of a group whose names variables can tell.
pub(super) fn key_of(variable_name: &str) -> Option<String> {
    let groups = GROUPS.iter().filter(|(_, by_variable)| *by_variable);
    groups.flat_map(|(group, _)| keys_in(group, "")).find_map(|(key, _)| {
        let (before, after) = key.split_once("..")?;
        let rest = variable_name.strip_prefix(&format!("{}_", variable(before)))?;
        let setting = after.to_uppercase().replace('-', "_");
        let name = rest.strip_suffix(&format!("_{setting}"))?.to_lowercase().replace('_', "-");
        Some(format!("{before}.{name}.{after}"))
    })
}
