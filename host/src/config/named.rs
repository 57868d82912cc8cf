//! Settings of named things: `processors.NAME.back-pressure`, `tenants.NAME.weight`, and so on.
//!
//! A key consists of the group, a name and the setting, so the keys of a group cannot be listed
//! before the names are known. A tenant's name may contain dots. In a variable's name, `_` stands
//! for `-`. That is unambiguous for shared processors, whose ids have no `_` and no capital
//! letters. It is ambiguous for tenants, so variables can set keys of neither a tenant nor a
//! tenant's own processor.

use super::{leaves, variable};
use crate::{processor::pressure, tenants};

/// The groups, and whether variables can set their keys.
const GROUPS: [(&str, bool); 2] = [("processors", true), ("tenants", false)];

/// The keys of a name in a group, with their defaults.
fn keys_in(group: &str, name: &str) -> Vec<(String, toml::Value)> {
    let leaves = match group {
        "tenants" => leaves(&tenants::Settings::every()),
        _ => leaves(&pressure::PressureSettings::default()),
    };
    leaves.into_iter().map(|(key, value)| (format!("{group}.{name}.{key}"), value)).collect()
}

/// The keys of a name in all groups, with their defaults.
pub(super) fn keys(name: &str) -> Vec<(String, toml::Value)> {
    GROUPS.iter().flat_map(|(group, _)| keys_in(group, name)).collect()
}

/// The group, the name and the setting of a key, if it belongs to a group.
pub(super) fn parts(key: &str) -> Option<[&str; 3]> {
    let (group, rest) = key.split_once('.')?;
    let (name, setting) = rest.rsplit_once('.')?;
    (GROUPS.iter().any(|(known, _)| *known == group) && !name.is_empty()).then_some([group, name, setting])
}

/// The key that an environment variable sets, if it belongs to a group that variables can set.
pub(super) fn key_of(variable_name: &str) -> Option<String> {
    // The keys of an empty name are templates: `processors..back-pressure`.
    let groups = GROUPS.iter().filter(|(_, by_variable)| *by_variable);
    groups.flat_map(|(group, _)| keys_in(group, "")).find_map(|(key, _)| {
        let (before, after) = key.split_once("..")?;
        let rest = variable_name.strip_prefix(&format!("{}_", variable(before)))?;
        let setting = after.to_uppercase().replace('-', "_");
        let name = rest.strip_suffix(&format!("_{setting}"))?.to_lowercase().replace('_', "-");
        Some(format!("{before}.{name}.{after}"))
    })
}
