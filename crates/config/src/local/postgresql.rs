//! `postgresql` (`spec/config.md §4.8`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{self, HostPort, Listen};
use crate::definition::{self, METHOD};
use crate::parameters::{Accepts, controlled};
use crate::reader::{Reader, Section, is_empty};
use crate::secret::Secret;
use crate::tree::{Entry, Node};

/// The local section: what only a member itself can know, and its say in what may also be set for the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgresql {
    pub listen: Listen,
    pub connect_address: HostPort,
    pub proxy_address: Option<HostPort>,
    pub data_dir: PathBuf,
    /// Where `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` are; `data_dir` unless given.
    pub config_dir: PathBuf,
    /// Unless it is in the home of the user that PostgreSQL runs as.
    pub pgpass: Option<PathBuf>,
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

/// Which document the section is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Local,
    Dynamic,
}

/// The keys both documents share.
pub(crate) fn read_settings(s: &Section<'_>, r: &mut Reader, layer: Layer) -> PostgresqlSettings {
    let said = s.said();
    let methods = |key: &str| s.texts_or_csv(key).filter(|m| !m.is_empty());
    let methods = methods("create_replica_methods").or_else(|| methods("create_replica_method"));
    PostgresqlSettings {
        custom_conf: said.path("custom_conf"),
        bin_dir: said.path("bin_dir"),
        bin_name: names(s, "bin_name"),
        database: said.text("database"),
        callbacks: names(s, "callbacks"),
        create_replica_methods: methods.map(|m| m.into_iter().map(|(name, _)| name).collect()),
        replica_methods: replica_methods(s, r),
        basebackup: s.options(r, "basebackup"),
        rewind: s.options(r, "rewind"),
        common: role_settings(s, r, layer, ""),
        primary: role_settings(s, r, layer, "_primary"),
        replica: role_settings(s, r, layer, "_replica"),
        standby_leader: role_settings(s, r, layer, "_standby_leader"),
        recovery_conf: s
            .text_map("recovery_conf")
            .map(|pairs| pairs.into_iter().map(|(k, v, _)| (k.to_lowercase(), v)).collect()),
        pg_ctl_timeout: said.seconds("pg_ctl_timeout"),
        use_pg_rewind: said.bool("use_pg_rewind"),
        remove_data_directory_on_rewind_failure: said.bool("remove_data_directory_on_rewind_failure"),
        remove_data_directory_on_diverged_timelines: said.bool("remove_data_directory_on_diverged_timelines"),
        use_slots: said.bool("use_slots"),
        use_unix_socket: said.bool("use_unix_socket"),
        pre_promote: said.text("pre_promote"),
        before_stop: said.text("before_stop"),
        krbsrvname: said.text("krbsrvname"),
    }
}

/// A section in which every known key is a text.
fn names(s: &Section<'_>, key: &str) -> Option<BTreeMap<String, String>> {
    let below = s.section(key);
    let names = below.node()?.entries()?.iter().map(|e| &e.key).filter(|name| below.knows(name));
    Some(names.filter_map(|name| Some((name.clone(), below.text(name)?))).collect())
}

fn role_settings(s: &Section<'_>, r: &mut Reader, layer: Layer, suffix: &str) -> RoleSettings {
    let key = format!("parameters{suffix}");
    let path = s.below(&key);
    let mut parameters = BTreeMap::new();
    for (name, text, place) in s.text_map(&key).unwrap_or_default() {
        let path = format!("{path}.{name}");
        let name = name.to_lowercase();
        let Some(rule) = controlled(&name) else {
            parameters.insert(name, text);
            continue;
        };
        if layer == Layer::Local || !suffix.is_empty() {
            r.warn(
                &place,
                &path,
                "is the same for all members and roles and is ignored here; set it in the dynamic configuration under \
                 postgresql.parameters",
            );
            continue;
        }
        match (rule.validate(&text), &rule.accepts) {
            (Ok(text), _) => {
                parameters.insert(name, text);
            }
            (Err(why), Accepts::Nothing(_)) => r.warn(&place, &path, format!("is ignored: {why}")),
            (Err(why), _) => r.fault(&place, &path, format!("{why}, found {text:?}")),
        }
    }
    RoleSettings {
        parameters,
        pg_hba: s.texts(&format!("pg_hba{suffix}")),
        pg_ident: s.texts(&format!("pg_ident{suffix}")),
    }
}

