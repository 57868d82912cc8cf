//! From what is known to what is shown: the lines of a frame, or one plain line. Pure: no clock, no terminal, no database.

use std::time::Duration;

use console::{measure_text_width, strip_ansi_codes, truncate_str};

use super::rates::Appended;
use crate::model::text;

/// Log lines under a frame.
pub(super) const LOG_LINES: usize = 4;
/// Rows that one log line may take.
const LOG_ROWS: usize = 3;
/// Tenants with a line of their own; the others share one.
const TENANTS: usize = 6;
/// Lanes behind with a line of their own.
pub(super) const LANES: usize = 4;
/// The longest bar of a tenant.
const BAR: usize = 30;

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub(super) command: &'static str,
    pub(super) elapsed: Duration,
    pub(super) lasting: Option<Duration>,
    pub(super) host_mib: f64,
    pub(super) instances: usize,
    pub(super) processors: Vec<Processor>,
    /// The busiest first.
    pub(super) tenants: Vec<Appended>,
    /// Why all this is not known any better.
    pub(super) problem: Option<String>,
    /// The last log lines, oldest first.
    pub(super) log: Vec<String>,
}

/// How one processor stands.
#[derive(Clone, Debug)]
pub(super) struct Processor {
    pub(super) id: String,
    pub(super) handled: u64,
    pub(super) rate: f64,
    pub(super) standing: Standing,
    /// The first of them.
    pub(super) lanes: Vec<Lane>,
    pub(super) lanes_behind: usize,
}

/// Where a processor stands, seen from the end of the log.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// At the end.
    UpToDate,
    /// Before so many events, the first of which came so long ago.
    Behind { events: u64, seconds: f64 },
    /// Where a person made it wait, and who.
    Paused(String),
}

/// A lane behind its processor.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) reason: String,
}

/// What a frame is drawn on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_coloured: bool,
}

/// How a part of a line stands out.
#[derive(Clone, Copy)]
enum Ink {
    Strong,
    Faint,
    Good,
    Bad,
}

