//! What operator commands share: the configuration, the store, the members' API, and readings of clusters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use surus_api::{Client, ClusterDocument, cluster_document};
use surus_config::{ClientConfig, DynamicConfig, StoreConfig};
use surus_core::MemberName;
use surus_core::cluster::{ClusterView, Member};
use surus_core::settings::ClusterSettings;
use surus_store::Kv;
use surus_store::cluster::ClusterStore;
use surus_store::layout::Layout;

use crate::cli::Global;
use crate::connect;
use crate::failure::{OrFail, Outcome, failed};

pub struct Context {
    pub config: ClientConfig,
    pub api: Client,
    store_config: StoreConfig,
    kv: Arc<dyn Kv>,
}

/// One cluster in the store.
pub struct Cluster {
    pub name: String,
    pub group: Option<u32>,
    pub store: ClusterStore,
    store_config: StoreConfig,
}

/// One reading of a cluster.
pub struct Reading {
    pub view: ClusterView,
    pub settings: ClusterSettings,
    pub document: ClusterDocument,
}

/// The configuration of commands (`spec/cli.md §1.2`).
pub fn load_config(global: &Global, env: &BTreeMap<String, String>) -> Outcome<ClientConfig> {
    let given = global
        .config_file
        .clone()
        .or_else(|| env.get("SURUS_CONFIG_FILE").filter(|path| !path.is_empty()).map(PathBuf::from));
    let path = match given {
        Some(path) if std::fs::metadata(&path).is_err() => {
            return failed(format!(
                "Provided config file {} not existing or no read rights. Check the -c/--config-file parameter",
                path.display()
            ));
        }
        Some(path) => Some(path),
        None => default_path(env).filter(|path| path.exists()),
    };
    let mut config = ClientConfig::load(path.as_deref(), env).or_fail()?;
    if let Some(url) = global.dcs_url.as_deref().filter(|url| !url.is_empty()) {
        connect::apply_dcs_url(&mut config, url)?;
    }
    Ok(config)
}

fn default_path(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let set = |key: &str| env.get(key).filter(|v| !v.is_empty());
    let base = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(home).join(".config")))?;
    Some(base.join("patroni/patronictl.yaml"))
}

pub fn store_of(config: &ClientConfig) -> Outcome<StoreConfig> {
    match &config.store {
        Some(store) => Ok(store.clone()),
        None => failed(
            "Can not find suitable configuration of distributed configuration store\nAvailable implementations: consul, etcd3, raft\nName a configuration file with -c, or the store with --dcs-url",
        ),
    }
}

impl Context {
    pub async fn open(global: &Global) -> Outcome<Context> {
        let config = load_config(global, &surus_config::environment())?;
        Self::of(config, global.insecure).await
    }

    pub async fn of(config: ClientConfig, insecure: bool) -> Outcome<Context> {
        let store_config = store_of(&config)?;
        let kv = connect::open_store(&store_config).await?;
        let api = connect::api_client(&config.ctl, insecure)?;
        Ok(Context { config, api, store_config, kv })
    }

    /// The cluster named, or the one of the configuration.
    pub fn cluster(&self, name: Option<&str>, group: Option<u32>) -> Outcome<Cluster> {
        let Some(name) = name.map(str::to_owned).or_else(|| self.config.scope.clone()).filter(|n| !n.is_empty()) else {
            return failed("no cluster name was given, and the configuration has no `scope`: name the cluster");
        };
        let layout = Layout::new(&self.config.namespace, &name, group);
        // Commands hold no key of their own: the name only fills the place of the caller.
        let store = ClusterStore::new(self.kv.clone(), layout, MemberName::from(""));
        Ok(Cluster { name, group, store, store_config: self.store_config.clone() })
    }
}

impl Cluster {
    /// Says so if the cluster has left this store.
    pub async fn read(&self) -> Outcome<Reading> {
        static SAID: std::sync::Once = std::sync::Once::new();
        let reading = self.look().await?;
        if let Some(moved) = reading.view.moved() {
            SAID.call_once(|| {
                crate::warn(&format!(
                    "the cluster {} has moved to another store, {}; what is read here is what it left. Name the new store in \
                     the configuration",
                    self.name, moved.to
                ));
            });
        }
        Ok(reading)
    }

    pub async fn look(&self) -> Outcome<Reading> {
        let view = self.store.read(connect::STORE_DEADLINE).await.map_err(|e| self.store_failure(&e))?;
        Ok(Reading::of(&self.name, view))
    }

    /// What is wrong with the store although it answers.
    pub async fn complaint(&self) -> Option<String> {
        self.store.kv().complaint(connect::STORE_DEADLINE).await
    }

    pub fn store_failure(&self, error: &surus_store::StoreError) -> crate::failure::Failure {
        connect::store_failure(&self.store_config, error)
    }
}

impl Reading {
    pub fn of(name: &str, view: ClusterView) -> Reading {
        let document = view.config.as_ref().map_or_else(|| Value::Object(Default::default()), |c| c.value.clone());
        let (dynamic, _) = DynamicConfig::read(&document);
        let document = cluster_document(name, &view, &dynamic.settings);
        Reading { view, settings: dynamic.settings, document }
    }

    pub fn leader_name(&self) -> Option<&str> {
        self.view.leader_name().map(MemberName::as_str)
    }

    /// Members with an API, the leader first: the order in which somebody is asked to do something.
    pub fn askable(&self) -> Vec<(&Member, &str)> {
        let mut members: Vec<_> = self.view.members.values().filter_map(|m| Some((m, m.api_url.as_deref()?))).collect();
        members.sort_by_key(|(m, _)| self.view.leader_name() != Some(&m.name));
        members
    }
}
