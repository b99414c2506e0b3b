//! Opens the configured store: for the embedded one, this process becomes a node of its group.

pub mod consul;
mod service;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use surus_config::{Etcd3Config, LocalConfig, RaftConfig, StoreConfig, ZooKeeperConfig};
use surus_store::{Kv, StoreError};
use surus_store_consul::ConsulStore;
use surus_store_etcd::{EtcdOptions, EtcdStore, discover_srv};
use surus_store_raft::{RaftOptions, RaftStore, TlsOptions};
use surus_store_zookeeper::{Grant, TlsFiles, ZooKeeperOptions, ZooKeeperStore};

pub struct OpenStore {
    pub kv: Arc<dyn Kv>,
    node: Option<Arc<RaftStore>>,
    /// What of it goes beyond the contract.
    pub consul: Option<consul::Consul>,
    /// Of a store whose credentials can be exchanged while it is used.
    pub etcd: Option<EtcdStore>,
}

impl OpenStore {
    pub async fn open(config: &LocalConfig) -> anyhow::Result<OpenStore> {
        match &config.store {
            StoreConfig::Raft(raft) => {
                let node = Arc::new(RaftStore::start(raft_options(raft)?).await?);
                Ok(OpenStore { kv: node.clone(), node: Some(node), etcd: None, consul: None })
            }
            StoreConfig::Etcd3(etcd) => {
                let store = EtcdStore::connect(etcd_options(etcd, true).await?).context("etcd3")?;
                Ok(OpenStore { kv: Arc::new(store.clone()), node: None, etcd: Some(store), consul: None })
            }
            StoreConfig::Consul(section) => {
                let options = consul::options(section, &format!("{}-{}", config.scope, config.name))?;
                let store = ConsulStore::connect(options).context("consul")?;
                let beyond = consul::Consul::new(store.clone(), &config.scope, config.name.as_str(), &section.service);
                Ok(OpenStore { kv: Arc::new(store), node: None, etcd: None, consul: Some(beyond) })
            }
            StoreConfig::ZooKeeper(zookeeper) => {
                let store = ZooKeeperStore::connect(&zookeeper_options(zookeeper)?).context("zookeeper")?;
                Ok(OpenStore { kv: Arc::new(store), node: None, etcd: None, consul: None })
            }
        }
    }

    /// This process is a part of it.
    pub fn lives_here(&self) -> bool {
        self.node.is_some()
    }

    /// Leaves the group's traffic in good order; the log stays.
    pub async fn close(&self) {
        if let Some(node) = &self.node {
            node.shutdown().await;
        }
        if let Some(consul) = &self.consul {
            consul.leave().await;
        }
    }
}

pub fn raft_options(raft: &RaftConfig) -> anyhow::Result<RaftOptions> {
    let self_addr = raft.self_addr.as_ref().context("raft.self_addr is not set: it is the address of this node")?;
    Ok(RaftOptions {
        self_addr: self_addr.to_string(),
        bind_addr: raft.bind_addr.as_ref().unwrap_or(self_addr).to_string(),
        partner_addrs: raft.partner_addrs.iter().map(ToString::to_string).collect(),
        data_dir: raft.data_dir.clone(),
        password: raft.password.as_ref().map(|p| p.expose().to_owned()),
        tls: raft.tls.as_ref().map(|t| TlsOptions {
            certfile: t.certfile.clone(),
            keyfile: t.keyfile.clone(),
            cafile: t.cafile.clone(),
        }),
        voter: true,
        witness: false,
        replace_after: surus_store_raft::REPLACE_AFTER,
    })
}

/// With `srv` the endpoints come from DNS. An agent waits for it: without it there is nothing to do.
pub async fn etcd_options(etcd: &Etcd3Config, wait: bool) -> anyhow::Result<EtcdOptions> {
    let mut endpoints = etcd.endpoints.clone();
    if let Some(domain) = &etcd.srv {
        endpoints = loop {
            match discover_srv(domain, etcd.srv_suffix.as_deref(), Duration::from_secs(5)).await {
                Ok(found) => break found,
                Err(StoreError::Refused(why)) => anyhow::bail!("etcd3.srv: {why}"),
                Err(e) if !wait => anyhow::bail!("etcd3.srv: the SRV records of {domain} cannot be read: {e}"),
                Err(e) => tracing::warn!("waiting on etcd: the SRV records of {domain} cannot be read: {e}"),
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        };
    }
    Ok(EtcdOptions { endpoints, discover_members: !etcd.use_proxies, ..etcd_access(etcd)? })
}

/// User and certificates as the files have them now.
pub fn etcd_access(etcd: &Etcd3Config) -> anyhow::Result<EtcdOptions> {
    Ok(EtcdOptions {
        username: etcd.username.clone(),
        password: etcd.password.as_ref().map(|p| p.expose().to_owned()),
        ca_pem: pem("etcd3.cacert", etcd.cacert.as_deref())?,
        cert_pem: pem("etcd3.cert", etcd.cert.as_deref())?,
        key_pem: pem("etcd3.key", etcd.key.as_deref())?,
        ..EtcdOptions::default()
    })
}

pub fn zookeeper_options(zookeeper: &ZooKeeperConfig) -> anyhow::Result<ZooKeeperOptions> {
    let tls = || -> anyhow::Result<TlsFiles> {
        Ok(TlsFiles {
            ca_pem: pem("zookeeper.cacert", zookeeper.cacert.as_deref())?,
            cert_pem: pem("zookeeper.cert", zookeeper.cert.as_deref())?,
            key_pem: pem("zookeeper.key", zookeeper.key.as_deref())?,
            verify: zookeeper.verify,
        })
    };
    let grant = |(principal, permissions): &(String, Vec<String>)| Grant {
        principal: principal.clone(),
        permissions: permissions.clone(),
    };
    Ok(ZooKeeperOptions {
        hosts: zookeeper.hosts.clone(),
        tls: zookeeper.use_ssl.then(tls).transpose()?,
        auth: zookeeper.auth_data.iter().map(|(scheme, text)| (scheme.clone(), text.expose().to_owned())).collect(),
        acls: zookeeper.set_acls.iter().map(grant).collect(),
    })
}

fn pem(key: &str, path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let read = |p: &Path| std::fs::read_to_string(p).with_context(|| format!("{key}: cannot read {}", p.display()));
    path.map(read).transpose()
}
