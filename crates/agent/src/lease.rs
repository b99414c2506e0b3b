//! The lease keeper: renews this member's session, and with it the lead, on a task of its own.
//!
//! It never waits for PostgreSQL, a disk or a decision. A deadline is counted from before a renewal
//! was sent: the store starts the lease's time again at some later moment, so the lead always ends
//! here before it ends there.

use std::sync::Arc;
use std::time::Duration;

use surus_core::BootTime;
use surus_core::facts::Lead;
use surus_core::settings::Timing;
use surus_store::clock::boot_now;
use surus_store::cluster::{ClusterStore, TakeLead};
use surus_store::{StoreError, TxnOutcome};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

/// Pause between attempts while the store does not answer.
const RETRY: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaseState {
    pub session: bool,
    /// Changes with every new session: keys bound to the old one must be written again.
    pub session_number: u64,
    pub lead: Option<Lead>,
    /// Last confirmed renewal: when it was sent and how long the answer took.
    pub renewed: Option<(BootTime, Duration)>,
    pub failing: Option<(BootTime, String)>,
    pub renewals: u64,
    pub failures: u64,
}

enum Command {
    Take(oneshot::Sender<Result<bool, StoreError>>),
    /// The lead was taken in a transaction of somebody else's making, with this version.
    Took(u64, oneshot::Sender<()>),
    Release {
        status: Option<String>,
        answer: oneshot::Sender<Result<(), StoreError>>,
    },
    /// The store says that somebody else leads, as of this revision.
    Lost {
        revision: u64,
    },
    Timing(Timing),
    Close(oneshot::Sender<()>),
}

#[derive(Clone)]
pub struct LeaseKeeper {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<LeaseState>,
}

/// What is taken off the TTL for clocks that run at different speeds.
pub fn margin(timing: &Timing) -> Duration {
    (timing.ttl / 10).clamp(Duration::from_millis(400), Duration::from_secs(3))
}

impl LeaseKeeper {
    pub fn start(store: Arc<ClusterStore>, timing: Timing) -> LeaseKeeper {
        let (commands, rx) = mpsc::channel(16);
        let (tx, state) = watch::channel(LeaseState::default());
        tokio::spawn(Keeper { store, timing, state: tx, sent: None, fresh_ttl: timing.ttl }.run(rx));
        LeaseKeeper { commands, state }
    }

    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// `true`: the lead is mine.
    pub async fn take(&self) -> Result<bool, StoreError> {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Take(tx)).await;
        rx.await.unwrap_or_else(|_| Err(ended()))
    }

    pub async fn took(&self, version: u64) {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Took(version, tx)).await;
        let _ = rx.await;
    }

    pub async fn release(&self, status: Option<String>) -> Result<(), StoreError> {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Release { status, answer: tx }).await;
        rx.await.unwrap_or_else(|_| Err(ended()))
    }

    pub async fn lost(&self, revision: u64) {
        self.send(Command::Lost { revision }).await;
    }

    pub async fn set_timing(&self, timing: Timing) {
        self.send(Command::Timing(timing)).await;
    }

    /// Ends the session: every key bound to it disappears at once.
    pub async fn close(&self) {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Close(tx)).await;
        let _ = rx.await;
    }

    async fn send(&self, command: Command) {
        // The keeper ends only with the process.
        let _ = self.commands.send(command).await;
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the agent is ending".into())
}

