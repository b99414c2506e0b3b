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
use surus_store::{LeaseId, StoreError};
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
    Release {
        status: Option<String>,
        answer: oneshot::Sender<Result<(), StoreError>>,
    },
    /// The store says that somebody else leads, as of this revision.
    Lost {
        revision: u64,
    },
    Close(oneshot::Sender<()>),
}

#[derive(Clone)]
pub struct LeaseKeeper {
    commands: mpsc::Sender<Command>,
    timing: Arc<watch::Sender<Timing>>,
    state: watch::Receiver<LeaseState>,
}

/// What is taken off the TTL for clocks that run at different speeds.
fn margin(ttl: Duration) -> Duration {
    (ttl / 10).clamp(Duration::from_millis(400), Duration::from_secs(3))
}

impl LeaseKeeper {
    pub fn start(store: Arc<ClusterStore>, timing: Timing) -> LeaseKeeper {
        let (commands, rx) = mpsc::channel(16);
        let (tx, state) = watch::channel(LeaseState::default());
        let (timing_tx, timings) = watch::channel(timing);
        tokio::spawn(Keeper { store, timing, state: tx, session: None, bound: None }.run(rx, timings));
        LeaseKeeper { commands, timing: Arc::new(timing_tx), state }
    }

    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Until when the lead is good, if I hold it.
    pub fn lead_until(&self) -> Option<BootTime> {
        self.state.borrow().lead.map(|l| l.until)
    }

