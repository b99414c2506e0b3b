//! The writing end, on a thread of its own that nobody waits for.
//!
//! A decision must never wait for a disk. It is handed over through a short queue; when that is full because the
//! disk hangs, decisions are dropped, counted, and the journal says so when it can be written again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use surus_core::facts::Facts;
use surus_core::memory::Memory;
use surus_core::step::Step;
use tracing::{info, warn};

use crate::encode::Encoder;
use crate::files::Segments;
use crate::record::{Decision, Header, Took};

/// Decisions that wait to be written. A failover takes some dozens of them.
const QUEUE: usize = 256;
/// After so much quiet what was written is brought to the disk: a machine that loses power has said what was going on.
const QUIET: Duration = Duration::from_secs(1);
/// Pause after the journal could not be written.
const AGAIN: Duration = Duration::from_secs(5);
/// The thread needs little; the default would reserve two megabytes.
const STACK: usize = 256 * 1024;

#[derive(Clone, Debug)]
pub struct Options {
    pub directory: PathBuf,
    pub max_size: u64,
}

enum Message {
    Decision {
        n: u64,
        lost: u64,
        took: Took,
        decision: Box<Decision>,
    },
    /// A reader comes: write what is held back.
    Flush(SyncSender<()>),
}

/// Totals for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub recorded: u64,
    pub dropped: u64,
    /// Bytes on disk.
    pub size: u64,
    /// It cannot be written at the moment.
    pub failing: bool,
}

#[derive(Debug, Default)]
struct Shared {
    recorded: AtomicU64,
    dropped: AtomicU64,
    size: AtomicU64,
    failing: AtomicBool,
}

/// Kept by the loop.
pub struct Recorder {
    n: u64,
    /// Dropped since the last decision that got through.
    lost: u64,
    handle: Option<Handle>,
}

/// For those who read the journal of a running agent.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    directory: PathBuf,
}

impl Recorder {
    /// Records nothing.
    pub fn off() -> Recorder {
        Recorder { n: 0, lost: 0, handle: None }
    }

    pub fn start(options: Options, header: Header) -> Recorder {
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let handle = Handle { queue, shared: shared.clone(), directory: options.directory.clone() };
        let thread = std::thread::Builder::new().name("journal".into()).stack_size(STACK).spawn(move || {
            let writer = Writer {
                options,
                header,
                shared,
                encoder: Encoder::default(),
                segments: None,
                failed: None,
                unsaid: 0,
                unsynced: false,
            };
            writer.run(&messages);
        });
        match thread {
            Ok(_) => Recorder { n: 0, lost: 0, handle: Some(handle) },
            Err(e) => {
                warn!("decisions are not recorded: no thread for the journal: {e}");
                Recorder::off()
            }
        }
    }

    pub fn handle(&self) -> Option<Handle> {
        self.handle.clone()
    }

    pub fn counters(&self) -> Counters {
        self.handle.as_ref().map(Handle::counters).unwrap_or_default()
    }

