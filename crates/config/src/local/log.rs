//! `log` (`spec/config.md §4.2`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

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
        Log {
            kind: LogType::Plain,
            level: LogLevel::Info,
            traceback_level: LogLevel::Error,
            format: LogFormat::Template("%(asctime)s %(levelname)s: %(message)s".to_owned()),
            dateformat: None,
            static_fields: Map::new(),
            max_queue_size: 1000,
            dir: None,
            mode: None,
            file_num: 4,
            file_size: 25_000_000,
            loggers: BTreeMap::new(),
            deduplicate_heartbeat_logs: false,
        }
    }
}

const LEVELS: &[(&str, LogLevel)] = &[
    ("debug", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("warning", LogLevel::Warning),
    ("warn", LogLevel::Warning),
    ("error", LogLevel::Error),
    ("critical", LogLevel::Critical),
    ("fatal", LogLevel::Critical),
];

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader) -> Log {
    let mut s = root.section(r, "log");
    let default = Log::default();
    let kind = s.choice(r, "type", &[("plain", LogType::Plain), ("json", LogType::Json)]).unwrap_or(default.kind);
    let format = format(&mut s, r, kind).unwrap_or(default.format);
    let bytes = s.int(r, "file_size", "a number of bytes, at least 1", 1..=i64::MAX);
    let log = Log {
        kind,
        format,
        level: s.choice(r, "level", LEVELS).unwrap_or(default.level),
        traceback_level: s
            .choice(r, "traceback_level", &[("debug", LogLevel::Debug), ("error", LogLevel::Error)])
            .unwrap_or(default.traceback_level),
        dateformat: s.text(r, "dateformat"),
        static_fields: match s.section(r, "static_fields").node().map(Node::to_json) {
            Some(Value::Object(map)) => map,
            _ => default.static_fields,
        },
        max_queue_size: s
            .int(r, "max_queue_size", "a number of records, at least 1", 1..=i64::from(u32::MAX))
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(default.max_queue_size),
        dir: s.path(r, "dir"),
        mode: s
            .int(r, "mode", "permission bits from 0 to 0777 (a leading 0 makes the number octal)", 0..=0o777)
            .and_then(|n| u32::try_from(n).ok()),
        file_num: s
            .int(r, "file_num", "a number of files, 0 or more", 0..=i64::from(u32::MAX))
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(default.file_num),
        file_size: bytes.and_then(|n| u64::try_from(n).ok()).unwrap_or(default.file_size),
        loggers: {
            let mut loggers = s.section(r, "loggers");
            let names: Vec<String> =
                loggers.node().and_then(Node::entries).unwrap_or_default().iter().map(|e| e.key.clone()).collect();
            names.into_iter().filter_map(|name| Some((name.clone(), loggers.choice(r, &name, LEVELS)?))).collect()
        },
        deduplicate_heartbeat_logs: s.bool(r, "deduplicate_heartbeat_logs").unwrap_or(false),
    };
    s.finish(r);
    log
}

fn format(s: &mut Section<'_>, r: &mut Reader, kind: LogType) -> Option<LogFormat> {
    let path = s.below("format");
    let node = s.take("format")?;
    let NodeValue::List(items) = &node.value else {
        return s.text(r, "format").map(LogFormat::Template);
    };
    if kind == LogType::Plain {
        r.warn(&node.place, &path, "is a list, which only `type: json` understands; the default format is used");
        return None;
    }
    let mut fields = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match (&item.value, item.scalar_text()) {
            (NodeValue::Text(name), _) => fields.push((name.clone(), name.clone())),
            (NodeValue::Map(entries), _)
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
        return None;
    }
    Some(LogFormat::Fields(fields))
}
