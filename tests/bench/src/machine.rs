//! What the machine says of itself and of its processes, as Linux tells it. Elsewhere the figures are missing.

use std::fs;

/// The load of the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// How many cores there are.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The most memory that a process has held so far, MiB.
pub fn peak_memory(process: u32) -> Option<f64> {
    memory(process, "VmHWM:")
}

/// The memory that a process holds, MiB.
pub fn memory_now(process: u32) -> Option<f64> {
    memory(process, "VmRSS:")
}

fn memory(process: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
