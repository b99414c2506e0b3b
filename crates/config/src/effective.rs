//! What PostgreSQL is to run with: defaults, the stored document and the local file merged (`spec/config.md §2`, `§8`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use surus_core::postgres::RECOVERY_SETTINGS;
use surus_core::settings::{ClusterSettings, SynchronousMode};
use surus_core::slots::{FAILOVER_SLOTS, PermanentSlot};

use crate::address::{HostPort, Listen};
use crate::dynamic::DynamicConfig;
use crate::finding::{Place, Source};
use crate::local::{Authentication, LocalConfig, PostgresqlSettings, ReplicaMethod, RoleSettings};
use crate::parameters::CONTROLLED;
use crate::value;

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
    /// Of the leader of a standby cluster, on top of those.
    pub remote_recovery_conf: BTreeMap<String, String>,
    /// `None`: the existing file is left alone.
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    pub listen: Listen,
    pub connect_address: HostPort,
    pub proxy_address: Option<HostPort>,
    pub data_dir: PathBuf,
    pub config_dir: PathBuf,
    pub custom_conf: Option<PathBuf>,
    pub bin_dir: Option<PathBuf>,
    pub bin_name: BTreeMap<String, String>,
    pub database: String,
    pub pgpass: Option<PathBuf>,
    pub authentication: Authentication,
    pub callbacks: BTreeMap<String, String>,
    /// `["basebackup"]` unless given.
    pub create_replica_methods: Vec<String>,
    /// For a copy of the remote node of a standby cluster: `["basebackup"]` unless its section gives others.
    pub remote_replica_methods: Vec<String>,
    pub replica_methods: BTreeMap<String, ReplicaMethod>,
    pub basebackup: Vec<String>,
    pub rewind: Vec<String>,
    pub pg_ctl_timeout: Duration,
    pub use_unix_socket: bool,
    pub pre_promote: Option<String>,
    pub before_stop: Option<String>,
    pub krbsrvname: Option<String>,
    sources: BTreeMap<String, Place>,
}

/// A replica that has lost its upstream asks again after this long. PostgreSQL's own 5 s would be most of the time a
/// re-pointed replica is behind for.
const OUR_DEFAULTS: &[(&str, &str)] = &[("wal_retrieve_retry_interval", "500ms")];

impl Effective {
    /// `server_version` as `server_version_num` has it (`150004`); `None`: not known, taken for a current one.
    pub fn build(local: &LocalConfig, dynamic: &DynamicConfig, server_version: Option<u32>) -> Effective {
        Self::build_for(local, dynamic, server_version, RoleOverlay::None)
    }

    /// The server takes failover slots over from the primary while it is a standby.
    pub fn synchronises_slots(&self) -> bool {
        self.file.get("sync_replication_slots").is_some_and(|value| value::parse_bool(value) == Some(true))
    }

