//! One event with what a layout may ask of it.

use std::fmt::{Debug, Write};

use jiff::Zoned;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

#[derive(Clone, Debug)]
pub struct Record {
    pub at: Zoned,
    pub level: &'static str,
    pub target: String,
    pub path: &'static str,
    pub line: u32,
    pub message: String,
    pub thread: String,
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
    critical: bool,
}

impl Record {
    /// A true field `critical` raises an error to the level this log has above it.
    pub fn of(event: &Event<'_>) -> Record {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR if fields.critical => "CRITICAL",
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            _ => "DEBUG",
        };
        Record {
            at: Zoned::now(),
            level,
            target: metadata.target().to_owned(),
            path: metadata.file().unwrap_or("-"),
            line: metadata.line().unwrap_or(0),
            message: fields.message + &fields.others,
            thread: std::thread::current().name().unwrap_or("-").to_owned(),
        }
    }
}

impl Record {
    /// Of records that no line was written for.
    pub fn lost(count: usize) -> Record {
        Record {
            at: Zoned::now(),
            level: "WARNING",
            target: module_path!().to_owned(),
            path: file!(),
            line: line!(),
            message: format!(
                "{count} log records were lost: they came faster than they could be written (log.max_queue_size)"
            ),
            thread: std::thread::current().name().unwrap_or("-").to_owned(),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Text of others must not steer the terminal that shows the log.
        let text = format!("{value:?}").replace('\x1b', "\\x1b");
        match field.name() {
            "message" => self.message = text,
            name if name.starts_with("log.") => {}
            name => {
                let _ = write!(self.others, " {name}={text}");
            }
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "critical" {
            self.critical = value;
        } else {
            self.record_debug(field, &value);
        }
    }
}
