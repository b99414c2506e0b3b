//! Runs the lease keeper on a task of its own: it makes the requests that [`surus_conduct::lease`] asks for.
//!
//! It never waits for PostgreSQL, a disk or a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use surus_conduct::lease::{Answer, Command, Keeper, Moment, Next, Reply, Request, Ticket};
use surus_core::facts::Lead;
use surus_core::settings::Timing;
use surus_core::store::Beside;
use surus_core::{BootTime, MemberName};
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use surus_store::{StoreError, StoreResult};
use tokio::sync::{mpsc, oneshot, watch};

pub use surus_conduct::lease::LeaseState;

enum Message {
    Command(Command, oneshot::Sender<Reply>),
    /// The store says that somebody else leads, as of this revision.
    Lost {
        revision: u64,
        nobody: bool,
    },
    /// Enough members vouch for my lead.
    Vouched {
        sent: BootTime,
        length: Duration,
        by: BTreeSet<MemberName>,
        epoch: u64,
    },
    /// Whose word counts from here on.
    Electors(u64),
    /// With this lead ends that anybody can be vouched for.
    Unvouches(Option<u64>),
    Renew,
    /// An earlier process may have let the server count on the lead until then.
    Promised(BootTime),
}

#[derive(Clone)]
pub struct LeaseKeeper {
    messages: mpsc::Sender<Message>,
    timing: Arc<watch::Sender<Timing>>,
    state: watch::Receiver<LeaseState>,
}

impl LeaseKeeper {
    pub fn start(store: Arc<ClusterStore>, timing: Timing) -> LeaseKeeper {
        let (messages, rx) = mpsc::channel(16);
        let (tx, state) = watch::channel(LeaseState::default());
        let (timing_tx, timings) = watch::channel(timing);
        let keeper = Keeper::new(store.me().clone(), timing);
        let driver = Driver { store, keeper, state: tx, waiting: BTreeMap::new(), tickets: 0 };
        tokio::spawn(driver.run(rx, timings));
        LeaseKeeper { messages, timing: Arc::new(timing_tx), state }
    }

    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// The lead, if I hold it, and until when it is good.
    pub fn lead(&self) -> Option<Lead> {
        self.state.borrow().lead
    }

    pub fn lead_until(&self) -> Option<BootTime> {
        self.lead().map(|l| l.until)
    }

    /// `true`: the lead is mine. Given up by its caller, a request that has not begun yet is not made.
    pub async fn take(&self, beside: Beside) -> StoreResult<bool> {
        match self.command(Command::Take { beside }).await {
            Some(Reply::Taken(taken)) => taken,
            _ => Err(ended()),
        }
    }

    /// Goes on with the lead of an earlier run, if the leader key still carries my name.
    pub async fn retake(&self) -> StoreResult<bool> {
        match self.command(Command::Retake).await {
            Some(Reply::Taken(taken)) => taken,
            _ => Err(ended()),
        }
    }

    /// Given up by its caller, it is made all the same.
    pub async fn release(&self, status: Option<String>) -> StoreResult<()> {
        match self.command(Command::Release { status }).await {
            Some(Reply::Released(released)) => released,
            _ => Err(ended()),
        }
    }

    /// Said again for as long as the store shows it, so that one may get lost.
    pub fn lost(&self, revision: u64, nobody: bool) {
        let _ = self.messages.try_send(Message::Lost { revision, nobody });
    }

    pub async fn vouched(&self, sent: BootTime, length: Duration, by: BTreeSet<MemberName>, epoch: u64) {
        let _ = self.messages.send(Message::Vouched { sent, length, by, epoch }).await;
    }

    pub async fn electors(&self, epoch: u64) {
        let _ = self.messages.send(Message::Electors(epoch)).await;
    }

    pub async fn unvouches(&self, lead: Option<u64>) {
        let _ = self.messages.send(Message::Unvouches(lead)).await;
    }

    /// At once, and not only when it is due.
    pub fn renew(&self) {
        let _ = self.messages.try_send(Message::Renew);
    }

    /// Before the first take.
    pub async fn promised(&self, until: BootTime) {
        let _ = self.messages.send(Message::Promised(until)).await;
    }

    pub fn set_timing(&self, timing: Timing) {
        self.timing.send_if_modified(|now| std::mem::replace(now, timing) != timing);
    }

    /// A renewal now, or what became of it within the limit.
    pub async fn renewed_now(&self, limit: std::time::Duration) {
        let mut state = self.state.clone();
        let before = state.borrow_and_update().clone();
        self.renew();
        let done = state.wait_for(|s| (s.renewals, s.failures) != (before.renewals, before.failures));
        let _ = tokio::time::timeout(limit, done).await;
    }

