//! Who may change something through the API (`spec/rest-api.md §2.2`).

use std::net::IpAddr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use subtle::ConstantTimeEq;
use surus_config::{RestApi, VerifyClient};
use surus_core::cluster::ClusterView;
use tracing::error;

use super::respond::text;
use super::{limits, origin};

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: IpAddr,
    /// The address of this machine that it came to.
    pub reached: IpAddr,
    /// TLS, with a client certificate that was verified.
    pub certificate: bool,
}

impl Peer {
    /// Loopback, or this machine calling one of its own addresses: then both ends have the same, and no other machine
    /// gets an answer at it. Whether one could listen at the address says nothing: where addresses are handed around,
    /// that is allowed for all of them.
    fn is_here(self) -> bool {
        let (address, reached) = (self.address.to_canonical(), self.reached.to_canonical());
        address.is_loopback() || address == reached
    }
}

#[derive(Clone, Debug, Default)]
pub struct Access {
    networks: Vec<IpNet>,
    restricted: bool,
    include_members: bool,
    here_only: bool,
    certificate: bool,
    /// The whole expected header value.
    basic: Option<String>,
}

impl Access {
    /// Host names are resolved once, here.
    pub async fn new(options: &RestApi) -> Access {
        let mut networks = Vec::new();
        for entry in &options.allowlist {
            match resolve(entry).await {
                Ok(found) => networks.extend(found),
                Err(problem) => error!("restapi.allowlist: {entry:?} is left out: {problem}"),
            }
        }
        let basic = options.authentication.as_ref().map(|credentials| {
            let pair = format!("{}:{}", credentials.username, credentials.password.expose());
            format!("Basic {}", STANDARD.encode(pair))
        });
        Access {
            networks,
            // An allowlist of which no entry could be used allows nobody, rather than everybody.
            restricted: !options.allowlist.is_empty(),
            include_members: options.allowlist_include_members,
            here_only: options.changes_from_here_only(),
            certificate: options.tls.as_ref().is_some_and(|t| t.verify_client != VerifyClient::None),
            basic,
        }
    }

    /// This machine, or listed.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.networks.iter().any(|n| n.contains(&address))
    }

    pub fn asks_for_password(&self) -> bool {
        self.basic.is_some()
    }

    /// The answer to give instead, if the request is not allowed. Members' own calls during a store
    /// outage come from members by definition: for them only the explicit list counts.
    pub async fn refusal(
        &self,
        peer: Option<Peer>,
        headers: &HeaderMap,
        view: Option<&ClusterView>,
        members_call: bool,
    ) -> Option<Response> {
        let by_members = self.include_members && !members_call;
        if self.restricted || by_members {
            let address = peer.map(|p| p.address.to_canonical());
            let listed = address.is_some_and(|a| self.networks.iter().any(|n| n.contains(&a)));
            let known = listed || (by_members && is_member(address, view).await);
            if !known {
                return Some(text(StatusCode::FORBIDDEN, "Access is denied"));
            }
        }
        // A member's call changes nothing here, and says nothing that this member believes without the store.
        if self.here_only && !members_call && !peer.is_some_and(Peer::is_here) {
            return Some(text(StatusCode::FORBIDDEN, HERE_ONLY));
        }
        if let Some(why) = origin::refusal(headers, self.basic.is_none() && !self.certificate) {
            return Some(text(StatusCode::FORBIDDEN, why));
        }
        if self.certificate && !peer.is_some_and(|p| p.certificate) {
            return Some(text(StatusCode::FORBIDDEN, "client certificate required"));
        }
        let expected = self.basic.as_ref()?;
        match headers.get(AUTHORIZATION) {
            None => Some(unauthorized("no auth header received")),
            Some(given) if bool::from(given.as_bytes().ct_eq(expected.as_bytes())) => None,
            Some(_) => Some(unauthorized("not authenticated")),
        }
    }
}

const HERE_ONLY: &str = "Access is denied: changes are accepted from this machine only, because no authentication is \
                         configured and a member that takes a configuration from somebody runs the commands in it. Set \
                         restapi.authentication on every member (username and password, which `surus` and `patronictl` \
                         send when their configuration has them), or restapi.allowlist, or restapi.verify_client; \
                         restapi.allow_unauthenticated: true accepts changes from everybody, as Patroni does";

fn unauthorized(message: &str) -> Response {
    let mut response = text(StatusCode::UNAUTHORIZED, message);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Surus\""));
    response
}

async fn resolve(entry: &str) -> Result<Vec<IpNet>, String> {
    if let Ok(network) = entry.parse::<IpNet>() {
        return Ok(vec![network]);
    }
    if entry.contains('/') {
        return Err("it is no network in CIDR notation, such as 10.0.0.0/8".into());
    }
    let addresses = lookup(entry, limits::RESOLVE).await?;
    Ok(addresses.into_iter().map(IpNet::from).collect())
}

