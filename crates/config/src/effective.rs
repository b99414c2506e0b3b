//! What PostgreSQL is to run with: defaults, the stored document and the local file merged (`spec/config.md §2`, `§8`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use surus_core::settings::ClusterSettings;

use crate::address::{HostPort, Listen};
use crate::dynamic::DynamicConfig;
use crate::finding::{Place, Warning};
use crate::local::{Authentication, LocalConfig, ReplicaMethod};

/// Which of the role-dependent settings are laid over the common ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleOverlay {
    /// Uninitialised.
    None,
    Primary,
    Replica,
    StandbyLeader,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Decisions are made on these; the local file's say on rewinding is in here.
    pub settings: ClusterSettings,
    pub name: String,
    pub scope: String,
    /// For the postmaster's command line, in the order of `spec/config.md §8.1`.
    pub command_line: Vec<(String, String)>,
    /// For `postgresql.conf`: *all* parameters, those of the command line too, so that a postmaster started by hand
    /// has the same limits.
    pub file: BTreeMap<String, String>,
    /// Recovery settings of a standby, without `primary_conninfo` and `primary_slot_name`.
    pub recovery_conf: BTreeMap<String, String>,
    /// `None`: the existing file is left alone.
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    pub listen: Listen,
    pub connect_address: HostPort,
    pub proxy_address: Option<HostPort>,
    pub data_dir: PathBuf,
    pub config_dir: PathBuf,
    /// `postgresql` unless given.
    pub config_base_name: String,
    pub custom_conf: Option<PathBuf>,
    pub bin_dir: Option<PathBuf>,
    pub bin_name: BTreeMap<String, String>,
    pub database: String,
    pub pgpass: PathBuf,
    pub authentication: Authentication,
    pub callbacks: BTreeMap<String, String>,
    /// `["basebackup"]` unless given.
    pub create_replica_methods: Vec<String>,
    pub replica_methods: BTreeMap<String, ReplicaMethod>,
    pub basebackup: Vec<String>,
    pub rewind: Vec<String>,
    pub pg_ctl_timeout: Duration,
    pub use_unix_socket: bool,
    pub use_unix_socket_repl: bool,
    pub pre_promote: Option<String>,
    pub before_stop: Option<String>,
    pub krbsrvname: Option<String>,
    pub warnings: Vec<Warning>,
}

impl Effective {
    /// `server_version` as `server_version_num` has it (`150004`); `None`: not known yet, nothing is left out.
    pub fn build(_local: &LocalConfig, _dynamic: &DynamicConfig, _server_version: Option<u32>) -> Effective {
        unimplemented!()
    }

    /// As [`Effective::build`] with the settings of one role laid over the common ones.
    pub fn build_for(
        _local: &LocalConfig,
        _dynamic: &DynamicConfig,
        _server_version: Option<u32>,
        _role: RoleOverlay,
    ) -> Effective {
        unimplemented!()
    }

    /// Where the value of a server parameter or a dotted key came from.
    pub fn source_of(&self, _key: &str) -> Option<&Place> {
        unimplemented!()
    }
}
