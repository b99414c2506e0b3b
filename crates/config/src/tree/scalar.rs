//! Plain scalars as YAML 1.1 and PyYAML read them (`spec/config.md §0`): `on` is true, `0644` is 420, `1:30` is 90,
//! `1e3` is text. Operators' files were written against these rules.

use serde_json::Number;

use super::NodeValue;

/// Dates stay text: nothing in a configuration is one.
pub(crate) fn resolve(text: &str) -> NodeValue {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return NodeValue::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return NodeValue::Bool(false),
        _ => {}
    }
    let number = integer(text).map(Number::from).or_else(|| float(text).and_then(Number::from_f64));
    number.map_or_else(|| NodeValue::Text(text.to_owned()), NodeValue::Number)
}

fn integer(text: &str) -> Option<i64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !body.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = |body: &str, radix: u32| -> Option<i64> {
        let bare: String = body.chars().filter(|c| *c != '_').collect();
        if bare.starts_with(['+', '-']) { None } else { i64::from_str_radix(&bare, radix).ok() }
    };
    let magnitude = if let Some(binary) = body.strip_prefix("0b") {
        digits(binary, 2)?
    } else if let Some(hex) = body.strip_prefix("0x") {
        digits(hex, 16)?
    } else if body == "0" {
        0
    } else if let Some(octal) = body.strip_prefix('0') {
        if octal.contains(|c: char| !matches!(c, '0'..='7' | '_')) {
            return None;
        }
        digits(octal, 8)?
    } else if body.contains(':') {
        sexagesimal(body)?
    } else if body.chars().all(|c| c.is_ascii_digit() || c == '_') {
        digits(body, 10)?
    } else {
        return None;
    };
    Some(if negative { -magnitude } else { magnitude })
}

fn sexagesimal(body: &str) -> Option<i64> {
    let mut parts = body.split(':');
    let first: String = parts.next()?.chars().filter(|c| *c != '_').collect();
    let mut total: i64 = first.parse().ok()?;
    for part in parts {
        let ok = matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
        total = total.checked_mul(60)?.checked_add(part.parse().ok().filter(|_| ok)?)?;
    }
    Some(total)
}

/// Only with a point, and an exponent only with a sign.
fn float(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(i) => (&body[..i], Some(&body[i + 1..])),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit() || c == '_');
    let starts = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
    let signed = body.len() != text.len();
    let shape =
        digits(whole) && digits(fraction) && (starts(whole) || (whole.is_empty() && starts(fraction) && !signed));
    let exponent_ok = exponent.is_none_or(|e| {
        e.strip_prefix(['-', '+']).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_digit()))
    });
    (shape && exponent_ok).then(|| text.replace('_', "").parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_as_pyyaml_reads_them() {
        let int = |i: i64| NodeValue::Number(i.into());
        let text = |s: &str| NodeValue::Text(s.to_owned());
        let real = |f: f64| NodeValue::Number(Number::from_f64(f).unwrap());
        for (written, expected) in [
            ("on", NodeValue::Bool(true)),
            ("Off", NodeValue::Bool(false)),
            ("YES", NodeValue::Bool(true)),
            ("oN", text("oN")),
            ("y", text("y")),
            ("n", text("n")),
            ("~", NodeValue::Null),
            ("", NodeValue::Null),
            ("0644", int(420)),
            ("08", text("08")),
            ("0x1F", int(31)),
            ("0b101", int(5)),
            ("1_000", int(1000)),
            ("+5", int(5)),
            ("-17", int(-17)),
            ("-", text("-")),
            ("1:30", int(90)),
            ("1:30:00", int(5400)),
            ("1:75", text("1:75")),
            ("127.0.0.1:5432", text("127.0.0.1:5432")),
            ("1e3", text("1e3")),
            ("1.5e+3", real(1500.0)),
            ("1.5e3", text("1.5e3")),
            ("1.", real(1.0)),
            (".5", real(0.5)),
            (".", text(".")),
            ("0.0.0.0", text("0.0.0.0")),
            ("2024-01-01", text("2024-01-01")),
            ("99999999999999999999", text("99999999999999999999")),
            ("8kB", text("8kB")),
        ] {
            assert_eq!(resolve(written), expected, "{written}");
        }
    }
}
