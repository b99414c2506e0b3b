//! The section that names the store (`spec/config.md §4.6`).

use std::path::PathBuf;
use std::time::Duration;

use crate::address::HostPort;
use crate::secret::Secret;

/// The store in use: the alphabetically first section present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Raft(RaftConfig),
    Etcd3(Etcd3Config),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// Absent only in the file of a client; [`crate::LocalConfig::load`] insists on it.
    pub self_addr: Option<HostPort>,
    /// `self_addr` unless given.
    pub bind_addr: Option<HostPort>,
    pub partner_addrs: Vec<HostPort>,
    pub data_dir: PathBuf,
    pub password: Option<Secret>,
    pub min_timeout: Duration,
    pub max_timeout: Duration,
    pub connection_timeout: Duration,
    pub append_entries_period: Duration,
    pub connection_retry_time: Duration,
    pub leader_fallback_timeout: Duration,
    /// Ours; between members, and demanded from both sides.
    pub tls: Option<RaftTls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftTls {
    pub certfile: PathBuf,
    pub keyfile: PathBuf,
    pub cafile: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd3Config {
    /// URLs with scheme, host and port. Empty exactly when `srv` is set.
    pub endpoints: Vec<String>,
    /// Domain whose `_etcd-client(-ssl)._tcp` SRV records name the endpoints.
    pub srv: Option<String>,
    pub srv_suffix: Option<String>,
    /// `http` or `https`; what SRV-discovered endpoints are spoken to with.
    pub protocol: String,
    /// The endpoints are proxies: the membership of the etcd cluster says nothing about where to connect.
    pub use_proxies: bool,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}
