//! Manifests: `NAME.toml` beside `NAME.wasm`, the operator's settings for one plugin.
//!
//! ```toml
//! only-tenants = ["acme", "globex"]  # tenants whose events it handles; default: all
//! max-batch-size = 500     # maximum number of events in one call; default: the plugin's own value
//! on-change = "continue"   # a version with different event types or read-model version
//!                          # continues the existing documents; default "refuse". A change of
//!                          # the partitioning is always rejected
//! dry-run = false          # a version replaces the running one even if its dry run fails;
//!                          # default true
//! [limits]                 # override the host's limits of the same names; in a tenant's
//!                          # folder only lower values are allowed
//! cpu-ms = 5000
//! [failures.load]          # what happens to events that cannot be handled, by class or family of
//! attempts = 20            # the failure; see `processor::policy`. The host's settings for the
//! then = "dead-letter"     # processor take precedence
//! [settings]               # values that the plugin can read: strings, numbers, true and false
//! currency = "EUR"
//! [tenants.acme.settings]  # override the above for one tenant; not in a tenant's folder
//! currency = "USD"
//! ```
//!
//! In a file without `[tenants.TENANT.settings]`, `only-tenants` may also be written as `tenants`.
//! TOML allows that key only once.
//!
//! Everything is optional. An unknown key is an error that names its line and the nearest known
//! key. A changed manifest is reloaded like a changed plugin. Added tenants begin at the
//! processor's cursor, not at the start of the log.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};

use crate::{
    model::{
        ids::TenantId,
        nearest::nearest,
        settings::PluginSettings,
        spec::{Descriptor, PartitionBy, ProcessorSpec},
        text,
    },
    processor::policy::FailureSettings,
    sandbox::Limits,
};

/// Whether a version may continue documents that were built with different event types or another
/// read-model version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// The version is rejected.
    #[default]
    Refuse,
    /// The version continues them.
    Continue,
}

/// A parsed manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Tenants whose events the plugin handles; none means all.
    pub tenants: Option<Vec<TenantId>>,
    /// Maximum number of events in one call; none if the plugin's own value applies.
    pub max_batch_size: Option<u32>,
    /// Whether the plugin may continue documents that it did not build.
    pub on_change: OnChange,
    /// Whether a failed dry run prevents a swap.
    pub dry_run: bool,
    /// Settings for the plugin to read.
    pub settings: PluginSettings,
    /// What happens to events that the plugin cannot handle.
    pub failures: FailureSettings,
    limits: BTreeMap<String, u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct ManifestToml {
    tenants: TenantsToml,
    only_tenants: Option<Vec<String>>,
    max_batch_size: Option<u32>,
    on_change: OnChange,
    dry_run: Option<bool>,
    limits: LimitsToml,
    failures: FailureSettings,
    settings: BTreeMap<String, toml::Value>,
}

/// The key `tenants`: a list of tenants whose events the plugin handles, or settings of individual
/// tenants.
enum TenantsToml {
    Only(Vec<String>),
    Each(BTreeMap<String, TenantToml>),
}

impl Default for TenantsToml {
    fn default() -> Self {
        TenantsToml::Each(BTreeMap::new())
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TenantToml {
    settings: BTreeMap<String, toml::Value>,
}

/// Written by hand: errors of a derived untagged enum do not name their line.
impl<'de> Deserialize<'de> for TenantsToml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TenantsToml;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tenants, or tables such as [tenants.TENANT.settings]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TenantsToml, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(TenantsToml::Only)
            }

            fn visit_map<A: MapAccess<'de>>(self, tables: A) -> Result<TenantsToml, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(tables)).map(TenantsToml::Each)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The limits that a manifest may override.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsToml {
    memory_mib: Option<u64>,
    plugin_memory_mib: Option<u64>,
    cpu_ms: Option<u64>,
    wall_ms: Option<u64>,
    output_mib: Option<u64>,
    changes: Option<u64>,
    reads: Option<u64>,
    document_kib: Option<u64>,
    log_lines: Option<u64>,
    log_line_bytes: Option<u64>,
}

impl Default for Manifest {
    fn default() -> Self {
        let (on_change, settings, limits) = (OnChange::default(), PluginSettings::default(), BTreeMap::new());
        let failures = FailureSettings::default();
        Manifest { tenants: None, max_batch_size: None, on_change, dry_run: true, settings, failures, limits }
    }
}

/// The longest shown error of a manifest, bytes.
const ERROR_BYTES: usize = 2_048;

