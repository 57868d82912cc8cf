//! Rendering of the live view: the lines of a frame, or one plain line. Pure: no clock, no
//! terminal, no database.

use std::time::Duration;

use console::{measure_text_width, strip_ansi_codes, truncate_str};

use super::rates::TenantRate;
use crate::model::text;

/// The number of log lines below a frame.
pub(super) const LOG_LINES: usize = 4;
/// Maximum number of rows for one log line.
const LOG_ROWS: usize = 3;
/// The number of tenants with a line each; the rest share one line.
const TENANTS: usize = 6;
/// The number of lanes behind with a line each.
pub(super) const LANES: usize = 4;
/// The length of the longest bar, in columns.
const BAR: usize = 30;

/// The data of one frame.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub(super) command: &'static str,
    pub(super) elapsed: Duration,
    pub(super) lasting: Option<Duration>,
    pub(super) host_mib: f64,
    pub(super) instances: usize,
    pub(super) processors: Vec<ProcessorLine>,
    /// The busiest first.
    pub(super) tenants: Vec<TenantRate>,
    /// The error, if the data is outdated.
    pub(super) problem: Option<String>,
    /// The last log lines, oldest first.
    pub(super) log: Vec<String>,
}

/// A processor.
#[derive(Clone, Debug)]
pub(super) struct ProcessorLine {
    pub(super) id: String,
    pub(super) handled: u64,
    pub(super) rate: f64,
    pub(super) lag: LagState,
    /// The first lanes behind.
    pub(super) lanes: Vec<LaneLine>,
    /// The number of all lanes behind.
    pub(super) lanes_behind: usize,
}

/// The distance of a processor from the end of the log.
#[derive(Clone, Debug)]
pub(super) enum LagState {
    UpToDate,
    /// Pending events, and the age of the oldest.
    Behind {
        events: u64,
        seconds: f64,
    },
    /// Paused, with who paused it and since when.
    Paused(String),
}

/// A lane behind its processor.
#[derive(Clone, Debug)]
pub(super) struct LaneLine {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) reason: String,
}

/// The size and colours of the area to draw on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_coloured: bool,
}

/// The emphasis of a part of a line.
#[derive(Clone, Copy)]
enum Ink {
    Strong,
    Faint,
    Good,
    Bad,
}

impl Canvas {
    fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Strong => "1",
            Ink::Faint => "2",
            Ink::Good => "32",
            Ink::Bad => "33",
        };
        if self.is_coloured && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn heading(&self, text: &str) -> String {
        self.ink(Ink::Faint, text)
    }
}

/// The lines of a frame, cut to the canvas.
pub(super) fn frame(scene: &Scene, canvas: &Canvas) -> Vec<String> {
    let mut lines = vec![String::new(), headline(scene, canvas), String::new()];
    lines.extend(flow(scene, canvas));
    lines.push(String::new());
    lines.extend(processors(scene, canvas));
    lines.extend(lanes(scene, canvas));
    if !scene.tenants.is_empty() {
        lines.push(String::new());
        lines.extend(tenants(&scene.tenants, canvas));
    }
    let mut log: Vec<String> = scene.log.iter().flat_map(|line| logged(line, canvas)).collect();
    if let Some(problem) = &scene.problem {
        let problem = text::one_line(problem);
        log.push(canvas.ink(Ink::Bad, &format!("the database does not answer; retrying: {problem}")));
    }
    if !log.is_empty() {
        lines.push(String::new());
    }
    // The log and the error are shown even if there is no room for the rest.
    lines.truncate(canvas.height.saturating_sub(log.len()));
    lines.extend(log);
    lines.truncate(canvas.height);
    lines.iter().map(|line| cut(line, canvas)).collect()
}

/// A log line as rows. Replaces the line's own colours, so that it can be broken anywhere.
fn logged(line: &str, canvas: &Canvas) -> Vec<String> {
    let text = strip_ansi_codes(line);
    let text = text::one_line(text.trim());
    let width = canvas.width.max(1);
    let ink = if text.starts_with("WARN") || text.starts_with("ERROR") { Ink::Bad } else { Ink::Faint };
    let characters: Vec<char> = text.chars().collect();
    let rows = characters.chunks(width).take(LOG_ROWS);
    rows.map(|row| canvas.ink(ink, &row.iter().collect::<String>())).collect()
}

