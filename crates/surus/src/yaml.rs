//! YAML the way peers show configuration: block style, keys sorted, two blanks, lists not indented
//! below their key. Strings are quoted where a YAML 1.1 reader would take them for something else.

use std::fmt::Write;

use serde_json::Value;

/// Ends with a newline.
pub fn block(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, value, 0, false),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0, false),
        scalar => {
            out.push_str(&scalar_of(scalar));
            out.push('\n');
        }
    }
    out
}

/// One line: `{a: 1, b: c}`.
pub fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => string(s, true),
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => {
            let pairs: Vec<_> = sorted(value).map(|(k, v)| format!("{}: {}", string(k, true), flow(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn sorted(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let mut pairs: Vec<_> = value.as_object().into_iter().flatten().collect();
    pairs.sort_by_key(|(k, _)| *k);
    pairs.into_iter()
}

/// `continues`: the first line stands after a `- ` that is already written.
fn mapping(out: &mut String, value: &Value, indent: usize, mut continues: bool) {
    for (key, value) in sorted(value) {
        if !std::mem::take(&mut continues) {
            out.push_str(&" ".repeat(indent));
        }
        let _ = write!(out, "{}:", string(key, false));
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                mapping(out, value, indent + 2, false);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                sequence(out, list, indent, false);
            }
            scalar => {
                let _ = writeln!(out, " {}", scalar_of(scalar));
            }
        }
    }
}

fn sequence(out: &mut String, list: &[Value], indent: usize, mut continues: bool) {
    for value in list {
        if !std::mem::take(&mut continues) {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str("- ");
        match value {
            Value::Object(map) if !map.is_empty() => mapping(out, value, indent + 2, true),
            Value::Array(list) if !list.is_empty() => sequence(out, list, indent + 2, true),
            scalar => {
                let _ = writeln!(out, "{}", scalar_of(scalar));
            }
        }
    }
}

/// In a block commas and brackets are no syntax.
fn scalar_of(value: &Value) -> String {
    match value {
        Value::String(s) => string(s, false),
        other => flow(other),
    }
}

fn string(text: &str, in_flow: bool) -> String {
    if text.chars().any(char::is_control) {
        // JSON's escapes are a subset of those of a double-quoted YAML scalar.
        Value::from(text).to_string()
    } else if is_plain(text) && !(in_flow && text.contains([',', '[', ']', '{', '}', '?', ':'])) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let indicator = "-?:,[]{}#&*!|>'\"%@`=<~".contains(first) && {
        let next = text.chars().nth(1);
        !("-?:".contains(first) && next.is_some_and(|c| c != ' ' && !",[]{}".contains(c)) && text != "---")
    };
    !indicator
        && first != ' '
        && !text.ends_with(' ')
        && !text.ends_with(':')
        && !text.contains(": ")
        && !text.contains(" #")
        && !looks_typed(text)
}

/// Whether a reader of YAML 1.1 or 1.2 takes the bare text for something other than a string.
fn looks_typed(text: &str) -> bool {
    let words = ["yes", "no", "on", "off", "true", "false", "null", "~", ".inf", "-.inf", "+.inf", ".nan"];
    let lower = text.to_lowercase();
    words.contains(&lower.as_str()) || is_number(lower.trim_start_matches(['+', '-'])) || is_date(text)
}

/// In any base, with a fraction and an exponent, or sexagesimal; without its sign.
fn is_number(text: &str) -> bool {
    for (prefix, digits) in [("0x", "0123456789abcdef_"), ("0o", "01234567_"), ("0b", "01_")] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return rest.chars().all(|c| digits.contains(c));
        }
    }
    let mantissa = match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent = exponent.trim_start_matches(['+', '-']);
            if exponent.is_empty() || !exponent.bytes().all(|b| b.is_ascii_digit()) {
                return false;
            }
            mantissa
        }
        None => text,
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let sixty = |part: &str| (1..=2).contains(&part.len()) && part.parse::<u8>().is_ok_and(|n| n < 60);
    let some = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    digits(first) && digits(fraction) && (some(first) || (first.is_empty() && some(fraction))) && parts.all(sixty)
}

/// `2030-01-01`, and whatever follows: a time of day makes it a timestamp.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, most: usize| {
        part.is_some_and(|p| (1..=most).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    digits(parts.next(), 4)
        && digits(parts.next(), 2)
        && parts.next().is_some_and(|day| day.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks() {
        let value = json!({
            "ttl": 30, "postgresql": {"use_slots": true, "parameters": {"wal_level": "replica", "hot_standby": "on", "a.b": "x, y"}, "pg_hba": ["host all all 0.0.0.0/0 md5", "local all all trust"]},
            "slots": {}, "none": null, "nested": [[1, 2], {"a": [], "b": 1}], "f": 1.5
        });
        let text = "f: 1.5\nnested:\n- - 1\n  - 2\n- a: []\n  b: 1\nnone: null\npostgresql:\n  parameters:\n    a.b: x, y\n    hot_standby: 'on'\n    wal_level: replica\n  pg_hba:\n  - host all all 0.0.0.0/0 md5\n  - local all all trust\n  use_slots: true\nslots: {}\nttl: 30\n";
        assert_eq!(block(&value), text);
        assert_eq!(block(&json!({})), "{}\n");
    }

    #[test]
    fn what_is_quoted() {
        for plain in [
            "a",
            "128MB",
            "md5",
            "y",
            "/var/lib",
            "cp %p /x/%f",
            "a-b",
            "-a",
            "host:1",
            "é",
            "p@q",
            "10min",
            "127.0.0.1:5432",
            "1:70",
            "1.2.3",
            "10.0.0.0/8",
            "1,2",
            "a]",
            "::1",
        ] {
            assert_eq!(string(plain, false), plain);
        }
        for quoted in [
            "",
            "on",
            "No",
            "1",
            "1.5",
            "0x1f",
            "1e3",
            "12:30",
            "190:20:30",
            "12:30:45.1",
            "0b11",
            "1_000",
            ".5",
            "1.",
            "2030-01-01",
            "2030-01-01T10:00:00Z",
            "- a",
            "a: b",
            "a #b",
            " a",
            "a ",
            "#a",
            "*a",
            "null",
            "%a",
            "@a",
            "{a}",
            "a:",
            "---",
            "+1",
        ] {
            assert_eq!(string(quoted, false), format!("'{quoted}'"));
        }
        assert_eq!(string("it's: x", false), "'it''s: x'");
        assert_eq!(string("a\nb", false), "\"a\\nb\"");
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        for text in [
            "on",
            "a\tb",
            "12:30",
            "0644",
            "1_000",
            "~",
            "é\u{1F418}",
            "'",
            "\"",
            "a'b",
            "!x",
            "x: y",
            "null",
            "=",
            "<<",
            "127.0.0.1:5432",
            "1:70",
            "1,2",
            "a]",
            "a:b",
            "12:30:45.1",
            "2030-1-1",
            "0o17",
            "08",
            "1e3",
            "y",
            "n",
            "Y",
            "N",
            "on",
            "oN",
        ] {
            let value = json!({"k": text, "l": [text, {"m": text}]});
            let back = surus_config::read_yaml("it", &block(&value)).unwrap();
            assert_eq!(back, value, "{text}");
            let back = surus_config::read_yaml("it", &flow(&value)).unwrap();
            assert_eq!(back, value, "{text}");
        }
    }
}
