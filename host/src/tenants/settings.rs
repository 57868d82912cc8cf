//! Settings of tenants: `[tenant-limits]` for all, `[tenants.NAME]` for one, which takes
//! precedence.

use serde::{Deserialize, Serialize};

use crate::model::{
    handler::Reason,
    ids::{ProcessorId, TenantId},
};

/// Limits of every tenant, over all its instances and processors together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Linear memory of all instances of one tenant, over all plugins, MiB. Idle instances are
    /// dropped first. Default 256: half of a plugin's memory, so that no tenant takes all of it.
    pub memory_mib: u32,
    /// Concurrent calls of one tenant. Further calls wait, and their time limits start when they
    /// begin. Default 64: a quarter of `limits.instances`.
    pub calls: u32,
    /// Log volume of one tenant's guests, KiB per second. After a quiet time, a burst of ten
    /// seconds' volume is allowed; more is dropped and counted. Default 32: about 300 lines per
    /// second. 0 drops all lines.
    pub log_kib_per_second: u32,
    /// CPU time of one tenant's guests, percent of one core. Default 0, no limit: scarce CPU time
    /// is shared by weight, and limiting idle CPU time would only waste it.
    pub cpu_percent: u32,
    /// Documents that one tenant may write per second. Default 0, no limit: the cost of commits is
    /// already charged to the tenants' shares.
    pub documents_per_second: u32,
    /// Documents and dead letters that one tenant may write per second, KiB. Default 0, no limit:
    /// the cost of commits is already charged to the tenants' shares.
    pub written_kib_per_second: u32,
    /// Collections of all of one tenant's own plugins together. A plugin that needs more is
    /// rejected. Default 100, enough for some ten plugins: each collection is a table with indexes,
    /// which the database keeps even if it is never written.
    pub collections: u32,
    /// Dead letters of one tenant in each processor. A lane that would exceed it blocks instead.
    /// Default 1000: more than a person looks through.
    pub dead_letters: u32,
    /// Parked streams of one tenant in each processor. A lane that would exceed it blocks instead.
    /// Default 100: the lane looks up each event's stream among them.
    pub parked_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_mib: 256,
            calls: 64,
            log_kib_per_second: 32,
            cpu_percent: 0,
            documents_per_second: 0,
            written_kib_per_second: 0,
            collections: 100,
            dead_letters: 1_000,
            parked_streams: 100,
        }
    }
}

/// Settings of one tenant that differ from the rest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Weight of the tenant when guest threads are scarce, 1 to 100. Default 1, like all tenants: a
    /// tenant of weight 3 gets three times the time of one of weight 1.
    pub weight: u32,
    /// Guest threads for this tenant alone, 0 to 64. It uses no other threads then. Default 0: it
    /// shares the common threads.
    pub threads: usize,
    /// Whether all lanes of the tenant are paused. Default false. Its events stay in the log, and
    /// are handled after the pause.
    pub paused: bool,
    /// Ids of the processors that may handle its events, including its own such as `acme/orders`.
    /// In all other processors its lanes are paused. Default: all processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors: Option<Vec<String>>,
    /// Replaces `tenant-limits.memory-mib` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Replaces `tenant-limits.calls` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u32>,
    /// Replaces `tenant-limits.log-kib-per-second` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_kib_per_second: Option<u32>,
    /// Replaces `tenant-limits.cpu-percent` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Replaces `tenant-limits.documents-per-second` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents_per_second: Option<u32>,
    /// Replaces `tenant-limits.written-kib-per-second` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_kib_per_second: Option<u32>,
    /// Replaces `tenant-limits.collections` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collections: Option<u32>,
    /// Replaces `tenant-limits.dead-letters` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u32>,
    /// Replaces `tenant-limits.parked-streams` for this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_streams: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            weight: 1,
            threads: 0,
            paused: false,
            processors: None,
            memory_mib: None,
            calls: None,
            log_kib_per_second: None,
            cpu_percent: None,
            documents_per_second: None,
            written_kib_per_second: None,
            collections: None,
            dead_letters: None,
            parked_streams: None,
        }
    }
}

impl Limits {
    /// Checks that every value is in its range.
    pub fn check(&self) -> Result<(), String> {
        self.check_as("tenant-limits")
    }

