//! `NAME.toml` beside `NAME.wasm`: what an operator says about one plugin.
//!
//! ```toml
//! only-tenants = ["acme", "globex"]  # whose events it handles; default: everybody's
//! max-batch-size = 500          # at most so many events in one call; default: what the plugin says
//! on-change = "continue"        # a version with other event types or another read-model version goes on with the documents that are there;
//!                               # default "refuse". Another partitioning is always refused
//! dry-run = false               # a version takes over though it fails on events that the one before it handled; default true
//! [limits]                      # instead of those in the host's settings, by the same names; in a tenant's folder only lower ones
//! cpu-ms = 5000
//! [settings]                    # what the plugin can ask for: texts, numbers, true and false
//! currency = "EUR"
//! [tenants.acme.settings]       # for one tenant, override the above; not in a tenant's folder
//! currency = "USD"
//! ```
//!
//! In a file without `[tenants.NAME.settings]`, the list may also be written under `tenants`. TOML
//! allows that key only once.
//!
//! Nothing of it is needed. A key that is not known is an error with its line and the nearest one that is; a changed manifest is taken like a changed plugin.
//! When tenants are added they begin where the processor stands.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};

use crate::{
    model::{handler::Descriptor, ids::TenantId, nearest::nearest, settings::PluginSettings, text},
    sandbox::Limits,
};

/// What to do with documents that another version has built by other means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// The version is refused.
    #[default]
    Refuse,
    /// It goes on with them.
    Continue,
}

/// A manifest, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Whose events it handles; none means everybody's.
    pub tenants: Option<Vec<TenantId>>,
    /// At most so many events in one call; none leaves it to the plugin.
    pub max_batch_size: Option<u32>,
    /// What to do with documents that were built by other means.
    pub on_change: OnChange,
    /// Whether a version that fails where the one that runs does not is kept from taking over.
    pub dry_run: bool,
    /// The settings that the plugin can read.
    pub settings: PluginSettings,
    limits: BTreeMap<String, u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    tenants: WrittenTenants,
    only_tenants: Option<Vec<String>>,
    max_batch_size: Option<u32>,
    on_change: OnChange,
    dry_run: Option<bool>,
    limits: WrittenLimits,
    settings: BTreeMap<String, toml::Value>,
}

/// `tenants`: the list of tenants whose events the plugin handles, or a table of what differs for
/// some.
enum WrittenTenants {
    Only(Vec<String>),
    Each(BTreeMap<String, WrittenTenant>),
}

impl Default for WrittenTenants {
    fn default() -> Self {
        WrittenTenants::Each(BTreeMap::new())
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenTenant {
    settings: BTreeMap<String, toml::Value>,
}

/// Written by hand, because errors of a derived (untagged) enum do not name their line.
impl<'de> Deserialize<'de> for WrittenTenants {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = WrittenTenants;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tenants, or tables such as [tenants.NAME.settings]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<WrittenTenants, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(WrittenTenants::Only)
            }

            fn visit_map<A: MapAccess<'de>>(self, tables: A) -> Result<WrittenTenants, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(tables)).map(WrittenTenants::Each)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Of the host's limits, those that can differ from plugin to plugin.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenLimits {
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
        Manifest { tenants: None, max_batch_size: None, on_change, dry_run: true, settings, limits }
    }
}

/// What is shown of the error of a manifest, bytes.
const ERROR_BYTES: usize = 2_048;

const KEYS: [&str; 7] = ["tenants", "only-tenants", "max-batch-size", "on-change", "dry-run", "limits", "settings"];
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
    /// Reads a manifest's text. The error names the line, and what to write instead.
    pub fn parse(text: &str) -> Result<Manifest, String> {
        let written: Written = toml::from_str(text).map_err(|error| {
            // The whole error would show the line itself, which may hold a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let message = without_values(error.message());
            let told = format!("line {line}: {}", text::cut(&message, ERROR_BYTES));
            let unknown = told.split_once("unknown field `").and_then(|(_, rest)| rest.split_once('`'));
            match unknown {
                Some((unknown, _)) => {
                    let near = nearest(unknown, KEYS.into_iter().chain(LIMITS).map(String::from));
                    format!("{told}\nThe nearest key is {near}.")
                }
                None => told,
            }
        })?;
        if written.max_batch_size == Some(0) {
            return Err("max-batch-size = 0 leaves no events for a call; write 1 or more, or leave it out".into());
        }
        let (only, each) = match (written.tenants, written.only_tenants) {
            (WrittenTenants::Only(_), Some(_)) => {
                return Err("tenants and only-tenants are both lists; leave one of them out".into());
            }
            (WrittenTenants::Only(list), None) => (Some(("tenants", list)), BTreeMap::new()),
            (WrittenTenants::Each(each), list) => (list.map(|list| ("only-tenants", list)), each),
        };
        let parsed = |key: &str, name: &String| TenantId::parse(name).map_err(|error| format!("{key}: {error}"));
        let tenants = match &only {
            Some((key, list)) if list.is_empty() => {
                return Err(format!("{key} = [] is nobody; name some, or leave it out for all of them"));
            }
            Some((key, list)) => Some(list.iter().map(|name| parsed(key, name)).collect::<Result<Vec<_>, _>>()?),
            None => None,
        };
        let mut of_tenants = BTreeMap::new();
        for (name, WrittenTenant { settings }) in each {
            let tenant = parsed("tenants", &name)?;
            if tenants.as_ref().is_some_and(|tenants| !tenants.contains(&tenant)) {
                return Err(format!(
                    "tenants.{tenant}: only-tenants does not list {tenant}, so nothing would read its settings; list it, or remove them"
                ));
            }
            of_tenants.insert(tenant, texts(&format!("tenants.{name}.settings"), settings)?);
        }
        let settings = PluginSettings::new(texts("settings", written.settings)?, of_tenants);
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
        let (max_batch_size, on_change) = (written.max_batch_size, written.on_change);
        let dry_run = written.dry_run.unwrap_or(true);
        Ok(Manifest { tenants, max_batch_size, on_change, dry_run, settings, limits: limits.collect() })
    }

