//! Requests to the store, from this process or over the wire: found a leader for, at most one hop.

use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use surus_store::{Snapshot, StoreError, StoreResult};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::CallError;
use crate::host;
use crate::node::{Leader, Node};
use crate::types::{Applied, Command, Operation};
use crate::wire::{Failure, Reply, Request};

const BREATH: Duration = Duration::from_millis(25);
/// Keeps one entry, and with it every batch and snapshot chunk, well below the frame limit.
const MAX_OPERATION: usize = 1 << 20;

/// How one attempt ended.
enum Attempt<T> {
    Answer(T),
    /// Certainly without effect: try again.
    Nothing(String),
    /// Perhaps with effect.
    Unknown(String),
}

impl Node {
    pub async fn write(&self, op: Operation, deadline: Duration) -> StoreResult<Applied> {
        if op.size() > MAX_OPERATION {
            return Err(StoreError::Refused("a transaction of the embedded store may not exceed 1 MiB".into()));
        }
        let until = Instant::now() + deadline;
        let mut unknown = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let leader = self.leader();
            let attempt = match &leader {
                _ if left.is_zero() => Attempt::Nothing("the deadline has passed".into()),
                Leader::Unknown(why) => Attempt::Nothing(why.clone()),
                Leader::Me => match self.propose(op.clone(), left).await {
                    Ok(applied) => Attempt::Answer(applied),
                    Err(Some(StoreError::OutcomeUnknown(why))) => Attempt::Unknown(why),
                    Err(Some(StoreError::Unavailable(why))) => Attempt::Nothing(why),
                    Err(Some(e)) => return Err(e),
                    Err(None) => Attempt::Nothing("the Raft leader is changing".into()),
                },
                Leader::Other { .. } => match self.ask(&leader, Request::Propose(op.clone()), left).await? {
                    Attempt::Answer(Reply::Applied(applied)) => Attempt::Answer(applied),
                    Attempt::Answer(_) => Attempt::Unknown("the Raft leader gave a strange answer".into()),
                    Attempt::Nothing(why) => Attempt::Nothing(why),
                    Attempt::Unknown(why) => Attempt::Unknown(why),
                },
            };
            match attempt {
                Attempt::Answer(applied) => return Ok(applied),
                Attempt::Unknown(why) if !op.repeatable() => return Err(StoreError::OutcomeUnknown(why)),
                Attempt::Unknown(why) => unknown = Some(why),
                Attempt::Nothing(why) if Instant::now() + BREATH >= until => {
                    return Err(match unknown {
                        Some(why) => StoreError::OutcomeUnknown(why),
                        None => StoreError::Unavailable(why),
                    });
                }
                Attempt::Nothing(_) => {}
            }
            sleep(BREATH).await;
        }
    }

    /// As leader. `Err(None)`: it is none, nothing happened.
    pub async fn propose(&self, op: Operation, within: Duration) -> Result<Applied, Option<StoreError>> {
        let until = Instant::now() + within;
        let (needs, written) = (op.format(), self.machine.format());
        let raises = matches!(op, Operation::Format { format } if format <= host::newest_format());
        if needs > written && !raises {
            let why = format!("it takes format {needs}, and the group still writes format {written}");
            return Err(Some(StoreError::Refused(why)));
        }
        loop {
            if !*self.contact.borrow() {
                return Err(None);
            }
            let left = until.saturating_duration_since(Instant::now());
            let stamp = match timeout(left, self.stamp()).await {
                Ok(Some(stamp)) => stamp,
                Ok(None) | Err(_) => return Err(None),
            };
            let left = until.saturating_duration_since(Instant::now());
            let unknown = |why: &str| Err(Some(StoreError::OutcomeUnknown(why.to_owned())));
            match timeout(left, self.raft.client_write(Command { stamp, op: op.clone() })).await {
                Ok(Ok(response)) if response.data == Applied::Misstamped => {}
                Ok(Ok(response)) => return Ok(response.data),
                // Also said of an entry that another leader's took the place of; a third node may still
                // have it and lead one day.
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                    return unknown("this node stopped leading the group while it wrote");
                }
                Ok(Err(e)) => return unknown(&e.to_string()),
                Err(_) => return unknown("no majority confirmed the write in time"),
            }
        }
    }

    pub async fn read(&self, prefix: &str, deadline: Duration) -> StoreResult<Snapshot> {
        self.catch_up(deadline).await?;
        Ok(self.machine.view(prefix))
    }

    /// Returns when this node has applied all that was acknowledged before the call.
    pub async fn catch_up(&self, deadline: Duration) -> StoreResult<()> {
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let leader = self.leader();
            let why = match &leader {
                Leader::Unknown(why) => why.clone(),
                Leader::Me => match timeout(left, self.read_index()).await {
                    Ok(Ok(index)) => return self.wait_applied(index, until).await,
                    Ok(Err(why)) => why,
                    Err(_) => "no majority confirmed that this node still leads".to_owned(),
                },
                Leader::Other { .. } => match self.ask(&leader, Request::ReadIndex, left).await? {
                    Attempt::Answer(Reply::Index(index)) => return self.wait_applied(index, until).await,
                    Attempt::Answer(_) => "the Raft leader gave a strange answer".to_owned(),
                    Attempt::Nothing(why) | Attempt::Unknown(why) => why,
                },
            };
            if Instant::now() + BREATH >= until {
                return Err(StoreError::Unavailable(why));
            }
            sleep(BREATH).await;
        }
    }

    /// Number of log entries that make up all acknowledged writes, confirmed by a majority.
    pub async fn read_index(&self) -> Result<u64, String> {
        match self.raft.get_read_log_id().await {
            Ok((index, _)) => Ok(index.map_or(0, |id| id.index + 1).max(self.resumed_at())),
            Err(e) => Err(e.to_string()),
        }
    }

    /// A leader that was restarted before anybody missed it goes on in its term, without an election. The library then
    /// takes the first entry of that term for enough to have seen; what this node acknowledged after it, and had not yet
    /// applied again, would be missing from a reading.
    fn resumed_at(&self) -> u64 {
        let metrics = self.raft.metrics();
        let same_term = metrics.borrow().current_term == self.began_with.term;
        if same_term { self.began_with.entries } else { 0 }
    }

    pub async fn wait_applied(&self, index: u64, until: Instant) -> StoreResult<()> {
        let mut applied = self.machine.applied();
        match tokio::time::timeout_at(until, applied.wait_for(|n| *n >= index)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::Unavailable("this node is behind the group".into())),
        }
    }

    /// Asks the leader, and stops waiting when another one is found: a frozen machine never answers.
    async fn ask(&self, leader: &Leader, request: Request, within: Duration) -> StoreResult<Attempt<Reply>> {
        let Leader::Other { node, addr } = leader else {
            return Ok(Attempt::Nothing("this node leads the group".into()));
        };
        let result = tokio::select! {
            result = self.peers.call(addr, Some(*node), request, within) => result,
            () = self.leader_changes(leader) => Err(CallError::NoAnswer("the Raft leader changed".into())),
        };
        match result {
            Ok(Reply::NotLeader) => Ok(Attempt::Nothing(format!("{addr} does not lead the group any more"))),
            Ok(Reply::Failed(Failure::Unavailable(why))) => Ok(Attempt::Nothing(why)),
            Ok(Reply::Failed(Failure::OutcomeUnknown(why))) => Ok(Attempt::Unknown(why)),
            Ok(Reply::Failed(failure)) => Err(failure.into()),
            Ok(reply) => Ok(Attempt::Answer(reply)),
            Err(CallError::NotSent(why) | CallError::Refused(why)) => Ok(Attempt::Nothing(why)),
            Err(CallError::NoAnswer(why)) => Ok(Attempt::Unknown(why)),
        }
    }

    async fn leader_changes(&self, from: &Leader) {
        let (mut metrics, mut contact) = (self.raft.server_metrics(), self.contact.subscribe());
        loop {
            match self.leader() {
                // Contact comes and goes within one leadership.
                Leader::Unknown(_) => {}
                now if now == *from => {}
                _ => return,
            }
            let gone = tokio::select! {
                changed = metrics.changed() => changed.is_err(),
                changed = contact.changed() => changed.is_err(),
            };
            if gone {
                return std::future::pending().await;
            }
        }
    }
}
