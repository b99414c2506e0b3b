//! `host:port` in its several spellings (`spec/config.md §0`).

use std::fmt;

/// One address. The host is without brackets; `Display` puts them around an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Where PostgreSQL listens: `listen_addresses` and `port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub hosts: Vec<String>,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Listen {
    /// The value of `listen_addresses`.
    pub fn listen_addresses(&self) -> String {
        self.hosts.join(",")
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.hosts.join(","), self.port)
    }
}

/// Splits at the last colon. Hosts come out trimmed and without brackets. A bare IPv6 address has no port
/// (PyYAML-era peers misread `::1` as host `:`; nobody can have meant that).
pub(crate) fn split(text: &str, default_port: Option<u16>) -> Result<Listen, &'static str> {
    let text = text.trim();
    let bare = |host: &str| host.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
    let (hosts, port) = match text.rsplit_once(':') {
        Some((left, right)) if !right.contains(']') && text.parse::<std::net::Ipv6Addr>().is_err() => {
            (left, Some(right))
        }
        _ => (text, None),
    };
    let port = match port {
        Some(port) => {
            port.trim().parse::<u16>().ok().filter(|p| *p > 0).ok_or("the port is not a number from 1 to 65535")?
        }
        None => default_port.ok_or("the port is missing")?,
    };
    let hosts: Vec<String> = hosts.split(',').map(bare).collect();
    if hosts.iter().any(String::is_empty) {
        return Err("the host is missing");
    }
    Ok(Listen { hosts, port })
}

/// As [`split`] for exactly one host.
pub(crate) fn split_one(text: &str, default_port: Option<u16>) -> Result<HostPort, &'static str> {
    let Listen { mut hosts, port } = split(text, default_port)?;
    match (hosts.pop(), hosts.is_empty()) {
        (Some(host), true) => Ok(HostPort { host, port }),
        _ => Err("only one host is possible here"),
    }
}
