//! All settings of the host; each room defines its own group. Sources in rising order of
//! precedence: a file, the environment, flags.
//!
//! A key has a place in the file (`limits.cpu-ms`), a variable (`SANDMILL_LIMITS_CPU_MS`) and a
//! flag (`--set limits.cpu-ms=500`). Keys of one tenant or of a tenant's own processor have no
//! variable. `DATABASE_URL` is another name for `database-url`. Unknown keys and values out of
//! range are errors in every source; for variables and flags, the error suggests the nearest known
//! key. If no file is named, `sandmill.toml` in the current folder is read if it exists.
//! [`Config::resolve`] also records the source of each value.

mod meaning;
mod named;
mod resolved;
mod secret;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use resolved::{Origin, Resolved, Setting};
use serde::{Deserialize, Serialize};

use crate::{
    admin,
    model::nearest::nearest,
    plugins,
    processor::{
        self, connections,
        settings::{self, ProcessorSettings},
    },
    sandbox::{Limits, compile},
    scheduler, telemetry, tenants,
};

/// All settings of a host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Address of the database, in either of libpq's forms. No default.
    pub database_url: String,
    /// Maximum number of database connections of the host. Plugins share them, so hundreds of
    /// plugins need no more. `sandmill status` shows a processor that waits for a connection.
    /// Default 40: well below PostgreSQL's default of 100, and enough for the concurrent commits
    /// that PostgreSQL handles well on a machine of eight cores.
    pub connections: usize,
    /// Address and port of the monitoring endpoint, for instance `127.0.0.1:9464`: `/livez`,
    /// `/readyz` and, for Prometheus, `/metrics`. Default: none. Clients see ids of processors,
    /// numbers, and the names of tenants that `metrics.tenants` lists.
    pub listen: String,
    /// Contents of `/metrics`.
    pub metrics: admin::Config,
    /// Folder with the plugins. No default; `run` also takes it as a flag.
    pub plugins: PathBuf,
    /// Logging.
    pub log: telemetry::Config,
    /// Reading, batching and memory of processors.
    pub processor: processor::Config,
    /// Settings of individual processors, by id. `[processors.orders]` is for the processor with
    /// exactly that id. A tenant's own processor is named in full, as in
    /// `[processors."acme/orders"]`, so that no tenant gets a setting meant for another processor.
    pub processors: BTreeMap<String, ProcessorSettings>,
    /// Guest threads and how they are shared.
    pub scheduler: scheduler::Config,
    /// Limits of guests.
    pub limits: Limits,
    /// Compilation of components, and the cache of compiled code.
    pub compile: compile::Config,
    /// Checks of a new version of a plugin, and when it is rolled back.
    pub rollout: plugins::config::Config,
    /// Limits of every tenant.
    pub tenant_limits: tenants::Limits,
    /// Settings of individual tenants, as in `[tenants.acme]` with `weight = 3`: a weight, limits,
    /// dedicated threads, processors, a pause. Default: none.
    pub tenants: BTreeMap<String, tenants::Settings>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            database_url: String::new(),
            connections: 40,
            listen: String::new(),
            plugins: PathBuf::new(),
            log: telemetry::Config::default(),
            metrics: Default::default(),
            processor: processor::Config::default(),
            processors: BTreeMap::new(),
            scheduler: scheduler::Config::default(),
            limits: Limits::default(),
            compile: compile::Config::default(),
            rollout: plugins::config::Config::default(),
            tenant_limits: tenants::Limits::default(),
            tenants: BTreeMap::new(),
        }
    }
}

/// Invalid settings: their source, the problem, and how to fix it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    origin: String,
    problem: String,
}

impl ConfigError {
    /// An error about a missing or unsuitable setting, found by the code that uses it.
    pub fn new(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError { origin: origin.into(), problem: problem.into() }
    }
}