const KEYS: [&str; 8] =
    ["tenants", "only-tenants", "max-batch-size", "on-change", "dry-run", "limits", "failures", "settings"];
const LIMITS: [&str; 10] = [
    "memory-mib",
    "plugin-memory-mib",
    "cpu-ms",
    "wall-ms",
    "output-mib",
    "changes",
    "reads",
    "document-kib",
    "log-lines",
    "log-line-bytes",
];

impl Manifest {
    /// Parses a manifest. The error names the line and the remedy.
    pub fn parse(text: &str) -> Result<Manifest, String> {
        let written: ManifestToml = toml::from_str(text).map_err(|error| {
            // TOML's full error quotes the line, which may hold a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let message = without_values(error.message());
            let error = format!("line {line}: {}", text::cut(&message, ERROR_BYTES));
            let unknown = error.split_once("unknown field `").and_then(|(_, rest)| rest.split_once('`'));
            match unknown {
                Some((unknown, _)) => {
                    let near = nearest(unknown, KEYS.into_iter().chain(LIMITS).map(String::from));
                    format!("{error}\nThe nearest key is {near}.")
                }
                None => error,
            }
        })?;
        if written.max_batch_size == Some(0) {
            return Err("max-batch-size = 0 allows no events in a call; use 1 or more, or omit it".into());
        }
        let (only, each) = match (written.tenants, written.only_tenants) {
            (TenantsToml::Only(_), Some(_)) => {
                return Err("tenants and only-tenants are both lists; remove one of them".into());
            }
            (TenantsToml::Only(list), None) => (Some(("tenants", list)), BTreeMap::new()),
            (TenantsToml::Each(each), list) => (list.map(|list| ("only-tenants", list)), each),
        };
        let parsed = |key: &str, name: &String| TenantId::parse(name).map_err(|error| format!("{key}: {error}"));
        let tenants = match &only {
            Some((key, list)) if list.is_empty() => {
                return Err(format!("{key} = [] lists no tenant; list some, or omit it for all tenants"));
            }
            Some((key, list)) => Some(list.iter().map(|name| parsed(key, name)).collect::<Result<Vec<_>, _>>()?),
            None => None,
        };
        let mut of_tenants = BTreeMap::new();
        for (name, TenantToml { settings }) in each {
            let tenant = parsed("tenants", &name)?;
            if tenants.as_ref().is_some_and(|tenants| !tenants.contains(&tenant)) {
                return Err(format!(
                    "tenants.{tenant}: only-tenants does not list {tenant}, so its settings have no effect; list it, or remove them"
                ));
            }
            of_tenants.insert(tenant, strings(&format!("tenants.{name}.settings"), settings)?);
        }
        let settings = PluginSettings::new(strings("settings", written.settings)?, of_tenants);
        let of = written.limits;
        let values = [
            of.memory_mib,
            of.plugin_memory_mib,
            of.cpu_ms,
            of.wall_ms,
            of.output_mib,
            of.changes,
            of.reads,
            of.document_kib,
            of.log_lines,
            of.log_line_bytes,
        ];
        let limits = LIMITS.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_string(), value?)));
        let ManifestToml { max_batch_size, on_change, failures, .. } = written;
        let (dry_run, limits) = (written.dry_run.unwrap_or(true), limits.collect());
        Ok(Manifest { tenants, max_batch_size, on_change, dry_run, settings, failures, limits })
    }

    /// A manifest with settings alone.
    pub fn of_settings(settings: PluginSettings) -> Manifest {
        Manifest { settings, ..Manifest::default() }
    }

    /// The host's limits, overridden by the manifest's.
    ///
    /// The memory of instances is allocated when the host starts, so `memory-mib` may not exceed
    /// the host's. A tenant's own plugin (`owner`) may not exceed any of them, because the tenant
    /// may write the manifest.
    pub fn limits(&self, host: &Limits, owner: Option<&TenantId>) -> Result<Limits, String> {
        let mut limits = host.clone();
        for (name, value) in &self.limits {
            let value = usize::try_from(*value).unwrap_or(usize::MAX);
            if let Some(owner) = owner
                && let most = host_limit(host, name)
                && value > most
            {
                return Err(format!(
                    "limits.{name} = {value} exceeds the host's {most}, and a tenant's own plugin may only have lower limits. \
                     Lower it, raise limits.{name} in the host's settings, or move the plugin out of the folder {owner} and set tenants = [\"{owner}\"]"
                ));
            }
            match name.as_str() {
                "memory-mib" if value > host.memory_mib => {
                    return Err(format!(
                        "limits.memory-mib = {value} exceeds the host's {}; raise limits.memory-mib in the host's settings",
                        host.memory_mib
                    ));
                }
                "memory-mib" => limits.memory_mib = value,
                "plugin-memory-mib" => limits.plugin_memory_mib = value,
                "cpu-ms" => limits.cpu_ms = value as u64,
                "wall-ms" => limits.wall_ms = value as u64,
                "output-mib" => limits.output_mib = value,
                "changes" => limits.changes = value,
                "reads" => limits.reads = value,
                "document-kib" => limits.document_kib = value,
                "log-lines" => limits.log_lines = u32::try_from(value).unwrap_or(u32::MAX),
                _ => limits.log_line_bytes = value,
            }
        }
        limits.check()?;
        Ok(limits)
    }

    /// Whether the plugin may continue documents that it did not build.
    pub fn adopts(&self) -> bool {
        self.on_change == OnChange::Continue
    }

    /// Checks that the failure policy suits the plugin's lanes.
    pub fn check_lanes(&self, partition_by: &PartitionBy) -> Result<(), String> {
        match partition_by {
            PartitionBy::DataProperty(_) if self.failures.parks() => Err(
                "its manifest sets then = \"park-stream\", but its lanes are partitioned by a property of the data, so one \
                 stream may have events in several lanes; use \"dead-letter\" or \"stop\""
                    .into(),
            ),
            _ => Ok(()),
        }
    }

    /// The spec of a plugin under this manifest. With an `owner` it is that tenant's own.
    pub fn apply_to(&self, descriptor: &Descriptor, owner: Option<&TenantId>) -> ProcessorSpec {
        let mut spec = ProcessorSpec::new(descriptor.clone(), owner);
        if self.tenants.is_some() {
            spec.tenants.clone_from(&self.tenants);
        }
        if self.max_batch_size.is_some() {
            spec.max_batch_size = self.max_batch_size;
        }
        spec
    }
}

