//! Requests that a page in a browser makes. A browser sends a page's requests to every machine it can reach, this one's
//! loopback address among them, with whatever the browser's user may do there; so pages of others are refused.

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};

/// Why this request to change something is not carried out. Whatever is not a browser sends no `Origin`.
/// `unproven`: nothing but the place that a request comes from says whether it may change something.
pub fn refusal(headers: &HeaderMap, unproven: bool) -> Option<&'static str> {
    let origin = headers.get(ORIGIN)?;
    let authority = |text: &str| text.split_once("://").map(|(_, authority)| authority.to_ascii_lowercase());
    let page = origin.to_str().ok().and_then(authority);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
    let own = page.is_some() && page == host;
    if !own {
        return Some("Access is denied: a page that is not this member's own (Origin) may change nothing here");
    }
    // A name server can make any name lead here, after the page was loaded from elsewhere under it.
    (unproven && !host.is_some_and(|host| is_own_name(&host))).then_some(
        "Access is denied: without restapi.authentication a page may change something only under the address of this \
         machine or localhost, because the name in the browser may be anybody's",
    )
}

fn is_own_name(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        for (origin, host, proven, unproven) in [
            (None, Some("node1:8008"), true, true),
            (None, None, true, true),
            (Some("http://10.0.0.1:8008"), Some("10.0.0.1:8008"), true, true),
            (Some("https://[fd00::1]:8008"), Some("[fd00::1]:8008"), true, true),
            (Some("http://LOCALHOST:8008"), Some("localhost:8008"), true, true),
            (Some("http://node1:8008"), Some("Node1:8008"), true, false),
            (Some("http://evil.example"), Some("127.0.0.1:8008"), false, false),
            (Some("http://localhost:3000"), Some("localhost:8008"), false, false),
            (Some("http://10.0.0.1"), Some("10.0.0.1:8008"), false, false),
            (Some("null"), Some("10.0.0.1:8008"), false, false),
            (Some("null"), None, false, false),
            (Some("http://10.0.0.1:8008"), None, false, false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(ORIGIN, origin), (HOST, host)] {
                headers.extend(value.map(|value| (name, value.parse().unwrap())));
            }
            assert_eq!(refusal(&headers, false).is_none(), proven, "{origin:?} {host:?}");
            assert_eq!(refusal(&headers, true).is_none(), unproven, "{origin:?} {host:?}");
        }
    }
}
