//! The section that names the store (`spec/config.md §4.6`).

use std::path::PathBuf;
use std::time::Duration;

use super::consul::{ConsulConfig, consul};
use crate::address::{self, HostPort};
use crate::definition::STORES;
use crate::finding::Place;
use crate::reader::{Reader, Section, is_empty};
use crate::secret::Secret;

use super::zookeeper::{self, ZooKeeperConfig};

/// The store in use: the alphabetically first section present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Consul(ConsulConfig),
    Raft(RaftConfig),
    Etcd3(Etcd3Config),
    ZooKeeper(ZooKeeperConfig),
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

impl Etcd3Config {
    fn anonymous(&self) -> Etcd3Config {
        Etcd3Config { username: None, password: None, cacert: None, cert: None, key: None, ..self.clone() }
    }
}

/// Every section Patroni members know, in the order that decides.
pub(super) const SECTIONS: [&str; 7] = ["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"];

pub(super) fn read(root: &Section<'_>, r: &mut Reader, member: bool) -> Option<StoreConfig> {
    let Some(name) = SECTIONS.into_iter().find(|name| root.has(name)) else {
        if member {
            r.fault(
                &root.place,
                "",
                "names no store; add a section `raft:` (the embedded store), or one for a store that runs already: \
                 `consul:`, `etcd3:` or `zookeeper:`",
            );
        }
        return None;
    };
    match name {
        "consul" => consul(&root.section(name), r).map(StoreConfig::Consul),
        "raft" => raft(&root.section(name), r, member).map(StoreConfig::Raft),
        "etcd3" => etcd3(&root.section(name), r).map(StoreConfig::Etcd3),
        "zookeeper" => zookeeper::read(&root.section(name), r).map(StoreConfig::ZooKeeper),
        other => {
            let place = root.node().and_then(|n| n.get(other)).map_or(root.place.clone(), |n| n.place.clone());
            let also: Vec<&str> = STORES.iter().map(|key| key.name).filter(|n| root.has(n)).collect();
            let message = match (other, also.first()) {
                (_, Some(also)) => format!(
                    "this store is not supported, and it is chosen before `{also}` when both sections are there; \
                     remove this section"
                ),
                ("etcd", None) => "the v2 protocol of etcd is not supported; rename the section to `etcd3` (the keys \
                                   are the same, and so is the port of an etcd 3.4 or newer)"
                    .to_owned(),
                ("exhibitor", None) => "Exhibitor is not supported, which only said where ZooKeeper is; name the servers \
                                        under `zookeeper: hosts`, the other keys are the same"
                    .to_owned(),
                _ => "this store is not supported; use a section `consul:`, `etcd3:`, `raft:` or `zookeeper:` in its place"
                    .to_owned(),
            };
            r.fault(&place, other, message);
            None
        }
    }
}

fn raft(s: &Section<'_>, r: &mut Reader, member: bool) -> Option<RaftConfig> {
    let self_addr = s.address("self_addr", None);
    if member && s.take("self_addr").is_none() {
        s.missing(r, "self_addr", "the host:port at which the other voters reach this one");
    }
    let partners = s.texts_or_csv("partner_addrs").unwrap_or_default().into_iter();
    // A list of all voters, the same in every file, is a habit worth allowing.
    let others = partners.filter_map(|(text, _)| address::split_one(&text, None).ok());
    let partner_addrs = others.filter(|partner| self_addr.as_ref() != Some(partner)).collect();
    let config = RaftConfig {
        data_dir: s.path("data_dir").unwrap_or_default(),
        password: s.secret("password"),
        bind_addr: s.address("bind_addr", None),
        self_addr,
        partner_addrs,
        tls: raft_tls(s, r),
    };
    let alone = config.partner_addrs.iter().all(|p| is_loopback(&p.host));
    if member && config.password.is_none() && config.tls.is_none() && !alone {
        r.warn(
            &s.place,
            &s.below("password"),
            "is missing, and so is TLS: whoever reaches self_addr may change the cluster; set the same password for all",
        );
    }
    Some(config)
}

fn raft_tls(s: &Section<'_>, r: &mut Reader) -> Option<RaftTls> {
    match (s.path("certfile"), s.path("keyfile"), s.path("cafile")) {
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
    }
}

