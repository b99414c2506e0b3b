//! What one member knows by itself: its file or directory and its environment (`spec/config.md §1`, `§4`, `§5`).

mod bootstrap;
mod log;
mod postgresql;
mod rest;
mod store;
mod watchdog;

use std::collections::BTreeMap;
use std::path::Path;

use surus_core::MemberName;
use surus_core::cluster::Tags;

pub use bootstrap::{Bootstrap, CustomBootstrap};
pub use log::{Log, LogFormat, LogLevel, LogType};
pub use postgresql::{Authentication, Credentials, Postgresql, PostgresqlSettings, ReplicaMethod, RoleSettings};
pub use rest::{BasicAuth, Ctl, RestApi, RestTls, ServerTokens, VerifyClient};
pub use store::{Etcd3Config, RaftConfig, RaftTls, StoreConfig};
pub use watchdog::{Watchdog, WatchdogMode};

use crate::finding::{ConfigErrors, Warning};

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
    pub tags: Tags,
    /// What was odd and did not keep the configuration from being used.
    pub warnings: Vec<Warning>,
}

/// What a program that only talks to a cluster (or a voter without PostgreSQL) needs of the same file: nothing but a
/// store section is required, and sections it does not use are not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientConfig {
    pub scope: Option<String>,
    pub namespace: String,
    pub name: Option<MemberName>,
    pub store: Option<StoreConfig>,
    pub ctl: Ctl,
    pub log: Log,
    pub warnings: Vec<Warning>,
}

impl LocalConfig {
    pub fn load(_path: Option<&Path>, _env: &BTreeMap<String, String>) -> Result<LocalConfig, ConfigErrors> {
        unimplemented!()
    }
}

impl ClientConfig {
    /// Without a path and without a configuration in the environment everything is at its default.
    pub fn load(_path: Option<&Path>, _env: &BTreeMap<String, String>) -> Result<ClientConfig, ConfigErrors> {
        unimplemented!()
    }
}
