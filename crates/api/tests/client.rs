//! The client against real sockets.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test like the test itself")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use surus_api::{Client, ClientError, ClientOptions, Credentials, Method, ProbeError};
use surus_core::Lsn;

const LIMIT: Duration = Duration::from_secs(5);

/// Serves one connection with what `answer` makes of the request, and hands back the request.
fn serve(answer: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = socket.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(|n| n.parse::<usize>().unwrap()))
                .unwrap_or(0);
            if body.len() >= length {
                socket.write_all(answer.as_bytes()).unwrap();
                return text;
            }
        }
    });
    (address, thread)
}

fn client(options: ClientOptions) -> Client {
    Client::new(&options).unwrap()
}

#[tokio::test]
async fn a_peer_of_the_older_kind_is_probed() {
    // HTTP/1.0, no length: the body ends with the connection.
    let (address, server) = serve(
        "HTTP/1.0 200 OK\r\nServer: x\r\nContent-Type: application/json\r\n\r\n{\"state\": \"running\", \"role\": \"replica\", \"xlog\": {\"received_location\": 9, \"replayed_location\": 7}}",
    );
    let status = client(ClientOptions::default()).probe(&format!("http://{address}/patroni"), LIMIT).await.unwrap();
    assert_eq!(status.position, Lsn(9));
    assert!(server.join().unwrap().starts_with("GET /patroni HTTP/1.1\r\n"));
}

#[tokio::test]
async fn endpoint_replaces_the_path_and_credentials_are_sent() {
    let (address, server) = serve("HTTP/1.1 412 Precondition Failed\r\nContent-Length: 3\r\nlsn: 42\r\n\r\nno!");
    let options = ClientOptions {
        authentication: Some(Credentials { username: "u".into(), password: "p:w".into() }),
        ..ClientOptions::default()
    };
    let body = serde_json::json!({"leader": "a"});
    let answer = client(options).post(&format!("http://{address}/patroni"), "/switchover", &body, LIMIT).await.unwrap();
    assert_eq!((answer.code, answer.body.as_str(), answer.header("lsn")), (412, "no!", Some("42")));
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /switchover HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Basic dTpwOnc=\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"leader\":\"a\"}"), "{request}");
}

#[tokio::test]
async fn the_limit_covers_a_peer_that_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let before = Instant::now();
    let error = client(ClientOptions::default()).probe(&url, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, ProbeError::Unreachable(ClientError::TimedOut { .. })), "{error}");
    assert!(before.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn nobody_there_and_bad_urls_are_told_apart() {
    let client = client(ClientOptions::default());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client.get(&format!("http://{address}/"), "/x", LIMIT).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unreachable { problem, .. } if problem.contains("refused")), "{error}");
    for bad in ["", "nonsense", "ftp://h/"] {
        let error = client.send(Method::Get, bad, None, LIMIT).await.unwrap_err();
        assert!(matches!(error, ClientError::Url { .. }), "{error}");
    }
}

struct Pki {
    dir: tempfile::TempDir,
    server: rustls::ServerConfig,
}

/// A server certificate for `localhost` only, so that 127.0.0.1 is a wrong name.
fn pki() -> Pki {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(dir.path().join("leaf.pem"), leaf.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    Pki { dir, server }
}

async fn tls_server(config: rustls::ServerConfig) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

#[tokio::test]
async fn certificates_are_checked_as_far_as_asked() {
    let pki = pki();
    let port = tls_server(pki.server.clone()).await.port();
    let (right, wrong) = (format!("https://localhost:{port}/"), format!("https://127.0.0.1:{port}/"));
    let (ca, leaf, key) =
        (pki.dir.path().join("ca.pem"), pki.dir.path().join("leaf.pem"), pki.dir.path().join("key.pem"));
    let other_ca = pki_other(&pki.dir);
    let options = |insecure, cacert: Option<&std::path::PathBuf>, cert: bool| ClientOptions {
        insecure,
        cacert: cacert.cloned(),
        certfile: cert.then(|| leaf.clone()),
        keyfile: cert.then(|| key.clone()),
        ..ClientOptions::default()
    };
    for (what, options, url, good) in [
        ("full", options(false, Some(&ca), false), &right, true),
        ("wrong name", options(false, Some(&ca), false), &wrong, false),
        ("the certificate itself as anchor", options(false, Some(&leaf), false), &right, true),
        ("the same, wrong name", options(false, Some(&leaf), false), &wrong, false),
        ("wrong authority", options(false, Some(&other_ca), false), &right, false),
        ("system store", options(false, None, false), &right, false),
        ("insecure", options(true, None, false), &wrong, true),
        ("insecure with certificate", options(true, Some(&ca), true), &wrong, true),
        ("insecure with certificate, wrong authority", options(true, Some(&other_ca), true), &right, false),
    ] {
        let result = client(options).get(url, "/", LIMIT).await;
        assert_eq!(result.as_ref().map(|a| a.body.as_str()).ok(), good.then_some("hello"), "{what}: {result:?}");
        if let Err(e) = result {
            assert!(e.to_string().contains("ctl.cacert"), "{what}: {e} does not say what to do");
        }
    }
}

fn pki_other(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = dir.path().join("other.pem");
    std::fs::write(&path, other.cert.pem()).unwrap();
    path
}

#[test]
fn unusable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.pem");
    std::fs::write(&junk, "junk").unwrap();
    let encrypted = dir.path().join("encrypted.pem");
    std::fs::write(&encrypted, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    let leaf = pki().dir.keep().join("leaf.pem");
    for (options, part) in [
        (ClientOptions { cacert: Some(dir.path().join("none")), ..Default::default() }, "none cannot be used"),
        (ClientOptions { cacert: Some(junk.clone()), ..Default::default() }, "junk.pem holds no certificate"),
        (
            ClientOptions { certfile: Some(leaf.clone()), ..Default::default() },
            "leaf.pem cannot be used as a private key",
        ),
        (ClientOptions { certfile: Some(leaf.clone()), keyfile: Some(encrypted), ..Default::default() }, "encrypted"),
    ] {
        let error = Client::new(&options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    std::fs::remove_dir_all(leaf.parent().unwrap()).unwrap();
}
