//! Why an endpoint that never answered as etcd does not: what it says to one plain HTTP request.
//!
//! The errors of the gRPC connection depend on which end closes first; etcd answers `GET /version` on
//! its client port, and other servers answer with something else.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(1);

/// What to tell the operator, if the endpoint is certainly not what its URL says.
pub(crate) async fn explain(url: &str, limit: Duration) -> Option<&'static str> {
    let (scheme, authority) = url.split_once("://")?;
    let answer = timeout(limit.min(LIMIT), ask(authority)).await.ok()?.ok()?;
    judge(scheme == "https", &answer)
}

async fn ask(authority: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET /version HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // A server that resets the connection after its answer has answered all the same.
    let _ = stream.take(4096).read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(https: bool, answer: &str) -> Option<&'static str> {
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..3));
    if answer.contains("HTTPS server") {
        return (!https).then_some("the server there wants https");
    }
    match (https, status) {
        (true, Some(_)) => Some("the server there speaks http: check whether the endpoint is http instead of https"),
        (false, Some("2")) if answer.contains("\"etcdserver\"") => None,
        // Trouble of its own, or of a proxy in front of it.
        (false, Some("5")) => None,
        (false, Some(_)) => Some("the server there is no etcd v3: check host and port"),
        (false, None) if answer.is_empty() => Some("the server there closes plain connections: it may want https"),
        (true, None) | (false, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_the_url_they_came_to() {
        let etcd = "HTTP/1.0 200 OK\r\n\r\n{\"etcdserver\":\"3.4.23\",\"etcdcluster\":\"3.4.0\"}";
        let tls = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        let has = |https, answer, part| judge(https, answer).is_some_and(|text| text.contains(part));
        assert_eq!(judge(false, etcd), None);
        assert!(has(true, etcd, "http instead of https"));
        assert!(has(false, tls, "wants https"));
        assert_eq!(judge(true, tls), None);
        assert!(has(false, "HTTP/1.1 404 Not Found\r\n\r\n", "no etcd v3"));
        assert_eq!(judge(false, "HTTP/1.1 503 Service Unavailable\r\n\r\n"), None);
        assert!(has(false, "", "want https"));
        assert_eq!(judge(true, ""), None);
    }
}