/// Settings as strings. `table` is their place in the manifest, for error messages.
fn strings(table: &str, values: BTreeMap<String, toml::Value>) -> Result<BTreeMap<String, String>, String> {
    let text_of = |(key, value): (String, toml::Value)| match value {
        toml::Value::String(text) => Ok((key, text)),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok((key, value.to_string())),
        _ => Err(format!("{table}.{key} is not a string, a number, true or false; write it as a string")),
    };
    values.into_iter().map(text_of).collect()
}

/// An error message without the values that it quotes.
fn without_values(message: &str) -> String {
    let hidden = |message: &str, open: &str, close: char| {
        let first = message.find(open).map(|first| first + open.len())?;
        let last = message.rfind(close).filter(|last| *last >= first)?;
        Some(format!("{}…{}", &message[..first], &message[last..]))
    };
    let quoted = hidden(message, "\"", '"');
    // Other values are in backticks after their type, but so are names of keys.
    let others = ["invalid type: ", "invalid value: "].into_iter().find_map(|kind| {
        let (before, after) = message.split_once(kind)?;
        let (value, rest) = after.split_once(", expected")?;
        Some(format!("{before}{kind}{}, expected{rest}", hidden(value, "`", '`').unwrap_or_else(|| value.into())))
    });
    quoted.or(others).unwrap_or_else(|| message.into())
}

