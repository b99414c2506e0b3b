//! When a scheduled action is to happen (`spec/rest-api.md §8.1`).

use axum::http::StatusCode;
use jiff::Timestamp;
use jiff::civil;
use jiff::fmt::temporal::Pieces;
use jiff::tz::Offset;
use serde_json::Value;

use super::respond::Refusal;

/// The time as it is stored: ISO 8601 with the offset that was given.
pub fn parse(value: &Value, action: &str, now: Timestamp) -> Result<String, Refusal> {
    let refuse = |code, message: String| Err(Refusal::new(code, message));
    let given = match value {
        Value::String(given) => understand(given, now),
        _ => Given::Nonsense,
    };
    match given {
        Given::At(at, _) if at < now => {
            refuse(StatusCode::UNPROCESSABLE_ENTITY, format!("Cannot schedule {action} in the past"))
        }
        Given::At(at, offset) => Ok(at.display_with_offset(offset).to_string()),
        Given::NoZone => {
            refuse(StatusCode::BAD_REQUEST, format!("Timezone information is mandatory for the scheduled {action}"))
        }
        Given::Nonsense => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601".into(),
        ),
    }
}

enum Given {
    At(Timestamp, Offset),
    NoZone,
    Nonsense,
}

fn understand(given: &str, now: Timestamp) -> Given {
    let given = given.trim();
    let internet = given;
    let given = &spelt_out(given);
    // A time alone means today. The library reads a date and time with an offset as a civil time, too,
    // and drops the offset: only the pieces tell whether there was one.
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let dated = format!("{today}T{}", given.trim_start_matches(['T', 't']));
    let pieces = Pieces::parse(given).ok().filter(|p| p.time().is_some()).or_else(|| Pieces::parse(&dated).ok());
    let Some(pieces) = pieces else { return rfc2822(internet) };
    let time = civil::DateTime::from_parts(pieces.date(), pieces.time().unwrap_or_default());
    if let Some(offset) = pieces.to_numeric_offset() {
        return offset.to_timestamp(time).map_or(Given::Nonsense, |at| Given::At(at, offset));
    }
    match pieces.to_time_zone() {
        Ok(Some(zone)) => match zone.to_ambiguous_zoned(time).unambiguous() {
            Ok(at) => Given::At(at.timestamp(), at.offset()),
            Err(_) => Given::Nonsense,
        },
        Ok(None) => Given::NoZone,
        Err(_) => Given::Nonsense,
    }
}

/// The forms of a zone that people write and the library does not read: `UTC`, and hours of one digit, `+2`.
fn spelt_out(given: &str) -> String {
    if let Some(time) = given.strip_suffix("UTC").or_else(|| given.strip_suffix("GMT")) {
        return format!("{}Z", time.trim_end());
    }
    let split = given.len().saturating_sub(2);
    match (given.get(..split), given.get(split..).map(str::as_bytes)) {
        // A time before it, so that this is no part of a date.
        (Some(time), Some([sign @ (b'+' | b'-'), hour])) if hour.is_ascii_digit() && time.contains(':') => {
            format!("{time}{}0{}", char::from(*sign), char::from(*hour))
        }
        _ => given.to_owned(),
    }
}

fn rfc2822(given: &str) -> Given {
    match jiff::fmt::rfc2822::parse(given) {
        Ok(at) => Given::At(at.timestamp(), at.offset()),
        Err(_) => Given::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_schedule() {
        let now: Timestamp = "2026-10-01T12:00:00Z".parse().unwrap();
        for (given, want) in [
            ("2026-10-01T14:30:00+02:00", Ok("2026-10-01T14:30:00+02:00")),
            ("2026-10-01 14:30+02", Ok("2026-10-01T14:30:00+02:00")),
            ("2026-10-01T14:30:00.5+0200", Ok("2026-10-01T14:30:00.5+02:00")),
            ("2026-10-01T14:30:00Z", Ok("2026-10-01T14:30:00+00:00")),
            ("2026-10-02T00:00:00-03:30", Ok("2026-10-02T00:00:00-03:30")),
            ("2026-10-01T14:30:00-3", Ok("2026-10-01T14:30:00-03:00")),
            ("2026-10-01 14:30 UTC", Ok("2026-10-01T14:30:00+00:00")),
            ("14:30+00:00", Ok("2026-10-01T14:30:00+00:00")),
            ("Thu, 1 Oct 2026 14:30:00 GMT", Ok("2026-10-01T14:30:00+00:00")),
            ("Thu, 1 Oct 2026 14:30:00 +0200", Ok("2026-10-01T14:30:00+02:00")),
            ("2026-10-01T14:30:00", Err(400)),
            ("14:30", Err(400)),
            ("2026-10-01T13:30:00+02:00", Err(422)),
            ("2025-10-01T14:30:00+02:00", Err(422)),
            ("tomorrow", Err(422)),
            ("", Err(422)),
        ] {
            let got = parse(&given.into(), "switchover", now).map_err(|r| r.parts().0);
            assert_eq!(got.as_deref().map_err(|e| *e), want, "{given}");
        }
        assert_eq!(parse(&Value::from(5), "restart", now).unwrap_err().parts().0, 422);
    }
}
