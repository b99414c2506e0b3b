//! The configuration in force: the local file, the stored document, and what PostgreSQL gets of both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use surus_conduct::task::{BASEBACKUP, ReplicaMethod};
use surus_config::{DynamicConfig, Effective, LocalConfig, RoleOverlay, find_bin_dir};
use surus_core::settings::SynchronousMode;
use surus_postgres::{Credentials, CustomBootstrap, InstanceConfig, MethodCommand, UserCommand};
use tracing::{info, warn};

/// The stored document as this member last saw it, kept beside the data for a start without the store.
const CACHE: &str = "patroni.dynamic.json";

pub struct Settings {
    pub local: LocalConfig,
    pub dynamic: DynamicConfig,
    /// Version of the `config` key that `dynamic` was read from.
    pub version: Option<u64>,
    pub effective: Arc<Effective>,
    pub server_version: Option<u32>,
    pub overlay: RoleOverlay,
    /// As of the start of this process: everybody looks for receipts in one place.
    pub loss_directory: PathBuf,
    /// Where nothing else is configured, as of the start too.
    passfile: PathBuf,
}

fn new_cluster(local: &LocalConfig, dcs: &Value) -> Value {
    let may_ask = crate::failsafe::members_may_ask(&local.restapi, &local.ctl).is_ok();
    surus_config::new_cluster_document(dcs, local.store.least_ttl(), may_ask)
}

impl Settings {
    pub fn new(local: LocalConfig) -> Settings {
        let cached = read_cache(&local.postgresql.data_dir);
        let document = cached
            .or_else(|| local.bootstrap.as_ref().map(|b| new_cluster(&local, &b.dcs)))
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let (dynamic, warnings) = DynamicConfig::read(&document);
        tell(&warnings);
        let effective = Arc::new(Effective::build(&local, &dynamic, None));
        let loss_directory = local.loss.directory(&effective.data_dir);
        Settings {
            loss_directory,
            passfile: surus_postgres::default_passfile(&effective.data_dir),
            local,
            dynamic,
            version: None,
            effective,
            server_version: None,
            overlay: RoleOverlay::None,
        }
    }

    /// Takes another stored document over. `true`: something that matters to PostgreSQL or to decisions changed.
    pub fn set_document(&mut self, document: &Value, version: u64) -> bool {
        if self.version == Some(version) {
            return false;
        }
        self.version = Some(version);
        if surus_config::deep_equal(document, &self.dynamic.document) {
            return false;
        }
        let (dynamic, warnings) = DynamicConfig::read(document);
        tell(&warnings);
        self.dynamic = dynamic;
        info!("the dynamic configuration changed");
        self.rebuild()
    }

    pub fn set_local(&mut self, local: LocalConfig) -> bool {
        self.local = local;
        self.rebuild()
    }

    pub fn set_server_version(&mut self, version: u32) -> bool {
        self.server_version != Some(version) && {
            self.server_version = Some(version);
            self.rebuild()
        }
    }

    pub fn set_overlay(&mut self, overlay: RoleOverlay) -> bool {
        self.overlay != overlay && {
            self.overlay = overlay;
            self.rebuild()
        }
    }

    fn rebuild(&mut self) -> bool {
        let effective = Effective::build_for(&self.local, &self.dynamic, self.server_version, self.overlay);
        let changed = effective != *self.effective;
        if changed {
            self.effective = Arc::new(effective);
        }
        changed
    }

    /// The document a member writes when it creates the cluster.
    pub fn founding_document(&self) -> Value {
        let dcs = self.local.bootstrap.as_ref().map_or(Value::Null, |b| b.dcs.clone());
        new_cluster(&self.local, &dcs)
    }

    pub fn instance(&self) -> InstanceConfig {
        let e = &self.effective;
        let auth = &e.authentication;
        let bin_dir = find_bin_dir(e.bin_dir.as_deref(), &e.data_dir, std::env::var("PATH").ok().as_deref());
        InstanceConfig {
            data_dir: e.data_dir.clone(),
            config_dir: e.config_dir.clone(),
            bin_dir,
            bin_name: e.bin_name.clone(),
            listen_addresses: e.listen.hosts.join(","),
            port: e.listen.port,
            database: e.database.clone(),
            use_unix_socket: e.use_unix_socket,
            unix_socket_directories: e.file.get("unix_socket_directories").cloned(),
            superuser: credentials(&auth.superuser, "postgres"),
            replication: credentials(&auth.replication, "replicator"),
            rewind: auth.rewind.as_ref().map(|c| credentials(c, "rewind_user")),
            pgpass: e.pgpass.clone().unwrap_or_else(|| self.passfile.clone()),
            krbsrvname: e.krbsrvname.clone(),
            cluster_name: e.scope.clone(),
            member: self.local.name.clone(),
            command_line: e.command_line.clone(),
            parameters: e.file.clone(),
            synchronous: surus_core::synchronous::mode(&e.settings) != SynchronousMode::Off,
            pg_hba: e.pg_hba.clone(),
            pg_ident: e.pg_ident.clone(),
            bootstrap_pg_hba: self.local.bootstrap.as_ref().map(|b| b.pg_hba.clone()).unwrap_or_default(),
            recovery_conf: e.recovery_conf.clone(),
            remote_recovery_conf: e.remote_recovery_conf.clone(),
            custom_conf: e.custom_conf.clone(),
            callbacks: e
                .callbacks
                .iter()
                .map(|(k, v)| (k.clone(), self.command(&format!("postgresql.callbacks.{k}"), v)))
                .collect(),
            pre_promote: e.pre_promote.as_ref().map(|v| self.command("postgresql.pre_promote", v)),
            before_stop: e.before_stop.as_ref().map(|v| self.command("postgresql.before_stop", v)),
            replica_methods: e
                .create_replica_methods
                .iter()
                .chain(&e.remote_replica_methods)
                .filter(|name| *name != BASEBACKUP)
                .map(|name| (name.clone(), self.method(name)))
                .collect(),
            custom_bootstrap: self.local.bootstrap.as_ref().and_then(|b| b.method.as_ref()).map(|m| CustomBootstrap {
                name: m.name.clone(),
                command: self.command(&format!("bootstrap.{}.command", m.name), &m.command),
                no_params: m.no_params,
                keep_existing_recovery_conf: m.keep_existing_recovery_conf,
                recovery_conf: m.recovery_conf.clone(),
                arguments: m.arguments.clone(),
            }),
            initdb_options: self.local.bootstrap.as_ref().map(|b| b.initdb.clone()).unwrap_or_default(),
            basebackup_options: e.basebackup.clone(),
            rewind_options: e.rewind.clone(),
            loss_dir: Some(self.loss_directory.clone()),
            loss_keep_wal: self.local.loss.keep_wal,
            server_log: None,
        }
    }

