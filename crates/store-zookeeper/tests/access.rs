//! Credentials, ACLs, TLS, and servers that are not what was configured.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{DEADLINE, Server, client, free_port, options, write};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use surus_store::{Kv, StoreError, WatchEvent};
use surus_store_zookeeper::{Grant, TlsFiles, ZooKeeperOptions, ZooKeeperStore};
use tokio::io::AsyncWriteExt;

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

fn grant(principal: &str, permissions: &[&str]) -> Grant {
    Grant { principal: principal.into(), permissions: permissions.iter().map(|p| (*p).to_owned()).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn acls_are_on_everything_that_is_made() {
    let server = Server::start("").await;
    // The id of a digest is the name and the hash of name and password, as `zkCli` and Patroni are given it.
    let owner = "digest:pg:2f00uH2yW6Zwytrp2wQyJV2V/GA=";
    let members = ZooKeeperOptions {
        auth: vec![("digest".into(), "pg:secret".into())],
        acls: vec![grant(owner, &["ALL"]), grant("world:anyone", &["READ"])],
        ..options(&[&server.host])
    };
    let kv = ZooKeeperStore::connect(&members).unwrap();
    write(&kv, "/service/demo/config", "{}").await.unwrap();
    let lease = kv.grant(Duration::from_secs(30), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let mut watch = kv.watch("/service/");
    assert!(matches!(common::next(&mut watch).await, WatchEvent::Restarted(_)));
    // Others may read, and no more: neither the key, nor beside it, nor above.
    let other = client(&[&server.host]);
    assert_eq!(other.read("/service/", DEADLINE).await.unwrap().keys.len(), 1);
    for key in ["/service/demo/config", "/service/demo/leader", "/service/other"] {
        let text = refused(write(other.as_ref(), key, "x").await);
        assert!(text.contains("ACL") && text.contains(&server.host), "{text}");
    }
    write(&kv, "/service/demo/config", "{ }").await.unwrap();

    let closed = ZooKeeperOptions { acls: vec![grant(owner, &["ALL"])], ..members };
    let closed = ZooKeeperStore::connect(&closed).unwrap();
    write(&closed, "/closed/x", "1").await.unwrap();
    let text = refused(other.read("/closed/", DEADLINE).await);
    assert!(text.contains("/closed") && text.contains("ACL"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_know_is_refused_by_name() {
    let server = Server::start("").await;
    let auth = vec![("nonsense".to_owned(), "x:hidden".to_owned())];
    let kv = ZooKeeperStore::connect(&ZooKeeperOptions { auth, ..options(&[&server.host]) }).unwrap();
    let text = refused(kv.read("/", DEADLINE).await);
    assert!(text.contains("\"nonsense\"") && text.contains(&server.host) && !text.contains("hidden"), "{text}");
    // The path after the hosts has to be there, as for Patroni.
    let chroot = format!("{}/pg", server.host);
    let kv = client(&[&chroot]);
    let text = refused(kv.read("/service/", DEADLINE).await);
    assert!(text.contains("/pg") && text.contains("create it"), "{text}");
    write(client(&[&server.host]).as_ref(), "/pg/made", "").await.unwrap();
    write(kv.as_ref(), "/service/x", "1").await.unwrap();
    assert_eq!(kv.read("/service/", DEADLINE).await.unwrap().keys[0].key, "/service/x");
    let whole = client(&[&server.host]).read("/pg/service/", DEADLINE).await.unwrap();
    assert_eq!(whole.keys[0].key, "/pg/service/x");
}

struct Files {
    dir: tempfile::TempDir,
    ca: String,
    cert: String,
    key: String,
}

/// A CA and a certificate for both ends.
fn certificates() -> Files {
    let named = |name: &str, hosts: &[&str]| {
        let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut ca = named("test CA", &[]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let mut leaf = named("surus", &["127.0.0.1", "localhost"]);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = leaf.signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = Files { dir, ca: ca_cert.pem(), cert: cert.pem(), key: key.serialize_pem() };
    std::fs::write(files.dir.path().join("ca.pem"), &files.ca).unwrap();
    // Key and certificate in one file, as Java wants it.
    std::fs::write(files.dir.path().join("server.pem"), format!("{}{}", files.key, files.cert)).unwrap();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let files = certificates();
    let port = free_port();
    let path = |name: &str| files.dir.path().join(name).display().to_string();
    let server = Server::start(&format!(
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\nsecureClientPort={port}\n\
         ssl.keyStore.location={}\nssl.trustStore.location={}\nssl.clientAuth=need\n",
        path("server.pem"),
        path("ca.pem")
    ))
    .await;
    let tls = TlsFiles {
        ca_pem: Some(files.ca.clone()),
        cert_pem: Some(files.cert.clone()),
        key_pem: Some(files.key.clone()),
        verify: true,
    };
    let host = format!("127.0.0.1:{port}");
    let with = |tls: TlsFiles| ZooKeeperOptions { tls: Some(tls), ..options(&[&host]) };
    // Its certificate is who it is: the subject, as in `set_acls` without a scheme.
    let whole = ZooKeeperOptions { acls: vec![grant("CN=surus", &["ALL"])], ..with(tls.clone()) };
    let kv = ZooKeeperStore::connect(&whole).unwrap();
    kv.read("/", DEADLINE).await.unwrap();
    write(&kv, "/own/x", "1").await.unwrap();
    let text = refused(client(&[&server.host]).read("/own/", DEADLINE).await);
    assert!(text.contains("ACL"), "{text}");
    let lease = kv.grant(Duration::from_secs(30), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let in_one = TlsFiles { cert_pem: Some(format!("{}{}", files.key, files.cert)), key_pem: None, ..tls.clone() };
    ZooKeeperStore::connect(&with(in_one)).unwrap().read("/own/", DEADLINE).await.unwrap();

    let stranger = TlsFiles { ca_pem: Some(certificates().ca.clone()), ..tls.clone() };
    let text = refused(ZooKeeperStore::connect(&with(stranger.clone())).unwrap().read("/", DEADLINE).await);
    assert!(text.contains(&host) && text.contains("cacert"), "{text}");
    let unverified = TlsFiles { verify: false, ..stranger };
    ZooKeeperStore::connect(&with(unverified)).unwrap().read("/own/", DEADLINE).await.unwrap();

    let nameless = TlsFiles { cert_pem: None, key_pem: None, ..tls.clone() };
    let nameless = ZooKeeperStore::connect(&with(nameless)).unwrap().read("/", Duration::from_secs(2)).await;
    assert!(nameless.unwrap_err().to_string().contains(&host));

    // To the other kind of port.
    let plain = client(&[&host]).read("/", Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(plain.contains("TLS"), "{plain}");
    let other = ZooKeeperOptions { hosts: vec![server.host.clone()], ..with(tls) };
    let text =
        ZooKeeperStore::connect(&other).unwrap().read("/", Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(text.contains("TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_is_not_taken_for_zookeeper() {
    let port = free_port();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let web = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let host = format!("127.0.0.1:{port}");
    let text = client(&[&host]).read("/", Duration::from_secs(2)).await.unwrap_err().to_string();
    assert!(text.contains(&host) && text.contains("does not answer as ZooKeeper"), "{text}");
    // One wrong server among right ones does no harm.
    let server = Server::start("").await;
    write(client(&[&host, &server.host]).as_ref(), "/a/x", "1").await.unwrap();
    web.abort();
}
