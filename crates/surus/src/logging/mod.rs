//! The log of long-running commands (`spec/cli.md §7`).
//!
//! Lines go through a bounded queue to one writing thread: a full disk or a stuck pipe costs lines,
//! never time of the agent.

mod layout;
mod record;
mod rotate;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use surus_config::{Log, LogLevel};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use layout::Layout;
use record::Record;
use rotate::RotatingFile;

/// Keep it until the end: dropping it writes out what is queued.
#[derive(Debug)]
pub struct Logs {
    _guard: WorkerGuard,
}

struct Live {
    layout: Arc<RwLock<Layout>>,
    sink: Arc<Mutex<Sink>>,
    filter: reload::Handle<Targets, Registry>,
}

static LIVE: OnceLock<Live> = OnceLock::new();

enum Sink {
    Stderr,
    File(RotatingFile),
}

struct SharedSink {
    sink: Arc<Mutex<Sink>>,
    layout: Arc<RwLock<Layout>>,
    /// Of the queue before this, known once that is made.
    lost: Arc<OnceLock<ErrorCounter>>,
    told: usize,
}

struct EventLayout(Arc<RwLock<Layout>>);

pub fn start(log: &Log) -> Result<Logs, String> {
    let sink = Arc::new(Mutex::new(open(log)?));
    let (layout, complaints) = Layout::of(log);
    let layout = Arc::new(RwLock::new(layout));
    let (writer, guard) = queue(&sink, &layout, log.max_queue_size);
    let (filter, handle) = reload::Layer::new(targets(log));
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(false).event_format(EventLayout(layout.clone())).with_writer(writer);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|e| format!("the log cannot be set up: {e}"))?;
    let _ = LIVE.set(Live { layout, sink, filter: handle });
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    Ok(Logs { _guard: guard })
}

fn queue(sink: &Arc<Mutex<Sink>>, layout: &Arc<RwLock<Layout>>, size: usize) -> (NonBlocking, WorkerGuard) {
    let lost = Arc::<OnceLock<ErrorCounter>>::default();
    let shared = SharedSink { sink: sink.clone(), layout: layout.clone(), lost: lost.clone(), told: 0 };
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(size.clamp(64, 65_536)).thread_name("log").finish(shared);
    let _ = lost.set(writer.error_counter());
    (writer, guard)
}

/// Takes over a changed `log` section. What cannot be used leaves everything as it was.
pub fn reconfigure(log: &Log) -> Result<(), String> {
    let Some(live) = LIVE.get() else { return Ok(()) };
    let sink = open(log)?;
    let (layout, complaints) = Layout::of(log);
    live.filter.reload(targets(log)).map_err(|e| format!("the log level cannot be changed: {e}"))?;
    *live.sink.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    *live.layout.write().unwrap_or_else(PoisonError::into_inner) = layout;
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
    Ok(())
}

fn open(log: &Log) -> Result<Sink, String> {
    match &log.dir {
        None => Ok(Sink::Stderr),
        Some(dir) => RotatingFile::open(dir, log.file_size, log.file_num, log.mode).map(Sink::File).map_err(|e| {
            format!("log.dir: {} cannot be opened for the log: {e}", dir.join(rotate::FILE_NAME).display())
        }),
    }
}

/// Libraries speak up only when something is wrong, unless everything is wanted.
fn targets(log: &Log) -> Targets {
    let level = level(log.level);
    let libraries = if level == LevelFilter::DEBUG { LevelFilter::INFO } else { level.min(LevelFilter::WARN) };
    // The Raft library reports every single request to a node that is down; what operators need of that is said
    // by the embedded store itself.
    let raft = if level == LevelFilter::DEBUG { LevelFilter::INFO } else { LevelFilter::OFF };
    let all = Targets::new().with_default(libraries).with_target("openraft", raft).with_target("surus", level);
    // The name that a configuration of Patroni has for everything that is its own.
    let named = |name: &str| if name == "patroni" { "surus".to_owned() } else { name.to_owned() };
    log.loggers.iter().fold(all, |all, (name, wanted)| all.with_target(named(name), self::level(*wanted)))
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    }
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stderr => io::stderr().write_all(bytes),
            Sink::File(file) => file.write_all(bytes),
        }
    }
}

impl Write for SharedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        // With the first line that gets through again.
        let lost = self.lost.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.told {
            let layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
            let line = layout.line(&Record::lost(lost - self.told)) + "\n";
            sink.put(line.as_bytes())?;
            self.told = lost;
        }
        sink.put(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for EventLayout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let record = Record::of(event);
        let layout = self.0.read().unwrap_or_else(PoisonError::into_inner);
        writer.write_str(&layout.line(&record))?;
        writer.write_char('\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stuck_disk_costs_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log { dir: Some(dir.path().to_owned()), ..Log::default() };
        let sink = Arc::new(Mutex::new(open(&log).unwrap()));
        let layout = Arc::new(RwLock::new(Layout::of(&log).0));
        let (mut writer, guard) = queue(&sink, &layout, 1);
        let lost = writer.error_counter();
        let stuck = sink.lock().unwrap();
        while lost.dropped_lines() < 3 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop(stuck);
        drop(guard);
        let text = std::fs::read_to_string(dir.path().join("patroni.log")).unwrap();
        assert!(
            text.contains("WARNING: 3 log records were lost: they came faster than they could be written"),
            "{text}"
        );
        assert!(text.matches("a line\n").count() >= 64, "{text}");
    }

    #[test]
    fn libraries_are_quieter() {
        let with = |level, loggers: &[(&str, LogLevel)]| {
            let loggers = loggers.iter().map(|(n, l)| ((*n).to_owned(), *l)).collect();
            targets(&Log { level, loggers, ..Log::default() })
        };
        let info = with(LogLevel::Info, &[("h2", LogLevel::Debug)]);
        assert!(info.would_enable("surus_agent::rest", &tracing::Level::INFO));
        assert!(!info.would_enable("surus_agent::rest", &tracing::Level::DEBUG));
        assert!(!info.would_enable("openraft", &tracing::Level::INFO));
        assert!(info.would_enable("h2", &tracing::Level::WARN));
        assert!(!info.would_enable("openraft", &tracing::Level::WARN));
        assert!(info.would_enable("h2::x", &tracing::Level::DEBUG));
        let quiet = with(LogLevel::Info, &[("patroni", LogLevel::Error)]);
        assert!(!quiet.would_enable("surus_agent::rest", &tracing::Level::WARN));
        assert!(!with(LogLevel::Error, &[]).would_enable("etcd_client", &tracing::Level::WARN));
    }
}
