//! The calling end of a connection: many calls at once, each with its own time limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::clock::boot_ms;
use crate::handshake::{Frames, MAX_FRAME, Seal, Session, Who};
use crate::wire::{Answer, Call, Reply, Request};

/// An end that has not said a word for this long, while asked something, is given up: its machine may
/// be gone, or it may have been restarted behind an address that swallows what we send.
const SILENCE: u64 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request did not leave this process.
    #[error("{0}")]
    NotSent(String),
    /// It may have arrived.
    #[error("{0}")]
    NoAnswer(String),
    /// The other end will not talk to us.
    #[error("{0}")]
    Refused(String),
}

pub struct Connection {
    pub peer: Who,
    outbox: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
    tasks: [tokio::task::AbortHandle; 2],
}

enum Waiter {
    Once(oneshot::Sender<Reply>),
    /// Of a stream that never ends by itself.
    Stream(mpsc::Sender<Reply>),
}

struct Waiting {
    calls: Mutex<HashMap<u64, Waiter>>,
    closed: AtomicBool,
    /// Boot time of the oldest request since the last word from the other end; 0 if none is due.
    asked_at: AtomicU64,
    heard_at: Arc<AtomicU64>,
}

impl Connection {
    /// `heard_at` is set to the boot time whenever the other end answers.
    pub fn start(session: Session, heard_at: Arc<AtomicU64>) -> Connection {
        let (sink, stream) = session.frames.split();
        let (outbox, queue) = mpsc::channel(64);
        let waiting = Arc::new(Waiting {
            calls: Mutex::default(),
            closed: AtomicBool::new(false),
            asked_at: AtomicU64::new(0),
            heard_at,
        });
        let writer = tokio::spawn(write_all(sink, queue, session.outgoing, waiting.clone()));
        let reader = tokio::spawn(read_all(stream, session.incoming, waiting.clone()));
        let tasks = [writer.abort_handle(), reader.abort_handle()];
        Connection { peer: session.peer, outbox, waiting, next_id: AtomicU64::new(1), tasks }
    }

    pub fn is_closed(&self) -> bool {
        self.waiting.closed.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.waiting.close();
        self.tasks.iter().for_each(|t| t.abort());
    }

    /// Answers that go on until the connection ends.
    pub fn stream(&self, request: Request) -> Option<mpsc::Receiver<Reply>> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = serde_json::to_vec(&Call { id, within_ms: 0, request }).ok()?;
        let (tx, rx) = mpsc::channel(64);
        self.waiting.lock().insert(id, Waiter::Stream(tx));
        (!self.is_closed() && self.outbox.try_send(frame).is_ok()).then_some(rx)
    }

    pub async fn call(&self, request: Request, within: Duration) -> Result<Reply, CallError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let frame =
            serde_json::to_vec(&Call { id, within_ms, request }).map_err(|e| CallError::NotSent(e.to_string()))?;
        if frame.len() + 64 > MAX_FRAME {
            return Err(CallError::Refused(format!("the request is too large ({} bytes)", frame.len())));
        }
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(id, Waiter::Once(tx));
        // Forgotten when the caller stops waiting, however it does.
        let _forget = Forget { waiting: &self.waiting, id };
        if self.is_closed() || self.outbox.try_send(frame).is_err() {
            return Err(CallError::NotSent("the connection is closed or stuck".into()));
        }
        let _ = self.waiting.asked_at.compare_exchange(0, boot_ms(), Ordering::Relaxed, Ordering::Relaxed);
        match tokio::time::timeout(within, rx).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(CallError::NoAnswer("the connection broke".into())),
            Err(_) => {
                let asked = self.waiting.asked_at.load(Ordering::Relaxed);
                if asked != 0 && boot_ms().saturating_sub(asked) >= SILENCE {
                    self.close();
                }
                Err(CallError::NoAnswer(format!("no answer within {within_ms} ms")))
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}

struct Forget<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waiter>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.lock().clear();
    }
}

async fn write_all(
    mut sink: SplitSink<Frames, bytes::Bytes>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut seal: Seal,
    waiting: Arc<Waiting>,
) {
    while let Some(frame) = queue.recv().await {
        if sink.send(seal.close(frame)).await.is_err() {
            break;
        }
    }
    waiting.close();
}

async fn read_all(mut stream: SplitStream<Frames>, mut seal: Seal, waiting: Arc<Waiting>) {
    while let Some(Ok(frame)) = stream.next().await {
        let Some(answer) = seal.open(frame).and_then(|f| serde_json::from_slice::<Answer>(&f).ok()) else {
            tracing::warn!("a frame on a connection of the embedded store was not genuine; closing it");
            break;
        };
        waiting.heard_at.store(boot_ms(), Ordering::Relaxed);
        waiting.asked_at.store(0, Ordering::Relaxed);
        let stream = match waiting.lock().get(&answer.id) {
            Some(Waiter::Stream(tx)) => Some(tx.clone()),
            _ => None,
        };
        // A reader of a stream that falls behind holds up this connection, which is its own.
        if let Some(tx) = stream {
            if tx.send(answer.reply).await.is_err() {
                break;
            }
        } else if let Some(Waiter::Once(tx)) = waiting.lock().remove(&answer.id) {
            let _ = tx.send(answer.reply);
        }
    }
    waiting.close();
}
