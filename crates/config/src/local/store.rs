//! The section that names the store (`spec/config.md §4.6`).

use std::path::PathBuf;
use std::time::Duration;

use crate::address::{self, HostPort};
use crate::finding::Place;
use crate::reader::{Reader, Section};
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

/// Every section Patroni members know, in the order that decides.
const SECTIONS: [&str; 7] = ["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"];

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader, member: bool) -> Option<StoreConfig> {
    root.knows(&SECTIONS);
    let Some(name) = SECTIONS.into_iter().find(|name| root.has(name)) else {
        if member {
            r.fault(
                &root.place,
                "",
                "names no store; add a section `raft:` (the embedded store) or `etcd3:` (an etcd cluster)",
            );
        }
        return None;
    };
    match name {
        "raft" => raft(root.section(r, name), r, member).map(StoreConfig::Raft),
        "etcd3" => etcd3(root.section(r, name), r).map(StoreConfig::Etcd3),
        other => {
            let place = root.node().and_then(|n| n.get(other)).map_or(root.place.clone(), |n| n.place.clone());
            let also: Vec<&str> = ["etcd3", "raft"].into_iter().filter(|n| root.has(n)).collect();
            let message = match (other, also.first()) {
                (_, Some(also)) => format!(
                    "this store is not supported, and it is chosen before `{also}` when both sections are there; \
                     remove this section"
                ),
                ("etcd", None) => "the v2 protocol of etcd is not supported; rename the section to `etcd3` (the keys \
                                   are the same, and so is the port of an etcd 3.4 or newer)"
                    .to_owned(),
                _ => "this store is not supported; use a section `etcd3:` or `raft:` in its place".to_owned(),
            };
            r.fault(&place, other, message);
            None
        }
    }
}

fn raft(mut s: Section<'_>, r: &mut Reader, member: bool) -> Option<RaftConfig> {
    let self_addr = s.address(r, "self_addr", None);
    if member && self_addr.is_none() && s.take("self_addr").is_none() {
        s.missing(r, "self_addr", "the host:port at which the other voters reach this one");
    }
    let bind_addr = s.address(r, "bind_addr", None);
    let mut partner_addrs = Vec::new();
    for (i, (text, place)) in s.texts_or_csv(r, "partner_addrs").unwrap_or_default().into_iter().enumerate() {
        match address::split_one(&text, None) {
            // A list of all voters, the same in every file, is a habit worth allowing.
            Ok(partner) if self_addr.as_ref() != Some(&partner) => partner_addrs.push(partner),
            Ok(_) => {}
            Err(why) => {
                let path = format!("{}.{i}", s.below("partner_addrs"));
                r.fault(&place, &path, format!("expected host:port ({why}), found {text:?}"));
            }
        }
    }
    let mut time =
        |r: &mut Reader, key: &str, default: f64| s.seconds(r, key).unwrap_or_else(|| Duration::from_secs_f64(default));
    let mut config = RaftConfig {
        min_timeout: time(r, "min_timeout", 0.4),
        max_timeout: time(r, "max_timeout", 1.4),
        connection_timeout: time(r, "connection_timeout", 3.5),
        append_entries_period: time(r, "append_entries_period", 0.1),
        connection_retry_time: time(r, "connection_retry_time", 5.0),
        leader_fallback_timeout: time(r, "leader_fallback_timeout", 30.0),
        data_dir: s.path(r, "data_dir").unwrap_or_else(|| PathBuf::from(".")),
        password: s.secret(r, "password"),
        self_addr,
        bind_addr,
        partner_addrs,
        tls: None,
    };
    config.check_times(&s, r);
    let (certfile, keyfile, cafile) = (s.path(r, "certfile"), s.path(r, "keyfile"), s.path(r, "cafile"));
    config.tls = match (certfile, keyfile, cafile) {
        (None, None, None) => None,
        (Some(certfile), Some(keyfile), Some(cafile)) => Some(RaftTls { certfile, keyfile, cafile }),
        (certfile, keyfile, cafile) => {
            for (key, value) in [("certfile", certfile), ("keyfile", keyfile), ("cafile", cafile)] {
                if value.is_none() {
                    s.missing(r, key, "a path: TLS between voters needs certfile, keyfile and cafile");
                }
            }
            None
        }
    };
    let alone = config.partner_addrs.iter().all(|p| is_loopback(&p.host));
    if member && config.password.is_none() && config.tls.is_none() && !alone {
        r.warn(
            &s.place,
            &s.below("password"),
            "is missing, and so is TLS: whoever reaches self_addr may change the cluster; set the same password for all",
        );
    }
    s.finish(r);
    Some(config)
}

impl RaftConfig {
    fn check_times(&self, s: &Section<'_>, r: &mut Reader) {
        let seconds = |d: Duration| d.as_secs_f64();
        let (min, max) = (seconds(self.min_timeout), seconds(self.max_timeout));
        let (append, connection) = (seconds(self.append_entries_period), seconds(self.connection_timeout));
        let fallback = seconds(self.leader_fallback_timeout);
        for (ok, key, rule) in [
            (min > 3.0 * append, "min_timeout", format!("{min} has to exceed 3 * append_entries_period ({append})")),
            (max > min, "max_timeout", format!("{max} has to exceed min_timeout ({min})")),
            (connection >= max, "connection_timeout", format!("{connection} must not be below max_timeout ({max})")),
            (
                fallback > append,
                "leader_fallback_timeout",
                format!("{fallback} has to exceed append_entries_period ({append})"),
            ),
        ] {
            if !ok {
                let place = s.node().and_then(|n| n.get(key)).map_or(&s.place, |n| &n.place);
                r.fault(place, &s.below(key), format!("{rule}; change one of them"));
            }
        }
    }
}

