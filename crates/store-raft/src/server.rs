//! The listening end: accepts, finds out who calls, answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::handshake::{HandshakeError, PATIENCE, Session, Transport, Who, welcome};
use crate::host;
use crate::node::Node;
use crate::tls::Tls;
use crate::watching;
use crate::wire::{Answer, Call, CallId, Failure, Reply, Request};

const CONNECTIONS: usize = 256;
const CALLS_PER_CONNECTION: usize = 64;
/// An authenticated end that sends nothing for this long is gone; nodes beat far more often, clients
/// reconnect.
const IDLE: Duration = Duration::from_secs(300);

pub struct Server {
    pub node: Arc<Node>,
    pub secret: Option<String>,
    pub tls: Option<Tls>,
}

impl Server {
    pub async fn run(self, listener: host::Listener) {
        let this = Arc::new(self);
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        let refusals = Arc::new(std::sync::Mutex::new(HashSet::new()));
        let mut connections = JoinSet::new();
        loop {
            let (tcp, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of file descriptors, for example: neither spin nor give up.
                    tracing::warn!("the embedded store cannot accept connections: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let Ok(seat) = seats.clone().try_acquire_owned() else { continue };
            let (this, refusals) = (this.clone(), refusals.clone());
            connections.spawn(async move {
                let _seat = seat;
                match timeout(PATIENCE, this.admit(tcp)).await {
                    Ok(Ok(session)) => this.serve(session).await,
                    Ok(Err(HandshakeError::Refused(why))) => {
                        // Said once per cause: a misconfigured node knocks several times a second.
                        let mut seen = refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        if seen.len() < 1000 && seen.insert((from.ip(), why.clone())) {
                            tracing::error!("the embedded store refused a connection from {}: {why}", from.ip());
                        }
                    }
                    Ok(Err(HandshakeError::Broken(why))) => {
                        tracing::debug!("a connection from {from} to the embedded store came to nothing: {why}");
                    }
                    Err(_) => tracing::debug!("a connection from {from} to the embedded store said nothing useful"),
                }
            });
        }
    }

    async fn admit(&self, tcp: Box<dyn Transport>) -> Result<Session, HandshakeError> {
        let broken = |e: std::io::Error| HandshakeError::Broken(e.to_string());
        let io: Box<dyn Transport> = match &self.tls {
            Some(tls) => tls.accept(tcp).await.map_err(broken)?,
            None => tcp,
        };
        welcome(io, &self.node.peers.me(), self.secret.as_deref()).await
    }

    async fn serve(&self, session: Session) {
        let Session { frames, peer, mut outgoing, mut incoming } = session;
        let (mut sink, mut stream) = frames.split();
        let (answers, mut queue) = mpsc::channel::<Vec<u8>>(CALLS_PER_CONNECTION);
        let mut calls = JoinSet::new();
        calls.spawn(async move {
            while let Some(frame) = queue.recv().await {
                if sink.send(outgoing.close(frame)).await.is_err() {
                    return;
                }
            }
        });
        let peer = Arc::new(peer);
        let mut misunderstood = false;
        while let Ok(Some(Ok(frame))) = timeout(IDLE, stream.next()).await {
            let Some(frame) = incoming.open(frame) else {
                tracing::warn!("a frame from {} was not genuine; closing the connection", peer.addr);
                return;
            };
            let call = match (serde_json::from_slice::<Call>(&frame), serde_json::from_slice::<CallId>(&frame)) {
                (Ok(call), _) => call,
                // A later version asks for what this one does not have: the rest of the conversation goes on.
                (Err(e), Ok(CallId { id })) => {
                    if !std::mem::replace(&mut misunderstood, true) {
                        tracing::warn!(
                            "{} asks the embedded store for something this program does not know ({e}): it runs another \
                             version. Bring this node to that one",
                            peer.addr
                        );
                    }
                    let reply = Reply::Failed(Failure::Refused(format!(
                        "{} runs a version of the program that does not know this request; bring it to the one of {}",
                        self.node.addr, peer.addr
                    )));
                    if let Ok(frame) = serde_json::to_vec(&Answer { id, reply }) {
                        let _ = answers.send(frame).await;
                    }
                    continue;
                }
                (Err(_), Err(_)) => {
                    tracing::warn!("a request from {} is not understood; closing the connection", peer.addr);
                    return;
                }
            };
            while calls.try_join_next().is_some() {}
            // One more than calls: the writer.
            while calls.len() > CALLS_PER_CONNECTION {
                calls.join_next().await;
            }
            let (node, peer, answers) = (self.node.clone(), peer.clone(), answers.clone());
            if let Request::Watch { prefix } = call.request {
                calls.spawn(stream_watch(node, prefix, call.id, answers));
                continue;
            }
            calls.spawn(async move {
                let reply = node.answer(&peer, Duration::from_millis(call.within_ms), call.request).await;
                if let Ok(frame) = serde_json::to_vec(&Answer { id: call.id, reply }) {
                    let _ = answers.send(frame).await;
                }
            });
        }
    }
}

async fn stream_watch(node: Arc<Node>, prefix: String, id: u64, answers: mpsc::Sender<Vec<u8>>) {
    let (tx, mut watch) = watching::channel();
    let forward = async {
        while let Some(event) = watch.events.recv().await {
            let answer = Answer { id, reply: Reply::Event(event.into()) };
            let Ok(frame) = serde_json::to_vec(&answer) else { return };
            if answers.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = forward => {}
        () = node.watch(prefix, tx) => {}
    }
}

impl Node {
    async fn answer(self: &Arc<Node>, from: &Who, within: Duration, request: Request) -> Reply {
        if request.is_raft()
            && let Err(why) = self.same_group(from).await
        {
            return Reply::Failed(Failure::Refused(why));
        }
        let failed = |e: surus_store::StoreError| Reply::Failed(e.into());
        match request {
            Request::Append(rpc) => match self.raft.append_entries(rpc).await {
                Ok(response) => {
                    if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                        self.heard_leader();
                    }
                    Reply::Append(response)
                }
                Err(e) => Reply::Failed(Failure::Unavailable(e.to_string())),
            },
            Request::Vote(rpc) => match self.raft.vote(rpc).await {
                Ok(response) => Reply::Vote(response),
                Err(e) => Reply::Failed(Failure::Unavailable(e.to_string())),
            },
            Request::Snapshot(rpc) => {
                let result = self.raft.install_snapshot(rpc).await;
                if result.is_ok() {
                    self.heard_leader();
                }
                Reply::Snapshot(result)
            }
            Request::PreVote { last } => Reply::PreVote {
                granted: self.would_vote_for(last),
                stranger: from.node.is_none_or(|id| self.membership().get_node(&id).is_none()),
            },
            Request::Ping => Reply::Done,
            Request::Watch { .. } => Reply::Failed(Failure::Refused("a watch is a stream".into())),
            Request::Probe => Reply::Probe(self.probed()),
            Request::ReadIndex if !self.is_raft_leader() => Reply::NotLeader,
            Request::ReadIndex => match timeout(within, self.read_index()).await {
                Ok(Ok(index)) => Reply::Index(index),
                Ok(Err(why)) => Reply::Failed(Failure::Unavailable(why)),
                Err(_) => Reply::Failed(Failure::Unavailable("no majority answered in time".into())),
            },
            Request::Propose(op) => match self.propose(op, within).await {
                Ok(applied) => Reply::Applied(applied),
                Err(Some(e)) => failed(e),
                Err(None) => Reply::NotLeader,
            },
            Request::Read { prefix } => match self.read(&prefix, within).await {
                Ok(snapshot) => Reply::Read(snapshot.into()),
                Err(e) => failed(e),
            },
            Request::Write(op) => match self.write(op, within).await {
                Ok(applied) => Reply::Applied(applied),
                Err(e) => failed(e),
            },
            Request::Members if from.node.is_some() => Reply::Members(self.members_here().await),
            Request::Members => match self.members(within).await {
                Ok(members) => Reply::Members(members),
                Err(e) => failed(e),
            },
            change @ (Request::Join { .. } | Request::AddMember { .. } | Request::RemoveMember { .. }) => {
                self.change_members(change, within, from.node.is_none()).await
            }
        }
    }

    /// A node without a group becomes part of the one that first calls it by its own id: only a leader
    /// or candidate that has it in its membership does that.
    async fn same_group(&self, from: &Who) -> Result<(), String> {
        let (Some(_), Some(theirs)) = (from.node, &from.group) else {
            return Err("this is only for nodes of the group".into());
        };
        self.enter_group(theirs).await
    }
}
