//! Limits of guests. Each has a name, a unit, a default and a reason.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::json;

const MIB: usize = 1 << 20;
/// Least CPU time of `describe`, no matter how little a call may have. Making an instance takes a
/// few milliseconds, more on a busy machine, and a file that exceeds the limit is refused for good.
const DESCRIBE_MIN: Duration = Duration::from_millis(100);
/// Handles of WASI that one instance may hold. 1,000: a runtime holds about ten, and each takes
/// some 150 bytes of the host's memory, which no other limit counts.
pub(super) const WASI_HANDLES: usize = 1_000;

/// The limits of every plugin on this host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    /// Linear memory of one instance, MiB. Default 64: a Rust or JavaScript guest needs 1 to 5, a
    /// Python guest 13, and a page of events somewhat more.
    pub memory_mib: usize,
    /// Linear memory of all instances of one plugin, MiB, with idle instances, which are evicted
    /// first. Default 512: eight concurrent calls that each use all of `memory-mib`, or about 250
    /// instances of an ordinary guest in Rust or JavaScript, or 40 in Python. All memory that a
    /// guest can touch is counted, though pages that it only reads are shared with other instances
    /// of the file. About half of a Python guest's memory is resident, and all of it may become so.
    pub plugin_memory_mib: usize,
    /// Guest CPU time of one call, milliseconds. Waiting for the host is not counted, nor is the
    /// time that the guest's thread waits for a core. Default 1000: over a hundred times the cost
    /// of a full batch of the example plugins.
    pub cpu_ms: u64,
    /// Wall-clock time of one call, milliseconds, with everything in it. Default 10000: a longer
    /// call waits for something that never happens.
    pub wall_ms: u64,
    /// Data that one call may return or pass to the host, MiB as the host stores it. Default 16: it
    /// stays in memory until it is committed.
    pub output_mib: usize,
    /// Changes to documents in the answer to one call. Default 20000: a full page of events that
    /// each touch several documents. A batch with more is split into several calls.
    pub changes: usize,
    /// Events that the answer to one call may append. Default 5000: a full page of events that each
    /// lead to a few. A batch with more is split into several calls.
    pub appends: usize,
    /// Documents that one `get-many` may name. Default 20000, as many as a call may change: each
    /// name stays in memory until the call is answered.
    pub reads: usize,
    /// Size of one document, KiB of JSON text. It bounds the text that the plugin writes, and also
    /// the text that PostgreSQL prints: with a space after each comma and colon, and numbers
    /// without exponents. Default 1024: larger documents slow down every page that touches them,
    /// for all tenants.
    pub document_kib: usize,
    /// Nesting depth of arrays and objects in a document. Default 128, which is also the maximum:
    /// readers of documents accept no more.
    pub json_depth: usize,
    /// Collections that one plugin may list. Default 32: a commit that writes all of them locks
    /// each table and its index. These are 64 relations, as many as PostgreSQL has room for per
    /// connection (max_locks_per_transaction; raise it together with this).
    pub collections: usize,
    /// Elements of one table. Default 20000: the runtimes of JavaScript and Python need about 8000.
    pub table_elements: usize,
    /// The guest's stack, KiB. Default 512.
    pub stack_kib: usize,
    /// Log lines of one call. Further lines are counted and dropped. Default 100.
    pub log_lines: u32,
    /// Length of one log line, bytes. The rest is cut off. Default 1024; at most 16384, which is
    /// what the host's log shows of a field.
    pub log_line_bytes: usize,
    /// Size of a component file, MiB. Default 64: a Python guest with packages has about 40.
    pub component_mib: usize,
    /// Instances alive at once, for which address space is set aside at start. Default 256: each
    /// concurrent call needs one.
    pub instances: u32,
    /// Instances kept warm between calls, at most. Default 128: with a warm instance, the tenant's
    /// next call need not make one, which takes milliseconds for a guest in Python. Each holds 1 to
    /// 13 MiB meanwhile. 0 keeps none.
    pub warm_instances: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_mib: 64,
            plugin_memory_mib: 512,
            cpu_ms: 1_000,
            wall_ms: 10_000,
            output_mib: 16,
            changes: 20_000,
            appends: 5_000,
            reads: 20_000,
            document_kib: 1_024,
            json_depth: json::MAX_DEPTH,
            collections: 32,
            table_elements: 20_000,
            stack_kib: 512,
            log_lines: 100,
            log_line_bytes: 1_024,
            component_mib: 64,
            instances: 256,
            warm_instances: 128,
        }
    }
}

