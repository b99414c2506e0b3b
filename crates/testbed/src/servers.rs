//! The servers of a store outside, one verb for all kinds.

use anyhow::Result;

use crate::cluster::Cluster;
use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::zookeeper::ZooKeeper;

/// One server.
pub enum Server<'a> {
    Etcd(&'a mut Etcd, usize),
    ZooKeeper(&'a mut ZooKeeper, usize),
    Consul(&'a mut Consul),
}

/// How many there are; none where the agents are the store.
pub fn count(cluster: &Cluster) -> usize {
    let etcd = cluster.etcd.as_ref().map(Etcd::servers);
    let zookeeper = cluster.zookeeper.as_ref().map(ZooKeeper::servers);
    etcd.or(zookeeper).or(cluster.consul.as_ref().map(|_| 1)).unwrap_or(0)
}

/// Of servers outside.
pub async fn leader(cluster: &Cluster) -> Result<usize> {
    match (&cluster.etcd, &cluster.zookeeper) {
        (Some(etcd), _) => etcd.leader().await,
        (_, Some(zookeeper)) => zookeeper.leader().await,
        _ => Ok(0),
    }
}

impl<'a> Server<'a> {
    pub fn of(cluster: &'a mut Cluster, index: usize) -> Option<Server<'a>> {
        if index >= count(cluster) {
            return None;
        }
        match (&mut cluster.etcd, &mut cluster.zookeeper, &mut cluster.consul) {
            (Some(etcd), _, _) => Some(Server::Etcd(etcd, index)),
            (_, Some(zookeeper), _) => Some(Server::ZooKeeper(zookeeper, index)),
            (_, _, Some(consul)) => Some(Server::Consul(consul)),
            _ => None,
        }
    }

    pub fn start(self) -> Result<()> {
        match self {
            Server::Etcd(etcd, index) => etcd.spawn(index),
            Server::ZooKeeper(zookeeper, index) => zookeeper.spawn(index),
            Server::Consul(consul) => consul.spawn(),
        }
    }

    pub fn kill(self) {
        match self {
            Server::Etcd(etcd, index) => etcd.kill_one(index),
            Server::ZooKeeper(zookeeper, index) => zookeeper.kill_one(index),
            Server::Consul(consul) => consul.kill(),
        }
    }

    pub fn freeze(self) {
        match self {
            Server::Etcd(etcd, index) => etcd.freeze_one(index),
            Server::ZooKeeper(zookeeper, index) => zookeeper.freeze_one(index),
            Server::Consul(consul) => consul.freeze(),
        }
    }

    pub fn thaw(self) {
        match self {
            Server::Etcd(etcd, index) => etcd.thaw_one(index),
            Server::ZooKeeper(zookeeper, index) => zookeeper.thaw_one(index),
            Server::Consul(consul) => consul.thaw(),
        }
    }
}