/// The sources of settings.
pub struct Sources<'a> {
    /// A file that must exist; without it, the default file is optional.
    pub file: Option<&'a Path>,
    /// The environment.
    pub environment: Vec<(String, String)>,
    /// `KEY=VALUE`, as flags give them.
    pub flags: Vec<String>,
}

/// The optional file that is read when none is named.
const DEFAULT_FILE: &str = "sandmill.toml";
/// Environment variables of Sandmill that are not settings.
const NOT_SETTINGS: [&str; 5] =
    ["SANDMILL_CONFIG", "SANDMILL_LOG", "SANDMILL_OPERATOR", "SANDMILL_PG_BIN", "SANDMILL_FAILPOINT"];

impl Config {
    /// Reads and checks all sources.
    pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigError> {
        Ok(Self::resolve(sources)?.config)
    }

    /// Reads and checks all sources, and records the source of each setting.
    pub fn resolve(sources: &Sources<'_>) -> Result<Resolved, ConfigError> {
        let mut layers = Layers::default();
        match sources.file {
            Some(path) => layers.add_file(path)?,
            None if Path::new(DEFAULT_FILE).is_file() => layers.add_file(Path::new(DEFAULT_FILE))?,
            None => {}
        }
        for (name, value) in &sources.environment {
            let error = |problem| ConfigError { origin: format!("variable {name}"), problem };
            let origin = Origin::Environment(name.clone());
            if name == "DATABASE_URL" {
                layers.set("database-url", value, origin).map_err(error)?;
            } else if name.starts_with("SANDMILL_") && !NOT_SETTINGS.contains(&name.as_str()) {
                let known = keys().into_iter().map(|(key, _)| key).find(|key| variable(key) == *name);
                let Some(key) = known.or_else(|| named::key_of(name)) else {
                    let keys = keys().into_iter().chain(named::keys("NAME"));
                    let near = nearest(name, keys.map(|(key, _)| variable(&key)));
                    return Err(error(format!("no such setting; the nearest is {near}")));
                };
                layers.set(&key, value, origin).map_err(error)?;
            }
        }
        for flag in &sources.flags {
            let error = |problem| ConfigError { origin: format!("--set {flag}"), problem };
            let Some((key, value)) = flag.split_once('=') else {
                return Err(error("expected KEY=VALUE, for instance limits.cpu-ms=500".into()));
            };
            layers.set(key, value, Origin::Flag("--set".into())).map_err(error)?;
        }
        let Layers { table, origins } = layers;
        let config: Config = table.try_into().map_err(|e: toml::de::Error| ConfigError {
            origin: "settings".into(),
            problem: e.to_string().trim().replace('\n', " "),
        })?;
        config.check().map_err(|problem| ConfigError { origin: "settings".into(), problem })?;
        Ok(Resolved { config, origins })
    }

    /// Checks the range of every setting.
    fn check(&self) -> Result<(), String> {
        if !(connections::MIN_CONNECTIONS..=10_000).contains(&self.connections) {
            let (given, least) = (self.connections, connections::MIN_CONNECTIONS);
            return Err(format!("connections = {given} is out of range; use {least} to 10000"));
        }
        self.limits.check()?;
        self.compile.check()?;
        if !(1..=100_000).contains(&self.processor.page_events) {
            let given = self.processor.page_events;
            return Err(format!("processor.page-events = {given} is out of range; use 1 to 100000"));
        }
        let ranges = [
            ("page-kib", self.processor.page_kib, 1, 1 << 20),
            ("pages-ahead", self.processor.pages_ahead, 1, 64),
            ("lanes-at-once", self.processor.lanes_at_once, 1, 4_096),
            ("lane-queue-kib", self.processor.lane_queue_kib, 1, 1 << 20),
            ("commit-mib", self.processor.commit_mib, 1, 1 << 10),
            ("waiting-mib", self.processor.waiting_mib, 1, 1 << 20),
            ("read-mib", self.processor.read_mib, 1, 1 << 12),
            ("document-cache-mib", self.processor.document_cache_mib, 0, 1 << 20),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("processor.{name} = {value} is out of range; use {low} to {high}"));
            }
        }
        self.tenant_limits.check()?;
        for (name, tenant) in &self.tenants {
            tenant.check(name)?;
        }
        settings::check(&self.processors)?;
        self.rollout.check()?;
        self.metrics.check()?;
        self.scheduler.check()
    }
}

