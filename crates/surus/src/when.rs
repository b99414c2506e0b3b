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