    /// `true`: the lead is mine. Given up by its caller, a request that has not begun yet is not made.
    pub async fn take(&self) -> Result<bool, StoreError> {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Take(tx)).await;
        rx.await.unwrap_or_else(|_| Err(ended()))
    }

    pub async fn release(&self, status: Option<String>) -> Result<(), StoreError> {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Release { status, answer: tx }).await;
        rx.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Said again for as long as the store shows it, so that one may get lost.
    pub fn lost(&self, revision: u64) {
        let _ = self.commands.try_send(Command::Lost { revision });
    }

    pub fn set_timing(&self, timing: Timing) {
        self.timing.send_if_modified(|now| std::mem::replace(now, timing) != timing);
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

#[derive(Clone, Copy)]
struct Session {
    lease: LeaseId,
    /// What the lease was granted with; settings may have changed since.
    ttl: Duration,
    /// When the last confirmed grant or renewal was sent.
    sent: BootTime,
}

impl Session {
    /// Until then the store certainly keeps what is bound to the lease.
    fn until(&self) -> BootTime {
        self.sent + self.ttl.saturating_sub(margin(self.ttl))
    }
}

struct Keeper {
    store: Arc<ClusterStore>,
    timing: Timing,
    state: watch::Sender<LeaseState>,
    session: Option<Session>,
    /// The lease that the leader key hangs on: only its renewals prolong the lead.
    bound: Option<LeaseId>,
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut timings: watch::Receiver<Timing>) {
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
                Ok(()) = timings.changed() => {
                    self.timing = *timings.borrow_and_update();
                    next = tokio::time::Instant::now();
                }
                () = tokio::time::sleep_until(next) => {
                    let pause = self.renew().await;
                    next = tokio::time::Instant::now() + pause;
                }
            }
        }
    }

    /// Time limit of one request: short enough for another attempt before the lead is in danger.
    fn limit(&self) -> Duration {
        let ttl = self.session.map_or(self.timing.ttl, |s| s.ttl.min(self.timing.ttl));
        (ttl / 5).clamp(Duration::from_millis(500), self.timing.retry_timeout.max(Duration::from_secs(1)))
    }

    /// One renewal; the pause to the next.
    async fn renew(&mut self) -> Duration {
        // Whoever writes the other keys of the session may be told first that its lease has ended. A new
        // session must not prolong a lead that went with the old one.
        if self.session.is_some_and(|s| self.store.lease() != Some(s.lease)) {
            self.session_gone("the store ended the session");
        }
        let sent = boot_now();
        if self.session.is_none_or(|s| s.ttl != self.timing.ttl) {
            match self.store.open_session(self.timing.ttl, self.limit()).await {
                Ok(lease) => {
                    if self.session.is_some() {
                        info!("the session in the store now has a ttl of {} s", self.timing.ttl.as_secs_f64());
                    }
                    self.session = Some(Session { lease, ttl: self.timing.ttl, sent });
                    self.state.send_modify(|s| s.session_number += 1);
                    self.renewed();
                    self.move_lead().await;
                    return self.pause();
                }
                Err(e) if self.session.is_none() => return self.failed(&e),
                Err(e) => warn!("a lease with the new ttl could not be opened, the old one stays in use: {e}"),
            }
        }
        let sent = boot_now();
        match self.store.renew_session(self.limit()).await {
            Ok(()) => {
                self.session = self.session.map(|s| Session { sent, ..s });
                self.renewed();
                self.move_lead().await;
                self.pause()
            }
            Err(StoreError::LeaseGone) => {
                self.session_gone("the store ended the session");
                Duration::ZERO
            }
            Err(e) => self.failed(&e),
        }
    }

    fn renewed(&mut self) {
        let Some(session) = self.session else { return };
        let (now, mine) = (boot_now(), self.bound == Some(session.lease));
        self.state.send_modify(|s| {
            s.session = true;
            s.renewals += 1;
            s.renewed = Some((session.sent, now.since(session.sent)));
            if let Some((since, _)) = s.failing.take() {
                info!("the session in the store is renewed again after {:.1} s", now.since(since).as_secs_f64());
            }
            if let Some(lead) = s.lead.as_mut().filter(|_| mine) {
                lead.until = session.until();
            }
        });
    }

    /// A lease with another ttl is another lease: the leader key is moved to it before the old one ends.
    async fn move_lead(&mut self) {
        let (Some(session), Some(lead)) = (self.session, self.state.borrow().lead) else { return };
        if self.bound == Some(session.lease) {
            return;
        }
        match self.store.take_lead(self.limit()).await {
            Ok(TakeLead::Taken(version)) => self.hold(version),
            Ok(TakeLead::Lost) => {
                self.lead_gone("somebody else took it while it was moved to a lease with the new ttl")
            }
            Err(StoreError::LeaseGone) => self.session_gone("the store ended the session"),
            Err(e) => {
                // It hangs on the old lease or on the new one: what both are good for can be relied on.
                warn!("the leader lock could not be moved to a lease with the new ttl yet: {e}");
                let until = lead.until.min(session.until());
                self.state.send_modify(|s| s.lead = s.lead.map(|l| Lead { until, ..l }));
            }
        }
    }

    fn pause(&self) -> Duration {
        let Some(session) = self.session else { return Duration::ZERO };
        let settled =
            session.ttl == self.timing.ttl && (self.state.borrow().lead.is_none() || self.bound == Some(session.lease));
        let pause = if settled { self.timing.loop_wait } else { RETRY };
        pause.saturating_sub(boot_now().since(session.sent)).max(Duration::from_millis(20))
    }

    fn failed(&self, e: &StoreError) -> Duration {
        self.state.send_modify(|s| {
            s.failures += 1;
            let since = s.failing.as_ref().map_or_else(boot_now, |f| f.0);
            if s.failing.is_none() {
                warn!("the session in the store could not be renewed: {e}");
            }
            s.failing = Some((since, e.to_string()));
        });
        RETRY
    }

    fn session_gone(&mut self, why: &str) {
        self.session = None;
        self.lead_gone(why);
        self.state.send_modify(|s| s.session = false);
    }

    fn lead_gone(&mut self, why: &str) {
        self.bound = None;
        self.state.send_if_modified(|s| {
            let held = s.lead.take().is_some();
            if held {
                warn!("the leader lock is lost: {why}");
            }
            held
        });
    }

    /// `true`: renew at once.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            // Nobody waits for it any more: what it was decided on is of yesterday.
            Command::Take(answer) if answer.is_closed() => false,
            Command::Take(answer) => {
                let result = self.take().await;
                let taken = matches!(result, Ok(true));
                let _ = answer.send(result);
                taken
            }
            Command::Release { status, answer } => {
                let result = self.store.release_lead(status, self.limit()).await;
                // Whatever the store made of it: from here on nobody acts on this lead any more.
                self.bound = None;
                self.state.send_modify(|s| s.lead = None);
                let _ = answer.send(result.map(|_| ()));
                false
            }
            Command::Lost { revision } => {
                if self.state.borrow().lead.is_some_and(|l| revision >= l.version) {
                    self.lead_gone("the store names another leader, or none");
                }
                false
            }
            Command::Close(_) => false,
        }
    }

    async fn take(&mut self) -> Result<bool, StoreError> {
        if self.session.is_none_or(|s| self.store.lease() != Some(s.lease)) {
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
        let Some(session) = self.session else { return };
        self.bound = Some(session.lease);
        self.state.send_modify(|s| s.lead = Some(Lead { until: session.until(), version }));
    }
}

#[cfg(test)]
mod tests;
