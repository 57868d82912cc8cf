//! The option `--since`: a time, or a duration before now.

use std::time::{Duration, SystemTime};

use crate::model::time;

/// The longest duration: a hundred years.
const LONGEST: u64 = 100 * 366 * 86_400;

/// Parses the option.
pub(super) fn parse(text: &str) -> Result<SystemTime, String> {
    parse_before(text, SystemTime::now())
}

fn parse_before(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => {
            let time = time::parse(text).map(time::from_micros);
            return time.map_err(|error| format!("{error}, and not a duration such as 90s, 30min, 2h or 7d"));
        }
    };
    let seconds = number.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    let seconds = seconds.filter(|seconds| *seconds <= LONGEST);
    let time = seconds.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds)));
    time.ok_or_else(|| format!("{text:?} is not a duration of at most a hundred years, such as 2h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_duration_before_now() {
        let now = time::from_micros(time::parse("2026-01-02T03:04:05Z").unwrap());
        for (text, time) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("5s", "2026-01-02T03:04:00Z"),
            ("4m", "2026-01-02T03:00:05Z"),
            ("4min", "2026-01-02T03:00:05Z"),
            ("2h", "2026-01-02T01:04:05Z"),
            ("7d", "2025-12-26T03:04:05Z"),
        ] {
            assert_eq!(parse_before(text, now), Ok(time::from_micros(time::parse(time).unwrap())), "{text}");
        }
        for text in ["", "h", "2", "-2h", "2 h", "yesterday", "99999999999d", "999999999999999999999s"] {
            assert!(parse_before(text, now).unwrap_err().starts_with(&format!("{text:?} is not a")), "{text}");
        }
    }
}
