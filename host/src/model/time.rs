//! Points in time as RFC 3339 text.
//!
//! PostgreSQL's parser accepts far more than that (`yesterday`, `infinity`, dates of several
//! countries), so users' input is parsed here, strictly. Years are 0000 to 9999, as in the
//! standard; digits after the microseconds are cut off.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;
const MICROS: i64 = 1_000_000;

/// Parses `2013-01-01T05:00:00Z`, with an optional fraction and any offset, to microseconds since
/// 1970.
pub fn parse(text: &str) -> Result<i64, String> {
    parse_parts(text.as_bytes())
        .ok_or_else(|| format!("{text:?} is not a time in the form of RFC 3339, such as 2013-01-01T05:00:00Z"))
}

/// Parses a time to microseconds since 1970; none if its form is invalid.
fn parse_parts(text: &[u8]) -> Option<i64> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b't' | b' ', h1, h2, b':', i1, i2, b':', s1, s2] =
        *date_time
    else {
        return None;
    };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?);
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[i1, i2])?, number(&[s1, s2])?);
    let last_day = match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    };
    // As in PostgreSQL, a leap second is the first second of the next minute.
    if !(1..=12).contains(&month) || !(1..=last_day).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, offset) = match rest {
        [b'.', digits @ ..] => {
            let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (digits, offset) = digits.split_at(count);
            if digits.is_empty() {
                return None;
            }
            let micros =
                digits.iter().chain(b"000000").take(6).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
            (micros, offset)
        }
        offset => (0, offset),
    };
    let offset = match *offset {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[h1, h2])?, number(&[m1, m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    let seconds = days_since_1970(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    Some(seconds * MICROS + fraction)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// Formats a time in UTC with milliseconds, `2013-01-01T05:00:00.000Z`. A year may have more than
/// four digits.
pub fn format(time: SystemTime) -> String {
    let millis = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros().div_ceil(1000)).unwrap_or(i64::MAX),
    };
    let (seconds, millis) = (millis.div_euclid(1000), millis.rem_euclid(1000));
    let (days, second_of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Formats a time in UTC like [`format()`], but with microseconds if milliseconds are not exact.
pub fn format_exactly(time: SystemTime) -> String {
    let micros = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.subsec_micros() % 1_000,
        Err(before) => (1_000 - before.duration().subsec_micros() % 1_000) % 1_000,
    };
    let mut text = format(time);
    if micros != 0 {
        text.insert_str(text.len() - 1, &format!("{micros:03}"));
    }
    text
}

/// The time at these microseconds since 1970.
pub fn from_micros(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

// Years are counted from March, so that the leap day is the last day of its year. They are grouped
// into eras of 400 years, which all have the same number of days.
const DAYS_OF_ERA: i64 = 146_097;
/// Days from the first of March of the year 0 to 1970.
const DAYS_BEFORE_1970: i64 = 719_468;

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_OF_ERA + day_of_era - DAYS_BEFORE_1970
}

fn date(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_parsed() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2013-01-01T05:00:00Z", 1_357_016_400),
            ("2013-01-01t07:00:00+02:00", 1_357_016_400),
            ("2012-12-31 19:30:00-09:30", 1_357_016_400),
            ("2000-02-29T23:59:60Z", 951_868_800),
            ("1969-12-31T23:59:59Z", -1),
            ("0000-03-01T00:00:00Z", -719_468 * DAY),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Ok(seconds * MICROS), "{text}");
        }
        assert_eq!(parse("1970-01-01T00:00:00.5Z"), Ok(500_000));
        assert_eq!(parse("1970-01-01T00:00:00.1234569Z"), Ok(123_456));
    }

    #[test]
    fn other_texts_are_rejected() {
        for text in [
            "",
            "now",
            "infinity",
            "2013-01-01",
            "2013-01-01T05:00:00",
            "2013-01-01T05:00Z",
            "2013-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2013-13-01T00:00:00Z",
            "2013-01-32T00:00:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T00:00:61Z",
            "2013-01-01T00:00:00.Z",
            "2013-01-01T00:00:00+0200",
            "2013-01-01T00:00:00+24:00",
            "2013-01-01T00:00:00Zz",
            "+013-01-01T00:00:00Z",
            "２013-01-01T00:00:00Z",
        ] {
            assert!(parse(text).unwrap_err().starts_with(&format!("{text:?} is not a time")), "{text}");
        }
    }

    #[test]
    fn formatted_times_are_parsed_back() {
        // Every 40,009,999.997 seconds from the year 0 to 9999 cover all months, leap years and
        // centuries.
        let (first, last) = (parse("0000-01-01T00:00:00Z").unwrap(), parse("9999-12-31T00:00:00Z").unwrap());
        for micros in (first..last).step_by(40_009_999_997_000) {
            assert_eq!(parse(&format(from_micros(micros))), Ok(micros));
        }
        for micros in [-1, -1_000, -999_001, 0, 1, 999, 1_000, 1_357_016_400_120_456] {
            assert_eq!(parse(&format_exactly(from_micros(micros))), Ok(micros));
        }
        assert_eq!(format_exactly(from_micros(-1)), "1969-12-31T23:59:59.999999Z");
        assert_eq!(format_exactly(from_micros(5_000)), "1970-01-01T00:00:00.005Z");
        assert_eq!(format(from_micros(-1)), "1969-12-31T23:59:59.999Z");
        assert_eq!(format(from_micros(1_357_016_400_987_654)), "2013-01-01T05:00:00.987Z");
    }
}