    /// A method without a section is a command of that name.
    fn method(&self, name: &str) -> MethodCommand {
        let Some(m) = self.effective.replica_methods.get(name) else {
            let command = self.command("postgresql.create_replica_methods", name);
            return MethodCommand { command, ..MethodCommand::default() };
        };
        MethodCommand {
            command: self.command(&format!("postgresql.{name}.command"), &m.command),
            no_params: m.no_params,
            no_leader: m.no_leader,
            keep_data: m.keep_data,
            arguments: m.arguments.clone(),
        }
    }

    /// In the order they are to be tried.
    pub fn replica_methods(&self) -> Vec<ReplicaMethod> {
        self.named_methods(&self.effective.create_replica_methods)
    }

    /// The same for copies of the remote node of a standby cluster.
    pub fn remote_methods(&self) -> Vec<ReplicaMethod> {
        self.named_methods(&self.effective.remote_replica_methods)
    }

    fn named_methods(&self, names: &[String]) -> Vec<ReplicaMethod> {
        let method = |name: &String| match self.effective.replica_methods.get(name) {
            Some(m) if name != BASEBACKUP => {
                ReplicaMethod { name: name.clone(), no_leader: m.no_leader, keep_data: m.keep_data }
            }
            _ => ReplicaMethod { name: name.clone(), ..ReplicaMethod::basebackup() },
        };
        names.iter().map(method).collect()
    }

    /// With the place it is written at, for whoever has to correct it.
    fn command(&self, key: &str, text: &str) -> UserCommand {
        let place = self.local.source_of(key).map_or_else(|| "dynamic configuration".to_owned(), ToString::to_string);
        UserCommand { setting: format!("{key} ({place})"), text: text.to_owned() }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.effective.data_dir.clone()
    }

    /// How long one start, stop or handover may take before it counts as stuck.
    pub fn pg_ctl_timeout(&self) -> Duration {
        self.effective.pg_ctl_timeout
    }
}

fn credentials(c: &surus_config::Credentials, default_user: &str) -> Credentials {
    let mut options = BTreeMap::new();
    let secret = |s: &surus_config::Secret| s.expose().to_owned();
    for (key, value) in [
        ("sslmode", c.sslmode.clone()),
        ("sslcert", c.sslcert.clone()),
        ("sslkey", c.sslkey.clone()),
        ("sslpassword", c.sslpassword.as_ref().map(secret)),
        ("sslrootcert", c.sslrootcert.clone()),
        ("sslcrl", c.sslcrl.clone()),
        ("sslcrldir", c.sslcrldir.clone()),
        ("gssencmode", c.gssencmode.clone()),
        ("channel_binding", c.channel_binding.clone()),
        ("sslnegotiation", c.sslnegotiation.clone()),
    ] {
        options.extend(value.map(|v| (key.to_owned(), v)));
    }
    Credentials {
        username: c.username.clone().unwrap_or_else(|| default_user.to_owned()),
        password: c.password.as_ref().map(secret),
        options,
    }
}

fn tell(warnings: &[surus_config::Warning]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

fn read_cache(data_dir: &std::path::Path) -> Option<Value> {
    let text = std::fs::read_to_string(data_dir.join(CACHE)).ok()?;
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() => Some(value),
        _ => {
            warn!("{} is no JSON object and is ignored", data_dir.join(CACHE).display());
            None
        }
    }
}

/// Writes the cache, if there is a data directory to keep it in.
pub async fn write_cache(data_dir: PathBuf, document: Value) -> Result<(), String> {
    let written = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        if !data_dir.join("PG_VERSION").exists() {
            return Ok(());
        }
        let owner = std::fs::metadata(&data_dir)?;
        let text = document.to_string();
        if std::fs::read_to_string(data_dir.join(CACHE)).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let temporary = data_dir.join(format!("{CACHE}.new"));
        std::fs::write(&temporary, text)?;
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let mode = if owner.mode() & 0o050 == 0o050 { 0o640 } else { 0o600 };
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode))?;
        // Only root can give a file away, and only root needs to.
        let _ = std::os::unix::fs::chown(&temporary, Some(owner.uid()), Some(owner.gid()));
        std::fs::rename(&temporary, data_dir.join(CACHE))
    });
    written.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}
