//! `GET /ui`: the cluster in a browser. All of it is in this binary and it loads nothing from elsewhere; what it
//! shows and does goes through the other requests of this API.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::response::Response;

use super::respond;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// By the second segment of the path.
const FILES: &[(&str, &str, &str)] = &[
    ("", HTML, include_str!("ui/index.html")),
    ("style.css", "text/css; charset=utf-8", include_str!("ui/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("ui/icon.svg")),
    ("app.js", SCRIPT, include_str!("ui/app.js")),
    ("act.js", SCRIPT, include_str!("ui/act.js")),
    ("dom.js", SCRIPT, include_str!("ui/dom.js")),
    ("draw.js", SCRIPT, include_str!("ui/draw.js")),
];

/// Were text of a member ever taken for HTML, it could still neither run nor load anything, and nobody can lay this
/// page's buttons under their own.
const HEADERS: [(HeaderName, &str); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // A new version of the agent brings its own page.
    (CACHE_CONTROL, "no-cache"),
];

pub fn file(path: &str) -> Response {
    let name = path.trim_start_matches('/').split('/').nth(1).unwrap_or_default();
    let Some((_, kind, text)) = FILES.iter().find(|(of, _, _)| *of == name) else {
        return respond::text(StatusCode::NOT_FOUND, "there is no such file; the page of the cluster is at /ui");
    };
    let mut response = respond::file(kind, text);
    response.headers_mut().extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_page_names_is_there() {
        for (name, kind, text) in FILES {
            let path = format!("/ui/{name}");
            let response = file(&path);
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-type"]),
                (200, &HeaderValue::from_static(kind))
            );
            let named = text.split(['"', '\'']).filter_map(|t| t.strip_prefix("./").or(t.strip_prefix("/ui/")));
            for other in named {
                assert!(FILES.iter().any(|(of, _, _)| *of == other), "{path} names {other}");
            }
            assert!(!text.contains("innerHTML"), "{path}: what members say is never read as HTML");
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!outside.contains("http://") && !outside.contains("https://"), "{path} loads from elsewhere");
        }
        assert_eq!(file("/ui").status(), 200);
        assert_eq!(file("/ui/nothing.js").status(), 404);
    }
}