/// The host's value of a limit.
fn host_limit(host: &Limits, name: &str) -> usize {
    match name {
        "memory-mib" => host.memory_mib,
        "plugin-memory-mib" => host.plugin_memory_mib,
        "cpu-ms" => usize::try_from(host.cpu_ms).unwrap_or(usize::MAX),
        "wall-ms" => usize::try_from(host.wall_ms).unwrap_or(usize::MAX),
        "output-mib" => host.output_mib,
        "changes" => host.changes,
        "reads" => host.reads,
        "document-kib" => host.document_kib,
        "log-lines" => host.log_lines as usize,
        _ => host.log_line_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::FamilyId;

    #[test]
    fn a_tenants_own_plugin_may_lower_limits_but_not_raise_them() {
        let (host, owner) = (Limits::default(), TenantId::parse("acme").unwrap());
        for name in LIMITS {
            let with = |value: usize| {
                let manifest = Manifest::parse(&format!("[limits]\n{name} = {value}\n")).unwrap();
                manifest.limits(&host, Some(&owner))
            };
            let most = host_limit(&host, name);
            assert_eq!(with(most).unwrap(), host, "{name}");
            let more = with(most + 1).unwrap_err();
            assert!(more.starts_with(&format!("limits.{name} = {} exceeds the host's {most}", most + 1)), "{more}");
        }
        let lower = Manifest::parse("[limits]\ncpu-ms = 50").unwrap();
        assert_eq!(lower.limits(&host, Some(&owner)).unwrap().cpu_ms, 50);
        let higher = Manifest::parse("[limits]\ncpu-ms = 5000").unwrap();
        assert_eq!(higher.limits(&host, None).unwrap().cpu_ms, 5_000, "a shared plugin's manifest is the operator's");
    }

    #[test]
    fn the_error_of_a_very_long_line_is_short() {
        let error = Manifest::parse(&format!("a = [\"{}\"] !", "x".repeat(50_000))).unwrap_err();
        assert!(error.len() < 200 && error.starts_with("line 1: "), "{error}");
    }

    #[test]
    fn a_manifest_overrides_limits_settings_and_descriptor() {
        let text = "tenants = ['acme']\nmax-batch-size = 5\non-change = 'continue'\n\n[limits]\ncpu-ms = 50\nmemory-mib = 8\n\n[settings]\ncurrency = 'EUR'\nrate = 1.5\nfast = true";
        let manifest = Manifest::parse(text).unwrap();
        let host = Limits::default();
        assert_eq!(manifest.limits(&host, None).unwrap(), Limits { cpu_ms: 50, memory_mib: 8, ..host.clone() });
        let settings = [("currency", "EUR"), ("fast", "true"), ("rate", "1.5")];
        assert_eq!(settings_of(&manifest, "acme"), settings.map(|(key, value)| format!("{key} {value}")));
        let descriptor = Descriptor::projector(FamilyId::parse("p").unwrap(), Vec::new());
        let applied = manifest.apply_to(&descriptor, None);
        assert_eq!((applied.max_batch_size, applied.tenants.unwrap()[0].as_str()), (Some(5), "acme"));
        assert_eq!(manifest.on_change, OnChange::Continue);
        let nothing = Manifest::parse("").unwrap();
        assert_eq!(
            (&nothing, nothing.apply_to(&descriptor, None)),
            (&Manifest::default(), ProcessorSpec::new(descriptor, None))
        );
        assert_eq!(nothing.limits(&host, None).unwrap(), host);
    }

    fn settings_of(manifest: &Manifest, tenant: &str) -> Vec<String> {
        let settings = manifest.settings.of(&TenantId::parse(tenant).unwrap());
        settings.iter().map(|(key, value)| format!("{key} {value}")).collect()
    }

    #[test]
    fn a_tenants_settings_override_those_for_all_tenants() {
        let text = "only-tenants = ['acme', 'globex']\n[settings]\ncurrency = 'EUR'\nrate = 2\n[tenants.acme.settings]\ncurrency = 'USD'\nvat = 7";
        let manifest = Manifest::parse(text).unwrap();
        assert_eq!(settings_of(&manifest, "acme"), ["currency USD", "rate 2", "vat 7"]);
        assert_eq!(settings_of(&manifest, "globex"), ["currency EUR", "rate 2"]);
        let names: Vec<&str> = manifest.tenants.iter().flatten().map(TenantId::as_str).collect();
        assert_eq!(names, ["acme", "globex"]);
        let anybody = Manifest::parse("[tenants.'acme.eu'.settings]\na = 1").unwrap();
        assert_eq!((settings_of(&anybody, "acme.eu"), anybody.tenants), (vec!["a 1".to_string()], None));
        assert_ne!(
            Manifest::parse("[tenants.acme.settings]\na = 1"),
            Manifest::parse("[tenants.acme.settings]\na = 2")
        );
    }

    #[test]
    fn errors_show_no_value_of_a_setting() {
        let error = |text: &str| Manifest::parse(text).unwrap_err();
        let typo = error("max-batch-size = 1\n[tenants.acme.setings]\na = 'SECRET'");
        assert!(typo.contains("line 2") && typo.ends_with("The nearest key is settings."), "{typo}");
        let cases = [
            ("[tenants.acme.settings]\na = ['SECRET']", "tenants.acme.settings.a is not a string"),
            ("[tenants.'a b'.settings]\na = 'SECRET'", "tenants: `a b` is not a valid tenant name"),
            ("only-tenants = ['b']\n[tenants.a.settings]\nx = 'SECRET'", "tenants.a: only-tenants does not list a"),
            ("[settings]\na = 'SECRET", "line 2: "),
            ("[settings]\na = 'x'\nb = SECRET", "line 3: "),
            ("setings = { a = 'SECRET' }", "line 1: unknown field `setings`"),
            ("settings = 'SECRET'", "line 1: invalid type: string \"…\", expected a map"),
            ("[tenants.acme]\nsettings = 'SECRET'", "line 2: invalid type: string \"…\", expected a map"),
            ("tenants = ['a']\nonly-tenants = ['a']", "tenants and only-tenants are both lists"),
            ("only-tenants = []", "only-tenants = [] lists no tenant"),
            ("tenants = 5", "line 1"),
        ];
        for (text, wanted) in cases {
            let error = error(text);
            assert!(error.contains(wanted) && !error.contains("SECRET"), "{text}: {error}");
        }
    }

    #[test]
    fn mistakes_in_failure_policies_name_the_line_and_the_remedy() {
        let host = "has no effect for `instances`: a shortage on the host never counts as an attempt";
        for (text, line, remedy) in [
            (
                "[failures]\nattempts = 3\n[failures.tarp]",
                3,
                "unknown key or class `tarp` in a table of failures; the nearest is `trap`",
            ),
            (
                "[failures.trap]\nattemps = 2",
                2,
                "unknown key `attemps` in a table of failures; the nearest is `attempts`",
            ),
            ("[failures.trap]\nthen = 'dead-leter'", 2, "then = `dead-leter` is unknown; the nearest of "),
            (
                "[failures]\nthen = 'park'",
                2,
                "the nearest of `stop`, `stop-processor`, `dead-letter`, `park-stream` is",
            ),
            ("[failures.refused-commit]\nattempts = 2", 2, "`attempts` has no effect for `refused-commit`"),
            ("[failures.refused-commit]\nthen = 'park-stream'", 1, "allows only then = `stop` or `dead-letter`"),
            ("[failures.letters-limit]\nthen = 'stop'", 1, "raise tenant-limits.dead-letters"),
            ("[failures.trap]\nattempts = 0", 2, "attempts = 0 is out of range; use 1 to 1000000"),
            ("[failures.load]\nattempts = -1", 2, "attempts = -1 is out of range"),
            ("\n[failures]\nfirst-ms = 99", 3, "first-ms = 99 is out of range; use 100 to 86400000"),
            ("[failures]\nlongest-s = 4320001", 2, "longest-s = 4320001 is out of range; use 1 to 4320000"),
            ("[failures.instances]\nattempts = 2", 2, host),
            ("[failures.host]\nthen = 'stop'", 2, "`then` has no effect for `host`"),
            ("[failures.throttled]\nfirst-ms = 100", 1, "unknown key or class"),
            ("[failures.'plugin:']\nattempts = 2", 1, "needs a code of 1 to 93 bytes"),
            ("[failures.trap]\nfirst-ms = 2000\nlongest-s = 1", 1, "first-ms = 2000 ms exceeds longest-s = 1 s"),
            ("[failures.trap.event]\nattempts = 2", 1, "unknown key `event` in a table of failures"),
            ("[failures]\ntrap = 5", 2, "expected a table of failures"),
            ("[failure]\nattempts = 3", 1, "The nearest key is failures."),
        ] {
            let error = Manifest::parse(text).unwrap_err();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(remedy), "{text}\n{error}");
        }
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        let error = |text: &str| Manifest::parse(text).unwrap_err();
        let typo = error("max-batch-size = 1\n[limits]\ncpu-mss = 5");
        assert!(typo.contains("line 3") && typo.ends_with("The nearest key is cpu-ms."), "{typo}");
        let typo = error("tenant = ['a']");
        assert!(typo.contains("line 1") && typo.ends_with("The nearest key is tenants."), "{typo}");
        assert!(error("on-change = 'rebuild'").contains("`refuse`"), "{}", error("on-change = 'rebuild'"));
        assert!(error("tenants = []").contains("omit it"));
        assert!(error("tenants = ['a b']").starts_with("tenants: "));
        assert!(error("max-batch-size = 0").contains("1 or more"));
        assert!(error("[settings]\na = [1]").starts_with("settings.a is not a string"));
        let limits = |text: &str| Manifest::parse(text).unwrap().limits(&Limits::default(), None).unwrap_err();
        assert!(limits("[limits]\nmemory-mib = 65").contains("raise limits.memory-mib in the host's settings"));
        assert!(limits("[limits]\ncpu-ms = 0").contains("use 2 to"));
    }
}
