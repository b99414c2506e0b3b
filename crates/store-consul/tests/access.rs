//! Tokens, TLS, and servers that are not what was configured.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{ConsulServer, DEADLINE, client, eventually, free_port, next, options, request, write};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use surus_store::{Kv, StoreError, WatchEvent};
use surus_store_consul::{ConsulOptions, ConsulStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MASTER: &str = "4f1a8b3e-0000-4000-8000-5c1ef0000001";
const ACLS: &str = r#"{"acl": {"enabled": true, "default_policy": "deny",
    "tokens": {"master": "4f1a8b3e-0000-4000-8000-5c1ef0000001", "agent": "4f1a8b3e-0000-4000-8000-5c1ef0000001"}}}"#;

fn with_token(url: &str, token: &str) -> ConsulOptions {
    ConsulOptions { token: Some(token.into()), ..options(&[url]) }
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

/// A token with these rules, its secret.
async fn token(url: &str, name: &str, rules: &str) -> String {
    let master = format!("X-Consul-Token: {MASTER}");
    let policy = serde_json::json!({"Name": name, "Rules": rules}).to_string();
    let made = request(url, "PUT", "/v1/acl/policy", &[&master], &policy).await;
    assert!(made.contains("\"ID\""), "{made}");
    let body = serde_json::json!({"Policies": [{"Name": name}]}).to_string();
    let made = request(url, "PUT", "/v1/acl/token", &[&master], &body).await;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap_or_else(|e| panic!("{e}: {made}"));
    made["SecretID"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_the_rights_they_lack() {
    let server = ConsulServer::cluster(1, &[ACLS]).pop().unwrap();
    let master = ConsulStore::connect(with_token(&server.url, MASTER)).unwrap();
    eventually("the ACLs are there", async || {
        master.read("/", Duration::from_secs(2)).await.is_ok() && write(&master, "/service/demo/x", "1").await.is_ok()
    })
    .await;
    let url = server.url.as_str();
    // What the page for operators says, and no more.
    let enough = r#"key_prefix "service/demo/" { policy = "write" } session_prefix "" { policy = "write" }
                    service_prefix "demo" { policy = "write" }"#;
    let full = token(url, "full", enough).await;
    let kv = ConsulStore::connect(with_token(url, &full)).unwrap();
    write(&kv, "/service/demo/x", "2").await.unwrap();
    assert_eq!(kv.read("/service/demo/", DEADLINE).await.unwrap().keys.len(), 1);
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let mut watch = kv.watch("/service/demo/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    let service = r#"{"ID": "demo/a", "Name": "demo"}"#;
    kv.register_service("demo", service.into(), DEADLINE).await.unwrap();
    kv.deregister_service("demo", "demo/a", DEADLINE).await.unwrap();

    // Elsewhere it may do nothing, and is told what it lacks, also where Consul only leaves out.
    let text = refused(write(&kv, "/service/other/x", "1").await);
    assert!(text.contains("key_prefix \"service/other/\" { policy = \"write\" }") && text.contains(url), "{text}");
    let text = refused(kv.read("/service/other/", DEADLINE).await);
    assert!(text.contains("key_prefix \"service/other/\" { policy = \"read\" }"), "{text}");

    let reader = token(url, "reader", r#"key_prefix "service/demo/" { policy = "read" }"#).await;
    let reading = ConsulStore::connect(with_token(url, &reader)).unwrap();
    assert_eq!(reading.read("/service/demo/", DEADLINE).await.unwrap().keys.len(), 1);
    refused(write(&reading, "/service/demo/x", "3").await);
    let text = refused(reading.grant(Duration::from_secs(60), DEADLINE).await);
    assert!(text.contains("session_prefix \"\" { policy = \"write\" }"), "{text}");
    let text = refused(reading.register_service("demo", service.into(), DEADLINE).await);
    assert!(text.contains("service_prefix \"demo\" { policy = \"write\" }"), "{text}");

    // Without a token, and with one that is unknown.
    let text = refused(client(&[url]).read("/service/demo/", DEADLINE).await);
    assert!(text.contains("Permission denied") && text.contains("key_prefix"), "{text}");
    let unknown = ConsulStore::connect(with_token(url, "00000000-0000-4000-8000-000000000000")).unwrap();
    let text = refused(unknown.read("/service/demo/", DEADLINE).await);
    assert!(text.contains("does not know the token"), "{text}");
    // The token is exchanged while all goes on, and the watch with it; not for one that cannot read.
    let mut watch = unknown.watch("/service/demo/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Broken(_)));
    let prefix = "/service/demo/";
    assert_eq!(unknown.replace_access(&with_token(url, &full), prefix, DEADLINE).await, Ok(true));
    assert_eq!(unknown.replace_access(&with_token(url, &full), prefix, DEADLINE).await, Ok(false));
    refused(unknown.replace_access(&options(&[url]), prefix, DEADLINE).await);
    write(&unknown, "/service/demo/x", "4").await.unwrap();
    loop {
        if let WatchEvent::Restarted(_) = next(&mut watch).await {
            break;
        }
    }
}

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn signed(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_and_without_a_certificate_of_ones_own() {
    let authority = Authority::new();
    let (cert, key) = authority.signed(&["127.0.0.1"]);
    let port = free_port();
    let config = format!(
        r#"{{"ports": {{"https": {port}}}, "ca_file": "{{dir}}/ca.pem", "cert_file": "{{dir}}/cert.pem", "key_file": "{{dir}}/key.pem",
             "verify_incoming_https": true}}"#
    );
    let server = ConsulServer::prepared(1, &[&config], |dir| {
        for (name, text) in [("ca.pem", &authority.pem), ("cert.pem", &cert), ("key.pem", &key)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
    })
    .pop()
    .unwrap();
    server.wait_ready().await;
    let url = format!("https://127.0.0.1:{port}");
    let (cert, key) = authority.signed(&["client"]);
    let good = ConsulOptions {
        ca_pem: Some(authority.pem.clone()),
        cert_pem: Some(cert.clone()),
        key_pem: Some(key.clone()),
        ..options(&[&url])
    };
    let kv = ConsulStore::connect(good.clone()).unwrap();
    write(&kv, "/x", "1").await.unwrap();
    let mut watch = kv.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    // Certificate and key in one file, and a server that nobody vouches for but is not checked.
    let one_file = ConsulOptions { cert_pem: Some(format!("{cert}{key}")), key_pem: None, ..good.clone() };
    write(&ConsulStore::connect(one_file).unwrap(), "/x", "2").await.unwrap();
    let unchecked = ConsulOptions { ca_pem: None, verify: false, ..good.clone() };
    write(&ConsulStore::connect(unchecked).unwrap(), "/x", "3").await.unwrap();

    // Certificates are exchanged too, and those that are not taken are not taken up.
    let (cert, key) = authority.signed(&["another"]);
    let other = ConsulOptions { cert_pem: Some(cert), key_pem: Some(key), ..good.clone() };
    assert_eq!(kv.replace_access(&other, "/", DEADLINE).await, Ok(true));
    let soon = Duration::from_secs(3);
    let (cert, key) = Authority::new().signed(&["stranger"]);
    let unknown = ConsulOptions { cert_pem: Some(cert), key_pem: Some(key), ..good.clone() };
    assert!(kv.replace_access(&unknown, "/", soon).await.is_err());
    write(&kv, "/x", "4").await.unwrap();

    let stranger = ConsulOptions { ca_pem: Some(Authority::new().pem), ..good.clone() };
    let text = refused(ConsulStore::connect(stranger).unwrap().read("/", soon).await);
    assert!(text.contains("certificate") && text.contains("cacert"), "{text}");
    // Without a certificate of its own it is not let in; that shows only after the handshake.
    let anonymous = ConsulOptions { cert_pem: None, key_pem: None, ..good.clone() };
    let text = format!("{:?}", ConsulStore::connect(anonymous).unwrap().read("/", soon).await);
    assert!(text.contains("ertificate"), "{text}");
    // http where https is spoken, and the other way round.
    let plain = client(&[&format!("http://127.0.0.1:{port}")]);
    let text = refused(plain.read("/", soon).await);
    assert!(text.contains("scheme: https"), "{text}");
    let tls = ConsulOptions { endpoints: vec![server.url.replace("http:", "https:")], ..good.clone() };
    let text = refused(ConsulStore::connect(tls).unwrap().read("/", soon).await);
    assert!(text.contains("http instead of https"), "{text}");

    for (bad, part) in [
        (ConsulOptions { ca_pem: Some("nothing".into()), ..good.clone() }, "cacert"),
        (ConsulOptions { cert_pem: None, ..good.clone() }, "cert"),
        (ConsulOptions { key_pem: Some("nothing".into()), ..good.clone() }, "key"),
        (ConsulOptions { endpoints: Vec::new(), ..good.clone() }, "consul.host"),
    ] {
        let Err(StoreError::Refused(text)) = ConsulStore::connect(bad) else { panic!("{part}") };
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listens_there_is_not_consul() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnope\n")
                .await;
        }
    });
    let kv = client(&[&url]);
    // Not even an ended session is believed of it.
    for text in [
        refused(kv.read("/", DEADLINE).await),
        refused(write(kv.as_ref(), "/x", "1").await),
        refused(kv.grant(Duration::from_secs(60), DEADLINE).await),
        refused(kv.renew(7, DEADLINE).await),
    ] {
        assert!(text.contains("not as Consul does") && text.contains(&url), "{text}");
    }
}
