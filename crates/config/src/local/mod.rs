//! What one member knows by itself: its file or directory and its environment (`spec/config.md §1`, `§4`, `§5`).

mod bootstrap;
mod consul;
mod log;
mod loss;
mod postgresql;
mod recorder;
mod rest;
mod store;
mod tags;
mod watchdog;
mod zookeeper;

use std::collections::BTreeMap;
use std::path::Path;

use surus_core::MemberName;
use surus_core::cluster::Tags;

pub use bootstrap::{Bootstrap, CustomBootstrap};
pub use consul::{ConsulConfig, ConsulService};
pub use log::{Log, LogFormat, LogLevel, LogType};
pub use loss::Loss;
pub use postgresql::{Authentication, Credentials, Postgresql, PostgresqlSettings, ReplicaMethod, RoleSettings};
pub use recorder::Recorder;
pub use rest::{BasicAuth, Ctl, RestApi, RestTls, ServerTokens, VerifyClient};
pub use store::{Etcd3Config, RaftConfig, RaftTls, StoreConfig};
pub use watchdog::{FenceMode, Watchdog, WatchdogMode};
pub use zookeeper::ZooKeeperConfig;

pub(crate) use postgresql::{Layer, read_settings};

use crate::definition::{self, ROOT};
use crate::finding::{ConfigErrors, Finding, Place, Severity, Source, Warning};
use crate::load;
use crate::reader::{Reader, Section};
use crate::tree::Node;

/// The configuration of one member.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalConfig {
    pub scope: String,
    pub namespace: String,
    pub name: MemberName,
    pub store: StoreConfig,
    pub restapi: RestApi,
    pub ctl: Ctl,
    pub log: Log,
    /// A member without it never initialises a cluster.
    pub bootstrap: Option<Bootstrap>,
    pub postgresql: Postgresql,
    pub watchdog: Watchdog,
    pub fence: FenceMode,
    pub recorder: Recorder,
    pub loss: Loss,
    pub tags: Tags,
    /// What was odd and did not keep the configuration from being used.
    pub warnings: Vec<Warning>,
    places: BTreeMap<String, Place>,
}

/// What a program that only talks to a cluster (or a voter without PostgreSQL) needs of the same file: nothing but a
/// store section is required, and sections it does not use are not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    pub scope: Option<String>,
    pub namespace: String,
    pub name: Option<MemberName>,
    pub store: Option<StoreConfig>,
    /// Where the agent with this configuration is asked, if it is one's.
    pub own_api: Option<String>,
    pub ctl: Ctl,
    pub log: Log,
    pub warnings: Vec<Warning>,
}

/// Written where the store keeps no name, so no member may have it (`spec/config.md §1`).
const PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

impl LocalConfig {
    /// Reads the file or directory at `path` with the environment over it; without a path the environment alone.
    pub fn load(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<LocalConfig, ConfigErrors> {
        let (root, mut r) = load::tree(path, env)?;
        let config = Self::read(&root, &mut r);
        let (errors, warnings) = sorted(r.findings);
        match config {
            Some(config) if errors.is_empty() => Ok(LocalConfig { warnings, ..config }),
            _ => Err(ConfigErrors(errors)),
        }
    }

    fn read(root: &Node, r: &mut Reader) -> Option<LocalConfig> {
        definition::check::file(root, r);
        let s = Section::new(root, "", ROOT);
        let (scope, name) = (s.text("scope"), name(&s, r));
        for (key, value) in [("scope", &scope), ("name", &name)] {
            if let (Some(value), Some(node)) = (value, s.take(key))
                && value.contains('/')
            {
                r.fault(&node.place, key, format!("expected a name without `/`, found {value:?}"));
            }
        }
        let store = store::read(&s, r, true);
        let restapi = rest::restapi(&s, r);
        let ctl = rest::ctl(&s, r);
        let log = log::read(&s, r);
        let bootstrap = bootstrap::read(&s, r);
        let postgresql = postgresql::read(&s, r);
        let recorder = recorder::read(&s, r, postgresql.as_ref().map(|p| p.data_dir.as_path()));
        let loss = loss::read(&s, r, postgresql.as_ref().map(|p| p.data_dir.as_path()));
        let tags = tags::read(&s, r);
        if let Some(citus) = s.take("citus") {
            r.fault(&citus.place, "citus", "Citus clusters are not supported; remove the section to run without Citus");
        }
        unreachable_addresses(r, &s, store.as_ref(), restapi.as_ref(), postgresql.as_ref());
        let mut places = BTreeMap::from([(String::new(), root.place.clone())]);
        root.leaves("", &mut |path, node| {
            places.insert(path.to_owned(), node.place.clone());
        });
        Some(LocalConfig {
            scope: scope?,
            namespace: s.text("namespace").unwrap_or_default(),
            name: MemberName::from(name?.as_str()),
            store: store?,
            restapi: restapi?,
            ctl,
            log,
            bootstrap,
            postgresql: postgresql?,
            watchdog: watchdog::read(&s),
            fence: watchdog::fence(&s),
            recorder,
            loss,
            tags,
            warnings: Vec::new(),
            places,
        })
    }

    /// The same with another store.
    pub fn on(self, store: StoreConfig) -> LocalConfig {
        LocalConfig { store, ..self }
    }

    pub(crate) fn parameter_place(&self, section: &str, name: &str) -> Place {
        let prefix = format!("postgresql.{section}.");
        let written = self
            .places
            .iter()
            .find(|(path, _)| path.strip_prefix(&prefix).is_some_and(|written| written.eq_ignore_ascii_case(name)));
        written.map_or_else(|| Place::of(Source::Default), |(_, place)| place.clone())
    }

    /// Keys in which `new` differs and which only count after a restart of the agent (`spec/config.md §9`).
    pub fn restart_only_changes(&self, new: &LocalConfig) -> Vec<&'static str> {
        let (old, new_pg) = (&self.postgresql, &new.postgresql);
        let pairs = [
            ("scope", self.scope != new.scope),
            ("name", self.name != new.name),
            ("namespace", self.namespace != new.namespace),
            ("store", self.store.needs_restart(&new.store)),
            ("recorder", self.recorder != new.recorder),
            ("loss.directory", self.loss.directory != new.loss.directory),
            ("postgresql.data_dir", old.data_dir != new_pg.data_dir),
            ("postgresql.config_dir", old.config_dir != new_pg.config_dir),
        ];
        pairs.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }

