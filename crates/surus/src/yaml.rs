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
            out.push_str(&flow(scalar));
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
        Value::String(s) => string(s),
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => {
            let pairs: Vec<_> = sorted(value).map(|(k, v)| format!("{}: {}", string(k), flow(v))).collect();
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
        let _ = write!(out, "{}:", string(key));
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
                let _ = writeln!(out, " {}", flow(scalar));
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
                let _ = writeln!(out, "{}", flow(scalar));
            }
        }
    }
}

fn string(text: &str) -> String {
    if text.chars().any(char::is_control) {
        // JSON's escapes are a subset of those of a double-quoted YAML scalar.
        Value::from(text).to_string()
    } else if is_plain(text) {
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
        && !text.contains([',', '[', ']', '{', '}'])
        && !looks_typed(text)
}

/// Whether YAML 1.1 reads the bare text as something other than a string.
fn looks_typed(text: &str) -> bool {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ".inf", "-.inf", "+.inf", ".nan"];
    let lower = text.to_lowercase();
    if words.contains(&lower.as_str()) && !["y", "n", "Y", "N"].contains(&text) {
        return true;
    }
    let digits = lower.trim_start_matches(['+', '-']);
    let starts_numeric = digits.starts_with(|c: char| c.is_ascii_digit())
        || digits.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // Numbers in every base, sexagesimal numbers, and dates; a few strings too many get quotes.
    let hexadecimal = digits.starts_with("0x");
    starts_numeric
        && digits.chars().all(|c| {
            c.is_ascii_digit()
                || "_.:+-et z".contains(c)
                || (hexadecimal && (c.is_ascii_hexdigit() || c == 'x'))
                || c == 'b'
        })
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
        let text = "f: 1.5\nnested:\n- - 1\n  - 2\n- a: []\n  b: 1\nnone: null\npostgresql:\n  parameters:\n    a.b: 'x, y'\n    hot_standby: 'on'\n    wal_level: replica\n  pg_hba:\n  - host all all 0.0.0.0/0 md5\n  - local all all trust\n  use_slots: true\nslots: {}\nttl: 30\n";
        assert_eq!(block(&value), text);
        assert_eq!(block(&json!({})), "{}\n");
    }

    #[test]
    fn what_is_quoted() {
        for plain in ["a", "128MB", "md5", "y", "/var/lib", "cp %p /x/%f", "a-b", "-a", "host:1", "é", "p@q", "10min"]
        {
            assert_eq!(string(plain), plain);
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
            "2030-01-01",
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
            assert_eq!(string(quoted), format!("'{quoted}'"));
        }
        assert_eq!(string("it's: x"), "'it''s: x'");
        assert_eq!(string("a\nb"), "\"a\\nb\"");
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
        ] {
            let value = json!({"k": text, "l": [text, {"m": text}]});
            let back: Value = serde_saphyr::from_str(&block(&value)).unwrap();
            assert_eq!(back, value, "{text}");
            let back: Value = serde_saphyr::from_str(&flow(&value)).unwrap();
            assert_eq!(back, value, "{text}");
        }
    }
}