    /// As [`Effective::build`] with the settings of one role laid over the common ones.
    pub fn build_for(
        local: &LocalConfig,
        dynamic: &DynamicConfig,
        server_version: Option<u32>,
        role: RoleOverlay,
    ) -> Effective {
        let (mine, stored) = (&local.postgresql.settings, &dynamic.postgresql);
        let mut merged = Merged::new(local, dynamic, role);
        let mut recovery_conf = merged.recovery_conf(mine, stored, server_version);
        let remote = dynamic.standby_cluster.clone().unwrap_or_default();
        recovery_conf.extend(remote.recovery_conf());
        merged.transform(local, dynamic, server_version);
        let command_line = CONTROLLED
            .iter()
            .filter(|c| c.on_command_line)
            .filter_map(|c| Some((c.name.to_owned(), merged.parameters.get(c.name)?.clone())))
            .collect();
        let methods = either(&mine.create_replica_methods, &stored.create_replica_methods);
        let basebackup = || vec!["basebackup".to_owned()];
        let methods = methods.filter(|m| !m.is_empty()).unwrap_or_else(basebackup);
        let remote_methods = remote.create_replica_methods.clone().filter(|m| !m.is_empty());
        let sections: BTreeMap<String, ReplicaMethod> =
            stored.replica_methods.clone().into_iter().chain(mine.replica_methods.clone()).collect();
        let no_leader = |name: &String| name != "basebackup" && sections.get(name).is_some_and(|m| m.no_leader);
        let no_leader_methods = methods.iter().any(no_leader);
        let on = |a: Option<bool>, b: Option<bool>| a.or(b).unwrap_or(false);
        Effective {
            settings: ClusterSettings {
                use_pg_rewind: on(mine.use_pg_rewind, stored.use_pg_rewind),
                remove_data_directory_on_rewind_failure: on(
                    mine.remove_data_directory_on_rewind_failure,
                    stored.remove_data_directory_on_rewind_failure,
                ),
                remove_data_directory_on_diverged_timelines: on(
                    mine.remove_data_directory_on_diverged_timelines,
                    stored.remove_data_directory_on_diverged_timelines,
                ),
                no_leader_methods,
                ..dynamic.settings.clone()
            },
            name: local.name.to_string(),
            scope: local.scope.clone(),
            command_line,
            file: merged.parameters,
            recovery_conf,
            remote_recovery_conf: remote.leader_recovery_conf(),
            pg_hba: merged.pg_hba,
            pg_ident: merged.pg_ident,
            listen: local.postgresql.listen.clone(),
            connect_address: local.postgresql.connect_address.clone(),
            proxy_address: local.postgresql.proxy_address.clone(),
            data_dir: local.postgresql.data_dir.clone(),
            config_dir: local.postgresql.config_dir.clone(),
            custom_conf: either(&mine.custom_conf, &stored.custom_conf),
            bin_dir: either(&mine.bin_dir, &stored.bin_dir),
            bin_name: either(&mine.bin_name, &stored.bin_name).unwrap_or_default(),
            database: either(&mine.database, &stored.database).unwrap_or_else(|| "postgres".to_owned()),
            pgpass: local.postgresql.pgpass.clone(),
            authentication: local.postgresql.authentication.clone(),
            callbacks: either(&mine.callbacks, &stored.callbacks).unwrap_or_default(),
            create_replica_methods: methods,
            remote_replica_methods: remote_methods.unwrap_or_else(basebackup),
            replica_methods: sections,
            basebackup: either(&mine.basebackup, &stored.basebackup).unwrap_or_default(),
            rewind: either(&mine.rewind, &stored.rewind).unwrap_or_default(),
            pg_ctl_timeout: mine.pg_ctl_timeout.or(stored.pg_ctl_timeout).unwrap_or(Duration::from_secs(60)),
            use_unix_socket: on(mine.use_unix_socket, stored.use_unix_socket),
            pre_promote: either(&mine.pre_promote, &stored.pre_promote),
            before_stop: either(&mine.before_stop, &stored.before_stop),
            krbsrvname: either(&mine.krbsrvname, &stored.krbsrvname),
            sources: merged.sources,
        }
    }

    /// Where the value of a server parameter, by its name, came from.
    pub fn source_of(&self, parameter: &str) -> Option<&Place> {
        self.sources.get(&parameter.to_lowercase())
    }
}

/// A local key replaces the stored one whole.
fn either<T: Clone>(local: &Option<T>, stored: &Option<T>) -> Option<T> {
    local.as_ref().or(stored.as_ref()).cloned()
}

/// Server parameters while the layers are laid over each other.
struct Merged {
    parameters: BTreeMap<String, String>,
    sources: BTreeMap<String, Place>,
    pg_hba: Option<Vec<String>>,
    pg_ident: Option<Vec<String>>,
}

