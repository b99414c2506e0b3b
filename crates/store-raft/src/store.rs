use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use surus_store::{Fut, Health, Kv, LeaseId, Snapshot, StoreResult, Txn, TxnOutcome, Watch};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::disk::Disk;
use crate::error::StartError;
use crate::form::GROUP;
use crate::handshake::Who;
use crate::host;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::members::Member;
use crate::network::Network;
use crate::node::{BeganWith, Leader, Node};
use crate::operations::{self, Executor};
use crate::options::RaftOptions;
use crate::peers::Peers;
use crate::records::VoteRecord;
use crate::recover::{RECORD, RECOVERED, Recovered};
use crate::server::Server;
use crate::timing::{LEADER_LEASE_MS, REQUEST_MS};
use crate::tls::Tls;
use crate::types::{Applied, Operation, Raft};
use crate::watching;
use crate::wire::Request;

/// One node of the group, in this process.
pub struct RaftStore {
    pub(crate) node: Arc<Node>,
    listening: SocketAddr,
    tasks: Mutex<JoinSet<()>>,
}

impl RaftStore {
    /// Opens the log, listens, and returns. Forming or joining the group goes on in the background:
    /// until there is a Raft leader, requests wait for one within their deadline.
    pub async fn start(options: RaftOptions) -> Result<RaftStore, StartError> {
        let addr = address("self_addr", &options.self_addr)?;
        let bind = address("bind_addr", &options.bind_addr)?;
        let mut partners = Vec::new();
        for partner in &options.partner_addrs {
            partners.push(address("partner_addrs", partner)?);
        }
        partners.sort();
        partners.dedup();
        partners.retain(|p| *p != addr);
        let secret = options.password.filter(|p| !p.is_empty());
        let tls = options.tls.as_ref().map(Tls::load).transpose()?;
        let dir = options.data_dir.clone();
        let disk = match host::beside(move || Disk::open(&dir)).await {
            Ok(disk) => disk?,
            Err(e) => return Err(StartError::Raft(e.to_string())),
        };
        // Before the log is touched: a port in use must leave no trace.
        let cannot = |e: std::io::Error| StartError::Listen { addr: bind.clone(), reason: e.to_string() };
        let listener = host::Listener::bind(&bind).await.map_err(cannot)?;
        let listening = listener.local_addr().map_err(cannot)?;
        if secret.is_none() && tls.is_none() {
            tracing::warn!(
                "the embedded store on {bind} has neither a shared secret (raft.password) nor TLS: whoever reaches this \
                 port can read and change the cluster's state"
            );
        }
        let id = disk.node_id();
        let group = disk.meta::<String>(GROUP);
        let recovered = disk.meta::<Recovered>(RECOVERED);
        if let Some(r) = &recovered {
            tracing::warn!(
                "this store group was recovered out of {}, which had lost its majority, at log position {} ({} lost); \
                 {RECORD} in its data directory has the whole of it",
                r.from,
                r.at.index,
                r.lost.join(", ")
            );
        }
        let replaces = recovered.map(|r| r.replaces).unwrap_or_default();
        let me = Who { node: Some(id), addr: addr.clone(), group: group.clone(), replaces };
        let peers = Peers::new(me, secret.clone(), tls.clone());
        let machine = Machine::open(disk.clone());
        let log = LogStore::new(disk.clone());
        let began_with = BeganWith {
            term: disk.meta::<VoteRecord>(crate::log_store::VOTE).map_or(0, |vote| vote.term),
            entries: log.last().map_or(0, |id| id.index + 1),
        };
        let network = Network { peers: peers.clone() };
        let raft = Raft::new(id, Arc::new(config()?), network, log.clone(), machine.clone())
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        let node = Arc::new(Node {
            id,
            addr,
            partners,
            voter: options.voter,
            witness: options.witness,
            replace_after: options.replace_after,
            raft,
            machine,
            peers,
            disk,
            log,
            began_with,
            group: watch::Sender::new(group),
            contact: watch::Sender::new(false),
            waiting_for: watch::Sender::default(),
            changing: Default::default(),
            entering: Default::default(),
            leader_heard_at: AtomicU64::new(0),
            leadership: Default::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Server { node: node.clone(), secret, tls }.run(listener));
        tasks.spawn(node.clone().hold_elections());
        tasks.spawn(node.clone().beat());
        tasks.spawn(node.clone().judge_contact());
        tasks.spawn(node.clone().ask_consensus());
        tasks.spawn(node.clone().keep_voters());
        tasks.spawn(node.clone().end_leases());
        tasks.spawn(node.clone().raise_format());
        tasks.spawn(node.clone().find_group());
        tracing::info!("the embedded store listens on {listening} (node {id})");
        Ok(RaftStore { node, listening, tasks: Mutex::new(tasks) })
    }

    /// Stops taking part. The log stays; the group counts this node as unreachable.
    pub async fn shutdown(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if let Err(e) = self.node.raft.shutdown().await {
            tracing::warn!("the embedded store did not stop in order: {e}");
        }
        self.node.peers.close_all();
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.listening
    }

    pub async fn members(&self, deadline: Duration) -> StoreResult<Vec<Member>> {
        self.node.members(deadline).await
    }

    /// Makes the node at `addr` a member. It must be running, with the same secret.
    pub async fn add_member(&self, addr: &str, deadline: Duration) -> StoreResult<()> {
        let request = Request::AddMember { addr: operations::member_address(addr)? };
        operations::done(self.node.change_members(request, deadline, true).await)
    }

    /// Takes the node at `addr`, running or not, out of the group.
    pub async fn remove_member(&self, addr: &str, deadline: Duration) -> StoreResult<()> {
        let request = Request::RemoveMember { addr: operations::member_address(addr)? };
        operations::done(self.node.change_members(request, deadline, true).await)
    }
}

fn config() -> Result<Config, StartError> {
    Config {
        cluster_name: "surus".into(),
        heartbeat_interval: REQUEST_MS,
        // Only the upper one counts, as the leader's lease: elections are called by `election`.
        election_timeout_min: LEADER_LEASE_MS - 100,
        election_timeout_max: LEADER_LEASE_MS,
        enable_elect: false,
        install_snapshot_timeout: 5000,
        snapshot_max_chunk_size: 256 << 10,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(1000),
        max_in_snapshot_log_to_keep: 500,
        purge_batch_size: 100,
        replication_lag_threshold: 3000,
        ..Config::default()
    }
    .validate()
    .map_err(|e| StartError::Raft(e.to_string()))
}

pub fn address(key: &'static str, value: &str) -> Result<String, StartError> {
    let bad = || StartError::Address { key, value: value.to_owned() };
    let (host, port) = value.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    if host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !host.starts_with('[')) {
        return Err(bad());
    }
    Ok(value.to_lowercase())
}

impl Executor for Node {
    async fn execute(&self, op: Operation, deadline: Duration) -> StoreResult<Applied> {
        self.write(op, deadline).await
    }
}

impl Kv for RaftStore {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(self.node.read(prefix, deadline))
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(operations::txn(&*self.node, txn, deadline))
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(operations::grant(&*self.node, ttl, deadline))
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(operations::renew(&*self.node, lease, deadline))
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(operations::revoke(&*self.node, lease, deadline))
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (tx, watch) = watching::channel();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(self.node.clone().watch(prefix.to_owned(), tx));
        watch
    }

    fn health(&self) -> Health {
        let leader = match self.node.leader() {
            Leader::Me => format!("this node leads ({})", self.node.addr),
            Leader::Other { addr, .. } => format!("Raft leader {addr}"),
            Leader::Unknown(why) => why,
        };
        let members = self.node.membership();
        let summary = match members.voter_ids().count() {
            0 => leader,
            voters => format!("{leader}; {voters} voters"),
        };
        Health { kind: "embedded", summary }
    }
}