fn etcd3(mut s: Section<'_>, r: &mut Reader) -> Option<Etcd3Config> {
    let faults = r.findings.len();
    let port = s.int(r, "port", "a port from 1 to 65535", 1..=65535);
    let port = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(2379);
    let mut config = Etcd3Config {
        endpoints: Vec::new(),
        srv: None,
        srv_suffix: s.text(r, "srv_suffix"),
        protocol: s.choice(r, "protocol", &[("http", "http"), ("https", "https")]).unwrap_or("http").to_owned(),
        use_proxies: s.bool(r, "use_proxies").unwrap_or(false),
        username: s.text(r, "username"),
        password: s.secret(r, "password"),
        cacert: s.path(r, "cacert"),
        cert: s.path(r, "cert"),
        key: s.path(r, "key"),
    };
    let srv = ["srv", "discovery_srv", "srv_domain"].map(|key| s.text(r, key)).into_iter().flatten().next();
    let (proxy, url) = (s.text(r, "proxy"), s.text(r, "url"));
    let hosts = s.texts_or_csv(r, "hosts").filter(|h| !h.is_empty());
    let host = s.text(r, "host");
    let place_of = |key: &str| s.node().and_then(|n| n.get(key)).map_or(s.place.clone(), |n| n.place.clone());
    config.use_proxies |= proxy.is_some();
    if let Some((key, text)) = proxy.map(|t| ("proxy", t)).or(url.map(|t| ("url", t))) {
        config.take_url(r, &text, &place_of(key), &s.below(key), port);
    } else if srv.is_some() {
        config.srv = srv;
    } else if let Some(hosts) = hosts {
        for (i, (text, place)) in hosts.into_iter().enumerate() {
            let path = format!("{}.{i}", s.below("hosts"));
            config.endpoints.extend(endpoint(r, &text, &config.protocol, &place, &path, port));
        }
    } else if let Some(text) = host {
        let path = s.below("host");
        config.endpoints.extend(endpoint(r, &text, &config.protocol, &place_of("host"), &path, port));
    } else if r.findings.len() == faults {
        r.fault(
            &s.place,
            &s.path,
            "names no server; expected one of `hosts` (list of host:port), `host`, `url`, `srv` (a domain) or `proxy`",
        );
    }
    if config.cacert.is_some() && config.protocol == "http" && config.endpoints.iter().all(|e| e.starts_with("http:")) {
        r.warn(
            &place_of("cacert"),
            &s.below("cacert"),
            "has no effect while the protocol is http; set `protocol: https`",
        );
    }
    if config.password.is_some() && config.username.is_none() {
        s.missing(r, "username", "the user the password belongs to");
    }
    s.finish(r);
    Some(config)
}

impl Etcd3Config {
    fn take_url(&mut self, r: &mut Reader, text: &str, place: &Place, path: &str, port: u16) {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(u, a)| (Some(u), a));
        if !matches!(scheme, "http" | "https") {
            r.fault(place, path, "expected a URL such as https://etcd.example.com:2379");
            return;
        }
        scheme.clone_into(&mut self.protocol);
        if let Some((name, password)) = user.map(|u| u.split_once(':').unwrap_or((u, ""))) {
            self.username = Some(name.to_owned());
            self.password = Some(Secret::new(password)).filter(|p| !p.expose().is_empty());
        }
        self.endpoints.extend(endpoint(r, address, scheme, place, path, port));
    }
}

fn endpoint(r: &mut Reader, text: &str, protocol: &str, place: &Place, path: &str, port: u16) -> Option<String> {
    let (protocol, address) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.trim_end_matches('/')),
        _ => (protocol, text),
    };
    match address::split_one(address, Some(port)) {
        Ok(address) => Some(format!("{protocol}://{address}")),
        Err(why) => {
            r.fault(place, path, format!("expected host:port ({why})"));
            None
        }
    }
}

impl StoreConfig {
    /// Equal but for the credentials of etcd, which may change while the agent runs.
    pub(super) fn same_servers(&self, other: &StoreConfig) -> bool {
        match (self, other) {
            (StoreConfig::Etcd3(a), StoreConfig::Etcd3(b)) => {
                let b = Etcd3Config { username: a.username.clone(), password: a.password.clone(), ..b.clone() };
                *a == b
            }
            (a, b) => a == b,
        }
    }

    /// Whether nothing outside this machine is involved.
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            StoreConfig::Raft(raft) => raft.self_addr.iter().chain(&raft.partner_addrs).all(|a| is_loopback(&a.host)),
            StoreConfig::Etcd3(etcd) => {
                etcd.srv.is_none()
                    && etcd.endpoints.iter().all(|e| {
                        let authority = e.split_once("://").map_or(e.as_str(), |(_, rest)| rest);
                        address::split_one(authority, Some(0)).is_ok_and(|a| is_loopback(&a.host))
                    })
            }
        }
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}