impl Merged {
    fn new(local: &LocalConfig, dynamic: &DynamicConfig, role: RoleOverlay) -> Merged {
        let (mine, stored) = (&local.postgresql.settings, &dynamic.postgresql);
        let mut merged = Merged {
            parameters: BTreeMap::new(),
            sources: BTreeMap::new(),
            pg_hba: either(&mine.common.pg_hba, &stored.common.pg_hba),
            pg_ident: either(&mine.common.pg_ident, &stored.common.pg_ident),
        };
        let defaults = CONTROLLED.iter().filter_map(|c| Some((c.name, c.default?))).chain(OUR_DEFAULTS.iter().copied());
        for (name, value) in defaults {
            merged.set(name, value, Place::of(Source::Default));
        }
        merged.lay(&stored.common, |_| Place::of(Source::Dynamic));
        merged.lay(&mine.common, |name| local.parameter_place("parameters", name));
        let Some((suffix, select)) = overlay(role) else { return merged };
        // A role's settings are one key like any other: the local ones replace the stored ones.
        let (own, theirs) = (select(mine), select(stored));
        if own.parameters.is_empty() {
            merged.lay(theirs, |_| Place::of(Source::Dynamic));
        } else {
            let section = format!("parameters{suffix}");
            merged.lay(own, |name| local.parameter_place(&section, name));
        }
        merged.pg_hba = either(&own.pg_hba, &theirs.pg_hba).or(merged.pg_hba);
        merged.pg_ident = either(&own.pg_ident, &theirs.pg_ident).or(merged.pg_ident);
        merged
    }

    fn set(&mut self, name: &str, value: impl Into<String>, place: Place) {
        self.parameters.insert(name.to_owned(), value.into());
        self.sources.insert(name.to_owned(), place);
    }

    fn lay(&mut self, layer: &RoleSettings, place: impl Fn(&str) -> Place) {
        for (name, value) in &layer.parameters {
            self.set(name, value, place(name));
        }
    }

    fn drop(&mut self, name: &str) -> Option<String> {
        self.sources.remove(name);
        self.parameters.remove(name)
    }

    /// Recovery settings among the parameters stand in for the whole of `recovery_conf` (`spec/config.md §8.2`).
    fn recovery_conf(
        &mut self,
        mine: &PostgresqlSettings,
        stored: &PostgresqlSettings,
        server_version: Option<u32>,
    ) -> BTreeMap<String, String> {
        let stray: BTreeMap<String, String> =
            RECOVERY_SETTINGS.iter().filter_map(|name| Some(((*name).to_owned(), self.drop(name)?))).collect();
        let mut recovery = if stray.is_empty() {
            either(&mine.recovery_conf, &stored.recovery_conf).unwrap_or_default()
        } else {
            stray
        };
        // These are decided anew whenever a standby is pointed at a primary.
        recovery.retain(|name, _| {
            !name.starts_with("recovery_target") && name != "primary_conninfo" && name != "primary_slot_name"
        });
        let (old, new) = ("trigger_file", "promote_trigger_file");
        let (from, to) = if server_version.is_none_or(|v| v >= 120_000) { (old, new) } else { (new, old) };
        if let Some(value) = recovery.remove(from) {
            recovery.entry(to.to_owned()).or_insert(value);
        }
        recovery
    }

