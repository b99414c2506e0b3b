//! Credentials and certificates of the store are exchanged without a restart: after a reload, and when the files of the
//! certificates change. What does not work is not taken up, and is tried again until it does.

use std::path::PathBuf;
use std::time::Duration;

use surus_config::{Etcd3Config, StoreConfig};
use surus_store_etcd::{EtcdOptions, EtcdStore};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::files::Watched;
use crate::stores::{OpenStore, etcd_access};

const TRY: Duration = Duration::from_secs(5);
/// A password that is not accepted yet may be a moment later: it is changed here and in etcd, one after the other.
const AGAIN: Duration = Duration::from_secs(2);

/// Where a reload brings the store's section to. Nothing where a store has no credentials of its own.
#[derive(Clone, Default)]
pub struct Access(Option<watch::Sender<Etcd3Config>>);

impl Access {
    /// `prefix`: what this member has to be able to read.
    pub fn keep(opened: &OpenStore, config: &StoreConfig, prefix: String) -> Access {
        let (Some(store), StoreConfig::Etcd3(config)) = (opened.etcd.clone(), config) else { return Access(None) };
        let (tx, rx) = watch::channel(config.clone());
        tokio::spawn(keep(store, prefix, rx));
        Access(Some(tx))
    }

    pub fn set(&self, config: &StoreConfig) {
        if let (Some(tx), StoreConfig::Etcd3(config)) = (&self.0, config) {
            tx.send_replace(config.clone());
        }
    }
}

/// Ends with the agent.
async fn keep(store: EtcdStore, prefix: String, mut configured: watch::Receiver<Etcd3Config>) {
    let mut told = None;
    loop {
        let config = configured.borrow_and_update().clone();
        let files: Vec<PathBuf> = [&config.cacert, &config.cert, &config.key].into_iter().flatten().cloned().collect();
        let has_files = !files.is_empty();
        let watched = Watched::on(files).await;
        let failed = take_up(&store, config, &prefix).await.err();
        if let Some(why) = failed.as_ref().filter(|why| told.as_ref() != Some(*why)) {
            warn!(
                "the credentials of etcd3 that are configured now are not used, the former ones stay in force: {why}"
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

async fn take_up(store: &EtcdStore, config: Etcd3Config, prefix: &str) -> Result<(), String> {
    let read = tokio::task::spawn_blocking(move || etcd_access(&config)).await;
    let access: EtcdOptions = read.map_err(|e| e.to_string())?.map_err(|e| format!("{e:#}"))?;
    if store.replace_access(&access, prefix, TRY).await.map_err(|e| e.to_string())? {
        info!("the credentials and certificates of etcd3 that are configured now are used from here on");
    }
    Ok(())
}