    /// The host's limits with those of the manifest instead. Memory is set aside for instances at start, so none may have more than the host says.
    /// A tenant's own plugin may have less of everything and more of nothing, as whoever writes into its folder writes its manifest too.
    pub fn limits(&self, host: &Limits, owner: Option<&TenantId>) -> Result<Limits, String> {
        let mut limits = host.clone();
        for (name, value) in &self.limits {
            let value = usize::try_from(*value).unwrap_or(usize::MAX);
            if let Some(owner) = owner
                && let most = of_host(host, name)
                && value > most
            {
                return Err(format!(
                    "limits.{name} = {value} is more than the {most} of the host's settings, and a tenant's own plugin may only have less. \
                     Lower it, raise limits.{name} in the settings, or move the plugin out of the folder {owner} and give it tenants = [\"{owner}\"]"
                ));
            }
            match name.as_str() {
                "memory-mib" if value > host.memory_mib => {
                    return Err(format!(
                        "limits.memory-mib = {value} is more than the host sets aside for an instance, {}; raise limits.memory-mib in its settings",
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

    /// Whether it goes on with documents that were built by other means.
    pub fn adopts(&self) -> bool {
        self.on_change == OnChange::Continue
    }

    /// What a plugin is with what its manifest says about it, and as a tenant's own if it is that.
    pub fn over(&self, descriptor: &Descriptor, owner: Option<&TenantId>) -> Descriptor {
        let mut descriptor = owner.map_or_else(|| descriptor.clone(), |owner| descriptor.owned_by(owner));
        if self.tenants.is_some() {
            descriptor.tenants.clone_from(&self.tenants);
        }
        if self.max_batch_size.is_some() {
            descriptor.max_batch_size = self.max_batch_size;
        }
        descriptor
    }
}

/// Settings as the plugin reads them.
fn texts(place: &str, values: BTreeMap<String, toml::Value>) -> Result<BTreeMap<String, String>, String> {
    let text_of = |(key, value): (String, toml::Value)| match value {
        toml::Value::String(text) => Ok((key, text)),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok((key, value.to_string())),
        _ => Err(format!("{place}.{key} is neither a text nor a number nor true nor false; write it as a text")),
    };
    values.into_iter().map(text_of).collect()
}

/// An error's message without the value that it quotes.
fn without_values(message: &str) -> String {
    let hidden = |message: &str, open: &str, close: char| {
        let first = message.find(open).map(|first| first + open.len())?;
        let last = message.rfind(close).filter(|last| *last >= first)?;
        Some(format!("{}…{}", &message[..first], &message[last..]))
    };
    let quoted = hidden(message, "\"", '"');
    // Values that are no texts stand in backticks behind their kind; so do names of keys.
    let others = ["invalid type: ", "invalid value: "].into_iter().find_map(|kind| {
        let (before, after) = message.split_once(kind)?;
        let (value, rest) = after.split_once(", expected")?;
        Some(format!("{before}{kind}{}, expected{rest}", hidden(value, "`", '`').unwrap_or_else(|| value.into())))
    });
    quoted.or(others).unwrap_or_else(|| message.into())
}

/// What the host's settings say of a limit.
fn of_host(host: &Limits, name: &str) -> usize {
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
    use crate::model::ids::ProcessorId;

    #[test]
    fn a_tenants_own_plugin_may_have_less_and_not_more() {
        let (host, owner) = (Limits::default(), TenantId::parse("acme").unwrap());
        for name in LIMITS {
            let with = |value: usize| {
                let manifest = Manifest::parse(&format!("[limits]\n{name} = {value}\n")).unwrap();
                manifest.limits(&host, Some(&owner))
            };
            let most = of_host(&host, name);
            assert_eq!(with(most).unwrap(), host, "{name}");
            let more = with(most + 1).unwrap_err();
            assert!(more.starts_with(&format!("limits.{name} = {} is more than the {most} of", most + 1)), "{more}");
        }
        let lower = Manifest::parse("[limits]\ncpu-ms = 50").unwrap();
        assert_eq!(lower.limits(&host, Some(&owner)).unwrap().cpu_ms, 50);
        let higher = Manifest::parse("[limits]\ncpu-ms = 5000").unwrap();
        assert_eq!(higher.limits(&host, None).unwrap().cpu_ms, 5_000, "that is the operator's to say");
    }

    #[test]
    fn an_error_does_not_show_a_line_without_end() {
        let error = Manifest::parse(&format!("a = [\"{}\"] !", "x".repeat(50_000))).unwrap_err();
        assert!(error.len() < 200 && error.starts_with("line 1: "), "{error}");
    }

    #[test]
    fn it_says_what_differs_for_one_plugin() {
        let text = "tenants = ['acme']\nmax-batch-size = 5\non-change = 'continue'\n\n[limits]\ncpu-ms = 50\nmemory-mib = 8\n\n[settings]\ncurrency = 'EUR'\nrate = 1.5\nfast = true";
        let manifest = Manifest::parse(text).unwrap();
        let host = Limits::default();
        assert_eq!(manifest.limits(&host, None).unwrap(), Limits { cpu_ms: 50, memory_mib: 8, ..host.clone() });
        let settings = [("currency", "EUR"), ("fast", "true"), ("rate", "1.5")];
        assert_eq!(settings_of(&manifest, "acme"), settings.map(|(key, value)| format!("{key} {value}")));
        let descriptor = Descriptor::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        let over = manifest.over(&descriptor, None);
        assert_eq!((over.max_batch_size, over.tenants.unwrap()[0].as_str()), (Some(5), "acme"));
        assert_eq!(manifest.on_change, OnChange::Continue);
        let nothing = Manifest::parse("").unwrap();
        assert_eq!((&nothing, nothing.over(&descriptor, None)), (&Manifest::default(), descriptor));
        assert_eq!(nothing.limits(&host, None).unwrap(), host);
    }

    fn settings_of(manifest: &Manifest, tenant: &str) -> Vec<String> {
        let settings = manifest.settings.of(&TenantId::parse(tenant).unwrap());
        settings.iter().map(|(key, value)| format!("{key} {value}")).collect()
    }

    #[test]
    fn a_tenant_has_settings_of_its_own_over_those_of_all() {
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
    fn mistakes_in_a_tenants_settings_show_no_value() {
        let error = |text: &str| Manifest::parse(text).unwrap_err();
        let typo = error("max-batch-size = 1\n[tenants.acme.setings]\na = 'SECRET'");
        assert!(typo.contains("line 2") && typo.ends_with("The nearest key is settings."), "{typo}");
        let cases = [
            ("[tenants.acme.settings]\na = ['SECRET']", "tenants.acme.settings.a is neither"),
            ("[tenants.'a b'.settings]\na = 'SECRET'", "tenants: `a b` is not a valid tenant name"),
            ("only-tenants = ['b']\n[tenants.a.settings]\nx = 'SECRET'", "tenants.a: only-tenants does not list a"),
            ("[settings]\na = 'SECRET", "line 2: "),
            ("[settings]\na = 'x'\nb = SECRET", "line 3: "),
            ("setings = { a = 'SECRET' }", "line 1: unknown field `setings`"),
            ("settings = 'SECRET'", "line 1: invalid type: string \"…\", expected a map"),
            ("[tenants.acme]\nsettings = 'SECRET'", "line 2: invalid type: string \"…\", expected a map"),
            ("tenants = ['a']\nonly-tenants = ['a']", "tenants and only-tenants are both lists"),
            ("only-tenants = []", "only-tenants = [] is nobody"),
            ("tenants = 5", "line 1"),
        ];
        for (text, wanted) in cases {
            let error = error(text);
            assert!(error.contains(wanted) && !error.contains("SECRET"), "{text}: {error}");
        }
    }

    #[test]
    fn mistakes_have_a_line_and_a_way_out() {
        let error = |text: &str| Manifest::parse(text).unwrap_err();
        let typo = error("max-batch-size = 1\n[limits]\ncpu-mss = 5");
        assert!(typo.contains("line 3") && typo.ends_with("The nearest key is cpu-ms."), "{typo}");
        let typo = error("tenant = ['a']");
        assert!(typo.contains("line 1") && typo.ends_with("The nearest key is tenants."), "{typo}");
        assert!(error("on-change = 'rebuild'").contains("`refuse`"), "{}", error("on-change = 'rebuild'"));
        assert!(error("tenants = []").contains("leave it out"));
        assert!(error("tenants = ['a b']").starts_with("tenants: "));
        assert!(error("max-batch-size = 0").contains("1 or more"));
        assert!(error("[settings]\na = [1]").starts_with("settings.a is neither"));
        let limits = |text: &str| Manifest::parse(text).unwrap().limits(&Limits::default(), None).unwrap_err();
        assert!(limits("[limits]\nmemory-mib = 65").contains("raise limits.memory-mib in its settings"));
        assert!(limits("[limits]\ncpu-ms = 0").contains("it takes 2 to"));
    }
}