fn replica_methods(s: &Section<'_>, r: &mut Reader) -> BTreeMap<String, ReplicaMethod> {
    let Some(section) = s.node() else { return BTreeMap::new() };
    let sections = s.rest().filter(|e| definition::check::is_method(e, section));
    let method = |entry: &Entry| {
        let path = s.below(&entry.key);
        if entry.node.entries().is_none() && !is_empty(&entry.node) {
            let message = format!("expected a map of keys and values, found {}", entry.node.kind());
            r.fault(&entry.node.place, &path, message);
        }
        let m = Section::new(&entry.node, &path, METHOD);
        let all = m.node().and_then(Node::entries).unwrap_or_default().iter().filter(|e| e.key != "command");
        let method = ReplicaMethod {
            command: m.text("command").unwrap_or_else(|| entry.key.clone()),
            no_params: m.bool("no_params"),
            no_leader: m.bool("no_leader"),
            keep_data: m.bool("keep_data"),
            arguments: super::bootstrap::arguments(all, &path, r),
        };
        (entry.key.clone(), method)
    };
    sections.map(method).collect()
}

/// The local section.
pub(super) fn read(root: &Section<'_>, r: &mut Reader) -> Option<Postgresql> {
    let s = root.section("postgresql");
    if !s.exists() {
        return None;
    }
    let listen = s.text("listen").and_then(|text| address::split(&text, Some(5432)).ok());
    let one = listen.as_ref().map(|l| HostPort { host: first_usable(&l.hosts), port: l.port });
    let connect_address = super::rest::connect_address(&s, r, one.as_ref());
    let data_dir = s.path("data_dir");
    let config_dir = s.path("config_dir").or_else(|| data_dir.clone());
    let authentication = authentication(&s, r);
    let legacy_rewind = legacy_authentication(&s).then(|| s.has("pg_rewind"));
    let mut settings = read_settings(&s, r, Layer::Local);
    settings.use_pg_rewind = settings.use_pg_rewind.or(legacy_rewind);
    Some(Postgresql {
        listen: listen?,
        connect_address: connect_address?,
        proxy_address: s.address("proxy_address", Some(5432)),
        data_dir: data_dir?,
        config_dir: config_dir?,
        pgpass: s.path("pgpass"),
        authentication: authentication?,
        settings,
    })
}

/// The host others are most likely to reach.
fn first_usable(hosts: &[String]) -> String {
    let wildcard = |h: &&String| matches!(h.as_str(), "*" | "0.0.0.0" | "::");
    let loopback = |h: &&String| super::store::is_loopback(h);
    let first = hosts.iter().find(|h| !wildcard(h) && !loopback(h)).or_else(|| hosts.iter().find(wildcard));
    first.or(hosts.first()).cloned().unwrap_or_default()
}

fn legacy_authentication(s: &Section<'_>) -> bool {
    !s.has("authentication") && s.has("replication")
}

fn authentication(s: &Section<'_>, r: &mut Reader) -> Option<Authentication> {
    let legacy = legacy_authentication(s);
    let map = s.section("authentication");
    let source = if legacy { s } else { &map };
    let superuser = credentials(&source.section("superuser")).unwrap_or_default();
    let replication = credentials(&source.section("replication")).filter(|c| c.username.is_some());
    if replication.is_none() {
        let message = "is missing; expected the user that standbys replicate as";
        r.fault(&source.place, &source.below("replication.username"), message);
    } else if superuser.username.is_none() {
        let message = "is missing; the operating system's name of the user Surus runs as is used";
        r.warn(&source.place, &source.below("superuser.username"), message);
    }
    let rewind = credentials(&source.section(if legacy { "pg_rewind" } else { "rewind" }));
    Some(Authentication { superuser, replication: replication?, rewind })
}

fn credentials(s: &Section<'_>) -> Option<Credentials> {
    s.exists().then(|| Credentials {
        username: s.text("username"),
        password: s.secret("password"),
        sslmode: s.text("sslmode"),
        sslcert: s.text("sslcert"),
        sslkey: s.text("sslkey"),
        sslpassword: s.secret("sslpassword"),
        sslrootcert: s.text("sslrootcert"),
        sslcrl: s.text("sslcrl"),
        sslcrldir: s.text("sslcrldir"),
        gssencmode: s.text("gssencmode"),
        channel_binding: s.text("channel_binding"),
        sslnegotiation: s.text("sslnegotiation"),
    })
}
