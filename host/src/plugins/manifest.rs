//! `NAME.toml` beside `NAME.wasm`: what an operator says about one plugin.
//!
//! ```toml
//! tenants = ["acme", "globex"]  # whose events it handles; default: everybody's
//! max-batch-size = 500          # at most so many events in one call; default: what the plugin says
//! on-change = "continue"        # a version with other event types or another read-model version goes on with the documents that are there;
//!                               # default "refuse". Another partitioning is always refused
//! dry-run = false               # a version takes over though it fails on events that the one before it handled; default true
//! [limits]                      # instead of those in the host's settings, by the same names; in a tenant's folder only lower ones
//! cpu-ms = 5000
//! [settings]                    # what the plugin can ask for: texts, numbers, true and false
//! currency = "EUR"
//! ```
//!
//! Nothing of it is needed. A key that is not known is an error with its line and the nearest one that is; a changed manifest is taken like a changed plugin.
//! When tenants are added they begin where the processor stands.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    model::{handler::Descriptor, ids::TenantId, nearest::nearest, text},
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
    /// What the plugin is told, by key.
    pub settings: Vec<(String, String)>,
    limits: BTreeMap<String, u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    tenants: Option<Vec<String>>,
    max_batch_size: Option<u32>,
    on_change: OnChange,
    dry_run: Option<bool>,
    limits: WrittenLimits,
    settings: BTreeMap<String, toml::Value>,
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
        let (on_change, settings, limits) = (OnChange::default(), Vec::new(), BTreeMap::new());
        Manifest { tenants: None, max_batch_size: None, on_change, dry_run: true, settings, limits }
    }
}

/// What is shown of the error of a manifest, bytes.
const ERROR_BYTES: usize = 2_048;

const KEYS: [&str; 6] = ["tenants", "max-batch-size", "on-change", "dry-run", "limits", "settings"];
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
            let mut told = error.to_string().trim_end().to_string();
            // It shows the line, which may be very long.
            if told.len() > ERROR_BYTES {
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.map_or(1, |before| before.matches('\n').count() + 1);
                told = format!("line {line}: {}", text::cut(error.message(), ERROR_BYTES));
            }
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
        let tenants = written.tenants.map(|tenants| {
            let parsed =
                tenants.iter().map(|tenant| TenantId::parse(tenant).map_err(|error| format!("tenants: {error}")));
            parsed.collect::<Result<Vec<_>, _>>()
        });
        let tenants = tenants.transpose()?;
        if tenants.as_ref().is_some_and(Vec::is_empty) {
            return Err("tenants = [] is nobody; name some, or leave it out for all of them".into());
        }
        let text_of = |(key, value): (String, toml::Value)| match value {
            toml::Value::String(text) => Ok((key, text)),
            toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok((key, value.to_string())),
            _ => Err(format!("settings.{key} is neither a text nor a number nor true nor false; write it as a text")),
        };
        let settings = written.settings.into_iter().map(text_of).collect::<Result<_, _>>()?;
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
        assert_eq!(manifest.settings, settings.map(|(key, value)| (key.to_string(), value.to_string())));
        let descriptor = Descriptor::projector(ProcessorId::parse("p").unwrap(), Vec::new());
        let over = manifest.over(&descriptor, None);
        assert_eq!((over.max_batch_size, over.tenants.unwrap()[0].as_str()), (Some(5), "acme"));
        assert_eq!(manifest.on_change, OnChange::Continue);
        let nothing = Manifest::parse("").unwrap();
        assert_eq!((&nothing, nothing.over(&descriptor, None)), (&Manifest::default(), descriptor));
        assert_eq!(nothing.limits(&host, None).unwrap(), host);
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
