//! `postgresql` (`spec/config.md §4.8`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::{self, HostPort, Listen};
use crate::options;
use crate::parameters::{Accepts, controlled};
use crate::reader::{Reader, Section};
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

/// Which document the section is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Local,
    Dynamic,
}

const LOCAL_ONLY: [&str; 7] =
    ["connect_address", "proxy_address", "listen", "config_dir", "data_dir", "pgpass", "authentication"];
const BIN_NAMES: [&str; 8] =
    ["pg_ctl", "initdb", "pg_controldata", "pg_basebackup", "postgres", "pg_isready", "pg_rewind", "pg_waldump"];
const CALLBACKS: [&str; 5] = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];

/// The keys both documents share. Consumes the section: what is left over are methods or mistakes.
pub(crate) fn read_settings(mut s: Section<'_>, r: &mut Reader, layer: Layer) -> PostgresqlSettings {
    s.knows(&LOCAL_ONLY);
    if layer == Layer::Dynamic {
        for key in LOCAL_ONLY {
            if let Some(node) = s.take(key) {
                r.warn(&node.place, &s.below(key), "only counts in a member's own file and is ignored here");
            }
        }
    }
    let use_slots = s.bool(r, "use_slots");
    if let (Layer::Local, Some(node)) = (layer, s.take("use_slots")) {
        r.warn(&node.place, &s.below("use_slots"), "only counts in the dynamic configuration and is ignored here");
    }
    let methods = s.texts_or_csv(r, "create_replica_methods");
    let legacy_methods = s.texts_or_csv(r, "create_replica_method");
    let methods = methods.filter(|m| !m.is_empty()).or(legacy_methods).map(|m| m.into_iter().map(|(t, _)| t).collect());
    let timeout = s.seconds(r, "pg_ctl_timeout");
    let mut settings = PostgresqlSettings {
        config_base_name: s.text(r, "config_base_name"),
        custom_conf: s.path(r, "custom_conf"),
        bin_dir: s.path(r, "bin_dir"),
        bin_name: names(&mut s, r, "bin_name", &BIN_NAMES),
        database: s.text(r, "database"),
        callbacks: names(&mut s, r, "callbacks", &CALLBACKS),
        create_replica_methods: methods,
        replica_methods: BTreeMap::new(),
        basebackup: options::BASEBACKUP.read(&mut s, r, "basebackup"),
        rewind: options::REWIND.read(&mut s, r, "rewind"),
        common: role_settings(&mut s, r, layer, ""),
        primary: role_settings(&mut s, r, layer, "_primary"),
        replica: role_settings(&mut s, r, layer, "_replica"),
        standby_leader: role_settings(&mut s, r, layer, "_standby_leader"),
        recovery_conf: s
            .text_map(r, "recovery_conf")
            .map(|pairs| pairs.into_iter().map(|(k, v, _)| (k.to_lowercase(), v)).collect()),
        pg_ctl_timeout: timeout,
        use_pg_rewind: s.bool(r, "use_pg_rewind"),
        remove_data_directory_on_rewind_failure: s.bool(r, "remove_data_directory_on_rewind_failure"),
        remove_data_directory_on_diverged_timelines: s.bool(r, "remove_data_directory_on_diverged_timelines"),
        use_slots,
        use_unix_socket: s.bool(r, "use_unix_socket"),
        use_unix_socket_repl: s.bool(r, "use_unix_socket_repl"),
        pre_promote: s.text(r, "pre_promote"),
        before_stop: s.text(r, "before_stop"),
        krbsrvname: s.text(r, "krbsrvname"),
    };
    settings.replica_methods = replica_methods(&mut s, r, settings.create_replica_methods.as_deref());
    s.finish(r);
    settings
}

fn names(s: &mut Section<'_>, r: &mut Reader, key: &str, known: &[&str]) -> Option<BTreeMap<String, String>> {
    let mut below = s.section(r, key);
    if !below.exists() {
        return None;
    }
    let map = known.iter().filter_map(|name| Some(((*name).to_owned(), below.text(r, name)?))).collect();
    below.finish(r);
    Some(map)
}

fn role_settings(s: &mut Section<'_>, r: &mut Reader, layer: Layer, suffix: &str) -> RoleSettings {
    let key = format!("parameters{suffix}");
    let path = s.below(&key);
    let mut parameters = BTreeMap::new();
    for (name, text, place) in s.text_map(r, &key).unwrap_or_default() {
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
        pg_hba: s.texts(r, &format!("pg_hba{suffix}")),
        pg_ident: s.texts(r, &format!("pg_ident{suffix}")),
    }
}

