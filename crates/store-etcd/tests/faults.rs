//! Members that die, freeze and come back.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{DEADLINE, EtcdServer, client, eventually, next, options, write};
use surus_core::BootTime;
use surus_store::cluster::{ClusterStore, TakeLead};
use surus_store::conformance::election::{self, Election};
use surus_store::{Compare, Follower, KeyValue, Kv, Layout, Op, StoreError, Txn, TxnOutcome, WatchEvent};
use surus_store_etcd::EtcdStore;

async fn three() -> Vec<EtcdServer> {
    let servers = EtcdServer::cluster(3, "http", &[]);
    for server in &servers {
        server.wait_ready().await;
    }
    servers
}

fn urls(servers: &[EtcdServer]) -> Vec<&str> {
    servers.iter().map(|s| s.url.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_member_costs_nothing() {
    let mut servers = three().await;
    // The one in use first, then, after it came back, each other one: one of them is etcd's leader.
    let kv = client(&urls(&servers));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    for (victim, server) in servers.iter_mut().enumerate() {
        server.kill();
        for i in 0..20 {
            let text = format!("{victim}/{i}");
            write(kv.as_ref(), "/x", &text).await.unwrap_or_else(|e| panic!("write {text}: {e}"));
            let read = kv.read("/x", DEADLINE).await.unwrap_or_else(|e| panic!("read {text}: {e}"));
            assert_eq!(read.keys[0].value, text.as_bytes());
            kv.renew(lease, DEADLINE).await.unwrap_or_else(|e| panic!("renewal {text}: {e}"));
        }
        server.restart();
        server.wait_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_costs_its_share_of_one_deadline() {
    let servers = three().await;
    let leader = leader(&servers).await;
    // Not the leader: what is measured is the client, and no election.
    let frozen = (leader + 1) % 3;
    let kv = client(&[frozen, leader, (leader + 2) % 3].map(|i| servers[i].url.as_str()));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    write(kv.as_ref(), "/x", "before").await.unwrap();
    let mut watch = kv.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    // The clients stay on the endpoint that answered last, here the first one.
    servers[frozen].freeze();
    let deadline = Duration::from_secs(9);
    let began = Instant::now();
    kv.renew(lease, deadline).await.unwrap();
    assert!(began.elapsed() < deadline, "took {:?}", began.elapsed());
    assert!(kv.health().summary.contains(&servers[frozen].url), "{:?}", kv.health());
    // From now on the frozen one is avoided.
    for i in 0..20 {
        write(kv.as_ref(), "/x", &i.to_string()).await.unwrap_or_else(|e| panic!("write {i}: {e}"));
    }
    // And the watch has left it as well, without waiting for its pings to fail.
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
    servers[frozen].wait_ready().await;
}

async fn leader(servers: &[EtcdServer]) -> usize {
    let mut leader = 0;
    for (i, server) in servers.iter().enumerate() {
        if counter(&server.url, "etcd_server_is_leader", "").await > 0.0 {
            leader = i;
        }
    }
    leader
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_confirmed_by_who_leads() {
    let servers = &three().await;
    election::a_renewal_is_confirmed_by_who_leads(async || {
        let old = leader(servers).await;
        let others = [1, 2].map(|n| servers[(old + n) % 3].url.as_str());
        Election {
            clients: (0..48).map(|_| client(&[&servers[old].url]) as Arc<dyn Kv>).collect(),
            others: client(&others),
            freeze: Box::new(move |frozen| if frozen { servers[old].freeze() } else { servers[old].thaw() }),
        }
    })
    .await;
}

/// A follower that was asked while it still waits for the frozen leader goes on waiting for it when there is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_as_soon_as_another_leader_is_elected() {
    let servers = three().await;
    let leader = leader(&servers).await;
    // A follower is the one in use, and the leader the last one to be asked.
    let order = [(leader + 1) % 3, (leader + 2) % 3, leader];
    let kv = client(&order.map(|i| servers[i].url.as_str()));
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    kv.renew(lease, DEADLINE).await.unwrap();
    servers[leader].freeze();
    let began = Instant::now();
    kv.renew(lease, DEADLINE).await.unwrap();
    let renewal = began.elapsed();
    // A member of etcd lets a request wait for 7 s.
    assert!(renewal < Duration::from_secs(6), "{renewal:?}");
    servers[leader].thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_write_to_a_frozen_member_is_not_repeated() {
    let servers = three().await;
    let leader = leader(&servers).await;
    // Not the leader: what is measured is the client, and no election.
    let frozen = (leader + 1) % 3;
    let kv = client(&[frozen, leader, (leader + 2) % 3].map(|i| servers[i].url.as_str()));
    write(kv.as_ref(), "/x", "1").await.unwrap();
    servers[frozen].freeze();
    let cas = Txn {
        compare: vec![Compare::Value { key: "/x".into(), value: "1".into() }],
        then: vec![Op::Put { key: "/x".into(), value: "2".into(), lease: None }],
    };
    let outcome = kv.txn(cas, Duration::from_secs(3)).await;
    assert!(
        matches!(&outcome, Err(StoreError::OutcomeUnknown(text)) if text.contains(&servers[frozen].url)),
        "{outcome:?}"
    );
    // Reading back goes to another member at once.
    let began = Instant::now();
    assert_eq!(kv.read("/x", DEADLINE).await.unwrap().keys.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    servers[frozen].thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_the_lead_survives_a_frozen_member() {
    let servers = three().await;
    let kv = client(&urls(&servers));
    let store = ClusterStore::new(kv, Layout::new("service", "demo", None), "a".into());
    store.open_session(Duration::from_secs(60), DEADLINE).await.unwrap();
    servers[0].freeze();
    assert!(matches!(store.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    servers[0].thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_end_with_their_deadline_and_recover_after() {
    let mut servers = three().await;
    let kv = client(&urls(&servers));
    write(kv.as_ref(), "/x", "1").await.unwrap();
    servers[1].kill();
    servers[2].kill();
    let deadline = Duration::from_secs(2);
    for _ in 0..3 {
        let began = Instant::now();
        let read = kv.read("/", deadline).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let written = kv.txn(common::put("/x", "2"), deadline).await;
        assert!(written.as_ref().is_err_and(StoreError::is_inaccessible), "{written:?}");
        assert!(began.elapsed() < deadline * 2 + Duration::from_secs(1), "{:?}", began.elapsed());
    }
    servers[1].restart();
    eventually("reads work again", async || kv.read("/", DEADLINE).await.is_ok()).await;
}

/// Its quota exceeded, etcd answers, renews and deletes, and refuses everything else, until an operator did what the error
/// says.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_refuses_writes_and_says_what_to_do() {
    let server = EtcdServer::start("http", &["--quota-backend-bytes", "2000000"]).await;
    let kv = client(&[&server.url]);
    let lease = kv.grant(Duration::from_secs(60), DEADLINE).await.unwrap();
    let bound = |key: &str| Txn {
        compare: vec![Compare::Absent { key: key.into() }],
        then: vec![Op::Put { key: key.into(), value: "a".into(), lease: Some(lease) }],
    };
    assert!(matches!(kv.txn(bound("/leader"), DEADLINE).await, Ok(TxnOutcome::Applied(_))));
    write(kv.as_ref(), "/x", "before").await.unwrap();
    assert_eq!(kv.complaint(DEADLINE).await, None);
    let large = "x".repeat(200_000);
    let full = loop {
        if let Err(e) = write(kv.as_ref(), "/large", &large).await {
            break e;
        }
    };
    let told = |e: &StoreError| {
        let StoreError::Refused(text) = e else { panic!("{e:?}") };
        text.contains(&server.url) && text.contains("NOSPACE") && text.contains("etcdctl alarm disarm")
    };
    assert!(told(&full), "{full}");
    eventually("the alarm is raised", async || kv.complaint(DEADLINE).await.is_some()).await;
    // What was refused had certainly no effect, guarded or not; nothing asks again for it until its deadline.
    let began = Instant::now();
    for refused in [kv.txn(bound("/other"), DEADLINE).await, write(kv.as_ref(), "/x", "after").await] {
        assert!(refused.as_ref().is_err_and(told), "{refused:?}");
    }
    let granted = kv.grant(Duration::from_secs(60), DEADLINE).await;
    assert!(granted.as_ref().is_err_and(told), "{granted:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(kv.read("/x", DEADLINE).await.unwrap().keys[0].value, b"before");
    kv.renew(lease, DEADLINE).await.unwrap();
    let delete = Txn { compare: vec![], then: vec![Op::Delete { key: "/large".into() }] };
    assert!(matches!(kv.txn(delete, DEADLINE).await, Ok(TxnOutcome::Applied(_))));
    let complaint = kv.complaint(DEADLINE).await.unwrap();
    assert!(complaint.starts_with("etcd answers, and refuses every write"), "{complaint}");
    assert!(kv.health().summary.ends_with(&complaint), "{:?}", kv.health());

    let mut operator = etcd_client::Client::connect([&server.url], None).await.unwrap();
    let revision = i64::try_from(kv.read("/x", DEADLINE).await.unwrap().revision).unwrap();
    operator.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await.unwrap();
    operator.defragment().await.unwrap();
    let kind = etcd_client::AlarmType::Nospace;
    let raised = operator.alarm(etcd_client::AlarmAction::Get, kind, None).await.unwrap();
    let mut whose = etcd_client::AlarmOptions::new();
    whose.with_member(raised.alarms()[0].member_id());
    operator.alarm(etcd_client::AlarmAction::Deactivate, kind, Some(whose)).await.unwrap();
    write(kv.as_ref(), "/x", "after").await.unwrap();
    assert_eq!(kv.complaint(DEADLINE).await, None);
    assert!(!kv.health().summary.contains("refuses"), "{:?}", kv.health());
    kv.revoke(lease, DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_a_restart_of_etcd() {
    let mut server = EtcdServer::start("http", &[]).await;
    let kv = client(&[&server.url]);
    let store = ClusterStore::new(kv.clone(), Layout::new("service", "demo", None), "a".into());
    let follower = Follower::start(&store);
    let mut state = follower.subscribe();
    state.wait_for(|f| f.is_current()).await.unwrap();
    server.kill();
    let broken = state.wait_for(|f| f.broken_since.is_some()).await.unwrap().clone();
    assert!(broken.view.is_some() && broken.confirmed_at > BootTime::default());
    assert!(broken.reason.as_ref().is_some_and(|r| r.contains(&server.url)), "{:?}", broken.reason);
    server.restart();
    server.wait_ready().await;
    let TxnOutcome::Applied(revision) = write(kv.as_ref(), "/service/demo/leader", "b").await.unwrap() else {
        panic!("not applied")
    };
    assert!(follower.wait_revision(revision, Duration::from_secs(30)).await);
    assert_eq!(follower.current().view.as_ref().unwrap().leader_name(), Some(&"b".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_does_without_a_history_that_was_compacted() {
    let server = EtcdServer::start("http", &[]).await;
    let kv = client(&[&server.url]);
    let compact = async || {
        let TxnOutcome::Applied(revision) = write(kv.as_ref(), "/x/last", "1").await.unwrap() else {
            panic!("refused")
        };
        let mut etcd = etcd_client::Client::connect([&server.url], None).await.unwrap();
        let physical = etcd_client::CompactionOptions::new().with_physical();
        etcd.compact(i64::try_from(revision).unwrap(), Some(physical)).await.unwrap();
    };
    let mut watch = kv.watch("/x/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    // Under a watch that is open, and before one that has to be opened again.
    compact().await;
    while !matches!(next(&mut watch).await, WatchEvent::Put(kv) if kv.key == "/x/last") {}
    server.freeze();
    eventually("the watch is broken", async || matches!(next(&mut watch).await, WatchEvent::Broken(_))).await;
    server.thaw();
    server.wait_ready().await;
    for n in 0..20 {
        write(kv.as_ref(), "/x/first", &n.to_string()).await.unwrap();
    }
    compact().await;
    let last = |kv: &KeyValue| kv.key == "/x/first" && kv.value == b"19";
    loop {
        match next(&mut watch).await {
            WatchEvent::Put(kv) if last(&kv) => break,
            WatchEvent::Restarted(all) if all.keys.iter().any(last) => break,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_start_before_etcd() {
    let mut server = EtcdServer::start("http", &[]).await;
    server.kill();
    let kv = client(&[&server.url]);
    let refused = kv.txn(common::put("/x", "1"), Duration::from_secs(1)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains(&server.url)), "{refused:?}");
    let mut watch = kv.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Broken(text) if text.contains(&server.url)));
    server.restart();
    eventually("writes work", async || write(kv.as_ref(), "/x", "1").await.is_ok()).await;
    loop {
        if let WatchEvent::Restarted(_) = next(&mut watch).await {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_members_are_learnt_from_the_one_configured() {
    let mut servers = three().await;
    let mut options = options(&[&servers[0].url]);
    options.discover_members = true;
    let kv = EtcdStore::connect(options).unwrap();
    kv.read("/", DEADLINE).await.unwrap();
    eventually("members are known", async || kv.health().summary.contains("3 endpoints")).await;
    servers[0].kill();
    write(&kv, "/x", "1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_notices_that_its_peer_froze_though_nothing_else_is_sent() {
    let server = EtcdServer::start("http", &[]).await;
    let kv = client(&[&server.url]);
    let mut watch = kv.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    server.freeze();
    assert!(matches!(next(&mut watch).await, WatchEvent::Broken(_)));
    server.thaw();
    loop {
        match next(&mut watch).await {
            WatchEvent::Restarted(_) => break,
            WatchEvent::Broken(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// etcd closes connections that ping too often for its taste.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_watch_is_left_alone() {
    let server = EtcdServer::start("http", &[]).await;
    let kv = client(&[&server.url]);
    let mut watch = kv.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    let heard = tokio::time::timeout(Duration::from_secs(28), watch.events.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
    write(kv.as_ref(), "/x", "1").await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
}

/// Sum of a counter over all its labels that contain `label`.
async fn counter(url: &str, name: &str, label: &str) -> f64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let named = |l: &&str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let lines = text.lines().filter(named).filter(|l| l.contains(label));
    lines.map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_sent_but_the_renewals() {
    let server = EtcdServer::start("http", &[]).await;
    let kv = client(&[&server.url]);
    let store = ClusterStore::new(kv, Layout::new("service", "demo", None), "a".into());
    store.open_session(Duration::from_secs(60), DEADLINE).await.unwrap();
    let follower = Follower::start(&store);
    follower.subscribe().wait_for(|f| f.is_current()).await.unwrap();
    store.renew_session(DEADLINE).await.unwrap();
    let calls = counter(&server.url, "grpc_server_started_total", "").await;
    let messages = counter(&server.url, "grpc_server_msg_received_total", "").await;
    assert!(calls > 0.0);
    let mut slow = false;
    for _ in 0..5 {
        let began = Instant::now();
        store.renew_session(DEADLINE).await.unwrap();
        slow |= began.elapsed() > surus_store::confirmed::QUICK;
    }
    let calls = counter(&server.url, "grpc_server_started_total", "").await - calls;
    let renewals = counter(&server.url, "grpc_server_msg_received_total", "").await - messages;
    // One that took long is followed by a reading and by another renewal.
    let more = slow && calls > 0.0 && renewals > 5.0;
    assert!(more || (calls, renewals) == (0.0, 5.0), "{calls} new calls, {renewals} messages for five renewals");
}