struct Keeper {
    store: Arc<ClusterStore>,
    timing: Timing,
    state: watch::Sender<LeaseState>,
    /// When the last confirmed grant or renewal of the session was sent.
    sent: Option<BootTime>,
    /// The TTL the session was granted with.
    fresh_ttl: Duration,
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Close(done)) => {
                        let _ = self.store.close_session(Duration::from_secs(2)).await;
                        self.state.send_modify(|s| { s.session = false; s.lead = None; });
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => {
                        if self.obey(command).await {
                            next = tokio::time::Instant::now();
                        }
                    }
                },
                () = tokio::time::sleep_until(next) => {
                    let pause = self.renew().await;
                    next = tokio::time::Instant::now() + pause;
                }
            }
        }
    }

    /// Time limit of one request: short enough for another attempt before the lead is in danger.
    fn limit(&self) -> Duration {
        (self.timing.ttl / 5).clamp(Duration::from_millis(500), self.timing.retry_timeout.max(Duration::from_secs(1)))
    }

    /// One renewal; the pause to the next.
    async fn renew(&mut self) -> Duration {
        let sent = boot_now();
        let opened = self.sent.is_none() || self.store.lease().is_none();
        let result = if opened {
            self.store.open_session(self.timing.ttl, self.limit()).await.map(|_| ())
        } else {
            self.store.renew_session(self.limit()).await
        };
        let now = boot_now();
        match result {
            Ok(()) => {
                self.sent = Some(sent);
                if opened {
                    self.fresh_ttl = self.timing.ttl;
                }
                let until = sent + self.fresh_ttl - margin(&self.timing);
                self.state.send_modify(|s| {
                    if opened {
                        s.session_number += 1;
                    }
                    s.session = true;
                    s.renewals += 1;
                    s.renewed = Some((sent, now.since(sent)));
                    if let Some((since, _)) = s.failing.take() {
                        info!(
                            "the session in the store is renewed again after {:.1} s",
                            now.since(since).as_secs_f64()
                        );
                    }
                    if let Some(lead) = &mut s.lead {
                        lead.until = until;
                    }
                });
                self.timing.loop_wait.saturating_sub(now.since(sent)).max(Duration::from_millis(20))
            }
            Err(StoreError::LeaseGone) => {
                self.session_gone("the store ended the session");
                Duration::ZERO
            }
            Err(e) => {
                self.state.send_modify(|s| {
                    s.failures += 1;
                    let since = s.failing.as_ref().map_or(now, |f| f.0);
                    if s.failing.is_none() {
                        warn!("the session in the store could not be renewed: {e}");
                    }
                    s.failing = Some((since, e.to_string()));
                });
                RETRY
            }
        }
    }

    fn session_gone(&mut self, why: &str) {
        self.sent = None;
        self.state.send_modify(|s| {
            if s.lead.take().is_some() {
                warn!("the leader lock is lost: {why}");
            }
            s.session = false;
        });
    }

    /// `true`: renew at once.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Take(answer) => {
                let result = self.take().await;
                let taken = matches!(result, Ok(true));
                let _ = answer.send(result);
                taken
            }
            Command::Took(version, done) => {
                self.hold(version);
                let _ = done.send(());
                true
            }
            Command::Release { status, answer } => {
                let result = self.store.release_lead(status, self.limit()).await;
                // Whatever the store made of it: from here on nobody acts on this lead any more.
                self.state.send_modify(|s| s.lead = None);
                let _ = answer.send(result.map(|_| ()));
                false
            }
            Command::Lost { revision } => {
                self.state.send_if_modified(|s| {
                    let lost = s.lead.is_some_and(|l| revision >= l.version);
                    if lost {
                        warn!("the leader lock is lost: the store names another leader, or none");
                        s.lead = None;
                    }
                    lost
                });
                false
            }
            Command::Timing(timing) => self.change_timing(timing).await,
            Command::Close(_) => false,
        }
    }

    async fn take(&mut self) -> Result<bool, StoreError> {
        if self.sent.is_none() || self.store.lease().is_none() {
            self.renew().await;
        }
        let result = match self.store.take_lead(self.limit()).await {
            // The request may have been applied: look before deciding either way.
            Err(StoreError::OutcomeUnknown(_)) => {
                let view = self.store.read(self.limit()).await?;
                let mine = view.leader.filter(|l| l.lease.is_none() || l.lease == self.store.lease());
                Ok(match mine {
                    Some(l) if l.name == *self.store.me() => TakeLead::Taken(l.version),
                    _ => TakeLead::Lost,
                })
            }
            other => other,
        };
        match result {
            Ok(TakeLead::Taken(version)) => {
                self.hold(version);
                Ok(true)
            }
            Ok(TakeLead::Lost) => Ok(false),
            Err(StoreError::LeaseGone) => {
                self.session_gone("the store ended the session");
                Err(StoreError::LeaseGone)
            }
            Err(e) => Err(e),
        }
    }

    fn hold(&mut self, version: u64) {
        let until = self.sent.unwrap_or_default() + self.fresh_ttl - margin(&self.timing);
        self.state.send_modify(|s| s.lead = Some(Lead { until, version }));
    }

    /// A new TTL needs a new lease; the keys bound to the old one are moved before that one ends.
    async fn change_timing(&mut self, timing: Timing) -> bool {
        let new_ttl = timing.ttl != self.timing.ttl && self.sent.is_some();
        self.timing = timing;
        if !new_ttl || self.store.lease().is_none() {
            return false;
        }
        let sent = boot_now();
        if let Err(e) = self.store.open_session(timing.ttl, self.limit()).await {
            warn!("a lease with the new ttl could not be opened, the old one stays in use: {e}");
            return true;
        }
        if self.state.borrow().lead.is_some() {
            match self.store.take_lead(self.limit()).await {
                Ok(TakeLead::Taken(version)) => {
                    self.sent = Some(sent);
                    self.fresh_ttl = timing.ttl;
                    self.hold(version);
                }
                other => {
                    // Which lease the key hangs on is not known now. The lead is taken again by the
                    // next step, which binds it to the session in use.
                    warn!(
                        "the leader lock could not be moved to a lease with the new ttl ({other:?}), taking it again"
                    );
                    self.state.send_modify(|s| s.lead = None);
                }
            }
        }
        self.sent = Some(sent);
        self.fresh_ttl = timing.ttl;
        self.state.send_modify(|s| s.session_number += 1);
        info!("the session in the store now has a ttl of {} s", timing.ttl.as_secs_f64());
        false
    }
}

/// A transaction that can only be refused is a definite answer.
pub fn applied(outcome: &Result<TxnOutcome, StoreError>) -> bool {
    matches!(outcome, Ok(TxnOutcome::Applied(_)))
}
