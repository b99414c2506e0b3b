//! Users, TLS, and servers that are not what was configured.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{DEADLINE, EtcdServer, client, eventually, free_listener, options, write};
use etcd_client::{Client, Permission, PermissionType};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use surus_store::{Kv, StoreError, WatchEvent};
use surus_store_etcd::{EtcdOptions, EtcdStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server with users: `root`, and `surus` who may touch `/service/` only.
async fn with_users() -> EtcdServer {
    with_users_and(&[]).await
}

async fn with_users_and(more: &[&str]) -> EtcdServer {
    let server = EtcdServer::start("http", &[&["--bcrypt-cost", "4"], more].concat()).await;
    let mut admin = Client::connect([&server.url], None).await.unwrap();
    for user in ["root", "surus"] {
        admin.user_add(user, format!("{user}-secret"), None).await.unwrap();
        admin.role_add(user).await.unwrap();
        admin.user_grant_role(user, user).await.unwrap();
    }
    let service = Permission::new(PermissionType::Readwrite, "/service/").with_prefix();
    admin.role_grant_permission("surus", service).await.unwrap();
    admin.auth_enable().await.unwrap();
    server
}

fn as_user(server: &EtcdServer, user: &str, password: &str) -> EtcdStore {
    EtcdStore::connect(EtcdOptions {
        username: Some(user.into()),
        password: Some(password.into()),
        ..options(&[&server.url])
    })
    .unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_passwords_and_permissions() {
    let server = with_users().await;
    let kv = as_user(&server, "surus", "surus-secret");
    write(&kv, "/service/demo/x", "1").await.unwrap();
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let mut watch = kv.watch("/service/");
    assert!(matches!(common::next(&mut watch).await, WatchEvent::Restarted(_)));

    let text = refused(write(&kv, "/elsewhere", "1").await);
    assert!(text.contains("permission denied") && text.contains(&server.url), "{text}");
    let text = refused(write(&as_user(&server, "surus", "wrong"), "/service/x", "1").await);
    assert!(text.contains("\"surus\"") && text.contains(&server.url) && !text.contains("wrong"), "{text}");
    let text = refused(write(client(&[&server.url]).as_ref(), "/service/x", "1").await);
    assert!(text.contains("username"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_longer_known_is_replaced() {
    let mut server = with_users().await;
    let kv = as_user(&server, "surus", "surus-secret");
    let admin = as_user(&server, "root", "root-secret");
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    write(&kv, "/service/x", "1").await.unwrap();
    let mut watch = kv.watch("/service/");
    assert!(matches!(common::next(&mut watch).await, WatchEvent::Restarted(_)));
    // Tokens live in etcd's memory: none is known after a restart.
    server.restart();
    eventually("etcd answers", async || admin.read("/", Duration::from_secs(2)).await.is_ok()).await;
    write(&kv, "/service/x", "2").await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    loop {
        match common::next(&mut watch).await {
            WatchEvent::Restarted(snapshot) if snapshot.keys[0].value == b"2" => break,
            WatchEvent::Put(kv) if kv.value == b"2" => break,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_replaced() {
    let server = with_users_and(&["--auth-token-ttl", "1", "--log-level", "debug"]).await;
    let kv = as_user(&server, "surus", "surus-secret");
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    write(&kv, "/service/x", "1").await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let mut watch = kv.watch("/service/");
    assert!(matches!(common::next(&mut watch).await, WatchEvent::Restarted(_)));
    eventually("it is forgotten", async || server.log().contains("deleted a simple token")).await;
    kv.renew(lease, DEADLINE).await.unwrap();
    write(&kv, "/service/x", "2").await.unwrap();
    loop {
        match common::next(&mut watch).await {
            WatchEvent::Restarted(snapshot) if snapshot.keys[0].value == b"2" => break,
            WatchEvent::Put(kv) if kv.value == b"2" => break,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_exchanged() {
    let server = with_users().await;
    let kv = as_user(&server, "surus", "surus-secret");
    let mut admin = {
        let user = etcd_client::ConnectOptions::new().with_user("root", "root-secret");
        Client::connect([&server.url], Some(user)).await.unwrap()
    };
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    write(&kv, "/service/x", "1").await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let mut watch = kv.watch("/service/");
    assert!(matches!(common::next(&mut watch).await, WatchEvent::Restarted(_)));

    let next = EtcdOptions { username: Some("surus".into()), password: Some("next".into()), ..EtcdOptions::default() };
    let text = refused(kv.replace_access(&next, "/service/", DEADLINE).await);
    assert!(text.contains("\"surus\"") && !text.contains("next"), "{text}");
    kv.renew(lease, DEADLINE).await.expect("it goes on as before");

    admin.user_change_password("surus", "next").await.unwrap();
    assert!(kv.replace_access(&next, "/service/", DEADLINE).await.unwrap());
    assert!(!kv.replace_access(&next, "/service/", DEADLINE).await.unwrap(), "nothing is new");
    kv.renew(lease, DEADLINE).await.unwrap();
    write(&kv, "/service/x", "2").await.unwrap();
    loop {
        match common::next(&mut watch).await {
            WatchEvent::Restarted(snapshot) if snapshot.keys[0].value == b"2" => break,
            WatchEvent::Put(kv) if kv.value == b"2" => break,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_may_be_switched_on_later() {
    let server = EtcdServer::start("http", &["--bcrypt-cost", "4"]).await;
    let kv = as_user(&server, "root", "root-secret");
    write(&kv, "/x", "without").await.unwrap();
    let mut admin = Client::connect([&server.url], None).await.unwrap();
    admin.user_add("root", "root-secret", None).await.unwrap();
    admin.role_add("root").await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    write(&kv, "/x", "with").await.unwrap();
}

struct Files {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    cert: String,
    key: String,
}

impl Files {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions {
            ca_pem: Some(self.ca.clone()),
            cert_pem: Some(self.cert.clone()),
            key_pem: Some(self.key.clone()),
            ..EtcdOptions::default()
        }
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Certificate and key, for both ends.
fn leaf(issuer: &Issuer<'_, KeyPair>) -> [String; 2] {
    let mut leaf = named("surus", &["127.0.0.1"]);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    [leaf.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem()]
}

/// A CA and a certificate of it.
fn certificates() -> Files {
    let mut ca = named("test CA", &[]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let [cert, key] = leaf(&issuer);
    let files = Files { dir: tempfile::tempdir().unwrap(), issuer, ca: ca_cert.pem(), cert, key };
    for (name, text) in [("ca", &files.ca), ("cert", &files.cert), ("key", &files.key)] {
        std::fs::write(files.path(name), text).unwrap();
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let files = certificates();
    let (ca, cert, key) = (files.path("ca"), files.path("cert"), files.path("key"));
    let arguments = ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let server = EtcdServer::start("https", &arguments).await;
    let full = EtcdOptions { endpoints: vec![server.url.clone()], ..files.options() };
    let kv = EtcdStore::connect(full.clone()).unwrap();
    eventually("etcd answers", async || kv.read("/", DEADLINE).await.is_ok()).await;
    write(&kv, "/x", "1").await.unwrap();

    let other = certificates();
    // A certificate of another authority is not taken up, a new one of this authority is.
    assert!(kv.replace_access(&other.options(), "/", Duration::from_secs(2)).await.is_err());
    write(&kv, "/x", "2").await.unwrap();
    let [cert, key] = leaf(&files.issuer);
    let renewed = EtcdOptions { cert_pem: Some(cert), key_pem: Some(key), ..files.options() };
    assert!(kv.replace_access(&renewed, "/", DEADLINE).await.unwrap());
    write(&kv, "/x", "3").await.unwrap();

    let stranger = EtcdStore::connect(EtcdOptions { ca_pem: Some(other.ca.clone()), ..full.clone() }).unwrap();
    let text = refused(stranger.read("/", DEADLINE).await);
    assert!(text.contains(&server.url) && text.contains("cacert"), "{text}");

    let nameless = EtcdStore::connect(EtcdOptions { cert_pem: None, key_pem: None, ..full.clone() }).unwrap();
    let text = nameless.read("/", Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(text.contains(&server.url), "{text}");

    let plain = client(&[&server.url.replace("https", "http")]);
    let text = plain.read("/", Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(text.contains("https"), "{text}");

    let plain_server = EtcdServer::start("http", &[]).await;
    let url = plain_server.url.replace("http", "https");
    let mismatch = EtcdStore::connect(EtcdOptions { endpoints: vec![url.clone()], ..full }).unwrap();
    let text = refused(mismatch.read("/", DEADLINE).await);
    assert!(text.contains(&url) && text.contains("http instead of https"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_is_not_taken_for_etcd() {
    let (listener, port) = free_listener();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let web = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    let url = format!("http://127.0.0.1:{port}");
    let text = refused(client(&[&url]).read("/", DEADLINE).await);
    assert!(text.contains(&url) && text.contains("no etcd v3"), "{text}");
    // One wrong endpoint among right ones does no harm.
    let server = EtcdServer::start("http", &[]).await;
    write(client(&[&url, &server.url]).as_ref(), "/x", "1").await.unwrap();
    web.abort();
}
