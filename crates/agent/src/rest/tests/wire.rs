//! Over real sockets: limits, versions of HTTP, TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use surus_config::{BasicAuth, RestApi, RestTls, Secret, ServerTokens, VerifyClient};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::limits::Limits;
use super::super::testing::{Fake, options, published, rest_api};
use super::super::{RestOptions, RestServer};

/// Longer than any limit of these tests by far.
const NEVER: Duration = Duration::from_secs(20);

struct Server {
    fake: Fake,
    address: SocketAddr,
    server: RestServer,
    stop: CancellationToken,
}

async fn serve(options: RestOptions) -> Server {
    let fake = Fake::new(published(), &[("leader", "node1"), ("config", r#"{"ttl":30}"#)]).await;
    let bound = RestServer::bind(options).await.unwrap();
    let address = bound.address().unwrap();
    let stop = CancellationToken::new();
    let server = bound.serve(fake.handle.clone(), stop.clone());
    Server { fake, address, server, stop }
}

fn short() -> RestOptions {
    let quarter = Duration::from_millis(250);
    let limits = Limits {
        connections: 8,
        per_address: 2,
        head_time: quarter,
        body_time: quarter,
        handshake_time: quarter,
        write_stall: quarter,
    };
    RestOptions { limits, ..options(rest_api()) }
}

/// Everything until the server closes.
async fn rest_of<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset is closed, too.
    let closed = timeout(NEVER, stream.read_to_end(&mut bytes)).await.is_ok();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(closed, "the server must close the connection after: {text}");
    text
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    rest_of(stream).await
}

async fn ask(address: SocketAddr, request: &str) -> String {
    exchange(&mut TcpStream::connect(address).await.unwrap(), request).await
}

/// One response with a length, leaving the connection open.
async fn response<S: AsyncRead + Unpin>(stream: &mut S) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(NEVER, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn versions_of_http() {
    let server = serve(options(rest_api())).await;
    let old = ask(server.address, "GET /primary HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n") && old.contains("\r\n\r\n{\"state\": \"running\""), "{old}");
    assert!(old.to_lowercase().contains("\r\ncontent-type: application/json\r\n"), "{old}");

    let mut kept = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        kept.write_all(b"GET /replica HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
        let (head, body) = response(&mut kept).await;
        assert!(head.starts_with("http/1.0 503") && head.contains("connection: keep-alive"), "{head}");
        assert!(body.starts_with(b"{\"state\": \"running\""));
    }
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    for path in ["/primary", "/liveness", "/readiness"] {
        kept.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        assert!(response(&mut kept).await.0.starts_with("http/1.1 200 ok"), "{path}");
    }
    for path in ["/primary", "/patroni", "/liveness", "/config"] {
        let head = ask(server.address, &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{path}: {head}");
        let options = ask(server.address, &format!("OPTIONS {path} HTTP/1.0\r\n\r\n")).await;
        assert!(options.starts_with("HTTP/1.0 200 OK\r\n") && options.ends_with("\r\n\r\n"), "{path}: {options}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_malformed() {
    let server = serve(options(rest_api())).await;
    // The limit is checked after a read, so that a little more than it may pass.
    let long = "x".repeat(200_000);
    let many: String = (0..200).map(|i| format!("X-{i}: y\r\n")).collect();
    for (request, code) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "41 43"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("POST /failover HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n".to_owned(), "400"),
        ("PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n".to_owned(), "413"),
    ] {
        let answer = ask(server.address, &request).await;
        let got = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            !got.is_empty() && code.split(' ').any(|c| got.starts_with(c)),
            "{}: {answer}",
            &request[..40.min(request.len())]
        );
    }
    let chunk = format!("{:x}\r\n{}\r\n", 600_000, "y".repeat(600_000));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PATCH /config HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let (answer, _) = tokio::join!(response(&mut reading), async {
        for _ in 0..4 {
            // Fails as soon as the server has answered and closed.
            let _ = writing.write_all(chunk.as_bytes()).await;
        }
    });
    assert!(answer.0.starts_with("http/1.1 413"), "{}", answer.0);
    assert!(ask(server.address, "GET / HTTP/1.0\r\n\r\n").await.contains("200 OK"), "the server goes on");
}

#[tokio::test]
async fn slow_clients_are_closed() {
    let server = serve(short()).await;
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\nX-A:", "GET /primary HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let started = Instant::now();
        ask(server.address, begun).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{begun:?}");
    }
    let mut dribble = TcpStream::connect(server.address).await.unwrap();
    let closed = timeout(NEVER, async {
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\n".iter().cycle() {
            if dribble.write_all(&[*byte]).await.is_err() || dribble.try_read(&mut [0; 64]).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    closed.await.expect("a head that never ends is cut off");
    let stalled = ask(server.address, "PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"ttl\":").await;
    assert!(stalled.starts_with("HTTP/1.1 408") && stalled.contains("did not arrive within"), "{stalled}");
}

#[tokio::test]
async fn a_flood_of_connections_passes() {
    let server = serve(short()).await;
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(TcpStream::connect(server.address).await.unwrap());
    }
    // All places are taken by clients that say nothing; they run into their time limit.
    let answer = timeout(NEVER, ask(server.address, "GET /primary HTTP/1.0\r\n\r\n")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn a_port_in_use_and_a_new_one() {
    let server = serve(options(rest_api())).await;
    let taken = RestApi {
        listen: surus_config::HostPort { host: "127.0.0.1".into(), port: server.address.port() },
        ..rest_api()
    };
    let error = RestServer::bind(options(taken)).await.err().unwrap().to_string();
    assert!(error.contains("restapi.listen") && error.contains(&server.address.to_string()), "{error}");

    let blocker = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = blocker.local_addr().unwrap().port();
    let moved = RestApi { listen: surus_config::HostPort { host: "127.0.0.1".into(), port }, ..rest_api() };
    assert!(server.server.reload(options(moved.clone())).await.is_err());
    assert!(ask(server.address, "GET / HTTP/1.0\r\n\r\n").await.contains("200 OK"), "the old port is kept");
    drop(blocker);
    server.server.reload(options(moved)).await.unwrap();
    assert!(ask(([127, 0, 0, 1], port).into(), "GET / HTTP/1.0\r\n\r\n").await.contains("200 OK"));

    server.stop.cancel();
    timeout(NEVER, server.server.stopped()).await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    drop(server.fake);
}

#[tokio::test]
async fn headers_and_access_change_with_a_reload() {
    let server = serve(options(rest_api())).await;
    let reload = "POST /failsafe HTTP/1.0\r\nContent-Length: 0\r\n\r\n";
    let plain = ask(server.address, reload).await;
    assert!(plain.starts_with("HTTP/1.0 502") && plain.contains("server: Surus/"), "{plain}");
    let api = RestApi {
        authentication: Some(BasicAuth { username: "u".into(), password: Secret::new("p") }),
        http_extra_headers: [("X-Extra".to_owned(), "1".to_owned()), ("bad name".to_owned(), "1".to_owned())].into(),
        server_tokens: ServerTokens::ProductOnly,
        ..rest_api()
    };
    server.server.reload(options(api)).await.unwrap();
    let refused = ask(server.address, reload).await;
    assert!(refused.starts_with("HTTP/1.0 401") && refused.contains("www-authenticate: Basic"), "{refused}");
    assert!(refused.contains("x-extra: 1\r\n") && refused.contains("server: Surus\r\n"), "{refused}");
    let allowed = ask(server.address, &reload.replace("\r\n\r\n", "\r\nAuthorization: Basic dTpw\r\n\r\n")).await;
    assert!(allowed.starts_with("HTTP/1.0 502"), "{allowed}");
    assert!(ask(server.address, "GET /patroni HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"));
}

/// An authority and what it signs, in PEM files.
struct Authority {
    dir: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: rcgen::Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Certificate and key in one file.
    fn sign(&self, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(name), format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    }

    fn options(&self, verify_client: VerifyClient) -> RestOptions {
        let tls = RestTls {
            certfile: self.path("server.pem"),
            keyfile: None,
            keyfile_password: None,
            cafile: Some(self.path("ca.pem")),
            verify_client,
        };
        RestOptions { limits: short().limits, ..options(RestApi { tls: Some(tls), ..rest_api() }) }
    }
}

fn read_pem(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

async fn tls(
    authority: &Authority,
    address: SocketAddr,
    certificate: Option<&str>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(read_pem(&authority.path("ca.pem")).remove(0)).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let path = authority.path(name);
            let key = PrivateKeyDer::from_pem_file(&path).unwrap();
            builder.with_client_auth_cert(read_pem(&path), key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The response, and the certificate the server showed.
async fn https(
    authority: &Authority,
    address: SocketAddr,
    certificate: Option<&str>,
    request: &str,
) -> std::io::Result<(String, CertificateDer<'static>)> {
    let mut stream = tls(authority, address, certificate).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    timeout(NEVER, stream.read_to_end(&mut bytes)).await.unwrap()?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), shown))
}

#[tokio::test]
async fn client_certificates() {
    let authority = Authority::new();
    authority.sign("server.pem");
    authority.sign("client.pem");
    let get = "GET /primary HTTP/1.0\r\n\r\n";
    let change = "PATCH /config HTTP/1.0\r\nContent-Length: 10\r\n\r\n{\"ttl\":20}";
    for (verify, certificate, request, want) in [
        (VerifyClient::None, None, get, Some("200")),
        (VerifyClient::None, None, change, Some("200")),
        (VerifyClient::Optional, None, get, Some("200")),
        (VerifyClient::Optional, None, change, Some("403")),
        (VerifyClient::Optional, Some("client.pem"), change, Some("200")),
        (VerifyClient::Required, None, get, None),
        (VerifyClient::Required, Some("client.pem"), get, Some("200")),
    ] {
        let server = serve(authority.options(verify)).await;
        let got = https(&authority, server.address, certificate, request).await;
        let code = got.ok().map(|(answer, _)| answer[9..12].to_owned());
        assert_eq!(code.as_deref(), want, "{verify:?} {certificate:?} {request}");
        server.stop.cancel();
    }
}

#[tokio::test]
async fn certificates_are_exchanged_and_broken_ones_are_not_taken() {
    let authority = Authority::new();
    authority.sign("server.pem");
    let server = serve(authority.options(VerifyClient::None)).await;
    let get = "GET /primary HTTP/1.0\r\n\r\n";
    let (_, first) = https(&authority, server.address, None, get).await.unwrap();

    authority.sign("server.pem");
    server.server.reload(authority.options(VerifyClient::None)).await.unwrap();
    let (_, second) = https(&authority, server.address, None, get).await.unwrap();
    assert_ne!(first, second);

    for (content, part) in [("nothing", "no certificate"), ("-----BEGIN CERTIFICATE-----\n!\n", "no valid PEM")] {
        std::fs::write(authority.path("server.pem"), content).unwrap();
        let error = server.server.reload(authority.options(VerifyClient::None)).await.unwrap_err().to_string();
        assert!(error.contains("restapi.certfile") && error.contains("server.pem") && error.contains(part), "{error}");
    }
    let (_, third) = https(&authority, server.address, None, get).await.unwrap();
    assert_eq!(second, third);

    // Who does not speak TLS, or nothing at all, does not stay.
    for text in ["", "GET / HTTP/1.0\r\n\r\n"] {
        let started = Instant::now();
        ask(server.address, text).await;
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn certificates_whose_files_change_are_taken_up_and_no_connection_ends() {
    let authority = Authority::new();
    // As secrets of Kubernetes are exchanged: a link to another directory is renamed.
    let version = |n: u32| {
        std::fs::create_dir(authority.path(&format!("v{n}"))).unwrap();
        authority.sign(&format!("v{n}/server.pem"));
        std::os::unix::fs::symlink(format!("v{n}"), authority.path("next")).unwrap();
        std::fs::rename(authority.path("next"), authority.path("data")).unwrap();
    };
    version(1);
    std::os::unix::fs::symlink("data/server.pem", authority.path("server.pem")).unwrap();
    let options = RestOptions { limits: Limits::default(), ..authority.options(VerifyClient::None) };
    let server = serve(options).await;

    let get = "GET /primary HTTP/1.0\r\n\r\n";
    let keep = b"GET /primary HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut kept = tls(&authority, server.address, None).await.unwrap();
    kept.write_all(keep).await.unwrap();
    assert!(response(&mut kept).await.0.starts_with("http/1.1 200"));

    let mut shown = https(&authority, server.address, None, get).await.unwrap().1;
    for change in ["link", "garbage and then a good one", "the file itself"] {
        match change {
            "link" => version(2),
            "the file itself" => authority.sign("v2/server.pem"),
            _ => {
                std::fs::write(authority.path("v2/server.pem"), "nothing").unwrap();
                assert_eq!(https(&authority, server.address, None, get).await.unwrap().1, shown, "the old one goes on");
                authority.sign("v2/server.pem");
            }
        }
        let other = timeout(NEVER, async {
            loop {
                let now = https(&authority, server.address, None, get).await.unwrap().1;
                if now != shown {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        shown = other.await.expect(change);
    }
    kept.write_all(keep).await.unwrap();
    assert!(response(&mut kept).await.0.starts_with("http/1.1 200"), "a connection goes on through all of it");

    let ask = async |path: &str| {
        https(&authority, server.address, None, &format!("GET {path} HTTP/1.0\r\n\r\n")).await.unwrap().0
    };
    let metrics = ask("/metrics").await;
    let series = "\nsurus_certificate_expiry_seconds{scope=\"demo\",name=\"node1\"} ";
    let left: i64 = metrics.split_once(series).unwrap().1.lines().next().unwrap().parse().unwrap();
    assert!(left > 0, "{left}");
    assert!(ask("/explain").await.contains("\"certificate\": {\"path\": "));
    server.stop.cancel();
}

/// The address under which this machine would talk to others; none without a network. Nothing is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

#[tokio::test]
async fn changes_from_elsewhere_need_authentication() {
    let server = serve(options(rest_api())).await;
    let change = "PATCH /config HTTP/1.0\r\nContent-Length: 10\r\n\r\n{\"ttl\":20}";
    assert!(ask(server.address, change).await.starts_with("HTTP/1.0 200"), "from this machine");
    // Whoever comes to loopback from an address that is none looks like another machine.
    let Some(own) = own_address() else {
        return eprintln!("this machine has no network: half of the test is left out");
    };
    let from = async |request: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        exchange(&mut socket.connect(server.address).await.unwrap(), request).await
    };
    let refused = from(change).await;
    assert!(refused.starts_with("HTTP/1.0 403") && refused.contains("Set restapi.authentication"), "{refused}");
    assert!(refused.contains("restapi.allow_unauthenticated: true"), "{refused}");
    assert!(from("GET /config HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"), "everybody may read");

    server.server.reload(options(RestApi { allow_unauthenticated: true, ..rest_api() })).await.unwrap();
    assert!(from(change).await.starts_with("HTTP/1.0 200"));
    let authentication = Some(BasicAuth { username: "u".into(), password: Secret::new("p") });
    server.server.reload(options(RestApi { authentication, ..rest_api() })).await.unwrap();
    assert!(from(change).await.starts_with("HTTP/1.0 401"));
    server.stop.cancel();
}