async fn lookup(host: &str, limit: Duration) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![address.to_canonical()]);
    }
    match tokio::time::timeout(limit, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(found)) => Ok(found.map(|a| a.ip().to_canonical()).collect()),
        Ok(Err(e)) => Err(format!("it is no IP address, and as a host name it does not resolve: {e}")),
        Err(_) => Err(format!("the name server did not answer within {limit:?}")),
    }
}

async fn is_member(address: Option<IpAddr>, view: Option<&ClusterView>) -> bool {
    let (Some(address), Some(view)) = (address, view) else { return false };
    for url in view.members.values().filter_map(|m| m.api_url.as_deref()) {
        if let Some(host) = host_of(url)
            && lookup(host, limits::RESOLVE).await.is_ok_and(|found| found.contains(&address))
        {
            return true;
        }
    }
    false
}

fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    match host_port.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(host, _)| host),
        None => host_port.split(':').next(),
    }
    .filter(|h| !h.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use surus_config::{BasicAuth, RestTls, Secret};
    use surus_core::cluster::Member;

    use super::super::testing::rest_api;
    use super::*;

    fn peer(address: &str, certificate: bool) -> Option<Peer> {
        Some(Peer { address: address.parse().unwrap(), reached: "10.0.0.5".parse().unwrap(), certificate })
    }

    async fn code(options: &RestApi, peer: Option<Peer>, auth: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(auth) = auth {
            headers.insert(AUTHORIZATION, auth.parse().unwrap());
        }
        let member = Member { api_url: Some("http://10.9.9.9:8008/patroni".into()), ..Member::default() };
        let view = ClusterView { members: BTreeMap::from([("m".into(), member)]), ..ClusterView::default() };
        let refusal = Access::new(options).await.refusal(peer, &headers, Some(&view), false).await;
        refusal.map_or(200, |r| r.status().as_u16())
    }

    #[tokio::test]
    async fn checks_in_order() {
        let open = RestApi { allow_unauthenticated: true, ..rest_api() };
        assert_eq!(code(&open, peer("8.8.8.8", false), None).await, 200);

        let listed = RestApi {
            allowlist: vec!["10.1.2.3/8".into(), "192.168.0.7".into(), "localhost".into(), "no/net".into()],
            ..rest_api()
        };
        for (address, want) in [
            ("10.200.0.1", 200),
            ("::ffff:10.0.0.1", 200),
            ("192.168.0.7", 200),
            ("192.168.0.8", 403),
            ("127.0.0.1", 200),
            ("fe80::1", 403),
        ] {
            assert_eq!(code(&listed, peer(address, false), None).await, want, "{address}");
        }
        assert_eq!(code(&listed, None, None).await, 403);
        let unusable = RestApi { allowlist: vec!["no/net".into()], ..rest_api() };
        assert_eq!(code(&unusable, peer("127.0.0.1", false), None).await, 403);

        let members = RestApi { allowlist_include_members: true, ..rest_api() };
        assert_eq!(code(&members, peer("10.9.9.9", false), None).await, 200);
        assert_eq!(code(&members, peer("10.9.9.8", false), None).await, 403);

        let tls = RestApi {
            tls: Some(RestTls {
                certfile: "unused".into(),
                keyfile: None,
                keyfile_password: None,
                cafile: None,
                verify_client: VerifyClient::Optional,
            }),
            ..rest_api()
        };
        assert_eq!(code(&tls, peer("10.9.9.9", false), None).await, 403);
        assert_eq!(code(&tls, peer("10.9.9.9", true), None).await, 200);

        let basic = RestApi {
            authentication: Some(BasicAuth { username: "u".into(), password: Secret::new("p") }),
            ..rest_api()
        };
        for (auth, want) in
            [(None, 401), (Some("Basic dTpw"), 200), (Some("Basic dTpx"), 401), (Some("basic dTpw"), 401)]
        {
            assert_eq!(code(&basic, peer("10.9.9.9", false), auth).await, want, "{auth:?}");
        }
    }

    #[tokio::test]
    async fn without_authentication_only_this_machine_changes_something() {
        let bare = rest_api();
        for (address, want) in [
            ("127.0.0.1", 200),
            ("127.8.0.1", 200),
            ("::1", 200),
            ("::ffff:127.0.0.1", 200),
            ("10.0.0.5", 200),
            ("::ffff:10.0.0.5", 200),
            ("10.0.0.6", 403),
            ("8.8.8.8", 403),
            ("fe80::1", 403),
        ] {
            assert_eq!(code(&bare, peer(address, false), None).await, want, "{address}");
        }
        assert_eq!(code(&bare, None, None).await, 403, "who it is is not known");

        let access = Access::new(&bare).await;
        let failsafe = access.refusal(peer("10.0.0.6", false), &HeaderMap::new(), None, true).await;
        assert!(failsafe.is_none(), "members that lost the store call each other");
    }

    #[test]
    fn hosts_of_urls() {
        for (url, host) in [
            ("http://10.0.0.1:8008/patroni", Some("10.0.0.1")),
            ("https://u:p@node1/patroni", Some("node1")),
            ("http://[::1]:8008/", Some("::1")),
            ("nonsense", None),
            ("http:///x", None),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }
}
