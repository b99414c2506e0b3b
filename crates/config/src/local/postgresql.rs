//! `postgresql` (`spec/config.md §4.8`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{HostPort, Listen};
use crate::secret::Secret;

/// The local section: what only a member itself can know, and its say in what may also be set for the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgresql {
    pub listen: Listen,
    pub connect_address: HostPort,
    pub proxy_address: Option<HostPort>,
    pub data_dir: PathBuf,
    /// Where `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` are; `data_dir` unless given.
    pub config_dir: PathBuf,
    pub pgpass: PathBuf,
    pub authentication: Authentication,
    pub settings: PostgresqlSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Authentication {
    pub superuser: Credentials,
    pub replication: Credentials,
    /// Absent: the superuser's.
    pub rewind: Option<Credentials>,
}

/// The twelve connection keys of one user. Peers drop what the server version does not know (`spec/config.md §4.8`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Credentials {
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub sslmode: Option<String>,
    pub sslcert: Option<String>,
    pub sslkey: Option<String>,
    pub sslpassword: Option<Secret>,
    pub sslrootcert: Option<String>,
    pub sslcrl: Option<String>,
    pub sslcrldir: Option<String>,
    pub gssencmode: Option<String>,
    pub channel_binding: Option<String>,
    pub sslnegotiation: Option<String>,
}

/// The keys that the local file and the stored document share. `None` is "this layer does not say"; a key the local
/// file has replaces the stored one whole, except `parameters`, which are merged by name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PostgresqlSettings {
    pub config_base_name: Option<String>,
    pub custom_conf: Option<PathBuf>,
    pub bin_dir: Option<PathBuf>,
    /// `pg_ctl`, `initdb`, ... to the name of the executable.
    pub bin_name: Option<BTreeMap<String, String>>,
    pub database: Option<String>,
    /// `on_start`, `on_stop`, `on_restart`, `on_reload`, `on_role_change` to command lines.
    pub callbacks: Option<BTreeMap<String, String>>,
    pub create_replica_methods: Option<Vec<String>>,
    /// Sections of the methods other than `basebackup`.
    pub replica_methods: BTreeMap<String, ReplicaMethod>,
    /// Ready arguments for `pg_basebackup`.
    pub basebackup: Option<Vec<String>>,
    /// Ready arguments for `pg_rewind`.
    pub rewind: Option<Vec<String>>,
    /// For all roles.
    pub common: RoleSettings,
    pub primary: RoleSettings,
    pub replica: RoleSettings,
    pub standby_leader: RoleSettings,
    /// Recovery settings of a standby, as text.
    pub recovery_conf: Option<BTreeMap<String, String>>,
    pub pg_ctl_timeout: Option<Duration>,
    pub use_pg_rewind: Option<bool>,
    pub remove_data_directory_on_rewind_failure: Option<bool>,
    pub remove_data_directory_on_diverged_timelines: Option<bool>,
    /// Only the stored document's counts.
    pub use_slots: Option<bool>,
    pub use_unix_socket: Option<bool>,
    pub use_unix_socket_repl: Option<bool>,
    pub pre_promote: Option<String>,
    pub before_stop: Option<String>,
    pub krbsrvname: Option<String>,
}

/// What may differ by role: `parameters`, `parameters_primary`, `pg_hba_replica`, ...
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RoleSettings {
    /// Lower-case name to text as PostgreSQL reads it.
    pub parameters: BTreeMap<String, String>,
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
}

/// How to make a replica other than with `pg_basebackup` (`spec/postgres.md §14.2`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaMethod {
    /// The method's name unless given.
    pub command: String,
    /// Run it without the four cluster arguments.
    pub no_params: bool,
    /// It needs no running member to copy from.
    pub no_leader: bool,
    pub keep_data: bool,
    /// Keys other than `command` in the order written, as text, the three switches included.
    pub arguments: Vec<(String, String)>,
}
