//! What one instance is made of: where its files are, whom it connects as, and what it is to run with.
//!
//! Everything in here is final: layering, defaults and validation happened before.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use surus_core::MemberName;

use crate::user_command::UserCommand;

/// A database user and how its connections are secured.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: Option<String>,
    /// libpq keywords: `sslmode`, `sslcert`, `sslkey`, `sslpassword`, `sslrootcert`, `sslcrl`, `sslcrldir`,
    /// `gssencmode`, `channel_binding`, `sslnegotiation`.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &password)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .finish()
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceConfig {
    pub data_dir: PathBuf,
    /// Where `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` are; mostly the data directory itself.
    pub config_dir: PathBuf,
    /// Absent: the programs are looked for in `PATH`.
    pub bin_dir: Option<PathBuf>,
    /// Other names for single programs (`postgres`, `pg_rewind`, ...).
    pub bin_name: BTreeMap<String, String>,

    pub listen_addresses: String,
    pub port: u16,
    /// The database that is connected to for everything without a database of its own.
    pub database: String,
    /// Which way is tried first; the other one is the second choice.
    pub use_unix_socket: bool,
    /// Absent: what the server was built with, or `/tmp` where its user cannot write there.
    pub unix_socket_directories: Option<String>,
    pub superuser: Credentials,
    pub replication: Credentials,
    /// Absent: `pg_rewind` connects as the superuser.
    pub rewind: Option<Credentials>,
    /// The password file that `primary_conninfo` names.
    pub pgpass: PathBuf,
    pub krbsrvname: Option<String>,

    /// The scope; `cluster_name` of the server.
    pub cluster_name: String,
    /// `application_name` of the WAL receiver.
    pub member: MemberName,

    /// `--name=value` in this order; wins over every file.
    pub command_line: Vec<(String, String)>,
    /// For `postgresql.conf`, in final text.
    pub parameters: BTreeMap<String, String>,
    /// The cluster chooses its synchronous standbys.
    pub synchronous: bool,
    /// Absent: the file is left as it is.
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    /// Lines appended to `pg_hba.conf` once, after `initdb`, unless `pg_hba` is given.
    pub bootstrap_pg_hba: Vec<String>,
    /// Recovery settings of the user: `restore_command`, `archive_cleanup_command`, `recovery_min_apply_delay` ...
    pub recovery_conf: BTreeMap<String, String>,
    /// On top of those, for a server that follows a remote node, or only an archive.
    pub remote_recovery_conf: BTreeMap<String, String>,
    /// Included instead of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,

    /// `on_start`, ... to what is run.
    pub callbacks: BTreeMap<String, UserCommand>,
    pub pre_promote: Option<UserCommand>,
    pub before_stop: Option<UserCommand>,

    /// By name; `basebackup` is none of them.
    pub replica_methods: BTreeMap<String, MethodCommand>,
    pub custom_bootstrap: Option<CustomBootstrap>,

    pub initdb_options: Vec<String>,
    pub basebackup_options: Vec<String>,
    pub rewind_options: Vec<String>,

    /// Where loss receipts go. Absent: beside the data directory.
    pub loss_dir: Option<PathBuf>,
    /// How many bytes of log are kept with all of them together.
    pub loss_keep_wal: u64,

    /// Where the server's stdout and stderr go. Absent: to ours. A file lets a failed start tell why.
    pub server_log: Option<PathBuf>,
}

/// A command that makes a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodCommand {
    pub command: UserCommand,
    /// Without what the cluster knows: scope, role, data directory and source.
    pub no_params: bool,
    pub no_leader: bool,
    pub keep_data: bool,
    /// Each to become `--key=value`, the three switches among them as they are written.
    pub arguments: Vec<(String, String)>,
}

/// A command that makes the data of a new cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomBootstrap {
    pub name: String,
    pub command: UserCommand,
    pub no_params: bool,
    pub keep_existing_recovery_conf: bool,
    pub recovery_conf: Option<BTreeMap<String, String>>,
    pub arguments: Vec<(String, String)>,
}

impl InstanceConfig {
    pub(crate) fn bin(&self, program: &str) -> PathBuf {
        let name = self.bin_name.get(program).map_or(program, String::as_str);
        match &self.bin_dir {
            Some(dir) if !dir.as_os_str().is_empty() => dir.join(name),
            _ => PathBuf::from(name),
        }
    }

    pub(crate) fn conf(&self) -> PathBuf {
        self.config_dir.join("postgresql.conf")
    }

    pub(crate) fn rewind_credentials(&self) -> &Credentials {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }

    pub(crate) fn separate_config_dir(&self) -> bool {
        self.config_dir != self.data_dir
    }
}

/// `<path><suffix>`, beside `path`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
