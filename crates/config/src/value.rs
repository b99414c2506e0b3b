//! Values as people and PostgreSQL write them (`spec/config.md §0`).

/// The base unit a number is wanted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Milliseconds,
    Seconds,
    Minutes,
}

/// Units of one kind from large to small, in multiples of the smallest.
const MEMORY: &[(&str, f64)] =
    &[("TB", 1_099_511_627_776.0), ("GB", 1_073_741_824.0), ("MB", 1_048_576.0), ("kB", 1024.0), ("B", 1.0)];
const TIME: &[(&str, f64)] = &[
    ("d", 86_400_000_000.0),
    ("h", 3_600_000_000.0),
    ("min", 60_000_000.0),
    ("s", 1_000_000.0),
    ("ms", 1000.0),
    ("us", 1.0),
];

pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Without a unit; `0x1f`, `010` (octal) and `1e3` are numbers.
pub fn parse_int(text: &str) -> Option<i64> {
    let (number, rest) = number_prefix(text)?;
    if rest.is_empty() { whole(number) } else { None }
}

/// Bytes; `8kB` and the like are understood.
pub fn parse_bytes(text: &str) -> Option<i64> {
    parse_with_unit(text, MEMORY, 1.0)
}

/// `base_bytes` is the unit meant when none is written: `parse_memory("1GB", 1 << 20)` is 1024.
pub(crate) fn parse_megabytes(text: &str) -> Option<i64> {
    parse_with_unit(text, MEMORY, 1_048_576.0)
}

/// In `base`; a unit may follow the number, `base` is meant without one.
pub fn parse_time(text: &str, base: TimeUnit) -> Option<i64> {
    let base = match base {
        TimeUnit::Milliseconds => 1000.0,
        TimeUnit::Seconds => 1_000_000.0,
        TimeUnit::Minutes => 60_000_000.0,
    };
    parse_with_unit(text, TIME, base)
}

fn parse_with_unit(text: &str, units: &[(&str, f64)], base: f64) -> Option<i64> {
    let (number, unit) = number_prefix(text)?;
    if unit.is_empty() {
        return whole(number);
    }
    let index = units.iter().position(|(name, _)| *name == unit)?;
    let factor = units[index].1;
    let mut amount = number * factor;
    // PostgreSQL first rounds a fraction to a multiple of the next smaller unit.
    if number.fract() != 0.0
        && let Some((_, smaller)) = units.get(index + 1)
    {
        amount = (amount / smaller).round_ties_even() * smaller;
    }
    whole(amount / base)
}

fn whole(number: f64) -> Option<i64> {
    let rounded = number.round_ties_even();
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked, and all values below 2^53 are exact")]
    (rounded.is_finite() && rounded.abs() < 9.0e18).then_some(rounded as i64)
}

/// The number a text begins with, as C's `strtol` with base 0 and then `strtod` see it, and the trimmed remainder.
fn number_prefix(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let (sign, body) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let hex = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X"));
    if let Some(hex) = hex.filter(|h| h.starts_with(|c: char| c.is_ascii_hexdigit())) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        return Some((sign * radix(&hex[..end], 16)?, hex[end..].trim()));
    }
    let digits = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    let rest = &body[digits..];
    if rest.starts_with('.') || (digits > 0 && rest.starts_with(['e', 'E'])) {
        let end = float_end(body);
        return Some((sign * body[..end].parse::<f64>().ok()?, body[end..].trim()));
    }
    if digits == 0 {
        return None;
    }
    if body.starts_with('0') && digits > 1 {
        let end = body[..digits].find(['8', '9']).unwrap_or(digits);
        return Some((sign * radix(&body[..end], 8)?, body[end..].trim()));
    }
    Some((sign * body[..digits].parse::<f64>().ok()?, rest.trim()))
}

fn radix(digits: &str, radix: u32) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "sizes and times stay far below 2^53")]
    i64::from_str_radix(digits, radix).ok().map(|n| n as f64)
}

/// Where the longest prefix ends that is a decimal number with fraction or exponent.
fn float_end(body: &str) -> usize {
    let digits = |from: usize| body[from..].find(|c: char| !c.is_ascii_digit()).map_or(body.len(), |n| from + n);
    let mut end = digits(0);
    if body[end..].starts_with('.') {
        end = digits(end + 1);
    }
    if body[end..].starts_with(['e', 'E']) {
        let sign = usize::from(body[end + 1..].starts_with(['+', '-']));
        let after = digits(end + 1 + sign);
        if after > end + 1 + sign {
            end = after;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for (text, expected) in [
            ("on", Some(true)),
            ("TRUE", Some(true)),
            ("Yes", Some(true)),
            ("1", Some(true)),
            ("off", Some(false)),
            ("0", Some(false)),
            ("no", Some(false)),
            ("2", None),
            ("", None),
            ("y", None),
        ] {
            assert_eq!(parse_bool(text), expected, "{text}");
        }
    }

    #[test]
    fn integers() {
        for (text, expected) in [
            ("10", Some(10)),
            (" -10 ", Some(-10)),
            ("+3", Some(3)),
            ("0x1f", Some(31)),
            ("010", Some(8)),
            ("08", None),
            ("1.5", Some(2)),
            ("2.5", Some(2)),
            ("1e3", Some(1000)),
            (".6", Some(1)),
            ("10s", None),
            ("abc", None),
            ("", None),
            ("-", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_int(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes_and_times() {
        for (text, expected) in [
            ("8kB", Some(8192)),
            ("1 MB", Some(1_048_576)),
            ("1.5kB", Some(1536)),
            ("1mb", None),
            ("1KB", None),
            ("10s", None),
            ("7", Some(7)),
        ] {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
        assert_eq!(parse_megabytes("1GB"), Some(1024));
        assert_eq!(parse_megabytes("128MB"), Some(128));
        assert_eq!(parse_megabytes("16"), Some(16));
        for (text, base, expected) in [
            ("30min", TimeUnit::Seconds, Some(1800)),
            ("90", TimeUnit::Seconds, Some(90)),
            ("1d", TimeUnit::Minutes, Some(1440)),
            ("500ms", TimeUnit::Seconds, Some(0)),
            ("1500ms", TimeUnit::Seconds, Some(2)),
            ("0.5s", TimeUnit::Milliseconds, Some(500)),
            ("1MIN", TimeUnit::Seconds, None),
            ("1 GB", TimeUnit::Seconds, None),
        ] {
            assert_eq!(parse_time(text, base), expected, "{text}");
        }
    }
}
