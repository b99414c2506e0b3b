//! Servers that die, freeze and come back, and sessions that end.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::{Duration, Instant};

use common::{DEADLINE, Server, client, eventually, next, put, write};
use surus_store::cluster::{ClusterStore, TakeLead};
use surus_store::{Compare, Kv, Layout, Op, StoreError, Txn, TxnOutcome, WatchEvent};

async fn three() -> Vec<Server> {
    let servers = Server::ensemble(3, "");
    for server in &servers {
        server.wait_ready().await;
    }
    servers
}

fn hosts(servers: &[Server]) -> Vec<&str> {
    servers.iter().map(|s| s.host.as_str()).collect()
}

fn leader(servers: &[Server]) -> usize {
    servers.iter().position(|s| s.mode().as_deref() == Some("leader")).unwrap()
}

/// The newest value that a watch tells, through whatever befalls it.
async fn newest(watch: &mut surus_store::Watch, value: &str) {
    loop {
        let seen = match next(watch).await {
            WatchEvent::Put(kv) => kv.value,
            WatchEvent::Restarted(snapshot) => snapshot.keys[0].value.clone(),
            _ => continue,
        };
        if seen == value.as_bytes() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_may_be_killed_in_turn() {
    let mut servers = three().await;
    let kv = client(&hosts(&servers));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    let bound = Op::Put { key: "/a/bound".into(), value: "1".into(), lease: Some(lease) };
    kv.txn(Txn { compare: vec![], then: vec![bound] }, DEADLINE).await.unwrap();
    let mut watch = kv.watch("/b/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    // One of them is the leader; each is the one in use for some of the clients at some time.
    for (victim, server) in servers.iter_mut().enumerate() {
        server.kill();
        eventually("a quorum", async || kv.read("/b/", Duration::from_secs(2)).await.is_ok()).await;
        for i in 0..5 {
            let text = format!("{victim}/{i}");
            // Whoever was on the dead server cannot know what became of a write.
            eventually("a write", async || write(kv.as_ref(), "/b/x", &text).await.is_ok()).await;
            assert_eq!(kv.read("/b/", DEADLINE).await.unwrap().keys[0].value, text.as_bytes());
            kv.renew(lease, DEADLINE).await.unwrap_or_else(|e| panic!("renewal {text}: {e}"));
        }
        newest(&mut watch, &format!("{victim}/4")).await;
        server.restart();
        server.wait_ready().await;
    }
    let kept = kv.read("/a/", DEADLINE).await.unwrap();
    assert_eq!(kept.keys[0].lease, Some(lease), "the session went from server to server");

    // One that has lost its quorum and answers readings all the same is not taken for the ensemble.
    servers[1].kill();
    servers[2].kill();
    eventually("a read-only server", async || servers[0].mode().as_deref() == Some("read-only")).await;
    for kv in [&kv, &client(&hosts(&servers))] {
        let short = Duration::from_secs(1);
        let read = kv.read("/b/", short).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let granted = kv.grant(Duration::from_secs(60), short).await;
        assert!(matches!(granted, Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))), "{granted:?}");
    }
    let renewed = kv.renew(lease, Duration::from_secs(1)).await;
    assert!(matches!(renewed, Err(StoreError::Unavailable(_))), "it may live: {renewed:?}");
    servers[1].restart();
    eventually("a renewal", async || kv.renew(lease, DEADLINE).await.is_ok()).await;
    assert_eq!(kv.read("/a/", DEADLINE).await.unwrap().keys[0].lease, Some(lease));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_left() {
    let servers = three().await;
    // Not the leader: the ensemble goes on.
    let victim = (leader(&servers) + 1) % 3;
    let kv = client(&[hosts(&servers)[victim]]);
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    servers[victim].freeze();
    // The only one that is known does not answer.
    let began = Instant::now();
    let renewed = kv.renew(lease, Duration::from_secs(2)).await;
    assert!(matches!(renewed, Err(StoreError::Unavailable(_))), "{renewed:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    servers[victim].thaw();
    kv.renew(lease, DEADLINE).await.unwrap();

    let kv = client(&hosts(&servers));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    let mut watch = kv.watch("/b/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    for (i, server) in servers.iter().enumerate() {
        server.freeze();
        let began = Instant::now();
        kv.renew(lease, Duration::from_secs(30)).await.unwrap();
        eventually("a write", async || write(kv.as_ref(), "/b/x", &i.to_string()).await.is_ok()).await;
        newest(&mut watch, &i.to_string()).await;
        assert!(began.elapsed() < Duration::from_secs(25), "server {i}: {:?}", began.elapsed());
        server.thaw();
        server.wait_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_write_to_a_frozen_server_is_not_repeated() {
    let server = Server::start("").await;
    let kv = client(&[&server.host]);
    write(kv.as_ref(), "/a/x", "1").await.unwrap();
    let compare = vec![Compare::Value { key: "/a/x".into(), value: "1".into() }];
    let late = Txn { compare, ..put("/a/x", "2") };
    let mut unknown = 0;
    for _ in 0..5 {
        // Frozen at some moment of it: what had been sent may be carried out later, and nothing else is.
        let (outcome, ()) = tokio::join!(kv.txn(late.clone(), Duration::from_secs(2)), async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            server.freeze();
        });
        server.thaw();
        server.wait_ready().await;
        let value = kv.read("/a/", DEADLINE).await.unwrap().keys[0].value.clone();
        match outcome {
            Ok(TxnOutcome::Applied(_)) => assert_eq!(value, b"2"),
            Err(StoreError::OutcomeUnknown(_)) => unknown += 1,
            other => assert_eq!(value, b"1", "{other:?}"),
        }
        write(kv.as_ref(), "/a/x", "1").await.unwrap();
    }
    eprintln!("{unknown} of 5 were sent before the server stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_only_server_keeps_sessions() {
    let mut server = Server::start("").await;
    let kv = client(&[&server.host]);
    let store = ClusterStore::new(kv.clone(), Layout::new("service", "demo", None), "a".into());
    store.open_session(Duration::from_secs(30), DEADLINE).await.unwrap();
    store.write_member("{}".into(), DEADLINE).await.unwrap();
    assert!(matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    server.kill();
    assert!(matches!(store.renew_session(Duration::from_millis(500)).await, Err(StoreError::Unavailable(_))));
    server.restart();
    store.renew_session(Duration::from_secs(20)).await.unwrap();
    assert!(store.read(DEADLINE).await.unwrap().leader.is_some_and(|l| l.lease == store.lease()));
}

/// What an earlier run of this member, or a Patroni that was replaced by it, has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_renews_ends() {
    let server = Server::start("").await;
    let kv = client(&[&server.host]);
    let other = client(&[&server.host]);
    let ttl = Duration::from_secs(2);
    let lease = kv.grant(ttl, DEADLINE).await.unwrap();
    let bound = Op::Put { key: "/a/x".into(), value: "1".into(), lease: Some(lease) };
    let sent = Instant::now();
    kv.txn(Txn { compare: vec![], then: vec![bound.clone()] }, DEADLINE).await.unwrap();
    // The client is there all the time, and reads and writes with its other session.
    eventually("the end of the session", async || {
        write(kv.as_ref(), "/b", "x").await.unwrap();
        other.read("/a/", DEADLINE).await.unwrap().keys.is_empty()
    })
    .await;
    assert!(sent.elapsed() >= ttl, "{:?}", sent.elapsed());
    let late = kv.txn(Txn { compare: vec![], then: vec![bound] }, DEADLINE).await;
    assert_eq!(late, Err(StoreError::LeaseGone));
    assert_eq!(kv.renew(lease, DEADLINE).await, Err(StoreError::LeaseGone));
}

/// A key that went and was made again has the version 0 that it had before.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_made_anew_is_another_one() {
    let server = Server::start("").await;
    let (one, other) = (client(&[&server.host]), client(&[&server.host]));
    let key = || "/service/demo/leader".to_owned();
    let bind = |lease| Op::Put { key: key(), value: "a".into(), lease: Some(lease) };
    let first = one.grant(Duration::from_secs(30), DEADLINE).await.unwrap();
    let TxnOutcome::Applied(before) =
        one.txn(Txn { compare: vec![], then: vec![bind(first)] }, DEADLINE).await.unwrap()
    else {
        panic!()
    };
    one.revoke(first, DEADLINE).await.unwrap();
    let second = other.grant(Duration::from_secs(30), DEADLINE).await.unwrap();
    other.txn(Txn { compare: vec![], then: vec![bind(second)] }, DEADLINE).await.unwrap();
    let old =
        Txn { compare: vec![Compare::Version { key: key(), version: before }], then: vec![Op::Delete { key: key() }] };
    assert_eq!(one.txn(old, DEADLINE).await, Ok(TxnOutcome::Conflict));
    assert_eq!(one.read("/service/", DEADLINE).await.unwrap().keys.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shorter_than_the_ttl_is_not_relied_on() {
    let server = Server::start("maxSessionTimeout=3000\n").await;
    let kv = client(&[&server.host]);
    let refused = kv.grant(Duration::from_secs(10), DEADLINE).await;
    let told = |text: &String| text.contains("maxSessionTimeout") && text.contains("3.0s") && text.contains("10.0s");
    assert!(matches!(&refused, Err(StoreError::Refused(text)) if told(text)), "{refused:?}");
    kv.grant(Duration::from_secs(2), DEADLINE).await.unwrap();
}
