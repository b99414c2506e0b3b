//! How a record becomes a line: `%(name)s` templates, or JSON objects.

use std::sync::OnceLock;
use std::time::Instant;

use serde_json::{Map, Number, Value};
use surus_config::{Log, LogFormat, LogType};

use super::record::Record;

const ATTRIBUTES: [&str; 17] = [
    "asctime",
    "levelname",
    "levelno",
    "message",
    "name",
    "module",
    "filename",
    "pathname",
    "lineno",
    "funcName",
    "process",
    "processName",
    "thread",
    "threadName",
    "created",
    "msecs",
    "relativeCreated",
];
const DEFAULT: &str = "%(asctime)s %(levelname)s: %(message)s";

#[derive(Clone, Debug)]
pub struct Layout {
    shape: Shape,
    dateformat: Option<String>,
}

#[derive(Clone, Debug)]
enum Shape {
    Plain(Vec<Piece>),
    /// (attribute, key in the output), and what is put into every object.
    Json(Vec<(String, String)>, Map<String, Value>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Attribute { name: String, left: bool, zero: bool, width: usize, precision: Option<usize> },
}

impl Layout {
    /// What cannot be used is replaced by the default, and said.
    pub fn of(log: &Log) -> (Layout, Vec<String>) {
        let mut complaints = Vec::new();
        let template = |text: &str, complaints: &mut Vec<String>| match parse(text) {
            Ok(pieces) => pieces,
            Err(problem) => {
                complaints.push(format!("log.format: {problem}; the default is used: {DEFAULT}"));
                parse(DEFAULT).unwrap_or_default()
            }
        };
        let shape = match (log.kind, &log.format) {
            (LogType::Plain, LogFormat::Template(text)) => Shape::Plain(template(text, &mut complaints)),
            (LogType::Plain, LogFormat::Fields(_)) => {
                complaints
                    .push("Expected log format to be a string when log type is plain, but got \"list\"".to_owned());
                Shape::Plain(template(DEFAULT, &mut complaints))
            }
            (LogType::Json, LogFormat::Template(text)) => {
                let names = template(text, &mut complaints).into_iter().filter_map(|piece| match piece {
                    Piece::Attribute { name, .. } => Some((name.clone(), name)),
                    Piece::Text(_) => None,
                });
                Shape::Json(names.collect(), log.static_fields.clone())
            }
            (LogType::Json, LogFormat::Fields(fields)) => {
                let (known, unknown): (Vec<_>, Vec<_>) =
                    fields.iter().cloned().partition(|(name, _)| ATTRIBUTES.contains(&name.as_str()));
                for (name, _) in unknown {
                    complaints.push(format!("log.format: there is no log field \"{name}\"; it is left out"));
                }
                Shape::Json(known, log.static_fields.clone())
            }
        };
        (Layout { shape, dateformat: log.dateformat.clone().filter(|f| !f.is_empty()) }, complaints)
    }

    pub fn line(&self, record: &Record) -> String {
        match &self.shape {
            Shape::Plain(pieces) => pieces.iter().map(|piece| self.piece(piece, record)).collect(),
            Shape::Json(fields, constants) => {
                let values = fields.iter().map(|(name, key)| (key.clone(), self.value(name, record)));
                let object: Map<String, Value> = values.chain(constants.clone()).collect();
                surus_api::to_python_json(&object).unwrap_or_default()
            }
        }
    }

    fn piece(&self, piece: &Piece, record: &Record) -> String {
        let Piece::Attribute { name, left, zero, width, precision } = piece else {
            let Piece::Text(text) = piece else { return String::new() };
            return text.clone();
        };
        let mut text = match self.value(name, record) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        if let Some(precision) = precision {
            text = text.chars().take(*precision).collect();
        }
        let fill = width.saturating_sub(text.chars().count());
        match (left, zero) {
            (true, _) => text + &" ".repeat(fill),
            (false, true) => "0".repeat(fill) + &text,
            (false, false) => " ".repeat(fill) + &text,
        }
    }

