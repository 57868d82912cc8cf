//! How many stores the kernel's bound on memory mappings allows.
//!
//! Every store costs mappings, and where a process has as many as `vm.max_map_count` allows, an ordinary allocation fails and ends the
//! process, which no error handling can prevent. So the number of stores is kept below that before the first one is made.

use std::path::Path;

/// Where the kernel says it.
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";
/// A live pooled store's: four for its memory's image and stack in use, two for its place in the pool of stacks, there from the start.
const PER_STORE: u64 = 6;
/// Kept free for everything else in the process: code, threads, allocators, sockets.
const MARGIN: u64 = 8_192;

/// At most `wanted` stores, and no more than the kernel allows; says so where that is less.
pub(super) fn cap(wanted: u32) -> u32 {
    let Some(allowed) = read(Path::new(MAX_MAP_COUNT)) else { return wanted };
    let capped = below(wanted, allowed);
    if capped < wanted {
        tracing::warn!(
            instances = capped,
            wanted,
            "vm.max_map_count = {allowed} allows fewer instances than limits.instances; going on with these. \
             `sysctl vm.max_map_count={}` would allow them all",
            MARGIN * 2 + u64::from(wanted) * PER_STORE
        );
    }
    capped
}

/// Nothing where there is no such file: other systems have no such bound.
fn read(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Half of a small number of mappings is kept free too: one store is better than none, and a margin is better than a store.
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