/// A section is a method's if the list names it, or if it has what only a method has.
fn replica_methods(s: &mut Section<'_>, r: &mut Reader, listed: Option<&[String]>) -> BTreeMap<String, ReplicaMethod> {
    let listed = listed.unwrap_or_default();
    let candidates: Vec<String> = s
        .rest()
        .filter(|e| listed.contains(&e.key) || e.node.get("command").is_some() || e.node.get("no_leader").is_some())
        .map(|e| e.key.clone())
        .collect();
    let mut methods = BTreeMap::new();
    for name in candidates {
        let mut m = s.section(r, &name);
        let command = m.text(r, "command").unwrap_or_else(|| name.clone());
        let mut quiet = Reader::lenient();
        let mut switch = |key: &str| Section::bool(&mut m, &mut quiet, key).unwrap_or(false);
        let (no_params, no_leader, keep_data) = (switch("no_params"), switch("no_leader"), switch("keep_data"));
        let mut all =
            m.node().map_or_else(Vec::new, |node| super::bootstrap::arguments(&Section::new(node, &m.path), r));
        all.retain(|(key, _)| key != "command");
        methods.insert(name, ReplicaMethod { command, no_params, no_leader, keep_data, arguments: all });
    }
    methods
}

/// The local section.
pub(super) fn read(root: &mut Section<'_>, r: &mut Reader, home: &Path) -> Option<Postgresql> {
    let mut s = root.section(r, "postgresql");
    if !s.exists() {
        root.missing(r, "postgresql", "a section with at least listen, data_dir and authentication");
        return None;
    }
    let listen = listen(&mut s, r);
    let one = listen.as_ref().map(|l| HostPort { host: first_usable(&l.hosts), port: l.port });
    let connect_address = super::rest::connect_address(&mut s, r, one.as_ref());
    let proxy_address = s.address(r, "proxy_address", Some(5432));
    let data_dir = s.required_text(r, "data_dir", "the path of the data directory").map(PathBuf::from);
    let config_dir = s.path(r, "config_dir").or_else(|| data_dir.clone());
    let pgpass = s.path(r, "pgpass").unwrap_or_else(|| home.join("pgpass"));
    let authentication = authentication(&mut s, r);
    // Read before there was a map of users.
    s.knows(&["name", "superuser", "replication", "pg_rewind"]);
    let legacy_rewind = legacy_authentication(&s).then(|| s.has("pg_rewind"));
    let mut settings = read_settings(s, r, Layer::Local);
    settings.use_pg_rewind = settings.use_pg_rewind.or(legacy_rewind);
    Some(Postgresql {
        listen: listen?,
        connect_address: connect_address?,
        proxy_address,
        data_dir: data_dir?,
        config_dir: config_dir?,
        pgpass,
        authentication: authentication?,
        settings,
    })
}

fn listen(s: &mut Section<'_>, r: &mut Reader) -> Option<Listen> {
    let text = s.required_text(r, "listen", "host:port for PostgreSQL to listen on, such as 0.0.0.0:5432")?;
    let place = s.take("listen").map_or(s.place.clone(), |n| n.place.clone());
    let path = s.below("listen");
    match address::split(&text, Some(5432)) {
        Ok(listen) if listen.hosts.len() > 1 && listen.hosts.iter().any(|h| h == "*") => {
            r.fault(&place, &path, format!("expected `*` alone or a list of hosts without it, found {text:?}"));
            None
        }
        Ok(listen) => Some(listen),
        Err(why) => {
            r.fault(&place, &path, format!("expected host:port ({why}), found {text:?}"));
            None
        }
    }
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

fn authentication(s: &mut Section<'_>, r: &mut Reader) -> Option<Authentication> {
    let legacy = legacy_authentication(s);
    let mut map = s.section(r, "authentication");
    let source = if legacy { s } else { &mut map };
    let superuser = credentials(source, r, "superuser").unwrap_or_default();
    let replication = credentials(source, r, "replication");
    let rewind = credentials(source, r, if legacy { "pg_rewind" } else { "rewind" });
    let faults = r.findings.len();
    let replication = match replication {
        Some(replication) if replication.username.is_some() => Some(replication),
        _ => {
            let message = "is missing; expected the user that standbys replicate as";
            r.fault(&source.place, &source.below("replication.username"), message);
            None
        }
    };
    if superuser.username.is_none() && r.findings.len() == faults {
        let message = "is missing; the operating system's name of the user Surus runs as is used";
        r.warn(&source.place, &source.below("superuser.username"), message);
    }
    if !legacy {
        map.finish(r);
    }
    Some(Authentication { superuser, replication: replication?, rewind })
}

fn credentials(s: &mut Section<'_>, r: &mut Reader, user: &str) -> Option<Credentials> {
    let mut s = s.section(r, user);
    if !s.exists() {
        return None;
    }
    let credentials = Credentials {
        username: s.text(r, "username"),
        password: s.secret(r, "password"),
        sslmode: s.text(r, "sslmode"),
        sslcert: s.text(r, "sslcert"),
        sslkey: s.text(r, "sslkey"),
        sslpassword: s.secret(r, "sslpassword"),
        sslrootcert: s.text(r, "sslrootcert"),
        sslcrl: s.text(r, "sslcrl"),
        sslcrldir: s.text(r, "sslcrldir"),
        gssencmode: s.text(r, "gssencmode"),
        channel_binding: s.text(r, "channel_binding"),
        sslnegotiation: s.text(r, "sslnegotiation"),
    };
    s.finish(r);
    Some(credentials)
}
