//! Times operators type and read (`spec/cli.md §1.6`).

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::failure::{Outcome, failed};

/// A moment and the offset it was written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    at: Timestamp,
    offset: Offset,
}

impl Scheduled {
    /// `2030-01-01T12:00:00+00:00`, with six digits of fraction if there is any.
    pub fn iso(&self) -> String {
        self.render('T')
    }

    /// The same with a blank.
    pub fn readable(&self) -> String {
        self.render(' ')
    }

    fn render(&self, separator: char) -> String {
        let local = self.offset.to_datetime(self.at);
        let micros = local.subsec_nanosecond() / 1000;
        let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
        let seconds = self.offset.seconds();
        let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
        format!(
            "{}{separator}{:02}:{:02}:{:02}{fraction}{sign}{:02}:{:02}",
            local.date(),
            local.hour(),
            local.minute(),
            local.second(),
            minutes / 60,
            minutes % 60
        )
    }
}

/// `None`: now.
pub fn parse_scheduled(text: &str) -> Outcome<Option<Scheduled>> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.eq_ignore_ascii_case("now") {
        return Ok(None);
    }
    match parse(trimmed, &Zoned::now()) {
        Some(scheduled) => Ok(Some(scheduled)),
        None => failed(format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        )),
    }
}

/// How far back to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So many seconds, as the clock of each member counts them.
    Ago(u32),
    At(Timestamp),
}

impl Since {
    /// On this machine's clock, in Unix milliseconds.
    pub fn unix_ms(self) -> i64 {
        match self {
            Since::Ago(seconds) => Timestamp::now().as_millisecond() - i64::from(seconds) * 1000,
            Since::At(at) => at.as_millisecond(),
        }
    }

    /// As the REST API takes it.
    pub fn parameter(self) -> String {
        match self {
            Since::Ago(seconds) => format!("{seconds}s"),
            Since::At(at) => at.to_string(),
        }
    }
}

/// `90s`, `10m`, `2h`, `1d`, `1h30m`, or a time as for schedules.
pub fn parse_since(text: &str) -> Outcome<Since> {
    let trimmed = text.trim();
    if let Some(seconds) = parse_duration(trimmed) {
        return Ok(Since::Ago(seconds));
    }
    // As a time, `10` would be ten o'clock, and whoever writes it means something else.
    let bare = trimmed.len() < 8 && trimmed.bytes().all(|b| b.is_ascii_digit());
    match parse(trimmed, &Zoned::now()).filter(|_| !bare) {
        Some(scheduled) => Ok(Since::At(scheduled.at)),
        None => failed(format!(
            "{text:?} is neither a duration (90s, 10m, 2h, 1d) nor a time (2026-10-01T12:00:00+02:00, 12:00)"
        )),
    }
}

fn parse_duration(text: &str) -> Option<u32> {
    let (mut total, mut number) = (0_u32, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u32>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    (number.is_empty() && !text.is_empty()).then_some(total)
}

/// Local time to the millisecond, of Unix milliseconds.
pub fn local(unix_ms: i64) -> String {
    match Timestamp::from_millisecond(unix_ms) {
        Ok(at) => {
            let at = at.to_zoned(TimeZone::system());
            format!("{}.{:03}", at.strftime("%Y-%m-%d %H:%M:%S"), at.millisecond())
        }
        Err(_) => format!("{unix_ms} ms"),
    }
}

fn parse(text: &str, now: &Zoned) -> Option<Scheduled> {
    let (local, offset) = split_offset(text);
    let civil = civil(local.trim(), now.date())?;
    let offset = match offset {
        Some(text) => parse_offset(text)?,
        None => now.time_zone().to_ambiguous_zoned(civil).compatible().ok()?.offset(),
    };
    Some(Scheduled { at: offset.to_timestamp(civil).ok()?, offset })
}

/// The offset begins at a sign or `Z` behind a time of day.
fn split_offset(text: &str) -> (&str, Option<&str>) {
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return (local, Some("Z"));
    }
    let time_from = text.find(['T', 't', ' ', ':']).unwrap_or(text.len());
    match text[time_from..].rfind(['+', '-']) {
        Some(at) => (&text[..time_from + at], Some(&text[time_from + at..])),
        None => (text, None),
    }
}

fn parse_offset(text: &str) -> Option<Offset> {
    if text == "Z" {
        return Some(Offset::UTC);
    }
    let (sign, digits) = text.split_at(1);
    let (hours, minutes) = match digits.split_once(':') {
        Some((h, m)) if m.len() == 2 => (h, m),
        None if digits.len() == 4 => digits.split_at(2),
        None => (digits, "0"),
        Some(_) => return None,
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 15 || minutes > 59 {
        return None;
    }
    let seconds = (hours * 60 + minutes) * 60;
    Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).ok()
}

fn civil(text: &str, today: Date) -> Option<DateTime> {
    let text = text.replacen(['t', ' '], "T", 1);
    let zoneless = text.parse::<DateTime>().ok().or_else(|| Some(today.to_datetime(text.parse::<Time>().ok()?)));
    zoneless.or_else(|| text.parse::<Date>().ok().map(|date| date.to_datetime(Time::midnight())))
}

/// In messages: local time with five digits of fraction.
pub fn stamp() -> String {
    let now = Zoned::now();
    format!("{}.{:05}", now.strftime("%Y-%m-%d %H:%M:%S"), now.subsec_nanosecond() / 10_000)
}

pub fn stamp_seconds() -> String {
    Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The example in questions for a time: an hour from now.
pub fn example() -> String {
    let now = Timestamp::now().to_zoned(TimeZone::system());
    let later = now.checked_add(jiff::SignedDuration::from_hours(1)).unwrap_or(now);
    later.strftime("%Y-%m-%dT%H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_back() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400)] {
            assert_eq!(parse_since(text).unwrap(), Since::Ago(seconds), "{text}");
        }
        let at = parse_since("2026-07-24T10:00:00Z").unwrap();
        assert_eq!((at.parameter().as_str(), at.unix_ms()), ("2026-07-24T10:00:00Z", 1_784_887_200_000));
        for bad in ["", "10", "m", "10x", "-5m", "99999999999s", "yesterday"] {
            assert!(parse_since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_as_people_write_them() {
        let now: Zoned = "2026-07-24T08:30:00+02:00[+02:00]".parse().unwrap();
        for (text, iso) in [
            ("2026-07-24 10:00:05.123456+00:00", "2026-07-24T10:00:05.123456+00:00"),
            ("2030-01-01T12:00", "2030-01-01T12:00:00+02:00"),
            ("2030-01-01 12:00:00Z", "2030-01-01T12:00:00+00:00"),
            ("2030-01-01T12:00-3", "2030-01-01T12:00:00-03:00"),
            ("2030-01-01T12:00+0530", "2030-01-01T12:00:00+05:30"),
            ("2030-01-01T12:00+05", "2030-01-01T12:00:00+05:00"),
            ("20300101T101010Z", "2030-01-01T10:10:10+00:00"),
            ("2030-01-01", "2030-01-01T00:00:00+02:00"),
            ("10:15", "2026-07-24T10:15:00+02:00"),
            ("10:15:30-01:00", "2026-07-24T10:15:30-01:00"),
        ] {
            assert_eq!(parse(text, &now).map(|s| s.iso()).as_deref(), Some(iso), "{text}");
        }
        for bad in ["tomorrow", "2030-13-01", "2030-01-01T25:00", "10:15+99", "1"] {
            assert_eq!(parse(bad, &now), None, "{bad}");
        }
        assert!(matches!(parse_scheduled(" Now "), Ok(None)));
    }
}