    /// Checks the ranges. `place` names the settings' group in an error.
    fn check_as(&self, place: &str) -> Result<(), String> {
        let ranges = [
            ("memory-mib", self.memory_mib, 1, 1 << 20),
            ("calls", self.calls, 1, 8_000),
            ("collections", self.collections, 0, 100_000),
            ("dead-letters", self.dead_letters, 0, 10_000_000),
            ("parked-streams", self.parked_streams, 0, 100_000),
        ];
        for (name, value, low, high) in ranges {
            if value < low || value > high {
                return Err(format!("{place}.{name} = {value} is out of range; use {low} to {high}"));
            }
        }
        if self.log_kib_per_second > 1_000_000 {
            let given = self.log_kib_per_second;
            return Err(format!("{place}.log-kib-per-second = {given} is out of range; use 0 to 1000000"));
        }
        let ranges = [
            ("cpu-percent", self.cpu_percent, 100 * 256),
            ("documents-per-second", self.documents_per_second, 1_000_000_000),
            ("written-kib-per-second", self.written_kib_per_second, 1_000_000_000),
        ];
        for (name, value, max) in ranges {
            if value > max {
                return Err(format!("{place}.{name} = {value} is out of range; use 1 to {max}, or 0 for no limit"));
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Settings with a value for every optional field, from which all keys are derived.
    pub fn every() -> Self {
        Settings {
            processors: Some(Vec::new()),
            memory_mib: Some(0),
            calls: Some(0),
            log_kib_per_second: Some(0),
            cpu_percent: Some(0),
            documents_per_second: Some(0),
            written_kib_per_second: Some(0),
            collections: Some(0),
            dead_letters: Some(0),
            parked_streams: Some(0),
            ..Settings::default()
        }
    }

    /// Checks the tenant's name, and that every value is in its range.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let place = format!("tenants.{name}");
        TenantId::parse(name).map_err(|e| format!("tenants: {e}"))?;
        if !(1..=100).contains(&self.weight) {
            return Err(format!(
                "{place}.weight = {} is out of range; use 1 to 100. To slow a tenant down, raise the weights of the others or set its cpu-percent",
                self.weight
            ));
        }
        if self.threads > 64 {
            return Err(format!("{place}.threads = {} is out of range; use 0 to 64", self.threads));
        }
        for processor in self.processors.iter().flatten() {
            let id = ProcessorId::parse(processor).map_err(|e| format!("{place}.processors: {e}"))?;
            if let Some(owner) = id.owner().filter(|owner| owner.as_str() != name) {
                return Err(format!(
                    "{place}.processors: {id} belongs to tenant {owner} and handles no event of {name}; remove it"
                ));
            }
        }
        self.limits(&Limits::default()).check_as(&place)
    }

    /// The tenant's limits: its own where they are set, otherwise those of `all` tenants.
    pub(super) fn limits(&self, all: &Limits) -> Limits {
        Limits {
            memory_mib: self.memory_mib.unwrap_or(all.memory_mib),
            calls: self.calls.unwrap_or(all.calls),
            log_kib_per_second: self.log_kib_per_second.unwrap_or(all.log_kib_per_second),
            cpu_percent: self.cpu_percent.unwrap_or(all.cpu_percent),
            documents_per_second: self.documents_per_second.unwrap_or(all.documents_per_second),
            written_kib_per_second: self.written_kib_per_second.unwrap_or(all.written_kib_per_second),
            collections: self.collections.unwrap_or(all.collections),
            dead_letters: self.dead_letters.unwrap_or(all.dead_letters),
            parked_streams: self.parked_streams.unwrap_or(all.parked_streams),
        }
    }

    /// Whether a processor may handle the tenant's events.
    pub(super) fn allows(&self, processor: &ProcessorId) -> bool {
        self.processors.as_ref().is_none_or(|ids| ids.iter().any(|id| id == processor.as_str()))
    }

    /// The reason why the settings pause the tenant's lanes in a processor; none if they do not.
    pub(super) fn pause_reason(&self, tenant: &TenantId, processor: &ProcessorId) -> Option<Reason> {
        if self.paused {
            return Some(Reason::new("paused", format!("by the settings: tenants.{tenant}.paused")));
        }
        (!self.allows(processor)).then(|| {
            Reason::new("not-allowed", format!("tenants.{tenant}.processors in the settings does not list {processor}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_limit_wins_and_the_rest_are_those_of_all() {
        let all = Limits { cpu_percent: 50, documents_per_second: 10, ..Limits::default() };
        let one = Settings { documents_per_second: Some(0), ..Settings::default() };
        assert_eq!(one.limits(&all), Limits { documents_per_second: 0, ..all });
    }

    #[test]
    fn settings_that_pause_lanes_give_the_reason() {
        let (tenant, carts) = (TenantId::parse("acme").unwrap(), ProcessorId::parse("carts").unwrap());
        let held = |settings: Settings| settings.pause_reason(&tenant, &carts).map(|reason| reason.to_string());
        assert_eq!(held(Settings::default()), None);
        assert_eq!(held(Settings { processors: Some(vec!["carts".into()]), ..Settings::default() }), None);
        let other = Settings { processors: Some(vec!["cart".into()]), ..Settings::default() };
        let why = "not-allowed: tenants.acme.processors in the settings does not list carts";
        assert_eq!(held(other).as_deref(), Some(why));
        let paused = Settings { paused: true, ..Settings::default() };
        assert_eq!(held(paused).as_deref(), Some("paused: by the settings: tenants.acme.paused"));
    }

    #[test]
    fn values_out_of_range_are_rejected_with_a_remedy() {
        let refused = |name: &str, settings: Settings| settings.check(name).unwrap_err();
        let heavy = refused("acme", Settings { weight: 0, ..Settings::default() });
        assert!(heavy.starts_with("tenants.acme.weight = 0 is out of range; use 1 to 100."), "{heavy}");
        assert!(refused("-acme", Settings::default()).starts_with("tenants: `-acme` is not a valid tenant name: "));
        let named = Settings { processors: Some(vec!["Carts".into()]), ..Settings::default() };
        assert!(refused("a", named).starts_with("tenants.a.processors: `Carts` is not a valid processor id: "));
        let foreign = Settings { processors: Some(vec!["b/carts".into()]), ..Settings::default() };
        let message = "tenants.a.processors: b/carts belongs to tenant b and handles no event of a; remove it";
        assert_eq!(refused("a", foreign), message);
        let own = Settings { processors: Some(vec!["a/carts".into()]), ..Settings::default() };
        assert_eq!(own.check("a"), Ok(()));
        let much = Settings { cpu_percent: Some(30_000), ..Settings::default() };
        let message = "tenants.a.cpu-percent = 30000 is out of range; use 1 to 25600, or 0 for no limit";
        assert_eq!(refused("a", much), message);
        assert_eq!(Settings { threads: 64, ..Settings::default() }.check("acme.eu"), Ok(()));
    }
}
