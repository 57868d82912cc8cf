//! The number of stores that the kernel's bound on memory mappings allows.
//!
//! Every store costs mappings. In a process that has reached `vm.max_map_count`, an ordinary
//! allocation fails and ends the process, and no error handling can prevent that. So the number of
//! stores is kept below the bound before the first one is made.

use std::path::Path;

/// The kernel's setting.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
/// Mappings of a live pooled store: four for its memory's image and its stack in use. Two more, for
/// its slot in the pool of stacks, exist from the start.
const PER_STORE: u64 = 6;
/// Mappings kept free for the rest of the process: code, threads, allocators, sockets.
const MARGIN: u64 = 8_192;

/// The lower of `wanted` stores and what the kernel allows. Warns if that is less.
pub(super) fn cap(wanted: u32) -> u32 {
    let Some(allowed) = read(Path::new(MAX_MAP_COUNT)) else { return wanted };
    let capped = below(wanted, allowed);
    if capped < wanted {
        tracing::warn!(
            instances = capped,
            wanted,
            "vm.max_map_count = {allowed} allows fewer instances than limits.instances; using these. \
             `sysctl vm.max_map_count={}` would allow all of them",
            MARGIN * 2 + u64::from(wanted) * PER_STORE
        );
    }
    capped
}

/// None if there is no such file: other systems have no such bound.
fn read(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Keeps at most half of the mappings free if there are few, and allows at least one store.
fn below(wanted: u32, max_map_count: u64) -> u32 {
    let usable = max_map_count - MARGIN.min(max_map_count / 2);
    wanted.min(u32::try_from(usable / PER_STORE).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_stay_below_the_kernels_bound() {
        assert_eq!(below(256, 65_530), 256);
        assert_eq!(below(20_000, 65_530), 9_556);
        assert_eq!(below(256, 2_000), 166);
        assert_eq!(below(256, 0), 1);
        assert_eq!(below(8_000, u64::MAX), 8_000);
        assert_eq!(read(Path::new("/nowhere")), None);
        assert!(read(Path::new(MAX_MAP_COUNT)).is_none_or(|count| count > 0));
    }
}
