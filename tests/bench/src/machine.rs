//! Measurements of the machine and its processes, read from Linux. On other systems they are
//! missing.

use std::fs;

/// The load average of the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The number of cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The peak memory of a process so far, MiB.
pub fn peak_memory(process: u32) -> Option<f64> {
    memory(process, "VmHWM:")
}

/// The current memory of a process, MiB.
pub fn memory_now(process: u32) -> Option<f64> {
    memory(process, "VmRSS:")
}

/// The current memory of a process without pages that it shares, MiB. The initial memory of a
/// plugin is mapped into each of its instances, and the other figures count it once for each.
pub fn unshared_memory(process: u32) -> Option<f64> {
    Some(memory(process, "RssAnon:")? + memory(process, "RssFile:")?)
}

/// CPU time of a process's current threads so far, seconds. The kernel's counters by thread are
/// exact, while those by process count whole ticks on some machines.
pub fn cpu_seconds(process: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let of_thread = |thread: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    };
    Some(threads.filter_map(of_thread).sum::<f64>() / 1e9)
}

/// CPU time of all processes so far, seconds.
pub fn busy_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<&str> = stat.lines().next()?.split_whitespace().collect();
    ticks([fields.get(1)?, fields.get(2)?, fields.get(3)?, fields.get(6)?, fields.get(7)?])
}

/// The sum of fields that Linux counts in hundredths of a second, in seconds.
fn ticks<const N: usize>(fields: [&&str; N]) -> Option<f64> {
    let ticks: Option<Vec<f64>> = fields.iter().map(|field| field.parse().ok()).collect();
    Some(ticks?.iter().sum::<f64>() / 100.0)
}

fn memory(process: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
