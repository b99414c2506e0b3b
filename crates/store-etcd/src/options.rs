//! How to reach etcd, checked before anything is sent.

use std::fmt;
use std::time::Duration;

use surus_store::{StoreError, StoreResult};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// A connection that cannot be made within this time is given up and another endpoint tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2 pings find a silently dead peer while a call or a watch is open. Never without one, and not
/// every 5 s or more often: etcd closes connections that ping so (`--grpc-keepalive-min-time`).
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const DEFAULT_PORT: u16 = 2379;

#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// `http://host:port` or `https://host:port`; `host` and `host:port` mean `http`. Port 2379 if none is given.
    pub endpoints: Vec<String>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// PEM texts. Without `ca_pem` an `https` endpoint is checked against the system's certificates.
    pub ca_pem: Option<String>,
    pub cert_pem: Option<String>,
    pub key_pem: Option<String>,
    /// Ask etcd for its other members and use them too. Off behind a proxy.
    pub discover_members: bool,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor the private key may reach a log.
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("discover_members", &self.discover_members)
            .finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// Whether both come in as the same user with the same certificates.
    pub fn same_access(&self, other: &EtcdOptions) -> bool {
        let access = |o: &EtcdOptions| {
            [&o.username, &o.password, &o.ca_pem, &o.cert_pem, &o.key_pem].map(|part| part.clone().unwrap_or_default())
        };
        access(self) == access(other)
    }

    pub(crate) fn with_access_of(&self, other: &EtcdOptions) -> EtcdOptions {
        EtcdOptions { endpoints: self.endpoints.clone(), discover_members: self.discover_members, ..other.clone() }
    }

    /// User and password if both are set; a user without password is an error in the configuration.
    pub(crate) fn credentials(&self) -> StoreResult<Option<(String, String)>> {
        match (self.username.as_ref().filter(|u| !u.is_empty()), &self.password) {
            (Some(user), Some(password)) => Ok(Some((user.clone(), password.clone()))),
            (Some(user), None) => Err(refused(format!("etcd user \"{user}\" is configured without a password"))),
            (None, _) => Ok(None),
        }
    }

    pub(crate) fn tls(&self) -> StoreResult<ClientTlsConfig> {
        let tls = match &self.ca_pem {
            // A file without any certificate would be taken for one that trusts nobody.
            Some(pem) if !pem.contains("-----BEGIN CERTIFICATE-----") => {
                return Err(refused("the CA file for etcd (`cacert`) holds no PEM certificate".to_owned()));
            }
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (&self.cert_pem, &self.key_pem) {
            (Some(cert), Some(key)) => Ok(tls.identity(Identity::from_pem(cert, key))),
            (None, None) => Ok(tls),
            (Some(_), None) => Err(refused("a client certificate for etcd needs its private key (`key`)".to_owned())),
            (None, Some(_)) => Err(refused("a private key for etcd needs its certificate (`cert`)".to_owned())),
        }
    }

    /// The normalised URL and the way to dial it.
    pub(crate) fn endpoint(&self, text: &str) -> StoreResult<(String, Endpoint)> {
        let url = normalise(text)?;
        let bad = |e: &dyn fmt::Display| refused(format!("etcd endpoint \"{text}\" is not usable: {e}"));
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|e| bad(&e))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Some(PING_INTERVAL))
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false);
        if url.starts_with("https://") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(|e| {
                refused(format!(
                    "the TLS files for etcd endpoint \"{text}\" are not usable: {}",
                    crate::fault::chain(&e)
                ))
            })?;
        }
        Ok((url, endpoint))
    }
}

fn refused(text: String) -> StoreError {
    StoreError::Refused(text)
}

fn normalise(text: &str) -> StoreResult<String> {
    let bad = |why: &str| {
        refused(format!(
            "etcd endpoint \"{text}\" is not usable: {why}; write it as http://host:2379 or https://host:2379"
        ))
    };
    let text = text.trim();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => return Err(bad(&format!("the scheme \"{scheme}\" is neither http nor https"))),
        None => ("http", text),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.is_empty() {
        return Err(bad("the host is missing"));
    }
    if authority.contains(['/', '?', '#', ' ']) {
        return Err(bad("a path or a space does not belong there"));
    }
    if authority.contains('@') {
        return Err(bad("user and password are settings of their own"));
    }
    // The colons of a bare IPv6 address would be taken for a port.
    let after_address = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').ok_or_else(|| bad("a closing bracket is missing"))?.1,
        None if authority.matches(':').count() > 1 => return Err(bad("an IPv6 address needs brackets")),
        None => authority.find(':').map_or("", |at| &authority[at..]),
    };
    match after_address.strip_prefix(':') {
        None if after_address.is_empty() => Ok(format!("{scheme}://{authority}:{DEFAULT_PORT}")),
        Some(port) if port.parse::<u16>().is_ok_and(|p| p != 0) => Ok(format!("{scheme}://{authority}")),
        _ => Err(bad("the port is no number between 1 and 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_normalised_or_refused_by_name() {
        for (text, url) in [
            ("10.0.0.1", "http://10.0.0.1:2379"),
            ("etcd.local:4001", "http://etcd.local:4001"),
            (" https://a/ ", "https://a:2379"),
            ("http://[::1]:2379", "http://[::1]:2379"),
            ("[fe80::1]", "http://[fe80::1]:2379"),
        ] {
            assert_eq!(normalise(text).as_deref(), Ok(url), "{text}");
            EtcdOptions::default().endpoint(text).unwrap();
        }
        for bad in ["", "http://", "ftp://a", "http://a/b", "::1", "a:b", "a:0", "a:70000", "[::1", "u:p@h:1", "a b"] {
            let Err(StoreError::Refused(text)) = EtcdOptions::default().endpoint(bad) else { panic!("{bad}") };
            assert!(text.contains(&format!("\"{bad}\"")), "{text}");
        }
    }

    #[test]
    fn half_given_secrets_are_refused() {
        let user = EtcdOptions { username: Some("u".into()), ..EtcdOptions::default() };
        assert!(user.credentials().is_err());
        let cert = EtcdOptions { cert_pem: Some("x".into()), ..EtcdOptions::default() };
        assert!(cert.endpoint("https://a").is_err());
        let ca = EtcdOptions { ca_pem: Some("no certificate".into()), ..EtcdOptions::default() };
        assert!(matches!(ca.endpoint("https://a"), Err(StoreError::Refused(text)) if text.contains("cacert")));
        let secret = EtcdOptions { password: Some("hidden".into()), ..EtcdOptions::default() };
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
