//! The header `Retry-After`: seconds, or a date of HTTP. Pure.

use std::time::{Duration, SystemTime};

/// The longest delay that a receiver may ask for. 1 h: a mistake in its clock or its settings must
/// not silence a lane for days.
const LONGEST: Duration = Duration::from_secs(3_600);

/// The delay that a header asks for, at most an hour. A date in the past is no delay. None if the
/// header is neither seconds nor a date.
pub(super) fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large for the type is too long a delay in any case.
        return Some(value.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn seconds_and_dates_are_delays_of_at_most_an_hour() {
        // Thu, 01 Jan 1970 00:10:00 GMT.
        let now = UNIX_EPOCH + Duration::from_secs(600);
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 120 ", Some(120)),
            ("3601", Some(3_600)),
            ("99999999999999999999999999", Some(3_600)),
            ("Thu, 01 Jan 1970 00:10:30 GMT", Some(30)),
            ("Thursday, 01-Jan-70 00:10:30 GMT", Some(30)),
            ("Thu Jan  1 00:10:30 1970", Some(30)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Wed, 01 Jan 2200 00:00:00 GMT", Some(3_600)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("1970-01-01T00:10:30Z", None),
        ] {
            assert_eq!(parse(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
