//! The settings with the source of each, for `sandmill config print`. Secrets are masked here, so
//! that no code that prints a [`Setting`] can reveal one.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;

use super::{Config, keys, leaves, meaning::meaning, named, secret};

/// The settings, and the source of each that is not a default.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The settings.
    pub config: Config,
    pub(super) origins: BTreeMap<String, Origin>,
}

/// The source of a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum Origin {
    /// No source set it.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One setting, ready to display.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its key, as files and `--set` name it.
    pub key: String,
    /// Its value, with secrets masked.
    pub value: serde_json::Value,
    /// Its default value.
    pub default: serde_json::Value,
    /// The source of the value.
    pub origin: Origin,
    /// Its description, with the unit.
    pub meaning: String,
}

impl Resolved {
    /// Replaces the address of the database.
    pub fn with_database_url(mut self, address: &str, origin: Origin) -> Self {
        self.config.database_url = address.into();
        self.origins.insert("database-url".into(), origin);
        self
    }

    /// All settings: those without a group first, then group by group.
    pub fn settings(&self) -> Vec<Setting> {
        let mut defaults: BTreeMap<_, _> = keys().into_iter().collect();
        let named = self.config.processors.keys().chain(self.config.tenants.keys());
        defaults.extend(named.flat_map(|name| named::defaults(name)));
        // All settings can be represented in JSON.
        let json = |value: Option<&toml::Value>| serde_json::to_value(value).unwrap_or_default();
        let mut settings: Vec<Setting> = leaves(&self.config)
            .into_iter()
            .map(|(key, value)| Setting {
                value: match value.as_str() {
                    Some(address) if key == "database-url" => secret::mask(address).into(),
                    _ => json(Some(&value)),
                },
                default: json(defaults.get(&key)),
                origin: self.origins.get(&key).cloned().unwrap_or(Origin::Default),
                meaning: meaning(&key),
                key,
            })
            .collect();
        settings.sort_by_key(|setting| setting.key.contains('.'));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn each_setting_names_the_last_source_that_gave_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.toml");
        std::fs::write(&file, "database-url = \"postgresql://u:file@h/d\"\n[limits]\ncpu-ms = 2\nwall-ms = 3\n")
            .unwrap();
        let sources = Sources {
            file: Some(&file),
            environment: vec![("SANDMILL_LIMITS_CPU_MS".into(), "20".into())],
            flags: vec!["limits.reads=7".into()],
        };
        let resolved = Config::resolve(&sources).unwrap();
        let find = |resolved: &Resolved, key: &str| {
            let setting = resolved.settings().into_iter().find(|setting| setting.key == key).unwrap();
            (setting.value.to_string(), setting.origin)
        };
        assert_eq!(find(&resolved, "limits.wall-ms"), ("3".into(), Origin::File(file.clone())));
        let variable = Origin::Environment("SANDMILL_LIMITS_CPU_MS".into());
        assert_eq!(find(&resolved, "limits.cpu-ms"), ("20".into(), variable));
        assert_eq!(find(&resolved, "limits.reads"), ("7".into(), Origin::Flag("--set".into())));
        assert_eq!(find(&resolved, "limits.changes"), ("20000".into(), Origin::Default));
        assert_eq!(find(&resolved, "database-url"), ("\"postgresql://u:***@h/d\"".into(), Origin::File(file)));
        let (_, origin) =
            find(&resolved.with_database_url("host=x", Origin::Flag("--database-url".into())), "database-url");
        assert_eq!(origin, Origin::Flag("--database-url".into()));
    }
}
