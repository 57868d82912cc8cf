//! Metrics for Prometheus: their names and their values.
//!
//! Counters and histograms are updated where something happens. Values that must be measured, such
//! as lag and live instances, are passed in when the metrics are read ([`Gauges`]). Names begin
//! with `sandmill_`; units are seconds and bytes. Labels are ids of processors, names from short
//! fixed lists, and the tenants that an operator has listed (`metrics.tenants`). They never contain
//! text of a lane or an event. So the number of series is bounded by the installed plugins and the
//! listed tenants.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper bounds of the buckets of commit and read times, seconds: from the best time of a local
/// database to one that delays a lane noticeably.
const TIMES: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

type OneLabel = [(&'static str, String); 1];
type TwoLabels = [(&'static str, String); 2];

/// All metrics of a host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

/// The families of metrics, and the registry that shows them.
#[derive(Debug)]
struct Families {
    registry: Registry,
    handled: Family<OneLabel, Counter>,
    commits: Family<OneLabel, Histogram, fn() -> Histogram>,
    reads: Family<OneLabel, Histogram, fn() -> Histogram>,
    cpu: Family<OneLabel, Counter<f64, AtomicU64>>,
    terms: Family<TwoLabels, Counter>,
    /// The reasons in `terms`, by processor.
    codes: Mutex<BTreeMap<String, BTreeSet<String>>>,
    plugins: Family<OneLabel, Counter>,
    gauges: GaugeCollector,
}

/// A collector of the gauges that were passed in last.
#[derive(Clone, Debug, Default)]
struct GaugeCollector(Arc<Mutex<Gauges>>);

/// Values that are measured when the metrics are read.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Whether the host works or is on standby.
    pub ready: bool,
    /// Whether the database answers.
    pub database_up: bool,
    /// Log lines dropped since the host's start.
    pub log_lines_lost: u64,
    /// Values of the sandbox; none before it exists.
    pub sandbox: Option<SandboxGauges>,
    /// Values of the processors; none if they could not be read in time.
    pub processors: Option<Vec<ProcessorGauges>>,
    /// The usage of the tenants that an operator has listed.
    pub tenants: Vec<TenantGauges>,
}

/// Usage of one tenant, summed over all hosts so far, and its lanes by state.
#[derive(Clone, Debug, Default)]
pub struct TenantGauges {
    /// Its name.
    pub tenant: String,
    /// Events handled, counted once per processor that handled them.
    pub events: u64,
    /// CPU time of its guests, seconds.
    pub cpu_seconds: f64,
    /// Number of calls of its guests that were refused.
    pub refusals: u64,
    /// Lanes behind, by state.
    pub lanes: Vec<(&'static str, i64)>,
}

/// Values of a sandbox.
#[derive(Clone, Debug, Default)]
pub struct SandboxGauges {
    /// Plugin instances that are in a call.
    pub in_call: usize,
    /// Plugin instances that are kept for a next call.
    pub idle: usize,
    /// Linear memory of all of them, bytes.
    pub memory_bytes: usize,
    /// Number of refused calls and rejected files since the start, by reason class.
    pub refusals: Vec<(String, u64)>,
    /// Components compiled since the start, and the seconds that it took.
    pub compiled: (u64, f64),
}

/// Values of one processor.
#[derive(Clone, Debug, Default)]
pub struct ProcessorGauges {
    /// Its id.
    pub id: String,
    /// Pending events.
    pub lag_events: i64,
    /// Age of the first pending event, seconds.
    pub lag_seconds: f64,
    /// Lanes behind, by state.
    pub lanes: Vec<(&'static str, i64)>,
    /// Dead letters.
    pub dead_letters: i64,
    /// Parked streams.
    pub parked_streams: i64,
    /// Whether an operator has paused it.
    pub paused: bool,
}

/// The counters and histograms of one processor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ProcessorCounters {
    /// Events handled and committed.
    pub handled: Counter,
    /// Times of commits, seconds.
    pub commits: Histogram,
    /// Times of reading a page, seconds.
    pub reads: Histogram,
    /// CPU time of its guests, seconds.
    pub cpu: Counter<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let times: fn() -> Histogram = || Histogram::new(TIMES);
        let mut families = Families {
            registry: Registry::with_prefix("sandmill"),
            handled: Family::default(),
            commits: Family::new_with_constructor(times),
            reads: Family::new_with_constructor(times),
            cpu: Family::default(),
            terms: Family::default(),
            codes: Mutex::default(),
            plugins: Family::default(),
            gauges: GaugeCollector::default(),
        };
        let registry = &mut families.registry;
        registry.register("events_handled", "Events handled, by processor", families.handled.clone());
        let help = "Time of a commit, by processor";
        registry.register_with_unit("commit", help, Unit::Seconds, families.commits.clone());
        let help = "Time of reading a page of the log, by processor";
        registry.register_with_unit("page_read", help, Unit::Seconds, families.reads.clone());
        let help = "CPU time of guests, by processor";
        registry.register_with_unit("guest_cpu", help, Unit::Seconds, families.cpu.clone());
        let help = "Terms that ended with an error, by processor and SQLSTATE (other if there is none)";
        registry.register("terms_ended", help, families.terms.clone());
        registry.register("plugin_changes", "Changes of the plugins that run, by event", families.plugins.clone());
        registry.register_collector(Box::new(families.gauges.clone()));
        Metrics(Arc::new(families))
    }
}

impl Metrics {
    /// The counters of a processor.
    pub fn of_processor(&self, id: &str) -> ProcessorCounters {
        let labels = of(id);
        ProcessorCounters {
            handled: self.0.handled.get_or_create_owned(&labels),
            commits: self.0.commits.get_or_create_owned(&labels),
            reads: self.0.reads.get_or_create_owned(&labels),
            cpu: self.0.cpu.get_or_create_owned(&labels),
        }
    }

    /// Counts a term that ended with an error, and its SQLSTATE if it is the database's.
    pub fn term_ended(&self, id: &str, sqlstate: Option<&str>) {
        let code = sqlstate.unwrap_or("other").to_string();
        self.0.terms.get_or_create(&of_term(id, &code)).inc();
        self.codes().entry(id.to_string()).or_default().insert(code);
    }

    /// Drops the series of a processor that no longer runs, so that removed plugins leave nothing
    /// behind. A processor that starts again counts from zero.
    pub fn processor_ended(&self, id: &str) {
        let labels = of(id);
        self.0.handled.remove(&labels);
        self.0.commits.remove(&labels);
        self.0.reads.remove(&labels);
        self.0.cpu.remove(&labels);
        for code in self.codes().remove(id).unwrap_or_default() {
            self.0.terms.remove(&of_term(id, &code));
        }
    }

    fn codes(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        // Each change is one insertion or removal.
        self.0.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a change of the running plugins, such as `swapped`.
    pub fn plugin_changed(&self, event: &str) {
        self.0.plugins.get_or_create(&[("event", event.to_string())]).inc();
    }

    /// All metrics in the text format, with these gauges.
    pub fn show(&self, now: &Gauges) -> String {
        self.0.gauges.lock().clone_from(now);
        let mut text = String::new();
        // Writing to a string cannot fail.
        _ = encode(&mut text, &self.0.registry);
        text
    }
}

impl GaugeCollector {
    fn lock(&self) -> MutexGuard<'_, Gauges> {
        // The gauges are replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer of metrics in the text format.
struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)
    }

    fn gauges<'v, V: EncodeGaugeValue>(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<Unit>,
        values: impl Iterator<Item = (Vec<(&'static str, &'v str)>, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A counter with one series per tenant.
    fn counters<'v, V: EncodeCounterValue>(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<Unit>,
        values: impl Iterator<Item = (&'v str, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (tenant, value) in values {
            metric.encode_family(&[("tenant", tenant)])?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

/// A number for the text format, saturated; real values fit.
fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

impl Collector for GaugeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauges = self.lock();
        let mut to = Encoder(encoder);
        to.gauge("ready", "1 while the host works or is on standby", &i64::from(gauges.ready))?;
        to.gauge("database_up", "1 while the database answers", &i64::from(gauges.database_up))?;
        let help = "Log lines dropped since the start, because standard error was not read in time";
        let mut metric = to.0.encode_descriptor("log_lines_lost", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&gauges.log_lines_lost, None)?;
        if let Some(sandbox) = &gauges.sandbox {
            sandbox.encode(&mut to)?;
        }
        let all = || gauges.processors.iter().flatten();
        let lag = ("lag_events", "Pending events, by processor; at most a million are counted");
        to.gauges(lag, None, all().map(|p| (vec![("processor", &*p.id)], p.lag_events)))?;
        let lag = ("lag", "Age of the first pending event, by processor");
        to.gauges(lag, Some(Unit::Seconds), all().map(|p| (vec![("processor", &*p.id)], p.lag_seconds)))?;
        let lanes = all().flat_map(|p| {
            p.lanes.iter().map(|(state, lanes)| (vec![("processor", &*p.id), ("state", *state)], *lanes))
        });
        to.gauges(("lanes_behind", "Lanes behind, by processor and state"), None, lanes)?;
        let letters = ("dead_letters", "Dead letters, by processor; at most 10000 are counted");
        to.gauges(letters, None, all().map(|p| (vec![("processor", &*p.id)], p.dead_letters)))?;
        let parked = ("parked_streams", "Parked streams, by processor");
        to.gauges(parked, None, all().map(|p| (vec![("processor", &*p.id)], p.parked_streams)))?;
        let paused = ("paused", "1 while an operator has paused the processor");
        to.gauges(paused, None, all().map(|p| (vec![("processor", &*p.id)], i64::from(p.paused))))?;
        // Without tenants, these metrics would be listed without any sample.
        if gauges.tenants.is_empty() { Ok(()) } else { TenantGauges::encode(&gauges.tenants, &mut to) }
    }
}

impl TenantGauges {
    fn encode(all: &[TenantGauges], to: &mut Encoder<'_>) -> fmt::Result {
        let help = "Events handled of listed tenants, counted once per processor";
        to.counters(("tenant_events_handled", help), None, all.iter().map(|t| (&*t.tenant, t.events)))?;
        let help = "CPU time of the guests of listed tenants";
        let cpu = all.iter().map(|t| (&*t.tenant, t.cpu_seconds));
        to.counters(("tenant_guest_cpu", help), Some(Unit::Seconds), cpu)?;
        let help = "Refused calls of guests of listed tenants";
        to.counters(("tenant_refusals", help), None, all.iter().map(|t| (&*t.tenant, t.refusals)))?;
        let lanes = all.iter().flat_map(|t| {
            t.lanes.iter().map(|(state, lanes)| (vec![("tenant", &*t.tenant), ("state", *state)], *lanes))
        });
        to.gauges(("tenant_lanes_behind", "Lanes behind of listed tenants, by state"), None, lanes)
    }
}

impl SandboxGauges {
    fn encode(&self, to: &mut Encoder<'_>) -> fmt::Result {
        let states = [("in-call", self.in_call), ("idle", self.idle)];
        let instances = states.iter().map(|(state, live)| (vec![("state", *state)], number(*live)));
        to.gauges(("instances", "Live plugin instances, by state"), None, instances)?;
        let help = "Linear memory of live plugin instances";
        let memory = std::iter::once((Vec::new(), number(self.memory_bytes)));
        to.gauges(("instance_memory", help), Some(Unit::Bytes), memory)?;
        let help = "Refused calls of guests and rejected files since the start, by reason";
        let mut metric = to.0.encode_descriptor("refusals", help, None, MetricType::Counter)?;
        for (reason, times) in &self.refusals {
            let labels = [("reason", reason.as_str())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(times, None)?;
        }
        let (compiled, seconds) = &self.compiled;
        let help = "Components compiled since the start";
        let mut metric = to.0.encode_descriptor("components_compiled", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(compiled, None)?;
        let help = "Time spent compiling since the start";
        let mut metric = to.0.encode_descriptor("compile", help, Some(&Unit::Seconds), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(seconds, None)
    }
}

fn of(id: &str) -> OneLabel {
    [("processor", id.to_string())]
}

fn of_term(id: &str, code: &str) -> TwoLabels {
    [("processor", id.to_string()), ("reason", code.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of all metrics, with a sample of each.
    fn all() -> String {
        let metrics = Metrics::default();
        let carts = metrics.of_processor("carts");
        carts.commits.observe(0.1);
        carts.reads.observe(0.1);
        metrics.term_ended("carts", None);
        metrics.plugin_changed("swapped");
        let sandbox = SandboxGauges { refusals: vec![("trap".into(), 1)], ..SandboxGauges::default() };
        let lanes = vec![("blocked", 1)];
        let processor = ProcessorGauges { id: "carts".into(), lanes: lanes.clone(), ..ProcessorGauges::default() };
        let tenant = TenantGauges { tenant: "acme".into(), lanes, ..TenantGauges::default() };
        metrics.show(&Gauges {
            sandbox: Some(sandbox),
            processors: Some(vec![processor]),
            tenants: vec![tenant],
            ..Gauges::default()
        })
    }

    #[test]
    fn a_processor_that_ended_leaves_no_series_behind() {
        let metrics = Metrics::default();
        for (id, code) in [("carts", None), ("orders", Some("53300")), ("orders", Some("42501"))] {
            let counters = metrics.of_processor(id);
            counters.handled.inc();
            counters.commits.observe(0.1);
            counters.reads.observe(0.1);
            counters.cpu.inc_by(0.1);
            metrics.term_ended(id, code);
        }
        metrics.processor_ended("orders");
        let text = metrics.show(&Gauges::default());
        assert!(text.contains("processor=\"carts\"") && !text.contains("orders"), "{text}");
    }

    #[test]
    fn tenants_appear_only_if_they_are_listed() {
        let text = all();
        for line in [
            "sandmill_tenant_events_handled_total{tenant=\"acme\"} 0",
            "sandmill_tenant_guest_cpu_seconds_total{tenant=\"acme\"} 0",
            "sandmill_tenant_refusals_total{tenant=\"acme\"} 0",
            "sandmill_tenant_lanes_behind{tenant=\"acme\",state=\"blocked\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!Metrics::default().show(&Gauges::default()).contains("tenant"));
    }

    #[test]
    fn the_dashboard_and_the_alerts_query_metrics_that_exist() {
        let text = all();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let names: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let dashboard = include_str!("../../../docs/grafana.json");
        let parsed: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        let panels = parsed["panels"].as_array().unwrap();
        let ids: BTreeSet<i64> = panels.iter().map(|panel| panel["id"].as_i64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "ids of panels differ");
        let mut used = BTreeSet::new();
        for file in [dashboard, include_str!("../../../docs/alerts.yml")] {
            let words = file.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            used.extend(words.filter(|word| word.starts_with("sandmill_")));
        }
        let unknown: Vec<_> = used.difference(&names).collect();
        assert!(used.len() > 15 && unknown.is_empty(), "{unknown:?} are not among {names:?}");
    }

    #[test]
    fn counters_persist_and_gauges_follow_the_last_values() {
        let metrics = Metrics::default();
        let carts = metrics.of_processor("acme/carts");
        carts.handled.inc_by(7);
        carts.commits.observe(0.004);
        metrics.term_ended("acme/carts", Some("55P03"));
        metrics.term_ended("acme/carts", None);
        metrics.plugin_changed("swapped");
        let processor = ProcessorGauges { id: "acme/carts".into(), lanes: vec![("blocked", 2)], ..Default::default() };
        let text = metrics.show(&Gauges { database_up: true, processors: Some(vec![processor]), ..Gauges::default() });
        for line in [
            "sandmill_events_handled_total{processor=\"acme/carts\"} 7",
            "sandmill_commit_seconds_bucket{le=\"0.005\",processor=\"acme/carts\"} 1",
            "sandmill_terms_ended_total{processor=\"acme/carts\",reason=\"55P03\"} 1",
            "sandmill_terms_ended_total{processor=\"acme/carts\",reason=\"other\"} 1",
            "sandmill_plugin_changes_total{event=\"swapped\"} 1",
            "sandmill_lanes_behind{processor=\"acme/carts\",state=\"blocked\"} 2",
            "sandmill_database_up 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let text = metrics.show(&Gauges::default());
        assert!(text.contains("sandmill_database_up 0") && !text.contains("lanes_behind{"), "{text}");
        assert!(text.contains("sandmill_events_handled_total{processor=\"acme/carts\"} 7"), "{text}");
    }
}