    /// Never waits.
    pub fn record(&mut self, memory: &Memory, facts: &Facts, step: &Step, gather: Duration, stepped: Duration) {
        let Some(handle) = &self.handle else { return };
        self.n += 1;
        let decision = Box::new(Decision { memory: memory.clone(), facts: facts.clone(), step: step.clone() });
        let message = Message::Decision { n: self.n, lost: self.lost, took: Took::new(gather, stepped), decision };
        match handle.queue.try_send(message) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost += 1;
                handle.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Handle {
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn counters(&self) -> Counters {
        Counters {
            recorded: self.shared.recorded.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            size: self.shared.size.load(Ordering::Relaxed),
            failing: self.shared.failing.load(Ordering::Relaxed),
        }
    }

    /// Has what was decided by now written, for a thread that may wait so long. What is on the disk can be read in any
    /// case.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.try_send(Message::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

struct Writer {
    options: Options,
    header: Header,
    shared: Arc<Shared>,
    encoder: Encoder,
    segments: Option<Segments>,
    failed: Option<Instant>,
    /// Lost and not mentioned in the journal yet.
    unsaid: u64,
    unsynced: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = if self.unsynced {
                messages.recv_timeout(QUIET)
            } else {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match message {
                Ok(Message::Decision { n, lost, took, decision }) => {
                    self.unsaid += lost;
                    let done = self.write(n, took, decision);
                    self.outcome(done);
                }
                Ok(Message::Flush(done)) => {
                    let outcome = self.end_run();
                    self.outcome(outcome);
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.unsynced = false;
                    let synced = self.segments.as_mut().map_or(Ok(()), Segments::sync);
                    self.outcome(synced);
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let _ = self.end_run();
    }

    fn write(&mut self, n: u64, took: Took, decision: Box<Decision>) -> io::Result<()> {
        if self.failed.is_some_and(|at| at.elapsed() < AGAIN) {
            self.drop_one();
            return Ok(());
        }
        if self.segments.is_none() {
            let opened = Segments::open(&self.options.directory, self.options.max_size);
            if let Err(e) = opened.and_then(|segments| self.start_segment(segments)) {
                self.drop_one();
                return Err(e);
            }
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid > 0 {
            let line = self.encoder.lost(unsaid, decision.facts.unix_ms, "they came faster than the disk took them");
            if let Err(e) = self.append(&line.bytes) {
                self.unsaid = unsaid;
                self.drop_one();
                return Err(e);
            }
        }
        let mut encoder = std::mem::take(&mut self.encoder);
        let written = encoder.decision(n, took, decision, |encoder, line| self.line(encoder, line));
        self.encoder = encoder;
        if written.is_err() {
            self.drop_one();
        }
        written
    }

    fn end_run(&mut self) -> io::Result<()> {
        if self.segments.is_none() {
            return Ok(());
        }
        let mut encoder = std::mem::take(&mut self.encoder);
        let written = encoder.end_run(|encoder, line| self.line(encoder, line));
        self.encoder = encoder;
        written
    }

    fn drop_one(&mut self) {
        self.unsaid += 1;
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A line of the encoder's. Where a new segment begins, it is encoded again, to stand for itself.
    fn line(&mut self, encoder: &mut Encoder, line: crate::encode::Line) -> io::Result<()> {
        let full = self.segments.as_ref().is_none_or(|s| s.is_full_for(line.bytes.len()));
        if full && let Some(mut segments) = self.segments.take() {
            segments.begin()?;
            self.start_segment(segments)?;
            let whole = encoder.again(line);
            self.append(&whole.bytes)?;
            encoder.reuse(whole.bytes);
        } else {
            self.append(&line.bytes)?;
            encoder.reuse(line.bytes);
        }
        self.shared.recorded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn start_segment(&mut self, segments: Segments) -> io::Result<()> {
        self.segments = Some(segments);
        self.encoder.begin();
        let mut header = serde_json::to_vec(&self.header)?;
        header.push(b'\n');
        self.append(&header)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(segments) = &mut self.segments else { return Err(io::Error::other("no segment is open")) };
        segments.append(bytes)?;
        self.shared.size.store(segments.size(), Ordering::Relaxed);
        self.unsynced = true;
        Ok(())
    }

    fn outcome(&mut self, done: io::Result<()>) {
        match done {
            Ok(()) if self.failed.is_some() && self.segments.is_some() => {
                info!("decisions are recorded again in {}", self.options.directory.display());
                self.failed = None;
                self.shared.failing.store(false, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(e) => {
                if self.failed.is_none() {
                    warn!(
                        "decisions are not recorded for now, which changes nothing else: {}: {e}",
                        self.options.directory.display()
                    );
                }
                // What reached the file is not known: begin anew, behind a line end.
                self.segments = None;
                self.failed = Some(Instant::now());
                self.shared.failing.store(true, Ordering::Relaxed);
            }
        }
    }
}