    /// Until when the lead is good, which no renewal changes from here on; nothing if it is not mine.
    pub async fn freeze(&self) -> Option<BootTime> {
        match self.command(Command::Freeze).await {
            Some(Reply::Frozen(until)) => until,
            _ => None,
        }
    }

    pub async fn thaw(&self) {
        self.command(Command::Thaw).await;
    }

    /// Ends the session: every key bound to it disappears at once.
    pub async fn close(&self) {
        self.command(Command::Close).await;
    }

    /// The keeper ends only with the process: `None`.
    async fn command(&self, command: Command) -> Option<Reply> {
        let (tx, rx) = oneshot::channel();
        self.messages.send(Message::Command(command, tx)).await.ok()?;
        rx.await.ok()
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the agent is ending".into())
}

type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Driver {
    store: Arc<ClusterStore>,
    keeper: Keeper,
    state: watch::Sender<LeaseState>,
    waiting: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    tickets: Ticket,
}

impl Driver {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut timings: watch::Receiver<Timing>) {
        let mut asking: Option<Asking> = None;
        loop {
            let given_up: Vec<Ticket> = self.waiting.iter().filter(|(_, tx)| tx.is_closed()).map(|(t, _)| *t).collect();
            for ticket in given_up {
                self.keeper.withdraw(ticket);
                self.waiting.remove(&ticket);
            }
            let next = self.keeper.next(self.moment());
            self.publish();
            let until = match next {
                Next::Ask { request, limit } => {
                    asking = Some(Box::pin(ask(self.store.clone(), request, limit)));
                    continue;
                }
                Next::Reply { ticket, reply } => {
                    if let Some(tx) = self.waiting.remove(&ticket) {
                        let _ = tx.send(reply);
                    }
                    continue;
                }
                Next::Wait { until } => Some(until),
                Next::Busy => None,
                Next::Ended => return,
            };
            tokio::select! {
                biased;
                answer = answered(asking.as_mut()) => {
                    asking = None;
                    self.keeper.answered(self.moment(), answer);
                }
                message = messages.recv() => match message {
                    None => return,
                    Some(Message::Command(command, tx)) => {
                        self.tickets += 1;
                        self.waiting.insert(self.tickets, tx);
                        self.keeper.command(self.tickets, command);
                    }
                    Some(Message::Lost { revision, nobody }) => self.keeper.lost(boot_now(), revision, nobody),
                    Some(Message::Vouched { sent, length, by, epoch }) => {
                        self.keeper.vouched(self.moment(), sent, length, by, epoch);
                    }
                    Some(Message::Electors(epoch)) => self.keeper.electors(epoch),
                    Some(Message::Unvouches(lead)) => self.keeper.unvouches(lead),
                    Some(Message::Renew) => self.keeper.renew(),
                    Some(Message::Promised(until)) => self.keeper.promised(until),
                },
                Ok(()) = timings.changed() => self.keeper.set_timing(*timings.borrow_and_update()),
                () = due(until) => {}
            }
            self.publish();
        }
    }

    fn moment(&self) -> Moment {
        Moment { now: boot_now(), session: self.store.lease() }
    }

    fn publish(&self) {
        let now = self.keeper.state();
        self.state.send_if_modified(|before| {
            let changed = before != now;
            if changed {
                before.clone_from(now);
            }
            changed
        });
    }
}

async fn answered(asking: Option<&mut Asking>) -> Answer {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn due(at: Option<BootTime>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(boot_now())).await,
        None => std::future::pending().await,
    }
}

async fn ask(store: Arc<ClusterStore>, request: Request, limit: std::time::Duration) -> Answer {
    match request {
        Request::Open { ttl } => Answer::Opened(store.open_session(ttl, limit).await),
        Request::Renew => Answer::Renewed(store.renew_session(limit).await),
        Request::Take { beside } => Answer::Taken(store.take_lead_beside(beside, limit).await),
        Request::Retake => Answer::Taken(store.retake_lead(limit).await),
        Request::Look => Answer::Looked(store.read(limit).await.map(|view| view.leader)),
        Request::Release { status, unvouch } => {
            Answer::Released(store.release_lead_beside(status, unvouch, limit).await.map(|_| ()))
        }
        Request::Close => {
            // The lease ends by itself if this fails.
            let _ = store.close_session(limit).await;
            Answer::Closed
        }
    }
}

#[cfg(test)]
mod tests;
