//! How to reach Consul, checked before anything is sent.

use std::fmt;

use reqwest::Url;
use surus_store::{StoreError, StoreResult};

const DEFAULT_PORT: u16 = 8500;

/// How fresh what a watch is told has to be. What decides, readings and transactions, is consistent whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// By the leader, which may be one that has just been deposed.
    #[default]
    Default,
    /// By the leader, which first makes sure that it is one.
    Consistent,
    /// By any server, which may be behind.
    Stale,
}

impl Consistency {
    pub(crate) fn query(self) -> &'static str {
        match self {
            Consistency::Default => "",
            Consistency::Consistent => "&consistent",
            Consistency::Stale => "&stale",
        }
    }
}

#[derive(Clone)]
pub struct ConsulOptions {
    /// Agents, `http://host:port` or `https://host:port`; `host` and `host:port` mean `http`. Port 8500 if none is given.
    pub endpoints: Vec<String>,
    pub token: Option<String>,
    pub consistency: Consistency,
    /// The datacenter that is asked, if it is not the agent's own.
    pub dc: Option<String>,
    /// Whether an `https` agent's certificate is checked.
    pub verify: bool,
    /// PEM texts. Without `ca_pem` an `https` agent is checked against the system's certificates.
    pub ca_pem: Option<String>,
    pub cert_pem: Option<String>,
    /// Without it the key is looked for in `cert_pem`.
    pub key_pem: Option<String>,
    /// What sessions are called in Consul, for those who look at them there.
    pub session_name: String,
    /// Checks of the agent's node that end a session when they fail: each is a way to lose the lead of a healthy primary.
    pub checks: Vec<String>,
}

impl Default for ConsulOptions {
    fn default() -> ConsulOptions {
        ConsulOptions {
            endpoints: Vec::new(),
            token: None,
            consistency: Consistency::Default,
            dc: None,
            verify: true,
            ca_pem: None,
            cert_pem: None,
            key_pem: None,
            session_name: "surus".to_owned(),
            checks: Vec::new(),
        }
    }
}

impl fmt::Debug for ConsulOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the token nor the private key may reach a log.
        f.debug_struct("ConsulOptions")
            .field("endpoints", &self.endpoints)
            .field("consistency", &self.consistency)
            .field("dc", &self.dc)
            .finish_non_exhaustive()
    }
}

pub(crate) fn refused(text: String) -> StoreError {
    StoreError::Refused(text)
}

/// The URL of an agent, with scheme, host and port and nothing else.
pub(crate) fn normalise(text: &str) -> StoreResult<String> {
    let bad = |why: &str| {
        refused(format!(
            "the Consul address \"{text}\" is not usable: {why}; write it as http://host:8500 or https://host:8501"
        ))
    };
    let trimmed = text.trim();
    let with_scheme = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let url = Url::parse(&with_scheme).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(&format!("the scheme \"{}\" is neither http nor https", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("Consul has no user and password; its `token` is a setting of its own"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("a path does not belong there"));
    }
    let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return Err(bad("the host is missing")) };
    // The library takes a scheme's own port for no port; here that would be another one.
    let explicit = with_scheme.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let port = url.port().or(explicit).unwrap_or(DEFAULT_PORT);
    if port == 0 {
        return Err(bad("the port is no number between 1 and 65535"));
    }
    Ok(format!("{}://{host}:{port}", url.scheme()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised_or_refused_by_name() {
        for (text, url) in [
            ("10.0.0.1", "http://10.0.0.1:8500"),
            ("consul.local:4001", "http://consul.local:4001"),
            (" https://a/ ", "https://a:8500"),
            ("https://a:443", "https://a:443"),
            ("http://a:80/", "http://a:80"),
            ("http://[::1]:8500", "http://[::1]:8500"),
            ("[fe80::1]", "http://[fe80::1]:8500"),
        ] {
            assert_eq!(normalise(text).as_deref(), Ok(url), "{text}");
        }
        for bad in ["", "http://", "ftp://a", "http://a/b", "::1", "a:b", "a:0", "a:70000", "[::1", "u:p@h:1", "a b"] {
            let Err(StoreError::Refused(text)) = normalise(bad) else { panic!("{bad}") };
            assert!(text.contains(&format!("\"{bad}\"")), "{text}");
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let options = ConsulOptions { token: Some("hidden".into()), ..ConsulOptions::default() };
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
