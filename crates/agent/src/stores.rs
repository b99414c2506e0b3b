//! Opens the configured store: for the embedded one, this process becomes a node of its group.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use surus_config::{Etcd3Config, RaftConfig, StoreConfig};
use surus_store::Kv;
use surus_store_etcd::{EtcdOptions, EtcdStore};
use surus_store_raft::{RaftOptions, RaftStore, TlsOptions};

pub struct OpenStore {
    pub kv: Arc<dyn Kv>,
    node: Option<Arc<RaftStore>>,
}

impl OpenStore {
    pub async fn open(config: &StoreConfig) -> anyhow::Result<OpenStore> {
        match config {
            StoreConfig::Raft(raft) => {
                let node = Arc::new(RaftStore::start(raft_options(raft)?).await?);
                Ok(OpenStore { kv: node.clone(), node: Some(node) })
            }
            StoreConfig::Etcd3(etcd) => {
                let store = EtcdStore::connect(etcd_options(etcd)?).context("etcd3")?;
                Ok(OpenStore { kv: Arc::new(store), node: None })
            }
        }
    }

    /// Leaves the group's traffic in good order; the log stays.
    pub async fn close(&self) {
        if let Some(node) = &self.node {
            node.shutdown().await;
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
    })
}

pub fn etcd_options(etcd: &Etcd3Config) -> anyhow::Result<EtcdOptions> {
    if let Some(srv) = &etcd.srv {
        anyhow::bail!(
            "etcd3.srv: {srv}: finding etcd through DNS is not supported yet; list the endpoints in etcd3.hosts"
        );
    }
    let pem = |key: &str, path: &Option<std::path::PathBuf>| -> anyhow::Result<Option<String>> {
        path.as_deref()
            .map(|p: &Path| {
                std::fs::read_to_string(p).with_context(|| format!("etcd3.{key}: cannot read {}", p.display()))
            })
            .transpose()
    };
    Ok(EtcdOptions {
        endpoints: etcd.endpoints.clone(),
        username: etcd.username.clone(),
        password: etcd.password.as_ref().map(|p| p.expose().to_owned()),
        ca_pem: pem("cacert", &etcd.cacert)?,
        cert_pem: pem("cert", &etcd.cert)?,
        key_pem: pem("key", &etcd.key)?,
        discover_members: !etcd.use_proxies,
    })
}