/// A summary in one plain line, for a pipe or a file.
pub(super) fn line(scene: &Scene) -> String {
    let all: u64 = scene.tenants.iter().map(|tenant| tenant.events).sum();
    let rate: f64 = scene.tenants.iter().map(|tenant| tenant.rate).sum();
    let mut parts = vec![format!("{} s: {} appended, {}/s", scene.elapsed.as_secs(), grouped(all), number(rate))];
    for ProcessorLine { id, handled, lag, lanes_behind, .. } in &scene.processors {
        let lanes = match *lanes_behind {
            0 => String::new(),
            n => format!(" with {} behind", count(n, "lane")),
        };
        let behind = if matches!(lag, LagState::Behind { .. }) { " behind" } else { "" };
        parts.push(format!("{id} has handled {} and is {}{behind}{lanes}", grouped(*handled), lag_text(lag)));
    }
    parts.extend(scene.tenants.first().map(|busiest| format!("busiest {} {}/s", busiest.tenant, number(busiest.rate))));
    parts.extend(scene.problem.as_ref().map(|problem| format!("the database does not answer: {problem}")));
    text::one_line(&parts.join("; ")).into_owned()
}

/// The first line: the command, and the time elapsed or left.
fn headline(scene: &Scene, canvas: &Canvas) -> String {
    let seconds = scene.elapsed.as_secs();
    let time = match scene.lasting {
        Some(all) => {
            let done = scene.elapsed.as_secs_f64() / all.as_secs_f64().max(0.001);
            let bar = bar(done.min(1.0), 24);
            format!("{bar:<24}  {} of {} s", seconds.min(all.as_secs()), all.as_secs())
        }
        None => format!("{:02}:{:02}:{:02}, Ctrl-C to end", seconds / 3600, seconds / 60 % 60, seconds % 60),
    };
    format!("{}   {time}", canvas.ink(Ink::Strong, scene.command))
}

/// Two lines with the totals and rates of appended and handled events.
fn flow(scene: &Scene, canvas: &Canvas) -> [String; 2] {
    let appended: u64 = scene.tenants.iter().map(|tenant| tenant.events).sum();
    let append_rate: f64 = scene.tenants.iter().map(|tenant| tenant.rate).sum();
    let handled: u64 = scene.processors.iter().map(|processor| processor.handled).sum();
    let handle_rate: f64 = scene.processors.iter().map(|processor| processor.rate).sum();
    let line = |what: &str, rate: f64, all: u64, whose: String| {
        let rate = canvas.ink(Ink::Strong, &format!("{:>7}", number(rate)));
        format!("{what:<9} {rate} events/s  {:>9} total  {whose}", grouped(all))
    };
    let memory = if scene.host_mib > 0.0 {
        format!(", {:.0} MiB, {}", scene.host_mib, count(scene.instances, "instance"))
    } else {
        String::new()
    };
    [
        line("appended", append_rate, appended, count(scene.tenants.len(), "tenant")),
        line("handled", handle_rate, handled, format!("{}{memory}", count(scene.processors.len(), "processor"))),
    ]
}

/// The table of processors.
fn processors(scene: &Scene, canvas: &Canvas) -> Vec<String> {
    if scene.processors.is_empty() {
        return vec!["no processor has run yet".into()];
    }
    let width = scene.processors.iter().map(|p| p.id.chars().count()).max().unwrap_or(0).max(24);
    let mut lines =
        vec![canvas.heading(&format!("{:<width$}   {:>9}   {:>9}   LAG", "PROCESSOR", "HANDLED", "EVENTS/S"))];
    for ProcessorLine { id, handled, rate, lag, .. } in &scene.processors {
        let ink = match lag {
            LagState::UpToDate => Ink::Good,
            LagState::Behind { seconds, .. } if *seconds < 1.0 => Ink::Good,
            _ => Ink::Bad,
        };
        let place = canvas.ink(ink, &lag_text(lag));
        lines.push(format!("{id:<width$}   {:>9}   {:>9}   {place}", grouped(*handled), number(*rate)));
    }
    lines
}

