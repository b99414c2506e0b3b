//! `restapi` and `ctl` (`spec/config.md §4.3`, `§4.4`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::address::HostPort;
use crate::reader::{Reader, Section, is_empty};
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
    /// Changes are taken from everybody who reaches the port, without anything that says who it is.
    pub allow_unauthenticated: bool,
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

    /// Nothing says who may change something, so that only this machine may: a member that takes a configuration from
    /// somebody runs the commands in it.
    pub fn changes_from_here_only(&self) -> bool {
        let certificates = self.tls.as_ref().is_some_and(|tls| tls.verify_client != VerifyClient::None);
        let listed = !self.allowlist.is_empty() || self.allowlist_include_members;
        !(self.allow_unauthenticated || self.authentication.is_some() || certificates || listed)
    }

    /// What an operator should know who runs it like that, where other machines can reach it.
    pub fn closed_to_others(&self) -> Option<&'static str> {
        let reachable = !matches!(self.listen.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        (reachable && self.changes_from_here_only()).then_some(
            "nothing says who may change something through the REST API, so that restart, reload, reinitialize, \
             switchover, failover and changes of the configuration are accepted from this machine only; set \
             restapi.authentication (or restapi.allowlist, or restapi.verify_client), or restapi.allow_unauthenticated: \
             true to accept them from everybody who reaches the port, as Patroni does",
        )
    }
}

/// Both keys or neither.
fn authentication(s: &Section<'_>, r: &mut Reader) -> Option<BasicAuth> {
    let s = s.section("authentication");
    match (s.text("username"), s.secret("password")) {
        (Some(username), Some(password)) => Some(BasicAuth { username, password }),
        (None, None) => None,
        (username, _) => {
            let (key, other) = if username.is_none() { ("username", "password") } else { ("password", "username") };
            // What is there and cannot be read was told.
            if !s.has(key) || s.take(key).is_none_or(is_empty) {
                s.missing(r, key, &format!("text, because {other} is given"));
            }
            None
        }
    }
}

pub(super) fn restapi(root: &Section<'_>, r: &mut Reader) -> Option<RestApi> {
    let s = root.section("restapi");
    if !s.exists() {
        return None;
    }
    let listen = s.address("listen", None);
    let connect_address = connect_address(&s, r, listen.as_ref());
    let (certfile, keyfile, cafile) = (s.path("certfile"), s.path("keyfile"), s.path("cafile"));
    let verify_client = match s.word("verify_client") {
        Some("optional") => VerifyClient::Optional,
        Some("required") => VerifyClient::Required,
        _ => VerifyClient::None,
    };
    if certfile.is_some() && verify_client != VerifyClient::None && cafile.is_none() {
        s.missing(
            r,
            "cafile",
            "the certificates of the authorities, because verify_client asks for client certificates",
        );
    }
    if certfile.is_none() && (keyfile.is_some() || verify_client != VerifyClient::None) {
        s.missing(r, "certfile", "a path: keyfile and verify_client have no meaning without TLS");
    }
    let headers =
        |key: &str| s.text_map(key).unwrap_or_default().into_iter().map(|(k, v, _)| (k, v)).collect::<BTreeMap<_, _>>();
    Some(RestApi {
        authentication: authentication(&s, r),
        tls: certfile.map(|certfile| RestTls {
            certfile,
            keyfile,
            keyfile_password: s.secret("keyfile_password"),
            cafile,
            verify_client,
        }),
        allowlist: s.texts_or_csv("allowlist").unwrap_or_default().into_iter().map(|(text, _)| text).collect(),
        allowlist_include_members: s.bool("allowlist_include_members"),
        allow_unauthenticated: s.bool("allow_unauthenticated"),
        http_extra_headers: headers("http_extra_headers"),
        https_extra_headers: headers("https_extra_headers"),
        server_tokens: match s.word("server_tokens") {
            Some("minimal") => ServerTokens::Minimal,
            Some("productonly") => ServerTokens::ProductOnly,
            _ => ServerTokens::Original,
        },
        connect_address: connect_address?,
        listen: listen?,
    })
}

/// What others are told. Falls back to where we listen, if that is an address one can connect to.
pub(super) fn connect_address(s: &Section<'_>, r: &mut Reader, listen: Option<&HostPort>) -> Option<HostPort> {
    let given = s.address("connect_address", listen.map(|l| l.port));
    let node = s.take("connect_address");
    match (given, node, listen) {
        (Some(given), Some(node), _) if is_wildcard(&given.host) => {
            r.fault(
                &node.place,
                &s.below("connect_address"),
                format!(
                    "expected the address at which other machines reach this one, found {:?}, which stands for all of \
                     them",
                    given.host
                ),
            );
            None
        }
        (Some(given), ..) => Some(given),
        (None, None, Some(listen)) if is_wildcard(&listen.host) => {
            let what = format!("the host:port at which other machines reach this one, because listen is {listen}");
            s.missing(r, "connect_address", &what);
            None
        }
        (None, None, Some(listen)) => Some(listen.clone()),
        _ => None,
    }
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "*" | "0.0.0.0" | "::")
}

/// Authentication and authorities fall back to those of `restapi`.
pub(super) fn ctl(root: &Section<'_>, r: &mut Reader) -> Ctl {
    let (s, restapi) = (root.section("ctl"), root.section("restapi"));
    // What is wrong there its own reader tells.
    let theirs = authentication(&restapi, &mut Reader::lenient());
    let ctl = Ctl {
        authentication: authentication(&s, r).or(theirs),
        insecure: s.bool("insecure"),
        cacert: s.path("cacert").or_else(|| restapi.path("cafile")),
        certfile: s.path("certfile"),
        keyfile: s.path("keyfile"),
        keyfile_password: s.secret("keyfile_password"),
    };
    if ctl.keyfile.is_some() && ctl.certfile.is_none() {
        s.missing(r, "certfile", "a path: keyfile has no meaning without it");
    }
    ctl
}