    fn value(&self, attribute: &str, record: &Record) -> Value {
        let at = &record.at;
        let seconds = |ns: i128| Number::from_f64(ns as f64 / 1e9).map_or(Value::Null, Value::Number);
        match attribute {
            "asctime" => match &self.dateformat {
                Some(format) => jiff::fmt::strtime::format(format, at).unwrap_or_else(|_| at.to_string()),
                None => format!("{},{:03}", at.strftime("%Y-%m-%d %H:%M:%S"), at.millisecond()),
            }
            .into(),
            "levelname" => record.level.into(),
            "levelno" => match record.level {
                "DEBUG" => 10,
                "INFO" => 20,
                "WARNING" => 30,
                "ERROR" => 40,
                _ => 50,
            }
            .into(),
            "message" => record.message.clone().into(),
            "name" => record.target.clone().into(),
            "module" | "funcName" => record.target.rsplit("::").next().unwrap_or_default().into(),
            "filename" => record.path.rsplit('/').next().unwrap_or_default().into(),
            "pathname" => record.path.into(),
            "lineno" => record.line.into(),
            "process" => std::process::id().into(),
            "processName" => "MainProcess".into(),
            "thread" | "threadName" => record.thread.clone().into(),
            "created" => seconds(at.timestamp().as_nanosecond()),
            "msecs" => at.millisecond().into(),
            "relativeCreated" => u64::try_from(started().elapsed().as_millis()).unwrap_or(u64::MAX).into(),
            _ => Value::Null,
        }
    }
}

fn started() -> Instant {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

fn parse(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let named = rest.strip_prefix('(').and_then(|r| r.split_once(')'));
        let Some((name, after)) = named else {
            return Err(format!("a % is followed by neither (name) nor % in \"{template}\""));
        };
        if !ATTRIBUTES.contains(&name) {
            return Err(format!("there is no log field \"{name}\""));
        }
        let end = after.find(|c: char| !(c.is_ascii_digit() || "-+ 0.#".contains(c))).unwrap_or(after.len());
        if !after[end..].starts_with(['s', 'd', 'f']) {
            return Err(format!("%({name}) needs s or d behind it"));
        }
        let (flags, size) = after[..end]
            .split_at(after[..end].find(|c: char| c.is_ascii_digit() && c != '0' || c == '.').unwrap_or(end));
        let (width, precision) = size.split_once('.').map_or((size, None), |(w, p)| (w, Some(p)));
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Attribute {
            name: name.to_owned(),
            left: flags.contains('-'),
            zero: flags.contains('0'),
            width: width.parse().unwrap_or(0),
            precision: precision.map(|p| p.parse().unwrap_or(0)),
        });
        rest = &after[end + 1..];
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record() -> Record {
        Record {
            at: "2026-07-24T12:34:56.789[UTC]".parse().unwrap(),
            level: "INFO",
            target: "surus_agent::rest".into(),
            path: "crates/agent/src/rest/mod.rs",
            line: 7,
            message: "it is über".into(),
            thread: "main".into(),
        }
    }

    fn line(log: &Log) -> String {
        Layout::of(log).0.line(&record())
    }

    #[test]
    fn the_default_layout_has_the_level_at_byte_24() {
        let line = line(&Log::default());
        assert_eq!(line, "2026-07-24 12:34:56,789 INFO: it is über");
        assert_eq!(&line[24..28], "INFO");
    }

    #[test]
    fn templates() {
        for (template, expected) in [
            (
                "%(asctime)s %(levelname)s [%(pathname)s:%(lineno)d - %(funcName)s]: %(message)s",
                "2026-07-24 12:34:56,789 INFO [crates/agent/src/rest/mod.rs:7 - rest]: it is über",
            ),
            ("%(levelname)-8s|%(levelname)8s|%(msecs)05d|%(levelname).2s|100%%", "INFO    |    INFO|00789|IN|100%"),
            ("%(filename)s %(module)s %(levelno)d", "mod.rs rest 20"),
        ] {
            assert_eq!(line(&Log { format: LogFormat::Template(template.into()), ..Log::default() }), expected);
        }
        let dated = Log { dateformat: Some("%H-%M".into()), ..Log::default() };
        assert_eq!(line(&dated), "12-34 INFO: it is über");
        for bad in ["%(nothing)s", "% x", "%(message)", "%(message"] {
            let (layout, complaints) = Layout::of(&Log { format: LogFormat::Template(bad.into()), ..Log::default() });
            assert_eq!(complaints.len(), 1, "{bad}");
            assert_eq!(layout.line(&record()), "2026-07-24 12:34:56,789 INFO: it is über");
        }
    }

    #[test]
    fn objects() {
        let log = |format| Log {
            kind: LogType::Json,
            format,
            static_fields: json!({"app": "surus"}).as_object().unwrap().clone(),
            ..Log::default()
        };
        assert_eq!(
            line(&log(LogFormat::Template(DEFAULT.into()))),
            r#"{"asctime": "2026-07-24 12:34:56,789", "levelname": "INFO", "message": "it is \u00fcber", "app": "surus"}"#
        );
        let fields = vec![("levelname".to_owned(), "severity".to_owned()), ("lineno".to_owned(), "lineno".to_owned())];
        assert_eq!(line(&log(LogFormat::Fields(fields))), r#"{"severity": "INFO", "lineno": 7, "app": "surus"}"#);
    }
}
