//! The section `consul` (`spec/config.md §4.6`).

use std::path::PathBuf;

use crate::address;
use crate::finding::Place;
use crate::reader::{Reader, Section};
use crate::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// URLs with scheme, host and port.
    pub endpoints: Vec<String>,
    pub token: Option<Secret>,
    pub verify: bool,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub dc: Option<String>,
    /// `default`, `consistent` or `stale`.
    pub consistency: String,
    pub checks: Vec<String>,
    pub service: ConsulService,
}

/// How this member is registered as a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulService {
    pub register: bool,
    /// Sorted.
    pub tags: Vec<String>,
    pub check_interval: String,
    pub check_tls_server_name: Option<String>,
}

impl Default for ConsulService {
    fn default() -> ConsulService {
        ConsulService {
            register: false,
            tags: Vec::new(),
            check_interval: "5s".to_owned(),
            check_tls_server_name: None,
        }
    }
}

const PORT: u16 = 8500;

impl ConsulConfig {
    /// Without what a reload brings into force.
    pub(super) fn fixed(&self) -> ConsulConfig {
        let (consistency, service) = (String::new(), ConsulService::default());
        let (cacert, cert, key) = (None, None, None);
        ConsulConfig { token: None, dc: None, verify: true, cacert, cert, key, consistency, service, ..self.clone() }
    }
}

pub(super) fn consul(s: &Section<'_>, r: &mut Reader) -> Option<ConsulConfig> {
    let list = |key: &str| -> Vec<String> {
        s.texts_or_csv(key).unwrap_or_default().into_iter().map(|(text, _)| text).filter(|t| !t.is_empty()).collect()
    };
    let mut tags = list("service_tags");
    tags.sort();
    tags.dedup();
    let config = ConsulConfig {
        endpoints: endpoints(s, r),
        token: s.secret("token").filter(|token| !token.expose().is_empty()),
        verify: s.bool("verify"),
        cacert: s.path("cacert"),
        cert: s.path("cert"),
        key: s.path("key"),
        dc: s.text("dc"),
        consistency: s.word("consistency").unwrap_or_default().to_owned(),
        checks: list("checks"),
        service: ConsulService {
            register: s.bool("register_service"),
            tags,
            check_interval: s.text("service_check_interval").unwrap_or_default(),
            check_tls_server_name: s.text("service_check_tls_server_name"),
        },
    };
    let plain = config.endpoints.iter().all(|e| e.starts_with("http:"));
    if config.cacert.is_some() && plain && !config.endpoints.is_empty() {
        r.warn(
            &s.place_of("cacert"),
            &s.below("cacert"),
            "has no effect while the scheme is http; set `scheme: https`",
        );
    }
    if config.key.is_some() && config.cert.is_none() {
        s.missing(r, "cert", "the client certificate that the key belongs to");
    }
    if !config.checks.is_empty() {
        r.warn(
            &s.place_of("checks"),
            &s.below("checks"),
            "lets a failing check end the lead of a primary that may be well, and another one be promoted before it has \
             stopped; without checks the lead ends with the ttl",
        );
    }
    Some(config)
}

fn endpoints(s: &Section<'_>, r: &mut Reader) -> Vec<String> {
    let scheme = s.word("scheme").unwrap_or_default();
    let port = s.number::<u16>("port");
    // Patroni's `port` wins over the one in `host`.
    let one = |r: &mut Reader, text: &str, place: &Place, path: &str, port: Option<u16>| {
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.trim_end_matches('/')),
            _ => (scheme, text),
        };
        match address::split_one(authority, Some(PORT)) {
            Ok(mut address) => {
                address.port = port.unwrap_or(address.port);
                Some(format!("{scheme}://{address}"))
            }
            Err(why) => {
                r.fault(place, path, format!("expected host:port ({why})"));
                None
            }
        }
    };
    if let Some(url) = s.text("url") {
        let (place, path) = (s.place_of("url"), s.below("url"));
        let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || authority.contains('@') {
            r.fault(&place, &path, "expected a URL such as https://consul.example.com:8501, without user and password");
            return Vec::new();
        }
        return one(r, &format!("{scheme}://{authority}"), &place, &path, None).into_iter().collect();
    }
    let mut found = Vec::new();
    let hosts = s.texts_or_csv("hosts").unwrap_or_default();
    let host = s.text("host").map(|text| (text, s.place_of("host")));
    let given = host.is_some() || !hosts.is_empty();
    if let Some((text, place)) = host {
        found.extend(one(r, &text, &place, &s.below("host"), port));
    }
    for (i, (text, place)) in hosts.into_iter().enumerate() {
        found.extend(one(r, &text, &place, &format!("{}.{i}", s.below("hosts")), port));
    }
    if !given {
        r.fault(
            &s.place,
            &s.path,
            "names no agent; expected `host` (host:port of the Consul agent, most often 127.0.0.1:8500), `hosts` (several) \
             or `url`",
        );
    }
    let mut seen = Vec::new();
    found.retain(|url| {
        !seen.contains(url) && {
            seen.push(url.clone());
            true
        }
    });
    found
}