fn etcd3(s: &Section<'_>, r: &mut Reader) -> Option<Etcd3Config> {
    let port = s.number("port").unwrap_or_default();
    let mut config = Etcd3Config {
        endpoints: Vec::new(),
        srv: None,
        srv_suffix: s.text("srv_suffix"),
        protocol: s.word("protocol").unwrap_or_default().to_owned(),
        use_proxies: s.bool("use_proxies"),
        username: s.text("username"),
        password: s.secret("password"),
        cacert: s.path("cacert"),
        cert: s.path("cert"),
        key: s.path("key"),
    };
    let srv = ["srv", "discovery_srv", "srv_domain"].into_iter().find_map(|key| s.text(key));
    let (proxy, url) = (s.text("proxy"), s.text("url"));
    let hosts = s.texts_or_csv("hosts").filter(|h| !h.is_empty());
    config.use_proxies |= proxy.is_some();
    if let Some((key, text)) = proxy.map(|t| ("proxy", t)).or(url.map(|t| ("url", t))) {
        config.take_url(r, &text, &s.place_of(key), &s.below(key), port);
    } else if srv.is_some() {
        config.srv = srv;
    } else if let Some(hosts) = hosts {
        for (i, (text, place)) in hosts.into_iter().enumerate() {
            let path = format!("{}.{i}", s.below("hosts"));
            config.endpoints.extend(endpoint(r, &text, &config.protocol, &place, &path, port));
        }
    } else if let Some(text) = s.text("host") {
        let path = s.below("host");
        config.endpoints.extend(endpoint(r, &text, &config.protocol, &s.place_of("host"), &path, port));
    } else if ["proxy", "url", "hosts", "host"].iter().all(|key| s.take(key).is_none_or(is_empty)) {
        r.fault(
            &s.place,
            &s.path,
            "names no server; expected one of `hosts` (list of host:port), `host`, `url`, `srv` (a domain) or `proxy`",
        );
    }
    if config.cacert.is_some() && config.protocol == "http" && config.endpoints.iter().all(|e| e.starts_with("http:")) {
        r.warn(
            &s.place_of("cacert"),
            &s.below("cacert"),
            "has no effect while the protocol is http; set `protocol: https`",
        );
    }
    if config.password.is_some() && config.username.is_none() {
        s.missing(r, "username", "the user the password belongs to");
    }
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
    /// What a shorter `ttl` would be no better than: Consul grants no session less than 10 s unless it is told to, and ends
    /// it twice as late. A primary that gives up before that only makes the cluster wait.
    pub fn least_ttl(&self) -> Option<Duration> {
        matches!(self, StoreConfig::Consul(_)).then_some(Duration::from_secs(20))
    }

    /// Whether what differs needs a restart of the agent: not all of Consul's settings do, and credentials of etcd are
    /// exchanged while it is used.
    pub(super) fn needs_restart(&self, new: &StoreConfig) -> bool {
        match (self, new) {
            (StoreConfig::Etcd3(old), StoreConfig::Etcd3(new)) => old.anonymous() != new.anonymous(),
            (StoreConfig::Consul(old), StoreConfig::Consul(new)) => old.fixed() != new.fixed(),
            _ => self != new,
        }
    }

    /// Whether nothing outside this machine is involved.
    pub(super) fn is_loopback(&self) -> bool {
        match self {
            StoreConfig::Raft(raft) => raft.self_addr.iter().chain(&raft.partner_addrs).all(|a| is_loopback(&a.host)),
            StoreConfig::Etcd3(etcd) => etcd.srv.is_none() && etcd.endpoints.iter().all(|url| is_local(url)),
            // An agent on each machine is how Consul is used: it says nothing about where the others are.
            StoreConfig::Consul(_) => false,
            StoreConfig::ZooKeeper(zookeeper) => {
                zookeeper.hosts.iter().all(|host| is_local(host.split('/').next().unwrap_or_default()))
            }
        }
    }
}

fn is_local(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    address::split_one(authority, Some(0)).is_ok_and(|a| is_loopback(&a.host))
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}
