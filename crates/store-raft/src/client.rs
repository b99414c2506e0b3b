use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use surus_store::{Fut, Health, Kv, LeaseId, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch, WatchEvent};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::CallError;
use crate::error::StartError;
use crate::handshake::Who;
use crate::members::Member;
use crate::operations::{self, Executor};
use crate::options::TlsOptions;
use crate::peers::Peers;
use crate::store::address;
use crate::tls::Tls;
use crate::types::{Applied, Operation};
use crate::watching;
use crate::wire::{Reply, Request};

/// A node that does not answer a read is left for the next one after this time.
const ATTEMPT: Duration = Duration::from_secs(2);
const BREATH: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(200);
/// How long a watch may be silent before the node is asked for a sign of life.
const PING: Duration = Duration::from_secs(2);

/// Uses a group without being a node of it: for commands run beside the agents.
pub struct RaftClient {
    link: Arc<Link>,
    watches: std::sync::Mutex<tokio::task::JoinSet<()>>,
}

struct Link {
    peers: Peers,
    addrs: Vec<String>,
    /// The address that answered last.
    current: AtomicUsize,
}

impl RaftClient {
    /// Does not wait for a node to answer: an unreachable group shows in the first request.
    pub async fn connect(
        addrs: &[String],
        password: Option<String>,
        tls: Option<TlsOptions>,
    ) -> Result<RaftClient, StartError> {
        let addrs = addrs.iter().map(|a| address("partner_addrs", a)).collect::<Result<Vec<_>, _>>()?;
        if addrs.is_empty() {
            return Err(StartError::Raft("no address of a node is given (raft.self_addr, raft.partner_addrs)".into()));
        }
        let tls = tls.as_ref().map(Tls::load).transpose()?;
        let me = Who { node: None, addr: "a client".into(), group: None, replaces: vec![] };
        let peers = Peers::new(me, password.filter(|p| !p.is_empty()), tls);
        let link = Arc::new(Link { peers, addrs, current: AtomicUsize::new(0) });
        Ok(RaftClient { link, watches: Default::default() })
    }

    pub async fn members(&self, deadline: Duration) -> StoreResult<Vec<Member>> {
        match self.link.ask(|| Request::Members, deadline, true).await? {
            Reply::Members(members) => Ok(members),
            other => Err(odd(other)),
        }
    }

    /// Makes the node at `addr` a member. It must be running, with the same secret.
    pub async fn add_member(&self, addr: &str, deadline: Duration) -> StoreResult<()> {
        let addr = operations::member_address(addr)?;
        operations::done(self.link.ask(|| Request::AddMember { addr: addr.clone() }, deadline, false).await?)
    }

    /// Takes the node at `addr`, running or not, out of the group.
    pub async fn remove_member(&self, addr: &str, deadline: Duration) -> StoreResult<()> {
        let addr = operations::member_address(addr)?;
        operations::done(self.link.ask(|| Request::RemoveMember { addr: addr.clone() }, deadline, false).await?)
    }
}

impl Link {
    /// Asks one node after another until one has an answer. `repeatable`: may be asked again although
    /// an earlier question may have had its effect.
    async fn ask(&self, request: impl Fn() -> Request, deadline: Duration, repeatable: bool) -> StoreResult<Reply> {
        let until = Instant::now() + deadline;
        let (mut failures, mut unknown) = (Vec::new(), None);
        loop {
            let at = self.current.load(Ordering::Relaxed) % self.addrs.len();
            let left = until.saturating_duration_since(Instant::now());
            let within = if repeatable { left.min(ATTEMPT) } else { left };
            let why = match self.peers.call(&self.addrs[at], None, request(), within).await {
                Ok(Reply::Failed(failure)) => match StoreError::from(failure) {
                    StoreError::Unavailable(why) => format!("{}: {why}", self.addrs[at]),
                    StoreError::OutcomeUnknown(why) if repeatable => {
                        unknown = Some(why.clone());
                        why
                    }
                    e => return Err(e),
                },
                Ok(reply) => return Ok(reply),
                Err(CallError::NotSent(why)) => why,
                // Wrong secret or certificate: the same at every node, unless the configuration differs.
                Err(CallError::Refused(why)) if self.addrs.len() == 1 => return Err(StoreError::Refused(why)),
                Err(CallError::Refused(why)) => why,
                Err(CallError::NoAnswer(why)) if !repeatable => return Err(StoreError::OutcomeUnknown(why)),
                Err(CallError::NoAnswer(why)) => {
                    unknown = Some(why.clone());
                    why
                }
            };
            self.current.store(at + 1, Ordering::Relaxed);
            if !failures.contains(&why) {
                failures.push(why);
            }
            if Instant::now() + BREATH >= until {
                failures.truncate(self.addrs.len());
                return Err(match unknown {
                    Some(why) => StoreError::OutcomeUnknown(why),
                    None => StoreError::Unavailable(failures.join("; ")),
                });
            }
            sleep(BREATH).await;
        }
    }

