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

/// Seconds that a process has computed so far, on all cores together.
pub fn cpu_seconds(process: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything, blanks and brackets too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    ticks([fields.get(11)?, fields.get(12)?])
}

/// Seconds that all cores together have computed so far, for whomever.
pub fn busy_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<&str> = stat.lines().next()?.split_whitespace().collect();
    ticks([fields.get(1)?, fields.get(2)?, fields.get(3)?, fields.get(6)?, fields.get(7)?])
}

/// What Linux counts in hundredths of a second.
fn ticks<const N: usize>(fields: [&&str; N]) -> Option<f64> {
    let ticks: Option<Vec<f64>> = fields.iter().map(|field| field.parse().ok()).collect();
    Some(ticks?.iter().sum::<f64>() / 100.0)
}

fn memory(process: u32, field: &str) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}