/// Reads a settings file.
fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let error = |problem| ConfigError { origin: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| {
        error(format!("the settings file cannot be read: {e}; check the path in --config or SANDMILL_CONFIG"))
    })?;
    // Parsing it as `Config` gives errors with their line. The table is what other sources
    // override.
    toml::from_str::<Config>(&text).map_err(|e| error(format!("\n{e}")))?;
    toml::from_str(&text).map_err(|e| error(format!("\n{e}")))
}

/// Every key with its default.
fn keys() -> Vec<(String, toml::Value)> {
    leaves(&Config::default())
}

/// Every key with its value.
fn leaves(settings: &impl Serialize) -> Vec<(String, toml::Value)> {
    fn walk(prefix: &str, table: &toml::Table, into: &mut Vec<(String, toml::Value)>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                toml::Value::Table(table) => walk(&key, table, into),
                value => into.push((key, value.clone())),
            }
        }
    }
    let mut leaves = Vec::new();
    // Settings consist of numbers, strings, booleans, arrays and tables, which TOML can represent.
    if let Ok(table) = toml::Table::try_from(settings) {
        walk("", &table, &mut leaves);
    }
    leaves
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("SANDMILL_{}", key.to_uppercase().replace(['.', '-'], "_"))
}

/// The merged sources, and for each key the last source that set it.
#[derive(Default)]
struct Layers {
    table: toml::Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        self.table = read(path)?;
        let keys = leaves(&self.table).into_iter().map(|(key, _)| (key, Origin::File(path.to_path_buf())));
        self.origins.extend(keys);
        Ok(())
    }

    fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), String> {
        set_value(&mut self.table, key, text)?;
        self.origins.insert(key.into(), origin);
        Ok(())
    }
}

