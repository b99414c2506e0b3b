//! Credentials and certificates of the store are exchanged without a restart: after a reload, and when the files of the
//! certificates change. What does not work is not taken up, and is tried again until it does.

use std::path::PathBuf;
use std::time::Duration;

use surus_config::StoreConfig;
use surus_store_consul::ConsulStore;
use surus_store_etcd::EtcdStore;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::files::Watched;
use crate::stores::{OpenStore, consul, etcd_access};

const TRY: Duration = Duration::from_secs(5);
/// A password that is not accepted yet may be a moment later: it is changed here and in etcd, one after the other.
const AGAIN: Duration = Duration::from_secs(2);

/// Where a reload brings the store's section to. Nothing where a store has no credentials of its own.
#[derive(Clone, Default)]
pub struct Access(Option<watch::Sender<StoreConfig>>);

/// Those that have some.
#[derive(Clone)]
enum Store {
    Etcd(EtcdStore),
    Consul(ConsulStore),
}

impl Access {
    /// `prefix`: what this member has to be able to read.
    pub fn keep(opened: &OpenStore, config: &StoreConfig, prefix: String) -> Access {
        let consul = || opened.consul.as_ref().map(|consul| Store::Consul(consul.store()));
        let Some(store) = opened.etcd.clone().map(Store::Etcd).or_else(consul) else { return Access(None) };
        let (tx, rx) = watch::channel(config.clone());
        tokio::spawn(keep(store, prefix, rx));
        Access(Some(tx))
    }

    pub fn set(&self, config: &StoreConfig) {
        if let Some(tx) = &self.0 {
            tx.send_replace(config.clone());
        }
    }
}

/// Ends with the agent.
async fn keep(store: Store, prefix: String, mut configured: watch::Receiver<StoreConfig>) {
    let mut told = None;
    loop {
        let config = configured.borrow_and_update().clone();
        let (section, files) = match &config {
            StoreConfig::Etcd3(etcd) => ("etcd3", [&etcd.cacert, &etcd.cert, &etcd.key]),
            StoreConfig::Consul(consul) => ("consul", [&consul.cacert, &consul.cert, &consul.key]),
            _ => return,
        };
        let files: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
        let has_files = !files.is_empty();
        let watched = Watched::on(files).await;
        let failed = take_up(&store, config, &prefix).await.err();
        if let Some(why) = failed.as_ref().filter(|why| told.as_ref() != Some(*why)) {
            warn!(
                "the credentials of {section} that are configured now are not used, the former ones stay in force: {why}"
            );
        }
        told.clone_from(&failed);
        tokio::select! {
            () = watched.touched(), if has_files => {}
            () = sleep(AGAIN), if failed.is_some() => {}
            changed = configured.changed() => if changed.is_err() { return },
        }
    }
}

async fn take_up(store: &Store, config: StoreConfig, prefix: &str) -> Result<(), String> {
    let (section, taken) = match (store, config) {
        (Store::Etcd(store), StoreConfig::Etcd3(config)) => {
            let access = read(move || etcd_access(&config)).await?;
            ("etcd3", store.replace_access(&access, prefix, TRY).await)
        }
        (Store::Consul(store), StoreConfig::Consul(config)) => {
            let access = read(move || consul::access(&config)).await?;
            ("consul", store.replace_access(&access, prefix, TRY).await)
        }
        // Another kind of store counts after a restart.
        _ => return Ok(()),
    };
    if taken.map_err(|e| e.to_string())? {
        info!("the credentials and certificates of {section} that are configured now are used from here on");
    }
    Ok(())
}

async fn read<T: Send + 'static>(files: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, String> {
    let read = tokio::task::spawn_blocking(files).await;
    read.map_err(|e| e.to_string())?.map_err(|e| format!("{e:#}"))
}