    fn transform(&mut self, local: &LocalConfig, dynamic: &DynamicConfig, server_version: Option<u32>) {
        let version = server_version.unwrap_or(u32::MAX);
        let listen = &local.postgresql.listen;
        let file = |key: &str| local.source_of(key).cloned().unwrap_or_else(|| Place::of(Source::Default));
        self.set("listen_addresses", listen.listen_addresses(), file("postgresql.listen"));
        self.set("port", listen.port.to_string(), file("postgresql.listen"));
        self.set("cluster_name", &local.scope, file("scope"));
        if let Some(level) = self.parameters.get_mut("wal_level") {
            match (level.as_str(), version >= 90_600) {
                ("hot_standby", true) => "replica".clone_into(level),
                ("replica", false) => "hot_standby".clone_into(level),
                _ => {}
            }
        }
        self.wal_keep(version);
        for name in ["hba_file", "ident_file"] {
            if let Some(value) = self.parameters.get_mut(name) {
                *value = local.postgresql.config_dir.join(&*value).display().to_string();
            }
        }
        if dynamic.settings.synchronous_mode != SynchronousMode::Off && !dynamic.settings.standby_cluster {
            // Which standbys are synchronous is agreed in the store.
            self.drop("synchronous_standby_names");
        }
        if decodes(local, dynamic) && version >= 110_000 {
            // Vacuum on the primary has to spare what the copies of logical slots on this member still need.
            self.set("hot_standby_feedback", "on", Place::of(Source::Dynamic));
        }
        if version >= FAILOVER_SLOTS && dynamic.synchronises_slots() && !dynamic.settings.standby_cluster {
            let (name, value) = if synchronises(local, dynamic) {
                ("hot_standby_feedback", "on")
            } else {
                // Every attempt of the server would end in an error.
                ("sync_replication_slots", "off")
            };
            self.set(name, value, Place::of(Source::Dynamic));
        }
        for rule in CONTROLLED.iter().filter(|c| c.since > version) {
            self.drop(rule.name);
        }
        if version < 90_500 {
            self.drop("wal_retrieve_retry_interval");
        }
    }

    /// The older name counts segments of 16 MB, the newer one is a size.
    fn wal_keep(&mut self, version: u32) {
        let segments = self.drop_with_place("wal_keep_segments");
        let size = self.drop_with_place("wal_keep_size");
        let default = || Place::of(Source::Default);
        if version >= 130_000 {
            let (value, place) = size.unwrap_or_else(|| match segments {
                Some((text, place)) => {
                    (format!("{}MB", value::parse_int(&text).unwrap_or(8).saturating_mul(16)), place)
                }
                None => ("128MB".to_owned(), default()),
            });
            self.set("wal_keep_size", value, place);
        } else {
            let (value, place) = segments.unwrap_or_else(|| match size {
                Some((text, place)) => (((value::parse_megabytes(&text).unwrap_or(128) + 8) / 16).to_string(), place),
                None => ("8".to_owned(), default()),
            });
            self.set("wal_keep_segments", value, place);
        }
    }

    fn drop_with_place(&mut self, name: &str) -> Option<(String, Place)> {
        let place = self.sources.remove(name);
        Some((self.parameters.remove(name)?, place.unwrap_or_else(|| Place::of(Source::Default))))
    }
}

/// This member keeps copies of permanent logical slots while it is a standby.
fn decodes(local: &LocalConfig, dynamic: &DynamicConfig) -> bool {
    let logical = dynamic.slots.values().any(|slot| matches!(slot, PermanentSlot::Logical { .. }));
    logical && keeps_logical(local, dynamic)
}

fn keeps_logical(local: &LocalConfig, dynamic: &DynamicConfig) -> bool {
    let keeps = dynamic.settings.use_slots && !dynamic.settings.standby_cluster;
    keeps && !local.tags.nostream() && !local.tags.nofailover()
}

/// It streams from the primary, through a slot, and may take over from it.
fn synchronises(local: &LocalConfig, dynamic: &DynamicConfig) -> bool {
    keeps_logical(local, dynamic) && local.tags.replicatefrom().is_none()
}

type Select = fn(&PostgresqlSettings) -> &RoleSettings;

fn overlay(role: RoleOverlay) -> Option<(&'static str, Select)> {
    match role {
        RoleOverlay::None => None,
        RoleOverlay::Primary => Some(("_primary", |s| &s.primary)),
        RoleOverlay::Replica => Some(("_replica", |s| &s.replica)),
        RoleOverlay::StandbyLeader => Some(("_standby_leader", |s| &s.standby_leader)),
    }
}
