//! `log` (`spec/config.md §4.2`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

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
