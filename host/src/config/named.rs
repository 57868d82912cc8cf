//! Settings of named things: `processors.NAME.back-pressure`, `tenants.NAME.weight`, and so on.
//!
//! A key consists of the group, a name and the setting, so the keys of a group cannot be listed
//! before the names are known. A tenant's name may contain dots. The settings of failures are one
//! level deeper, as in `processors.NAME.failures.trap.attempts`, and a plugin's code may contain
//! dots as well. In a variable's name, `_` stands
//! for `-`. That is unambiguous for shared processors, whose ids have no `_` and no capital
//! letters. It is ambiguous for tenants, so variables can set keys of neither a tenant nor a
//! tenant's own processor.

use super::{leaves, variable};
use crate::{
    processor::{policy::CODE, settings::ProcessorSettings},
    tenants,
};

/// The groups, and whether variables can set their keys.
const GROUPS: [(&str, bool); 2] = [("processors", true), ("tenants", false)];

/// What precedes the settings of failures in a key, after the name.
const FAILURES: &str = ".failures.";

/// The keys of a name in a group, with a value of each key's type: the default, if there is one.
fn keys_in(group: &str, name: &str) -> Vec<(String, toml::Value)> {
    let leaves = match group {
        "tenants" => leaves(&tenants::Settings::every()),
        _ => leaves(&ProcessorSettings::every()),
    };
    leaves.into_iter().map(|(key, value)| (format!("{group}.{name}.{key}"), value)).collect()
}

/// The keys of a name in all groups, with a value of each key's type.
pub(super) fn keys(name: &str) -> Vec<(String, toml::Value)> {
    GROUPS.iter().flat_map(|(group, _)| keys_in(group, name)).collect()
}

/// The keys of a name in all groups that have a default. The defaults for failures depend on the
/// class.
pub(super) fn defaults(name: &str) -> impl Iterator<Item = (String, toml::Value)> {
    keys(name).into_iter().filter(|(key, _)| !key.contains(FAILURES))
}

/// The group, the name and the setting of a key, if it belongs to a group.
pub(super) fn parts(key: &str) -> Option<[&str; 3]> {
    let (group, rest) = key.split_once('.')?;
    let (name, setting) = match rest.find(FAILURES).filter(|_| group == "processors") {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => rest.rsplit_once('.')?,
    };
    (GROUPS.iter().any(|(known, _)| *known == group) && !name.is_empty()).then_some([group, name, setting])
}

/// The tables in which a key of a group is, from the outermost, and then its own name.
pub(super) fn path(key: &str) -> Option<Vec<&str>> {
    let [group, name, setting] = parts(key)?;
    let mut path = vec![group, name];
    match setting.split_once('.') {
        None => path.push(setting),
        Some((failures, of_class)) => {
            path.push(failures);
            match of_class.rsplit_once('.') {
                None => path.push(of_class),
                Some((class, setting)) => path.extend([class, setting]),
            }
        }
    }
    Some(path)
}

/// The key as [`keys`] lists it: with [`CODE`] instead of the class of a plugin's failure.
pub(super) fn listed(key: &str) -> String {
    match path(key).as_deref() {
        Some([group, name, failures, class, setting]) if class.starts_with("plugin:") => {
            [group, name, failures, CODE, setting].join(".")
        }
        _ => key.into(),
    }
}

/// The key that an environment variable sets, if it belongs to a group that variables can set.
pub(super) fn key_of(variable_name: &str) -> Option<String> {
    // The keys of an empty name are templates: `processors..back-pressure`.
    let groups = GROUPS.iter().filter(|(_, by_variable)| *by_variable);
    groups.flat_map(|(group, _)| keys_in(group, "")).find_map(|(key, _)| {
        let (before, after) = key.split_once("..")?;
        let rest = variable_name.strip_prefix(&format!("{}_", variable(before)))?;
        let setting = after.to_uppercase().replace(['.', '-'], "_");
        let name = rest.strip_suffix(&format!("_{setting}"))?.to_lowercase().replace('_', "-");
        Some(format!("{before}.{name}.{after}"))
    })
}