    async fn read(&self, prefix: &str, deadline: Duration) -> StoreResult<Snapshot> {
        let reply = self.ask(|| Request::Read { prefix: prefix.to_owned() }, deadline, true).await;
        match reply {
            Ok(Reply::Read(view)) => Ok(view.into()),
            Ok(other) => Err(odd(other)),
            // A read that was not answered had no effect.
            Err(StoreError::OutcomeUnknown(why)) => Err(StoreError::Unavailable(why)),
            Err(e) => Err(e),
        }
    }

    async fn watch(&self, prefix: &str, tx: tokio::sync::mpsc::Sender<WatchEvent>) {
        let mut said = false;
        let closed = tx.clone();
        let go = async {
            loop {
                let at = self.current.load(Ordering::Relaxed) % self.addrs.len();
                let Err(why) = self.watch_at(&self.addrs[at], prefix, &tx, &mut said).await else { return };
                if !std::mem::replace(&mut said, true) && tx.send(WatchEvent::Broken(why)).await.is_err() {
                    return;
                }
                self.current.store(at + 1, Ordering::Relaxed);
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = go => {}
            () = closed.closed() => {}
        }
    }

    /// Until the listener is gone (`Ok`) or the node is of no use (`Err`). A node that has lost its group
    /// says `Broken` itself; then the next one is tried.
    async fn watch_at(
        &self,
        addr: &str,
        prefix: &str,
        tx: &tokio::sync::mpsc::Sender<WatchEvent>,
        said: &mut bool,
    ) -> Result<(), String> {
        let connection = self.peers.separate(addr).await?;
        let request = Request::Watch { prefix: prefix.to_owned() };
        let mut events = connection.stream(request).ok_or("the connection broke")?;
        loop {
            let event = match timeout(PING, events.recv()).await {
                Ok(Some(Reply::Event(event))) => WatchEvent::from(event),
                Ok(_) => return Err(format!("{addr}: the connection broke")),
                // Silence is normal; a node that does not answer at all is not.
                Err(_) => match connection.call(Request::Ping, ATTEMPT).await {
                    Ok(_) => continue,
                    Err(e) => return Err(format!("{addr}: {e}")),
                },
            };
            if let WatchEvent::Broken(why) = event {
                return Err(format!("{addr}: {why}"));
            }
            *said = false;
            if tx.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn odd(_: Reply) -> StoreError {
    StoreError::Unavailable("the node gave an answer to another question".into())
}

impl Executor for Link {
    async fn execute(&self, op: Operation, deadline: Duration) -> StoreResult<Applied> {
        match self.ask(|| Request::Write(op.clone()), deadline, op.repeatable()).await? {
            Reply::Applied(applied) => Ok(applied),
            _ => Err(StoreError::OutcomeUnknown("the node gave an answer to another question".into())),
        }
    }
}

impl Kv for RaftClient {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(self.link.read(prefix, deadline))
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(operations::txn(&*self.link, txn, deadline))
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(operations::grant(&*self.link, ttl, deadline))
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(operations::renew(&*self.link, lease, deadline))
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(operations::revoke(&*self.link, lease, deadline))
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (tx, watch) = watching::channel();
        let (link, prefix) = (self.link.clone(), prefix.to_owned());
        let mut watches = self.watches.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        watches.spawn(async move { link.watch(&prefix, tx).await });
        watch
    }

    fn health(&self) -> Health {
        let at = self.link.current.load(Ordering::Relaxed) % self.link.addrs.len();
        Health { kind: "embedded", summary: format!("client of the node at {}", self.link.addrs[at]) }
    }
}