/// Sets one value in the table, parsed as the type of its default.
fn set_value(table: &mut toml::Table, key: &str, text: &str) -> Result<(), String> {
    let known: Vec<_> =
        keys().into_iter().chain(named::keys(named::parts(key).map_or("NAME", |[_, name, _]| name))).collect();
    let listed = named::listed(key);
    let Some((_, default)) = known.iter().find(|(known, _)| *known == listed) else {
        let near = nearest(key, known.iter().map(|(key, _)| key.clone()));
        return Err(format!("no such setting `{key}`; the nearest is {near}"));
    };
    let value = match default {
        toml::Value::Integer(_) => {
            let number = text.trim().parse().map_err(|_| format!("`{text}` is not a whole number"))?;
            toml::Value::Integer(number)
        }
        toml::Value::Array(_) => {
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            toml::Value::Array(names.map(|name| toml::Value::String(name.into())).collect())
        }
        toml::Value::Boolean(_) => {
            toml::Value::Boolean(text.trim().parse().map_err(|_| format!("`{text}` is neither true nor false"))?)
        }
        _ => toml::Value::String(text.into()),
    };
    let mut at = table;
    let parts = named::path(key).unwrap_or_else(|| key.split('.').collect());
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at.insert(part.into(), value);
            return Ok(());
        }
        let inner = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        match inner {
            toml::Value::Table(inner) => at = inner,
            _ => return Err(format!("`{part}` is not a table")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: Option<&str>, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        Config::load(&Sources {
            file: file.is_some().then_some(path.as_path()),
            environment: environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            flags: flags.iter().map(|f| f.to_string()).collect(),
        })
        .map_err(|e| ConfigError { origin: e.origin.replace(path.to_str().unwrap(), "FILE"), ..e })
    }

    #[test]
    fn later_sources_win() {
        let file = "database-url = \"file\"\n[limits]\ncpu-ms = 1\nwall-ms = 7\nmemory-mib = 9\n";
        let environment = [
            ("SANDMILL_LIMITS_CPU_MS", "200"),
            ("DATABASE_URL", "env"),
            ("SANDMILL_LIMITS_WALL_MS", "8"),
            ("PATH", "x"),
        ];
        let config = load(Some(file), &environment, &["limits.cpu-ms=300"]).unwrap();
        assert_eq!((config.limits.cpu_ms, config.limits.wall_ms, config.limits.memory_mib), (300, 8, 9));
        assert_eq!(config.database_url, "env");
        assert_eq!(load(None, &[], &[]).unwrap(), Config::default());

        let file = "[tenants.acme]\nweight = 2\n[tenants.\"globex.eu\"]\ncpu-percent = 5\n";
        let tenants = load(Some(file), &[], &[]).unwrap().tenants;
        assert_eq!((tenants["acme"].weight, tenants["globex.eu"].weight), (2, 1));
        let flags = ["tenants.globex.eu.weight=3", "tenants.new.processors=carts, log"];
        let tenants = load(Some(file), &[], &flags).unwrap().tenants;
        assert_eq!((tenants["globex.eu"].weight, tenants["globex.eu"].cpu_percent), (3, Some(5)));
        assert_eq!(tenants["new"].processors, Some(vec!["carts".into(), "log".into()]));
    }

    #[test]
    fn a_processor_has_settings_of_its_own() {
        let file =
            "[processors.cart-summary]\nback-pressure = \"pause\"\n[processors.log]\nback-pressure = \"lockstep\"\n";
        let environment = [("SANDMILL_PROCESSORS_CART_SUMMARY_SHED_AFTER_EVENTS", "7")];
        let config = load(Some(file), &environment, &["processors.cart-summary.back-pressure=shed"]).unwrap();
        let carts = &config.processors["cart-summary"];
        let strategy = |id: &str| format!("{:?}", config.processors[id].back_pressure);
        assert_eq!((&*strategy("cart-summary"), carts.shed_after_events), ("Shed", 7));
        assert_eq!(strategy("log"), "Lockstep");
        let error = |flags: &[&str]| load(None, &[], flags).unwrap_err().to_string();
        assert_eq!(
            error(&["processors.log.back-presure=pause"]),
            "--set processors.log.back-presure=pause: no such setting `processors.log.back-presure`; the nearest is processors.log.back-pressure"
        );
        let strategy = error(&["processors.log.back-pressure=adaptive"]);
        assert!(
            strategy.contains("`adaptive`")
                && strategy.ends_with("in `processors.log.back-pressure`")
                && strategy.contains("`detach`, `pause`, `lockstep`, `shed`"),
            "{strategy}"
        );
        assert!(error(&["processors.log.back-pressure=shed"]).contains("set processors.log.shed-after-events"));
        assert!(error(&["processors.No.back-pressure=pause"]).starts_with("settings: processors.No: "));
        let variable = load(None, &[("SANDMILL_PROCESSORS_LOG_BACK_PRESURE", "pause")], &[]).unwrap_err().to_string();
        assert!(
            variable.ends_with("no such setting; the nearest is SANDMILL_PROCESSORS_NAME_BACK_PRESSURE"),
            "{variable}"
        );
    }

    #[test]
    fn every_key_of_a_failure_policy_can_be_set() {
        for (key, value) in named::keys("p").into_iter().filter(|(key, _)| key.contains(".failures.")) {
            let value = value.as_str().map_or_else(|| value.to_string(), String::from);
            let config = load(None, &[], &[&format!("{key}={value}")]).unwrap();
            assert!(leaves(&config).iter().any(|(set, _)| *set == key), "{key}");
        }
    }

    #[test]
    fn a_processor_has_a_failure_policy_of_its_own() {
        let file = "[processors.orders.failures]\nattempts = 2\n[processors.orders.failures.\"plugin:a.b\"]\nthen = \"stop\"\n";
        let environment = [("SANDMILL_PROCESSORS_ORDERS_FAILURES_CPU_LIMIT_FIRST_MS", "700")];
        let flags = [
            "processors.orders.failures.trap.then=dead-letter",
            "processors.orders.failures.plugin:a.b.attempts=5",
            "processors.acme.eu/orders.failures.longest-s=60",
        ];
        let config = load(Some(file), &environment, &flags).unwrap();
        let expected = "attempts = 2\n[cpu-limit]\nfirst-ms = 700\n[trap]\nthen = 'dead-letter'\n['plugin:a.b']\nattempts = 5\nthen = 'stop'";
        assert_eq!(config.processors["orders"].failures, toml::from_str(expected).unwrap());
        assert_eq!(config.processors["acme.eu/orders"].failures, toml::from_str("longest-s = 60").unwrap());

        let error = |file: Option<&str>, flags: &[&str]| load(file, &[], flags).unwrap_err().to_string();
        assert_eq!(
            error(None, &["processors.orders.failures.tarp.attempts=2"]),
            "--set processors.orders.failures.tarp.attempts=2: no such setting `processors.orders.failures.tarp.attempts`; \
             the nearest is processors.orders.failures.trap.attempts"
        );
        for (flag, problem) in [
            ("processors.orders.failures.trap.attempts=0", "attempts = 0 is out of range; use 1 to 1000000"),
            ("processors.orders.failures.then=park", "then = `park` is unknown"),
            ("processors.orders.failures.plugin:.attempts=2", "needs a code of 1 to 93 bytes"),
        ] {
            let error = error(None, &[flag]);
            assert!(error.contains(problem) && error.contains("processors.orders.failures"), "{error}");
        }
        let typo = error(Some("[processors.orders.failures.trap]\nattemps = 2\n"), &[]);
        assert!(typo.starts_with("FILE: ") && typo.contains("line 2"), "{typo}");
        assert!(typo.contains("unknown key `attemps` in a table of failures; the nearest is `attempts`"), "{typo}");
    }

    #[test]
    fn mistakes_are_named_with_a_remedy() {
        let error = |file, environment: &[(&str, &str)], flags: &[&str]| {
            load(file, environment, flags).unwrap_err().to_string()
        };
        assert_eq!(
            error(None, &[("SANDMILL_LIMITS_CPU", "1")], &[]),
            "variable SANDMILL_LIMITS_CPU: no such setting; the nearest is SANDMILL_LIMITS_CPU_MS"
        );
        assert_eq!(
            error(None, &[], &["limit.cpu-ms=1"]),
            "--set limit.cpu-ms=1: no such setting `limit.cpu-ms`; the nearest is limits.cpu-ms"
        );
        assert_eq!(error(None, &[], &["limits.cpu-ms=fast"]), "--set limits.cpu-ms=fast: `fast` is not a whole number");
        assert_eq!(
            error(None, &[], &["limits.memory-mib=0"]),
            "settings: limits.memory-mib = 0 is out of range; use 1 to 4095"
        );
        assert_eq!(
            error(None, &[], &["tenants.acme.wieght=3"]),
            "--set tenants.acme.wieght=3: no such setting `tenants.acme.wieght`; the nearest is tenants.acme.weight"
        );
        let heavy = error(Some("[tenants.acme]\nweight = 101"), &[], &[]);
        assert!(heavy.starts_with("settings: tenants.acme.weight = 101 is out of range"), "{heavy}");
        let typo = error(Some("[tenants.acme]\nwieght = 1"), &[], &[]);
        assert!(typo.contains("line 2") && typo.contains("`wieght`") && typo.contains("`weight`"), "{typo}");
        let unknown = error(Some("[limits]\ncpu-mss = 1\n"), &[], &[]);
        assert!(
            unknown.starts_with("FILE: \n") && unknown.contains("line 2") && unknown.contains("cpu-mss"),
            "{unknown}"
        );
    }
}
