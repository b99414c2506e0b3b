//! Servers that die, freeze and come back, and sessions that end.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{ConsulServer, DEADLINE, client, eventually, get, next, options, request, write};
use surus_core::BootTime;
use surus_store::cluster::{ClusterStore, TakeLead};
use surus_store::conformance::election::{self, Election};
use surus_store::{Compare, Follower, Kv, Layout, Op, StoreError, Txn, TxnOutcome, WatchEvent};
use surus_store_consul::{Consistency, ConsulStore};

async fn three() -> Vec<ConsulServer> {
    let servers = ConsulServer::cluster(3, &[]);
    for server in &servers {
        server.wait_ready().await;
    }
    servers
}

fn urls(servers: &[ConsulServer]) -> Vec<&str> {
    servers.iter().map(|s| s.url.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_no_more_than_an_election() {
    let mut servers = three().await;
    let kv = client(&urls(&servers));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    // Consul's leader first, then the one in use, which is another one then.
    for _ in 0..2 {
        let leader = ConsulServer::leader(&servers).await;
        servers[leader].kill();
        // Whoever hears of an election says so, or does not know what became of the write; nobody hangs.
        eventually("writes go on", async || write(kv.as_ref(), "/x", "1").await.is_ok()).await;
        for i in 0..20 {
            let text = format!("{leader}/{i}");
            write(kv.as_ref(), "/x", &text).await.unwrap_or_else(|e| panic!("write {text}: {e}"));
            let read = kv.read("/x", DEADLINE).await.unwrap_or_else(|e| panic!("read {text}: {e}"));
            assert_eq!(read.keys[0].value, text.as_bytes());
            kv.renew(lease, DEADLINE).await.unwrap_or_else(|e| panic!("renewal {text}: {e}"));
        }
        servers[leader].restart();
        servers[leader].wait_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_costs_its_share_of_one_deadline() {
    let servers = three().await;
    let leader = ConsulServer::leader(&servers).await;
    // Not the leader: what is measured is the client.
    let frozen = (leader + 1) % 3;
    let order = [frozen, leader, (leader + 2) % 3];
    let kv = client(&order.map(|i| servers[i].url.as_str()));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    write(kv.as_ref(), "/x", "before").await.unwrap();
    let mut watch = kv.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    servers[frozen].freeze();
    let began = Instant::now();
    kv.renew(lease, Duration::from_secs(9)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "took {:?}", began.elapsed());
    assert!(kv.health().summary.contains(&servers[frozen].url), "{:?}", kv.health());
    for i in 0..20 {
        write(kv.as_ref(), "/x", &i.to_string()).await.unwrap_or_else(|e| panic!("write {i}: {e}"));
    }
    // The watch has left it as well, without waiting until its own time is up.
    let began = Instant::now();
    let newest = loop {
        match next(&mut watch).await {
            WatchEvent::Put(kv) => break kv.value,
            WatchEvent::Restarted(snapshot) => break snapshot.keys[0].value.clone(),
            _ => {}
        }
    };
    assert_ne!(newest, b"before");
    assert!(began.elapsed() < Duration::from_secs(5), "the watch took {:?}", began.elapsed());
    servers[frozen].thaw();
}

/// A server that was asked while it still waits for the frozen leader goes on waiting for it when there is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renewed_as_soon_as_another_leader_is_elected() {
    let servers = three().await;
    let leader = ConsulServer::leader(&servers).await;
    // As with an agent on each machine: only one address, and that is not the leader's.
    let kv = client(&[&servers[(leader + 1) % 3].url]);
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    servers[leader].freeze();
    let began = Instant::now();
    kv.renew(lease, Duration::from_secs(20)).await.unwrap();
    let renewal = began.elapsed();
    assert!(renewal < Duration::from_secs(10), "{renewal:?}");
    servers[leader].thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_confirmed_by_who_leads() {
    let servers = &three().await;
    election::a_renewal_is_confirmed_by_who_leads(async || {
        let old = ConsulServer::leader(servers).await;
        let others = [1, 2].map(|n| servers[(old + n) % 3].url.as_str());
        Election {
            clients: (0..48).map(|_| client(&[&servers[old].url]) as Arc<dyn Kv>).collect(),
            others: client(&others),
            freeze: Box::new(move |frozen| if frozen { servers[old].freeze() } else { servers[old].thaw() }),
        }
    })
    .await;
}

/// An agent that says yes to everything but a reading that needs a majority is not believed, and another one is asked both.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_asked_of_the_agent_that_answered_the_reading() {
    let deposed = pretended(500).await;
    let kv = client(&[&deposed.0]);
    let lease = kv.grant(Duration::from_secs(30), DEADLINE).await.unwrap();
    let renewed = kv.renew(lease, Duration::from_secs(1)).await;
    assert!(matches!(renewed, Err(StoreError::Unavailable(_))), "{renewed:?}");
    let leading = pretended(200).await;
    let kv = client(&[&deposed.0, &leading.0]);
    let lease = kv.grant(Duration::from_secs(30), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    let renewals = |agent: &Pretended| agent.1.lock().unwrap().iter().filter(|path| path.contains("/renew/")).count();
    assert_eq!((renewals(&deposed), renewals(&leading)), (0, 1), "{:?}", leading.1.lock().unwrap());
}

type Pretended = (String, Arc<std::sync::Mutex<Vec<String>>>);

/// Says this to readings and 200 to all else; with what it was asked.
async fn pretended(readings: u16) -> Pretended {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asked = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let paths = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            let n = client.read(&mut bytes).await.unwrap();
            let line = String::from_utf8_lossy(&bytes[..n]).lines().next().unwrap_or_default().to_owned();
            let body = if line.contains("/create") { r#"{"ID":"e9f1a796-bca9-7a24-8216-f215450fd698"}"# } else { "[]" };
            let status = if line.starts_with("GET") { readings } else { 200 };
            paths.lock().unwrap().push(line);
            let head = format!("HTTP/1.1 {status} .\r\nX-Consul-Index: 7\r\nConnection: close\r\n");
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_frozen_server_is_not_repeated() {
    let servers = three().await;
    let leader = ConsulServer::leader(&servers).await;
    let order = [leader, (leader + 1) % 3, (leader + 2) % 3];
    let kv = client(&order.map(|i| servers[i].url.as_str()));
    write(kv.as_ref(), "/x", "1").await.unwrap();
    let holds = Compare::Value { key: "/x".into(), value: "1".into() };
    kv.txn(Txn { compare: vec![holds.clone()], then: vec![] }, DEADLINE).await.unwrap();
    servers[leader].freeze();
    let put = Op::Put { key: "/x".into(), value: "2".into(), lease: None };
    let outcome = kv.txn(Txn { compare: vec![holds], then: vec![put] }, Duration::from_secs(3)).await;
    let url = &servers[leader].url;
    assert!(matches!(&outcome, Err(StoreError::OutcomeUnknown(text)) if text.contains(url)), "{outcome:?}");
    servers[leader].thaw();
    eventually("reads work again", async || kv.read("/x", DEADLINE).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_end_with_their_deadline_and_recover_after() {
    let mut servers = three().await;
    let kv = client(&urls(&servers));
    write(kv.as_ref(), "/x", "1").await.unwrap();
    let leader = ConsulServer::leader(&servers).await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    servers[one].kill();
    servers[other].kill();
    let deadline = Duration::from_secs(2);
    for _ in 0..3 {
        let began = Instant::now();
        let read = kv.read("/", deadline).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let written = kv.txn(common::put("/x", "2"), deadline).await;
        assert!(written.as_ref().is_err_and(StoreError::is_inaccessible), "{written:?}");
        assert!(began.elapsed() < deadline * 2 + Duration::from_secs(1), "{:?}", began.elapsed());
    }
    servers[one].restart();
    eventually("reads work again", async || kv.read("/", DEADLINE).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_in_every_trouble() {
    let mut server = ConsulServer::start().await;
    let kv = client(&[&server.url]);
    let store = ClusterStore::new(kv.clone(), Layout::new("service", "demo", None), "a".into());
    store.open_session(Duration::from_secs(60), DEADLINE).await.unwrap();
    assert!(matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    let follower = Follower::start(&store);
    let mut state = follower.subscribe();
    state.wait_for(|f| f.is_current()).await.unwrap();

    // Killed: the watch says so, and goes on where it was.
    server.kill();
    let broken = state.wait_for(|f| f.broken_since.is_some()).await.unwrap().clone();
    assert!(broken.view.is_some() && broken.confirmed_at > BootTime::default());
    assert!(broken.reason.as_ref().is_some_and(|r| r.contains(&server.url)), "{:?}", broken.reason);
    let refused = kv.txn(common::put("/x", "1"), Duration::from_secs(1)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains(&server.url)), "{refused:?}");
    server.restart();
    server.wait_ready().await;
    state.wait_for(|f| f.is_current()).await.unwrap();
    store.renew_session(DEADLINE).await.unwrap();

    // Frozen: a renewal that is not answered tells the watch.
    server.freeze();
    let renewed = store.renew_session(Duration::from_secs(1)).await;
    assert!(matches!(&renewed, Err(StoreError::Unavailable(text)) if text.contains(&server.url)), "{renewed:?}");
    state.wait_for(|f| f.broken_since.is_some()).await.unwrap();
    server.thaw();
    state.wait_for(|f| f.is_current()).await.unwrap();

    // An operator ends the session: everything that hangs on it is told.
    let sessions = get(&server.url, "/v1/session/list").await;
    let id = sessions.split("\"ID\":\"").nth(1).unwrap().split('"').next().unwrap();
    request(&server.url, "PUT", &format!("/v1/session/destroy/{id}"), &[], "").await;
    state.wait_for(|f| f.view.as_ref().is_some_and(|v| v.leader.is_none())).await.unwrap();
    assert_eq!(store.write_member("{}".into(), DEADLINE).await, Err(StoreError::LeaseGone));
    assert_eq!(store.renew_session(DEADLINE).await, Err(StoreError::LeaseGone));
    store.open_session(Duration::from_secs(60), DEADLINE).await.unwrap();
    assert!(matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_below_the_least_is_the_least() {
    let server = ConsulServer::with(&[r#"{"session_ttl_min": "3s"}"#]).await;
    let kv = client(&[&server.url]);
    let lease = kv.grant(Duration::from_secs(2), DEADLINE).await.unwrap();
    let list = get(&server.url, "/v1/session/list").await;
    assert!(list.contains("\"TTL\":\"3000ms\""), "{list}");
    let put = Op::Put { key: "/x".into(), value: "1".into(), lease: Some(lease) };
    kv.txn(Txn { compare: vec![], then: vec![put] }, DEADLINE).await.unwrap();
    let began = Instant::now();
    kv.renew(lease, DEADLINE).await.unwrap();
    eventually("the session ends", async || kv.read("/x", DEADLINE).await.unwrap().keys.is_empty()).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let text = format!("{:?}", kv.grant(Duration::from_secs(400_000), DEADLINE).await);
    assert!(text.contains("Consul ends sessions after 172800s"), "{text}");
}

/// What other clients of Consul write: without a session, with one of their own, and by their own rules.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_other_clients() {
    let server = ConsulServer::start().await;
    let kv = client(&[&server.url]);
    let store = ClusterStore::new(kv.clone(), Layout::new("service", "demo", None), "a".into());
    store.open_session(Duration::from_secs(60), DEADLINE).await.unwrap();
    let put = async |path: &str, value: &str| request(&server.url, "PUT", path, &[], value).await.trim().to_owned();
    let body = r#"{"Name":"demo-b","Behavior":"delete","LockDelay":"1ms","TTL":"30s","Checks":[]}"#;
    let created = put("/v1/session/create", body).await;
    let theirs = created.split('"').nth(3).unwrap().to_owned();
    let acquire = format!("/v1/kv/service/demo/leader?acquire={theirs}");

    // Theirs first: not ours to take, and at once ours when they give it up or end.
    assert_eq!(put(&acquire, "b").await, "true");
    assert_eq!(store.take_lead(DEADLINE).await, Ok(TakeLead::Lost));
    let view = store.read(DEADLINE).await.unwrap();
    assert_eq!(view.leader_name(), Some(&"b".into()));
    assert!(view.leader.as_ref().unwrap().lease.is_some());
    request(&server.url, "DELETE", "/v1/kv/service/demo/leader", &[], "").await;
    assert!(matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));

    // Ours: their lock is refused until we release.
    assert_eq!(put(&acquire, "b").await, "false");
    store.release_lead(None, DEADLINE).await.unwrap();
    assert_eq!(put(&acquire, "b").await, "true");
    put(&format!("/v1/session/destroy/{theirs}"), "").await;
    eventually("it is free", async || matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_)))).await;

    // One with our name and an older session, or none at all, becomes this session's.
    let mine = store.lease();
    for leftover in ["/v1/kv/service/demo/leader", "/v1/kv/service/demo/members/a"] {
        request(&server.url, "DELETE", leftover, &[], "").await;
        assert_eq!(put(leftover, "a").await, "true");
    }
    assert!(matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    store.write_member("{}".into(), DEADLINE).await.unwrap();
    let keys = kv.read("/service/demo/", DEADLINE).await.unwrap().keys;
    assert!(keys.iter().all(|key| key.lease == mine), "{keys:?}");
    // A value that was compared before is compared anew after somebody else wrote it.
    assert!(matches!(store.write_as_leader("status", "1".into(), DEADLINE).await, Ok(TxnOutcome::Applied(_))));
    assert_eq!(put("/v1/kv/service/demo/leader", "b").await, "true");
    assert_eq!(store.write_as_leader("status", "2".into(), DEADLINE).await, Ok(TxnOutcome::Conflict));
    assert_eq!(put("/v1/kv/service/demo/leader", "a").await, "true");
    assert!(matches!(store.write_as_leader("status", "3".into(), DEADLINE).await, Ok(TxnOutcome::Applied(_))));
}

/// Passes connections on and counts the requests in them.
async fn counted(url: &str) -> (String, Arc<std::sync::atomic::AtomicU64>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let count = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let (to, counter) = (url.split_once("://").unwrap().1.to_owned(), count.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (to, counter) = (to.clone(), counter.clone());
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = tokio::net::TcpStream::connect(to).await.unwrap().into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                let mut bytes = [0; 65536];
                while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                    let requests = bytes[..n].windows(11).filter(|w| w == b" HTTP/1.1\r\n").count();
                    counter.fetch_add(requests as u64, std::sync::atomic::Ordering::Relaxed);
                    to_server.write_all(&bytes[..n]).await.unwrap();
                }
            });
        }
    });
    (proxy, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_only_the_session_and_one_waiting_reading() {
    let server = ConsulServer::start().await;
    let (proxy, count) = counted(&server.url).await;
    let sent = || count.load(std::sync::atomic::Ordering::Relaxed);
    let mut asked = options(&[&proxy]);
    asked.consistency = Consistency::Stale;
    let kv = Arc::new(ConsulStore::connect(asked).unwrap());
    let store = ClusterStore::new(kv, Layout::new("service", "demo", None), "a".into());
    store.open_session(Duration::from_secs(60), DEADLINE).await.unwrap();
    store.write_member("{}".into(), DEADLINE).await.unwrap();
    let follower = Follower::start(&store);
    follower.subscribe().wait_for(|f| f.is_current()).await.unwrap();
    // The first waiting reading is under way when the first renewal has been answered.
    store.renew_session(DEADLINE).await.unwrap();
    let before = sent();
    let mut slow = false;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let began = Instant::now();
        store.renew_session(DEADLINE).await.unwrap();
        slow |= began.elapsed() > surus_store::confirmed::QUICK;
    }
    // A reading and a renewal each, both once more after one that took long; the reading that waits does so for 30 s.
    let sent = sent() - before;
    assert!(sent == 24 || slow && sent > 24, "{sent}");
    assert!(follower.current().is_current());
}