    /// The keys of `postgresql` that this member has of its own, and where each begins.
    pub fn postgresql_keys(&self) -> BTreeMap<&str, &Place> {
        let mut keys = BTreeMap::new();
        for (path, place) in &self.places {
            let Some(below) = path.strip_prefix("postgresql.") else { continue };
            keys.entry(below.split('.').next().unwrap_or(below)).or_insert(place);
        }
        keys
    }

    /// Where a value was written, by its dotted path; the empty path stands for the configuration itself.
    pub fn source_of(&self, path: &str) -> Option<&Place> {
        self.places.get(path)
    }
}

impl StoreConfig {
    /// Of a text that has a store section in it, as a member would use it. `what` stands where the name of a file would in
    /// the message.
    pub fn read(what: &str, text: &str) -> Result<StoreConfig, ConfigErrors> {
        let (root, mut r) = load::text(what, text)?;
        definition::check::parts(&root, &store::SECTIONS, &mut r);
        let store = store::read(&Section::new(&root, "", ROOT), &mut r, true);
        let (errors, _) = sorted(r.findings);
        match store {
            Some(store) if errors.is_empty() => Ok(store),
            _ => Err(ConfigErrors(errors)),
        }
    }
}

impl ClientConfig {
    /// Without a path and without a configuration in the environment everything is at its default.
    pub fn load(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<ClientConfig, ConfigErrors> {
        let (root, mut r) = load::tree_or_nothing(path, env)?;
        let parts = ["scope", "namespace", "name", "consul", "etcd3", "raft", "zookeeper", "ctl", "log"];
        definition::check::parts(&root, &parts, &mut r);
        let s = Section::new(&root, "", ROOT);
        let config = ClientConfig {
            scope: s.text("scope"),
            namespace: s.text("namespace").unwrap_or_default(),
            name: s.text("name").map(|n| MemberName::from(n.as_str())),
            store: store::read(&s, &mut r, false),
            // What is wrong there is the agent's to tell.
            own_api: rest::restapi(&s, &mut Reader::lenient()).map(|restapi| restapi.api_url()),
            ctl: rest::ctl(&s, &mut r),
            log: log::read(&s, &mut r),
            warnings: Vec::new(),
        };
        let (errors, warnings) = sorted(r.findings);
        if errors.is_empty() { Ok(ClientConfig { warnings, ..config }) } else { Err(ConfigErrors(errors)) }
    }
}

/// Errors and warnings, each in the order of the file.
fn sorted(mut findings: Vec<Finding>) -> (Vec<Finding>, Vec<Finding>) {
    findings.sort_by(|a, b| a.place.cmp(&b.place));
    findings.into_iter().partition(|f| f.severity == Severity::Error)
}

fn name(s: &Section<'_>, r: &mut Reader) -> Option<String> {
    let legacy = s.node().and_then(|n| n.at(&["postgresql", "name"])).and_then(Node::scalar_text);
    let name = match s.text("name").or(legacy) {
        Some(name) => name,
        None => {
            s.missing(r, "name", "the name of this member, different from every other in the cluster");
            return None;
        }
    };
    if name == PLACEHOLDER {
        let place = s.take("name").map_or(s.place.clone(), |n| n.place.clone());
        r.fault(&place, "name", "is reserved for \"no synchronous standby\"; choose another");
        return None;
    }
    Some(name)
}

/// Others are told loopback addresses while the store is not on this machine alone.
fn unreachable_addresses(
    r: &mut Reader,
    s: &Section<'_>,
    store: Option<&StoreConfig>,
    restapi: Option<&RestApi>,
    postgresql: Option<&Postgresql>,
) {
    if store.is_none_or(StoreConfig::is_loopback) {
        return;
    }
    let addresses =
        [("restapi", restapi.map(|a| &a.connect_address)), ("postgresql", postgresql.map(|p| &p.connect_address))];
    for (section, address) in addresses {
        if let Some(address) = address.filter(|a| store::is_loopback(&a.host)) {
            let node =
                s.node().and_then(|n| n.at(&[section, "connect_address"]).or_else(|| n.at(&[section, "listen"])));
            r.warn(
                node.map_or(&s.place, |n| &n.place),
                &format!("{section}.connect_address"),
                format!("{address} is this machine only, and members on other machines will be told to connect to it"),
            );
        }
    }
}
