//! `log` (`spec/config.md §4.2`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::definition::{LEVELS, ROOT, kind};
use crate::reader::{Reader, Section};
use crate::tree::{Node, NodeValue};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogType {
    #[default]
    Plain,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    /// `FATAL` means the same.
    Critical,
}

/// Names of log record fields as in Python's `logging` (`%(levelname)s`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Template(String),
    /// For `type: json`: (field, name in the output).
    Fields(Vec<(String, String)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub kind: LogType,
    pub level: LogLevel,
    /// Never more than `Error` or `Debug`.
    pub traceback_level: LogLevel,
    pub format: LogFormat,
    pub dateformat: Option<String>,
    pub static_fields: Map<String, Value>,
    pub max_queue_size: usize,
    /// Absent: standard error.
    pub dir: Option<PathBuf>,
    /// Permission bits of the log file; absent: 0666 less the umask.
    pub mode: Option<u32>,
    /// Rotated files kept.
    pub file_num: u32,
    /// Bytes at which the file is rotated.
    pub file_size: u64,
    pub loggers: BTreeMap<String, LogLevel>,
    pub deduplicate_heartbeat_logs: bool,
}

impl Default for Log {
    fn default() -> Self {
        read(&Section::new(&Node::absent(), "", ROOT), &mut Reader::lenient())
    }
}

fn level(word: Option<&str>) -> LogLevel {
    match word {
        Some("debug") => LogLevel::Debug,
        Some("warning") => LogLevel::Warning,
        Some("error") => LogLevel::Error,
        Some("critical") => LogLevel::Critical,
        _ => LogLevel::Info,
    }
}

pub(super) fn read(root: &Section<'_>, r: &mut Reader) -> Log {
    let s = root.section("log");
    let kind = if s.word("type") == Some("json") { LogType::Json } else { LogType::Plain };
    let loggers = s.section("loggers");
    let loggers = loggers.node().and_then(Node::entries).unwrap_or_default().iter();
    Log {
        kind,
        format: format(&s, r, kind),
        level: level(s.word("level")),
        traceback_level: level(s.word("traceback_level")),
        dateformat: s.text("dateformat"),
        static_fields: match s.take("static_fields").map(Node::to_json) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        },
        max_queue_size: s.number("max_queue_size").unwrap_or_default(),
        dir: s.path("dir"),
        mode: s.number("mode"),
        file_num: s.number("file_num").unwrap_or_default(),
        file_size: s.number("file_size").unwrap_or_default(),
        loggers: loggers.filter_map(|e| Some((e.key.clone(), level(Some(kind::word(LEVELS, &e.node)?))))).collect(),
        deduplicate_heartbeat_logs: s.bool("deduplicate_heartbeat_logs"),
    }
}

fn format(s: &Section<'_>, r: &mut Reader, kind: LogType) -> LogFormat {
    let path = s.below("format");
    let default = || LogFormat::Template(s.default_text("format").to_owned());
    let Some(node) = s.take("format") else { return default() };
    let NodeValue::List(items) = &node.value else {
        return s.text("format").map_or_else(default, LogFormat::Template);
    };
    if kind == LogType::Plain {
        r.warn(&node.place, &path, "is a list, which only `type: json` understands; the default format is used");
        return default();
    }
    let mut fields = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match &item.value {
            NodeValue::Text(name) => fields.push((name.clone(), name.clone())),
            NodeValue::Map(entries)
                if !entries.is_empty() && entries.iter().all(|e| e.node.scalar_text().is_some()) =>
            {
                fields.extend(entries.iter().filter_map(|e| Some((e.key.clone(), e.node.scalar_text()?))));
            }
            _ => {
                let message = format!("expected a field or `field: name in the output`, found {}", item.kind());
                r.fault(&item.place, &format!("{path}.{i}"), message);
            }
        }
    }
    if fields.is_empty() {
        r.fault(&node.place, &path, "expected at least one field, found an empty list");
        return default();
    }
    LogFormat::Fields(fields)
}
