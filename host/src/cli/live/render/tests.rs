//! Frames and plain lines as text.

use super::*;

const PLAIN: Canvas = Canvas { width: 100, height: 50, is_coloured: false };

fn appended(tenant: &str, events: u64, rate: f64) -> TenantRate {
    TenantRate { tenant: tenant.into(), events, rate }
}

fn processor(id: &str, handled: u64, rate: f64, lag: LagState) -> ProcessorLine {
    ProcessorLine { id: id.into(), handled, rate, lag, lanes: Vec::new(), lanes_behind: 0 }
}

fn scene() -> Scene {
    let mut tenants = vec![appended("megamart", 3_614, 300.4), appended("bookworm", 482, 40.0)];
    tenants.extend((0..8).map(|n| appended(&format!("corner-{n}"), 25, 2.25)));
    Scene {
        command: "sandmill demo",
        elapsed: Duration::from_millis(12_900),
        lasting: Some(Duration::from_secs(20)),
        host_mib: 96.4,
        instances: 54,
        processors: vec![
            processor("cart-summary", 4_290, 358.0, LagState::Behind { events: 6, seconds: 0.004 }),
            processor("plane-log", 20_000, 0.0, LagState::UpToDate),
        ],
        tenants,
        ..Scene::default()
    }
}

#[test]
fn a_frame_shows_flow_processors_and_tenants() {
    let expected = "
sandmill demo   ███████████████▌          12 of 20 s

appended      358 events/s      4,296 total  10 tenants
handled       358 events/s     24,290 total  2 processors, 96 MiB, 54 instances

PROCESSOR                    HANDLED    EVENTS/S   LAG
cart-summary                   4,290         358   6 events, 4 ms
plane-log                     20,000           0   up to date

BUSIEST TENANTS             APPENDED    EVENTS/S
megamart                       3,614         300   ██████████████████████████████
bookworm                         482          40   ████
corner-0                          25         2.2   ▎
corner-1                          25         2.2   ▎
corner-2                          25         2.2   ▎
corner-3                          25         2.2   ▎
4 others                         100         9.0   ▉";
    assert_eq!(frame(&scene(), &PLAIN).join("\n"), expected);
    let narrow = frame(&scene(), &Canvas { width: 80, ..PLAIN });
    assert!(narrow.iter().all(|line| !line.contains('…')), "cut:\n{}", narrow.join("\n"));
}

#[test]
fn lanes_behind_and_pauses_are_shown_with_reasons() {
    let mut scene = scene();
    scene.tenants.clear();
    scene.lasting = None;
    let lane =
        |n: u32| LaneLine { name: format!("t{n}"), state: "blocked".into(), reason: "trap: out of\nbounds".into() };
    scene.processors[0].lanes = (0..6).map(lane).collect();
    scene.processors[0].lanes_behind = 6;
    scene.processors[1].lag = LagState::Paused("by ada".into());
    scene.problem = Some("connection refused".into());
    scene.log = vec!["WARN a line".into()];
    let frame = frame(&scene, &PLAIN);
    let shown = |line: &str| assert!(frame.iter().any(|l| l == line), "{line}\n{}", frame.join("\n"));
    shown("sandmill demo   00:00:12, Ctrl-C to end");
    shown("appended        0 events/s          0 total  0 tenants");
    shown("plane-log                     20,000           0   paused by ada");
    shown("cart-summary, lane t0: blocked: trap: out of bounds");
    shown("and 2 more lanes behind");
    let last: Vec<&str> = frame.iter().rev().take(2).map(String::as_str).collect();
    assert_eq!(last, ["the database does not answer; retrying: connection refused", "WARN a line"]);
}

#[test]
fn a_frame_fits_its_canvas() {
    let mut scene = scene();
    scene.log = vec!["\x1b[33m WARN\x1b[0m a long line ".repeat(20)];
    for (width, height) in [(80, 24), (40, 10), (20, 3), (1, 1), (100, 0)] {
        let frame = frame(&scene, &Canvas { width, height, is_coloured: true });
        assert!(frame.len() <= height, "{} lines on {height}", frame.len());
        for line in frame {
            assert!(measure_text_width(&line) <= width, "{line:?} on {width}");
            assert!(!line.contains("\x1b[") || line.ends_with("\x1b[0m") || !line.ends_with('m'), "{line:?}");
        }
    }
}

#[test]
fn a_long_log_line_takes_a_few_rows() {
    let scene = Scene {
        log: vec!["\x1b[2m\x1b[0m \x1b[31mERROR\x1b[0m rejected: ".to_owned() + &"because ".repeat(40)],
        ..scene()
    };
    let shown = frame(&scene, &Canvas { is_coloured: true, ..PLAIN });
    let rows = &shown[shown.len() - 3..];
    assert!(rows[0].starts_with("\x1b[33mERROR rejected: because"), "{rows:?}");
    assert!(rows.iter().all(|row| measure_text_width(row) == 100), "{rows:?}");
}

#[test]
fn no_colour_means_no_escape_codes() {
    let plain = frame(&scene(), &PLAIN);
    assert!(plain.iter().all(|line| !line.contains('\x1b')));
    let coloured = frame(&scene(), &Canvas { is_coloured: true, ..PLAIN });
    assert!(coloured.iter().any(|line| line.contains('\x1b')));
    let bare: Vec<_> = coloured.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect();
    assert_eq!(bare, plain);
}

#[test]
fn a_plain_line_summarizes_the_scene() {
    let mut scene = scene();
    scene.processors[1].lanes = vec![LaneLine { name: "t".into(), state: "blocked".into(), reason: String::new() }];
    scene.processors[1].lanes_behind = 1;
    assert_eq!(
        line(&scene),
        "12 s: 4,296 appended, 358/s; cart-summary has handled 4,290 and is 6 events, 4 ms behind; \
         plane-log has handled 20,000 and is up to date with 1 lane behind; busiest megamart 300/s"
    );
}

#[test]
fn numbers_and_times_are_rounded_for_reading() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    assert_eq!([0.0, 0.04, 2.25, 9.96, 1234.5].map(number), ["0", "0.0", "2.2", "10", "1,235"]);
    assert_eq!([0.004, 0.999, 1.0, 99.0, 150.0].map(age), ["4 ms", "999 ms", "1.0 s", "99.0 s", "2 min"]);
    assert_eq!([0.0, 0.001, 0.5, 1.0].map(|part| bar(part, 3)), ["", "▏", "█▌", "███"]);
}
