//! How the consensus library reaches the other nodes.

use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, BasicNode};

use crate::connection::CallError;
use crate::peers::Peers;
use crate::types::TypeConfig;
use crate::wire::{Reply, Request};

pub struct Network {
    pub peers: Peers,
}

pub struct Link {
    peers: Peers,
    target: u64,
    addr: String,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        Link { peers: self.peers.clone(), target, addr: node.addr.clone() }
    }
}

type Rpc<T, E = RaftError<u64>> = Result<T, RPCError<u64, BasicNode, E>>;

impl Link {
    async fn call<E: std::error::Error>(&self, request: Request, option: &RPCOption) -> Rpc<Reply, E> {
        // A little less than the library's own limit, which would drop this future before it could
        // notice a dead connection.
        let within = option.hard_ttl() * 9 / 10;
        self.peers.call(&self.addr, Some(self.target), request, within).await.map_err(|e| match e {
            CallError::NotSent(_) | CallError::Refused(_) => RPCError::Unreachable(Unreachable::new(&e)),
            CallError::NoAnswer(_) => RPCError::Network(NetworkError::new(&e)),
        })
    }
}

fn unexpected<T, E: std::error::Error>(reply: Reply) -> Rpc<T, E> {
    let why = match reply {
        Reply::Failed(failure) => surus_store::StoreError::from(failure).to_string(),
        _ => "an answer to another question".to_owned(),
    };
    Err(RPCError::Network(NetworkError::from(AnyError::error(why))))
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        match self.call(Request::Append(rpc), &option).await? {
            Reply::Append(response) => Ok(response),
            other => unexpected(other),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        match self.call(Request::Snapshot(rpc), &option).await? {
            Reply::Snapshot(Ok(response)) => Ok(response),
            Reply::Snapshot(Err(e)) => Err(RPCError::RemoteError(RemoteError::new(self.target, e))),
            other => unexpected(other),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Rpc<VoteResponse<u64>> {
        match self.call(Request::Vote(rpc), &option).await? {
            Reply::Vote(response) => Ok(response),
            other => unexpected(other),
        }
    }

    fn backoff(&self) -> Backoff {
        // A node that comes back must hear the leader before it grows restless.
        Backoff::new(std::iter::repeat(Duration::from_millis(200)))
    }
}