/// The list of lanes behind, with reasons.
fn lanes(scene: &Scene, canvas: &Canvas) -> Vec<String> {
    let behind = scene.processors.iter().flat_map(|p| p.lanes.iter().map(move |lane| (&p.id, lane)));
    let mut lines: Vec<String> = behind
        .take(LANES)
        .map(|(processor, LaneLine { name, state, reason })| {
            let reason = if reason.is_empty() { String::new() } else { format!(": {}", text::one_line(reason)) };
            format!("{processor}, lane {}: {}{reason}", text::one_line(name), canvas.ink(Ink::Bad, state))
        })
        .collect();
    let all: usize = scene.processors.iter().map(|p| p.lanes_behind).sum();
    let more = all.saturating_sub(lines.len());
    if more > 0 {
        lines.push(format!("and {more} more lanes behind"));
    }
    if !lines.is_empty() {
        lines.splice(0..0, [String::new(), canvas.heading("LANES BEHIND (OTHER LANES CONTINUE)")]);
    }
    lines
}

/// The table of the busiest tenants, with a bar for each rate.
fn tenants(all: &[TenantRate], canvas: &Canvas) -> Vec<String> {
    let alone = if all.len() == TENANTS + 1 { TENANTS + 1 } else { TENANTS.min(all.len()) };
    let (first, others) = all.split_at(alone);
    let rest = TenantRate {
        tenant: format!("{} others", others.len()),
        events: others.iter().map(|tenant| tenant.events).sum(),
        rate: others.iter().map(|tenant| tenant.rate).sum(),
    };
    let shown = first.iter().chain((!others.is_empty()).then_some(&rest));
    let width = first.iter().map(|tenant| tenant.tenant.chars().count()).max().unwrap_or(0).max(24);
    // The name is followed by two columns of twelve characters and a gap.
    let columns = canvas.width.saturating_sub(width + 27).min(BAR);
    let highest = shown.clone().map(|tenant| tenant.rate).fold(0.0, f64::max);
    let mut lines =
        vec![canvas.heading(&format!("{:<width$}   {:>9}   {:>9}", "BUSIEST TENANTS", "APPENDED", "EVENTS/S"))];
    for TenantRate { tenant, events, rate } in shown {
        let bar = if highest > 0.0 { bar(rate / highest, columns) } else { String::new() };
        let bar = if tenant == &rest.tenant { canvas.ink(Ink::Faint, &bar) } else { bar };
        lines.push(format!("{tenant:<width$}   {:>9}   {:>9}   {bar}", grouped(*events), number(*rate)));
    }
    lines
}

/// The lag of a processor in words.
fn lag_text(lag: &LagState) -> String {
    match lag {
        LagState::UpToDate => "up to date".into(),
        LagState::Behind { events, seconds } => format!("{}, {}", count(*events as usize, "event"), age(*seconds)),
        LagState::Paused(by) => format!("paused {}", text::one_line(by)),
    }
}

/// A fraction as a bar with a resolution of an eighth of a column. A fraction above 0 shows at
/// least an eighth.
fn bar(part: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part * columns as f64 * 8.0).round() as usize;
    let eighths = if part > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// A rate, with one decimal place below 10.
fn number(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { grouped(rate.round() as u64) }
}

fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(number as u64), if number == 1 { "" } else { "s" })
}

/// A number with thousands separators.
pub(in super::super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A line cut to the canvas. Resets the colours after a cut.
pub(super) fn cut(line: &str, canvas: &Canvas) -> String {
    if measure_text_width(line) <= canvas.width {
        return line.to_owned();
    }
    let cut = truncate_str(line, canvas.width, "…");
    if canvas.is_coloured { format!("{cut}\x1b[0m") } else { cut.into_owned() }
}

#[cfg(test)]
mod tests;
