//! The tables of settings as a JSON schema, for editors.
//!
//! It is a little more generous than reading: what depends on several values, or on the machine, only `surus check`
//! finds. Nothing is required, because every such key may come from the environment or from another file.

use serde_json::{Map, Value, json};

use crate::definition::{Counts, DYNAMIC, Default, Key, Kind, METHOD, Only, Others, ROOT, Word};
use crate::parse_bool;

/// Of a member's file. `#/definitions/dynamic` is that of the stored document.
pub fn schema() -> Value {
    let mut root = section(ROOT, Others::Unknown, Only::Stored);
    let head = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of a member (patroni.yml)",
        "definitions": {"dynamic": section(DYNAMIC, Others::Unknown, Only::File)},
    });
    if let (Value::Object(head), Value::Object(root)) = (head, &mut root) {
        let body = std::mem::replace(root, head);
        root.extend(body);
    }
    root
}

/// `without`: keys that do not count in this document.
fn section(keys: &'static [Key], others: Others, without: Only) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        // Older places of whole sections would double its length; as sections they pass for methods.
        .filter(|key| key.only != without && (!key.older || key.keys().is_empty()))
        .map(|key| (key.name.to_owned(), property(key, without)))
        .collect();
    let others = match others {
        Others::Unknown => json!(false),
        Others::Welcome => json!(true),
        Others::ReplicaMethods => section(METHOD, Others::Welcome, without),
        Others::BootstrapMethods => json!({"type": "object"}),
    };
    json!({"type": "object", "properties": properties, "additionalProperties": others})
}

fn property(key: &Key, without: Only) -> Value {
    let mut description = key.says.to_owned();
    if let Counts::Never(why) | Counts::Moot(why) = key.counts {
        description.push_str(&format!(". Has no effect: {why}"));
    }
    let mut out = Map::new();
    out.insert("description".to_owned(), description.into());
    if let Default::Is(text) = key.default {
        out.insert("default".to_owned(), default(&key.kind, text));
    }
    if key.older {
        out.insert("deprecated".to_owned(), true.into());
    }
    // An empty value is as good as none.
    let mut forms = forms(key, without);
    if !forms.is_empty() {
        forms.push(json!({"type": "null"}));
        out.insert("anyOf".to_owned(), forms.into());
    }
    Value::Object(out)
}

fn default(kind: &Kind, text: &str) -> Value {
    match kind {
        Kind::Bool | Kind::Switch => parse_bool(text).into(),
        Kind::Int { .. } | Kind::Seconds | Kind::WholeSeconds => serde_json::from_str(text).unwrap_or(Value::Null),
        Kind::TextsOrCsv => json!([text.trim_matches(['[', ']'])]),
        _ => text.into(),
    }
}

/// What a value may be; empty: anything.
fn forms(key: &Key, without: Only) -> Vec<Value> {
    let text = || json!({"type": ["string", "number", "boolean"]});
    let texts = || json!({"type": "array", "items": text()});
    match key.kind {
        Kind::Text | Kind::Secret | Kind::Path | Kind::Command | Kind::Switch => vec![text()],
        Kind::Bool => vec![json!({"type": "boolean"}), json!({"enum": [0, 1]}), any_case(&BOOLEANS)],
        Kind::Int { min, max, .. } => vec![
            // Readers of YAML 1.2 take 0640 for decimal.
            json!({"type": "integer", "minimum": min, "maximum": if max == 0o777 { 777 } else { max }}),
            json!({"type": "string", "pattern": r"^\s*[-+]?(0x[0-9a-fA-F]+|[0-9]+)\s*$"}),
        ],
        Kind::Seconds => {
            vec![json!({"type": "number", "minimum": 0}), json!({"type": "string", "pattern": r"^\s*[0-9.]+\s*$"})]
        }
        Kind::WholeSeconds => {
            vec![json!({"type": "number", "minimum": 1}), json!({"type": "string", "pattern": r"^\s*[0-9]+\s*$"})]
        }
        Kind::Time => vec![json!({"type": "integer", "minimum": 0}), unit("us|ms|s|min|h|d")],
        Kind::Size { .. } => vec![json!({"type": "integer", "minimum": 0}), unit("B|kB|MB|GB|TB")],
        Kind::Reserve => {
            vec![
                json!({"type": "integer", "minimum": 0}),
                unit("%|B|kB|MB|GB|TB"),
                json!({"const": false}),
                json!({"const": "off"}),
            ]
        }
        Kind::Word(words) => one_of(words),
        Kind::WordOrMap(words, keys) => {
            let mut forms = one_of(words);
            forms.push(section(keys, Others::Unknown, without));
            forms
        }
        Kind::Address { port: None } => vec![json!({"type": "string", "pattern": ":[0-9]+$"})],
        Kind::Address { .. } | Kind::Listen => vec![json!({"type": ["string", "integer"]})],
        Kind::Texts => vec![texts()],
        Kind::TextsOrCsv | Kind::Addresses => vec![texts(), json!({"type": "string"})],
        Kind::Settings => {
            vec![json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}})]
        }
        Kind::Words(words) => vec![json!({"type": "object", "additionalProperties": {"anyOf": one_of(words)}})],
        Kind::Options(_) => {
            vec![json!({"type": "array", "items": {"type": ["string", "object"]}}), json!({"type": "object"})]
        }
        Kind::LogFormat => {
            vec![json!({"type": "string"}), json!({"type": "array", "items": {"type": ["string", "object"]}})]
        }
        Kind::Slots => vec![json!({"type": "object"})],
        Kind::Maps(keys) => vec![json!({"type": "array", "items": section(keys, Others::Unknown, without)})],
        Kind::Free => Vec::new(),
        Kind::Map(..) if key.name == "dcs" => vec![json!({"$ref": "#/definitions/dynamic"})],
        Kind::Map(keys, others) => vec![section(keys, others, without)],
    }
}

const BOOLEANS: [&str; 8] = ["on", "off", "true", "false", "yes", "no", "1", "0"];

fn unit(units: &str) -> Value {
    json!({"type": "string", "pattern": format!(r"^\s*[0-9.]+\s*({units})?\s*$")})
}

/// The words themselves, for completion, and all that mean the same in any case.
fn one_of(words: &[Word]) -> Vec<Value> {
    let first: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let all: Vec<&str> =
        words.iter().flat_map(|(word, others)| std::iter::once(word).chain(*others)).copied().collect();
    let mut forms = vec![json!({"enum": first}), any_case(&all)];
    // Of `off` a reader of YAML 1.1 makes a boolean, which is what they are read as here too.
    let booleans: Vec<bool> =
        [false, true].into_iter().filter(|b| all.iter().any(|w| parse_bool(w) == Some(*b))).collect();
    if !booleans.is_empty() {
        forms.push(json!({"enum": booleans}));
    }
    forms
}

fn any_case(words: &[&str]) -> Value {
    let letter = |c: char| match c.is_ascii_alphabetic() {
        true => format!("[{}{}]", c.to_ascii_uppercase(), c),
        false => c.to_string(),
    };
    let words: Vec<String> = words.iter().map(|word| word.chars().map(letter).collect()).collect();
    json!({"type": "string", "pattern": format!("^({})$", words.join("|"))})
}
