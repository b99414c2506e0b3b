//! `restapi` and `ctl` (`spec/config.md §4.3`, `§4.4`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::address::HostPort;
use crate::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    pub username: String,
    pub password: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VerifyClient {
    #[default]
    None,
    /// Unsafe requests need a client certificate.
    Optional,
    /// Every request needs one.
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ServerTokens {
    Minimal,
    ProductOnly,
    #[default]
    Original,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestTls {
    pub certfile: PathBuf,
    /// The key is in `certfile` when absent.
    pub keyfile: Option<PathBuf>,
    pub keyfile_password: Option<Secret>,
    pub cafile: Option<PathBuf>,
    pub ciphers: Option<String>,
    pub verify_client: VerifyClient,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestApi {
    /// Host as written: an address, a name, `*`, `0.0.0.0` or `::`.
    pub listen: HostPort,
    /// What other members and clients are told; `listen` unless given.
    pub connect_address: HostPort,
    pub authentication: Option<BasicAuth>,
    pub tls: Option<RestTls>,
    /// Hosts, addresses or CIDR ranges.
    pub allowlist: Vec<String>,
    pub allowlist_include_members: bool,
    pub http_extra_headers: BTreeMap<String, String>,
    pub https_extra_headers: BTreeMap<String, String>,
    pub server_tokens: ServerTokens,
}

/// How to call the REST API of members. Authentication and `cacert` fall back to `restapi`'s.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ctl {
    pub authentication: Option<BasicAuth>,
    pub insecure: bool,
    pub cacert: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    pub keyfile_password: Option<Secret>,
}

impl RestApi {
    /// What is published as `api_url`.
    pub fn api_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/patroni", self.connect_address)
    }
}
