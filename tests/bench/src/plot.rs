//! Plots as SVG: cases on a logarithmic axis, and values over time. The files need no other files,
//! follow the reader's choice of light or dark, and distinguish series by shape and place as well
//! as by colour.

use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 930.0;
const TOP: f64 = 96.0;
const STYLE: &str = "
    .paper { fill: #ffffff } .grid { stroke: #e2e8f0 } .aim { stroke: #b45309 }
    text { fill: #0f172a } .small { fill: #475569 } .label { fill: #b45309 }
    .s0 { fill: #475569; stroke: #475569 } .s1 { fill: #0284c7; stroke: #0284c7 } .s2 { fill: #7c3aed; stroke: #7c3aed } .s3 { fill: #db2777; stroke: #db2777 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0f172a } .grid { stroke: #334155 } .aim { stroke: #fbbf24 }
      text { fill: #f1f5f9 } .small { fill: #a8b5c7 } .label { fill: #fbbf24 }
      .s0 { fill: #cbd5e1; stroke: #cbd5e1 } .s1 { fill: #38bdf8; stroke: #38bdf8 } .s2 { fill: #a78bfa; stroke: #a78bfa } .s3 { fill: #f472b6; stroke: #f472b6 }
    }
    .small, .label { font-size: 12px } .name { font-weight: 600; font-size: 16px } .aim { stroke-dasharray: 5 4; stroke-width: 1.5 }
    .way { stroke-width: 1.6; stroke-linejoin: round } .reach { stroke-width: 2; opacity: 0.55 }";

/// A range of values in one of the series.
pub struct Mark {
    /// The number of the series.
    pub series: usize,
    /// The lower value, drawn as a tick.
    pub low: f64,
    /// The upper value, drawn as a dot.
    pub high: f64,
}

/// A plot of cases, one per row, with their marks on a logarithmic axis.
pub struct Dots {
    /// The title.
    pub title: String,
    /// The subtitle: what was measured, and how.
    pub subtitle: String,
    /// The label of the axis.
    pub axis: String,
    /// The names of the series.
    pub series: Vec<String>,
    /// Values for comparison, with their names.
    pub lines: Vec<(f64, String)>,
    /// The cases.
    pub rows: Vec<(String, Vec<Mark>)>,
}

impl Dots {
    /// The plot as SVG.
    pub fn svg(&self) -> String {
        const STEP: f64 = 15.0;
        let marks = || self.rows.iter().flat_map(|(_, marks)| marks);
        let values = marks().flat_map(|mark| [mark.low, mark.high]).chain(self.lines.iter().map(|line| line.0));
        let values: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let least = values.iter().copied().fold(1.0, f64::min).log10().floor();
        let most = values.iter().copied().fold(10.0, f64::max).log10();
        let place = |value: f64| LEFT + (value.max(1e-9).log10() - least) / (most + 0.05 - least) * (RIGHT - LEFT);
        let height = |marks: &[Mark]| marks.len() as f64 * STEP + 14.0;
        let bottom = TOP + self.rows.iter().map(|(_, marks)| height(marks)).sum::<f64>();

        let mut svg = begin(&self.title, &self.subtitle, bottom + 56.0);
        legend(&mut svg, &self.series);
        let decades = least as i32..=most.ceil() as i32;
        let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
        for tick in ticks.filter(|tick| place(*tick) <= RIGHT && place(*tick) >= LEFT) {
            let x = place(tick);
            line(&mut svg, "grid", (x, TOP), (x, bottom));
            text(&mut svg, "small", (x, bottom + 18.0), "middle", &tick.to_string());
        }
        text(&mut svg, "small", ((LEFT + RIGHT) / 2.0, bottom + 40.0), "middle", &self.axis);
        for (number, (value, name)) in self.lines.iter().enumerate() {
            let x = place(*value);
            line(&mut svg, "aim", (x, TOP - 4.0), (x, bottom));
            // Labels alternate between two heights, so that neighbours do not overlap.
            text(&mut svg, "label", (x, TOP - 8.0 - 12.0 * (number % 2) as f64), "middle", name);
        }
        let mut top = TOP;
        for (row, marks) in &self.rows {
            let middle = top + height(marks) / 2.0;
            text(&mut svg, "", (LEFT - 14.0, middle + 5.0), "end", row);
            line(&mut svg, "grid", (20.0, top + height(marks)), (RIGHT, top + height(marks)));
            for (number, Mark { series, low, high }) in marks.iter().enumerate() {
                let (y, from, to) = (top + 7.0 + STEP * (number as f64 + 0.5), place(*low), place(*high));
                line(&mut svg, &format!("reach s{series}"), (from, y), (to, y));
                line(&mut svg, &format!("reach s{series}"), (from, y - 5.0), (from, y + 5.0));
                dot(&mut svg, *series, (to, y));
            }
            top += height(marks);
        }
        svg + "</svg>\n"
    }
}

/// A plot of values over time, in panels whose axes begin at zero.
pub struct Courses {
    /// The title.
    pub title: String,
    /// The subtitle: what was measured, and how.
    pub subtitle: String,
    /// The label of the time axis.
    pub axis: String,
    /// The panels, each with the label of its axis.
    pub panels: Vec<(String, Vec<Course>)>,
}

/// A value over time.
pub struct Course {
    /// Its name in the legend.
    pub name: String,
    /// Time and value.
    pub points: Vec<(f64, f64)>,
}

impl Courses {
    /// The plot as SVG.
    pub fn svg(&self) -> String {
        const HEIGHT: f64 = 180.0;
        const APART: f64 = 34.0;
        const FROM: f64 = 70.0;
        let bottom = TOP + self.panels.len() as f64 * (HEIGHT + APART) - APART;
        let all = |courses: &[Course], of: fn(&(f64, f64)) -> f64| {
            courses.iter().flat_map(|course| course.points.iter().map(of)).fold(0.0, f64::max)
        };
        let last = self.panels.iter().map(|(_, courses)| all(courses, |point| point.0)).fold(1e-9, f64::max);
        let across = |time: f64| FROM + time / last * (RIGHT - FROM);
        let mut svg = begin(&self.title, &self.subtitle, bottom + 56.0);
        let names = self.panels.iter().flat_map(|(_, courses)| courses.iter().map(|course| course.name.clone()));
        legend(&mut svg, &names.collect::<Vec<_>>());
        let mut series = 0;
        for (number, (axis, courses)) in self.panels.iter().enumerate() {
            let top = TOP + number as f64 * (HEIGHT + APART);
            let step = round_step(all(courses, |point| point.1));
            let most = (all(courses, |point| point.1) / step).ceil().max(1.0) * step;
            let down = |value: f64| top + HEIGHT - value / most * HEIGHT;
            for tick in 0..=(most / step).round() as u32 {
                let value = f64::from(tick) * step;
                line(&mut svg, "grid", (FROM, down(value)), (RIGHT, down(value)));
                text(&mut svg, "small", (FROM - 8.0, down(value) + 4.0), "end", &value.to_string());
            }
            text(&mut svg, "small", (FROM, top - 8.0), "start", axis);
            for course in courses {
                let mut points = String::new();
                for (time, value) in course.points.iter().filter(|point| point.1.is_finite()) {
                    let _ = write!(points, "{:.1},{:.1} ", across(*time), down(*value));
                }
                let _ = writeln!(svg, r#"  <polyline class="way s{series}" style="fill: none" points="{points}"/>"#);
                series += 1;
            }
        }
        let step = round_step(last);
        for tick in 0..=(last / step) as u32 {
            let time = f64::from(tick) * step;
            text(&mut svg, "small", (across(time), bottom + 18.0), "middle", &time.to_string());
        }
        text(&mut svg, "small", ((FROM + RIGHT) / 2.0, bottom + 40.0), "middle", &self.axis);
        svg + "</svg>\n"
    }
}

/// A step of 1, 2 or 5 times a power of ten, for four to ten steps up to this value.
fn round_step(most: f64) -> f64 {
    let rough = (most / 5.0).max(1e-9);
    let decade = 10f64.powf(rough.log10().floor());
    let digit = rough / decade;
    decade
        * if digit < 1.5 {
            1.0
        } else if digit < 3.5 {
            2.0
        } else {
            5.0
        }
}

fn begin(title: &str, subtitle: &str, height: f64) -> String {
    let (title, subtitle) = (escaped(title), escaped(subtitle));
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title desc" font-family="system-ui, -apple-system, 'Segoe UI', sans-serif" font-size="14">
  <title id="title">{title}</title>
  <desc id="desc">{subtitle}</desc>
  <style>{STYLE}
  </style>
  <rect class="paper" width="{WIDTH}" height="{height}" rx="12"/>
  <text class="name" x="20" y="32">{title}</text>
  <text class="small" x="20" y="52">{subtitle}</text>
"#
    )
}

fn legend(svg: &mut String, names: &[String]) {
    let mut right = RIGHT;
    for (series, name) in names.iter().enumerate().rev() {
        // The width of letters is unknown; this estimate is wide enough.
        let width = name.chars().count() as f64 * 7.0 + 30.0;
        right -= width;
        dot(svg, series, (right + 8.0, 28.0));
        text(svg, "small", (right + 20.0, 32.0), "start", name);
    }
}

/// Draws a dot. Series differ in shape, for readers who cannot distinguish the colours.
fn dot(svg: &mut String, series: usize, (x, y): (f64, f64)) {
    let _ = match series {
        0 => writeln!(svg, r#"  <circle class="s0" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#),
        1 => writeln!(svg, r#"  <rect class="s1" x="{:.1}" y="{:.1}" width="8" height="8"/>"#, x - 4.0, y - 4.0),
        2 => writeln!(svg, r#"  <path class="s2" d="M{x:.1} {:.1}l5 9h-10z"/>"#, y - 5.0),
        _ => writeln!(svg, r#"  <path class="s3" d="M{x:.1} {:.1}l5.5 5.5-5.5 5.5-5.5-5.5z"/>"#, y - 5.5),
    };
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(svg, r#"  <line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escaped(words);
    let _ = writeln!(svg, r#"  <text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