/// Limits of one tenant over all plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Linear memory of all its instances, bytes.
    pub memory_bytes: usize,
    /// Concurrent calls.
    pub calls: usize,
    /// Log volume, bytes a second.
    pub log_bytes_per_second: u64,
}

/// The defaults of the operator's settings.
impl Default for TenantLimits {
    fn default() -> Self {
        TenantLimits { memory_bytes: 256 * MIB, calls: 64, log_bytes_per_second: 32 << 10 }
    }
}

impl Limits {
    /// Linear memory of one instance, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory_mib * MIB
    }

    /// Size of a component file, bytes.
    pub fn component_bytes(&self) -> u64 {
        (self.component_mib * MIB) as u64
    }

    /// Linear memory of all instances of one plugin, bytes.
    pub fn plugin_memory_bytes(&self) -> usize {
        self.plugin_memory_mib * MIB
    }

    /// Guest CPU time of one call.
    pub fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ms)
    }

    /// Wall-clock time of one call.
    pub fn wall(&self) -> Duration {
        Duration::from_millis(self.wall_ms)
    }

    /// Data that one call may return, bytes.
    pub fn output_bytes(&self) -> usize {
        self.output_mib * MIB
    }

    /// Size of one document, bytes.
    pub fn document_bytes(&self) -> usize {
        self.document_kib << 10
    }

    /// Guest CPU time of `describe`: a tenth of a call's, as it has nothing to compute, but at
    /// least [`DESCRIBE_MIN`].
    pub fn describe_cpu(&self) -> Duration {
        (self.cpu() / 10).max(DESCRIBE_MIN)
    }

    /// Refuses values out of range; the error names the limit and its range.
    pub fn check(&self) -> Result<(), String> {
        let ranges = [
            ("memory-mib", self.memory_mib, 1, 4095),
            ("plugin-memory-mib", self.plugin_memory_mib, self.memory_mib, 1 << 20),
            ("cpu-ms", self.cpu_ms as usize, 2, 3_600_000),
            ("wall-ms", self.wall_ms as usize, 2, 86_400_000),
            ("output-mib", self.output_mib, 1, 1024),
            ("changes", self.changes, 1, 1_000_000),
            ("appends", self.appends, 1, 1_000_000),
            ("reads", self.reads, 1, 1_000_000),
            ("document-kib", self.document_kib, 1, 262_144),
            ("json-depth", self.json_depth, 1, json::MAX_DEPTH),
            ("collections", self.collections, 1, 256),
            ("table-elements", self.table_elements, 1, 10_000_000),
            ("stack-kib", self.stack_kib, 64, 16_384),
            ("log-lines", self.log_lines as usize, 0, 1_000_000),
            ("log-line-bytes", self.log_line_bytes, 16, 16 << 10),
            ("component-mib", self.component_mib, 1, 1024),
            ("instances", self.instances as usize, 1, 8_000),
            ("warm-instances", self.warm_instances as usize, 0, 8_000),
        ];
        for (name, value, low, high) in ranges {
            if value < low || value > high {
                return Err(format!("limits.{name} = {value} is out of range; use {low} to {high}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_range_and_a_default_within_it() {
        let serde_json::Value::Object(defaults) = serde_json::to_value(Limits::default()).unwrap() else {
            unreachable!()
        };
        assert_eq!(Limits::default().check(), Ok(()));
        for (key, default) in &defaults {
            let with = |value: i64| {
                let mut table = defaults.clone();
                table.insert(key.clone(), value.into());
                serde_json::from_value::<Limits>(table.into())
                    .map_err(|e| e.to_string())
                    .and_then(|limits| limits.check())
            };
            assert!(with(-1).is_err(), "{key}");
            let refused = with(u32::MAX.into()).unwrap_err();
            assert!(refused.starts_with(&format!("limits.{key} = 4294967295 is out of range; use ")), "{refused}");
            assert_eq!(with(default.as_i64().unwrap()), Ok(()), "{key}");
        }
        let less = Limits { plugin_memory_mib: 63, ..Limits::default() };
        assert_eq!(less.check().unwrap_err(), "limits.plugin-memory-mib = 63 is out of range; use 64 to 1048576");
    }
}
