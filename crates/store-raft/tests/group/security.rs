use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use surus_store::{Kv, StoreError};
use surus_store_raft::{RaftClient, RaftStore, StartError, TlsOptions};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{DEADLINE, Group, free_addr, options, start, until, value, write};

const SHORT: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_turned_away() {
    let group = Group::formed(3).await;
    let first = &group.addrs[..1];
    for (password, expected) in [(Some("wrong".to_owned()), "shared secret"), (None, "wants a shared secret")] {
        let client = RaftClient::connect(first, password, None).await.unwrap();
        let refused = client.read("/", SHORT).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains(expected)), "{refused:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let addr = free_addr();
    let mut stranger = options(&addr, &group.addrs, dir.path());
    stranger.password = Some("wrong".into());
    let stranger = start(stranger).await;
    until("the node with the wrong secret names it and the peer", || async {
        let why = stranger.health().summary;
        why.contains("shared secret") && why.contains("127.0.0.1")
    })
    .await;
    assert_eq!(group.node(0).members(DEADLINE).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scanners_do_not_disturb() {
    let group = Group::formed(3).await;
    let leader = group.leader().await;
    let mut open = Vec::new();
    for round in 0..30 {
        for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\xff\xff\xff\xff", b"\x00\x00\x00\x10short", b""] {
            let mut tcp = TcpStream::connect(&group.addrs[round % 3]).await.unwrap();
            tcp.write_all(garbage).await.unwrap();
            open.push(tcp);
        }
        write(&**group.node(round % 3), "/n", &round.to_string()).await;
    }
    assert_eq!(value(&**group.node(leader), "/n").await.as_deref(), Some("29"));
    assert_eq!(group.leader().await, leader);
}

struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str) -> TlsOptions {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (certfile, keyfile) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        std::fs::write(&certfile, cert.pem()).unwrap();
        std::fs::write(&keyfile, key.serialize_pem()).unwrap();
        TlsOptions { certfile, keyfile, cafile: self.path("ca.pem") }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_talk_over_mutual_tls() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let group = Group::plan(3);
    let mut nodes = Vec::new();
    for i in 0..3 {
        let mut options = group.options(i);
        options.tls = Some(ours.issue(&format!("node{i}")));
        nodes.push(start(options).await);
    }
    write(&nodes[0], "/a", "1").await;
    assert_eq!(value(&nodes[2], "/a").await.as_deref(), Some("1"));
    let herd = || Some("herd".to_owned());
    let client = RaftClient::connect(&group.addrs, herd(), Some(ours.issue("client"))).await.unwrap();
    assert_eq!(value(&client, "/a").await.as_deref(), Some("1"));
    for tls in [Some(theirs.issue("client")), None] {
        let stranger = RaftClient::connect(&group.addrs[..1], herd(), tls).await.unwrap();
        let refused = stranger.read("/", SHORT).await;
        assert!(matches!(refused, Err(StoreError::Refused(_) | StoreError::Unavailable(_))), "{refused:?}");
    }
}

async fn start_error(change: impl FnOnce(&mut surus_store_raft::RaftOptions, &Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&free_addr(), &[], &dir.path().join("data"));
    change(&mut options, dir.path());
    match RaftStore::start(options).await {
        Ok(_) => panic!("it started"),
        Err(e) => e.to_string(),
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    for addr in ["nonsense", ":7000", "host:", "host:99999", "a b:1", "::1:7000"] {
        let text = start_error(|o, _| o.self_addr = addr.into()).await;
        assert!(text.contains("self_addr") && text.contains(addr), "{text}");
    }
    let text = start_error(|o, _| o.partner_addrs = vec!["x".into()]).await;
    assert!(text.contains("partner_addrs"), "{text}");
    let holder = std::net::TcpListener::bind(free_addr()).unwrap();
    let held = holder.local_addr().unwrap().to_string();
    let text = start_error(|o, _| o.bind_addr = held.clone()).await;
    assert!(text.contains("cannot listen") && text.contains(&held), "{text}");
    let text = start_error(|o, _| o.data_dir = "/dev/null/x".into()).await;
    assert!(text.contains("/dev/null/x"), "{text}");
    let text = start_error(|o, dir| {
        std::fs::create_dir(&o.data_dir).unwrap();
        std::fs::write(o.data_dir.join("raft.redb"), "junk").unwrap();
        assert!(o.data_dir.starts_with(dir));
    })
    .await;
    assert!(text.contains("raft.redb") && text.contains("move the directory away"), "{text}");

    let authority = Authority::new();
    let good = authority.issue("good");
    let wrong = [
        TlsOptions { certfile: authority.path("absent"), ..good.clone() },
        TlsOptions { keyfile: authority.path("ca.pem"), ..good.clone() },
        TlsOptions { keyfile: authority.issue("other").keyfile, ..good.clone() },
        TlsOptions { cafile: good.keyfile.clone(), ..good.clone() },
    ];
    for tls in wrong {
        let text = start_error(|o, _| o.tls = Some(tls.clone())).await;
        assert!(text.contains("TLS") && text.contains(authority.dir.path().to_str().unwrap()), "{text}");
    }
    let text = match RaftStore::start(options(&free_addr(), &[], Path::new("/proc/x"))).await {
        Err(e @ StartError::DataDir { .. }) => e.to_string(),
        other => panic!("{:?}", other.err()),
    };
    assert!(text.contains("/proc/x"), "{text}");
}

#[tokio::test]
async fn two_nodes_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = start(options(&free_addr(), &[], dir.path())).await;
    let second = RaftStore::start(options(&free_addr(), &[], dir.path())).await;
    assert!(matches!(second, Err(StartError::InUse { .. })), "{:?}", second.err());
    write(&first, "/a", "1").await;
}