impl Look {
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

/// A frame: no more lines than there are, none longer than they are.
pub(super) fn frame(scene: &Scene, look: &Look) -> Vec<String> {
    let mut lines = vec![String::new(), headline(scene, look), String::new()];
    lines.extend(flow(scene, look));
    lines.push(String::new());
    lines.extend(processors(scene, look));
    lines.extend(lanes(scene, look));
    if !scene.tenants.is_empty() {
        lines.push(String::new());
        lines.extend(tenants(&scene.tenants, look));
    }
    let mut log: Vec<String> = scene.log.iter().flat_map(|line| logged(line, look)).collect();
    if let Some(problem) = &scene.problem {
        let problem = text::one_line(problem);
        log.push(look.ink(Ink::Bad, &format!("the database does not answer, and is asked again: {problem}")));
    }
    if !log.is_empty() {
        lines.push(String::new());
    }
    // What went wrong is shown even where the rest has no room.
    lines.truncate(look.height.saturating_sub(log.len()));
    lines.extend(log);
    lines.truncate(look.height);
    lines.iter().map(|line| cut(line, look)).collect()
}

/// A log line as rows; its own colours give way to ours, so that it can be broken anywhere.
fn logged(line: &str, look: &Look) -> Vec<String> {
    let text = strip_ansi_codes(line);
    let text = text::one_line(text.trim());
    let width = look.width.max(1);
    let ink = if text.starts_with("WARN") || text.starts_with("ERROR") { Ink::Bad } else { Ink::Faint };
    let characters: Vec<char> = text.chars().collect();
    let rows = characters.chunks(width).take(LOG_ROWS);
    rows.map(|row| look.ink(ink, &row.iter().collect::<String>())).collect()
}

/// The frame's gist, for a pipe or a file.
pub(super) fn line(scene: &Scene) -> String {
    let all: u64 = scene.tenants.iter().map(|tenant| tenant.events).sum();
    let rate: f64 = scene.tenants.iter().map(|tenant| tenant.rate).sum();
    let mut parts = vec![format!("{} s: {} appended, {}/s", scene.elapsed.as_secs(), grouped(all), number(rate))];
    for Processor { id, handled, standing, lanes_behind, .. } in &scene.processors {
        let lanes = match *lanes_behind {
            0 => String::new(),
            n => format!(" with {} behind", count(n, "lane")),
        };
        let behind = if matches!(standing, Standing::Behind { .. }) { " behind" } else { "" };
        parts.push(format!("{id} has handled {} and is {}{behind}{lanes}", grouped(*handled), place(standing)));
    }
    parts.extend(scene.tenants.first().map(|busiest| format!("busiest {} {}/s", busiest.tenant, number(busiest.rate))));
    parts.extend(scene.problem.as_ref().map(|problem| format!("the database does not answer: {problem}")));
    text::one_line(&parts.join("; ")).into_owned()
}

fn headline(scene: &Scene, look: &Look) -> String {
    let seconds = scene.elapsed.as_secs();
    let time = match scene.lasting {
        Some(all) => {
            let done = scene.elapsed.as_secs_f64() / all.as_secs_f64().max(0.001);
            let bar = bar(done.min(1.0), 24);
            format!("{bar:<24}  {} of {} s", seconds.min(all.as_secs()), all.as_secs())
        }
        None => format!("{:02}:{:02}:{:02}, Ctrl-C ends it", seconds / 3600, seconds / 60 % 60, seconds % 60),
    };
    format!("{}   {time}", look.ink(Ink::Strong, scene.command))
}

fn flow(scene: &Scene, look: &Look) -> [String; 2] {
    let appended: u64 = scene.tenants.iter().map(|tenant| tenant.events).sum();
    let append_rate: f64 = scene.tenants.iter().map(|tenant| tenant.rate).sum();
    let handled: u64 = scene.processors.iter().map(|processor| processor.handled).sum();
    let handle_rate: f64 = scene.processors.iter().map(|processor| processor.rate).sum();
    let line = |what: &str, rate: f64, all: u64, whose: String| {
        let rate = look.ink(Ink::Strong, &format!("{:>7}", number(rate)));
        format!("{what:<9} {rate} events/s  {:>9} in all  {whose}", grouped(all))
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

fn processors(scene: &Scene, look: &Look) -> Vec<String> {
    if scene.processors.is_empty() {
        return vec!["no processor has run yet".into()];
    }
    let width = scene.processors.iter().map(|p| p.id.chars().count()).max().unwrap_or(0).max(24);
    let mut lines =
        vec![look.heading(&format!("{:<width$}   {:>9}   {:>9}   LAG", "PROCESSOR", "HANDLED", "EVENTS/S"))];
    for Processor { id, handled, rate, standing, .. } in &scene.processors {
        let ink = match standing {
            Standing::UpToDate => Ink::Good,
            Standing::Behind { seconds, .. } if *seconds < 1.0 => Ink::Good,
            _ => Ink::Bad,
        };
        let place = look.ink(ink, &place(standing));
        lines.push(format!("{id:<width$}   {:>9}   {:>9}   {place}", grouped(*handled), number(*rate)));
    }
    lines
}

fn lanes(scene: &Scene, look: &Look) -> Vec<String> {
    let behind = scene.processors.iter().flat_map(|p| p.lanes.iter().map(move |lane| (&p.id, lane)));
    let mut lines: Vec<String> = behind
        .take(LANES)
        .map(|(processor, Lane { name, state, reason })| {
            let reason = if reason.is_empty() { String::new() } else { format!(": {}", text::one_line(reason)) };
            format!("{processor}, lane {}: {}{reason}", text::one_line(name), look.ink(Ink::Bad, state))
        })
        .collect();
    let all: usize = scene.processors.iter().map(|p| p.lanes_behind).sum();
    let more = all.saturating_sub(lines.len());
    if more > 0 {
        lines.push(format!("and {more} more lanes behind"));
    }
    if !lines.is_empty() {
        lines.splice(0..0, [String::new(), look.heading("LANES BEHIND, WHICH NOBODY WAITS FOR")]);
    }
    lines
}

fn tenants(all: &[Appended], look: &Look) -> Vec<String> {
    let alone = if all.len() == TENANTS + 1 { TENANTS + 1 } else { TENANTS.min(all.len()) };
    let (first, others) = all.split_at(alone);
    let rest = Appended {
        tenant: format!("{} others", others.len()),
        events: others.iter().map(|tenant| tenant.events).sum(),
        rate: others.iter().map(|tenant| tenant.rate).sum(),
    };
    let shown = first.iter().chain((!others.is_empty()).then_some(&rest));
    let width = first.iter().map(|tenant| tenant.tenant.chars().count()).max().unwrap_or(0).max(24);
    // Beside the name stand two columns of twelve, and a gap.
    let columns = look.width.saturating_sub(width + 27).min(BAR);
    let most = shown.clone().map(|tenant| tenant.rate).fold(0.0, f64::max);
    let mut lines =
        vec![look.heading(&format!("{:<width$}   {:>9}   {:>9}", "BUSIEST TENANTS", "APPENDED", "EVENTS/S"))];
    for Appended { tenant, events, rate } in shown {
        let bar = if most > 0.0 { bar(rate / most, columns) } else { String::new() };
        let bar = if tenant == &rest.tenant { look.ink(Ink::Faint, &bar) } else { bar };
        lines.push(format!("{tenant:<width$}   {:>9}   {:>9}   {bar}", grouped(*events), number(*rate)));
    }
    lines
}

fn place(standing: &Standing) -> String {
    match standing {
        Standing::UpToDate => "up to date".into(),
        Standing::Behind { events, seconds } => format!("{}, {}", count(*events as usize, "event"), age(*seconds)),
        Standing::Paused(by) => format!("paused {}", text::one_line(by)),
    }
}

/// A part of a whole as a bar, to an eighth of a column; something is never nothing.
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

/// A rate for people: with a digit behind the point where that is most of it.
fn number(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { grouped(rate.round() as u64) }
}

fn count(number: usize, what: &str) -> String {
    format!("{} {what}{}", grouped(number as u64), if number == 1 { "" } else { "s" })
}

/// A number with its thousands apart.
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

/// A line that fits, whose colours end with it.
pub(super) fn cut(line: &str, look: &Look) -> String {
    if measure_text_width(line) <= look.width {
        return line.to_owned();
    }
    let cut = truncate_str(line, look.width, "…");
    if look.is_coloured { format!("{cut}\x1b[0m") } else { cut.into_owned() }
}

#[cfg(test)]
mod tests;
