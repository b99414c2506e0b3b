//! A member made up for tests: what it published, and a small store in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use surus_api::{Client, ClientOptions};
use surus_config::{HostPort, RestApi};
use surus_core::cluster::{MemberRole, MemberState, Tags};
use surus_core::postgres::{Observed, WalReceiver, WalSender};
use surus_core::settings::ClusterSettings;
use surus_core::{BootTime, Lsn, SystemId, Timeline};
use surus_store::cluster::ClusterStore;
use surus_store::layout::Layout;
use surus_store::{Compare, Fut, Health, Kv, LeaseId, MemoryStore, Op, Snapshot, StoreResult, Txn, TxnOutcome, Watch};
use tokio::sync::{mpsc, oneshot, watch};
use tower::ServiceExt;

use super::access::Peer;
use super::app::{App, Policy};
use super::limits::Limits;
use super::options::RestOptions;
use super::router::router;
use crate::handle::{AgentHandle, Counters, Published, Reply, Request as Ask};

pub const NOW: BootTime = BootTime::from_millis(1_000_000);

pub fn rest_api() -> RestApi {
    let listen = HostPort { host: "127.0.0.1".into(), port: 0 };
    RestApi {
        connect_address: listen.clone(),
        listen,
        authentication: None,
        tls: None,
        allowlist: vec![],
        allowlist_include_members: false,
        allow_unauthenticated: false,
        http_extra_headers: BTreeMap::new(),
        https_extra_headers: BTreeMap::new(),
        server_tokens: surus_config::ServerTokens::default(),
    }
}

pub fn options(api: RestApi) -> RestOptions {
    RestOptions::new(api, Client::new(&ClientOptions { insecure: true, ..ClientOptions::default() }).unwrap())
}

pub fn primary() -> Observed {
    Observed {
        at: NOW,
        server_version: 150_004,
        postmaster_start_time: "2026-07-24 10:00:00.123456+00:00".into(),
        in_recovery: false,
        timeline: Some(Timeline(2)),
        flush_lsn: Lsn(5000),
        flush_waiters: 0,
        receive_lsn: Lsn::INVALID,
        replay_lsn: Lsn::INVALID,
        replay_timestamp: None,
        replay_timeline: None,
        replay_paused: false,
        receiver: None,
        senders: vec![WalSender {
            pid: 7,
            user: Some("replicator".into()),
            application_name: "node2".into(),
            client_addr: None,
            state: "streaming".into(),
            sync_state: "async".into(),
            sync_priority: 0,
            sent_lsn: None,
            write_lsn: None,
            flush_lsn: None,
            replay_lsn: None,
        }],
        slots: vec![],
        primary_conninfo: None,
        primary_slot_name: None,
        restore_command: None,
        synchronous_standby_names: String::new(),
        synchronous_commit: String::new(),
        pending_restart: BTreeMap::new(),
    }
}

pub fn replica() -> Observed {
    Observed {
        in_recovery: true,
        flush_lsn: Lsn::INVALID,
        receive_lsn: Lsn(4900),
        replay_lsn: Lsn(4800),
        replay_timestamp: Some("2026-07-24 11:00:00+02:00".into()),
        receiver: Some(WalReceiver {
            status: "streaming".into(),
            received_timeline: Some(Timeline(2)),
            sender_host: None,
            sender_port: None,
            slot_name: None,
            latest_end_lsn: None,
        }),
        senders: vec![],
        ..primary()
    }
}

/// A running member `node1` with the lead in a cluster of two, its view of the store current.
pub fn published() -> Published {
    Published {
        at: NOW,
        name: "node1".into(),
        scope: "demo".into(),
        state: MemberState::Running,
        role: MemberRole::Primary,
        system_id: SystemId::parse("7277694203142172922"),
        tags: Tags::default(),
        observed: Some(Arc::new(primary())),
        settings: Arc::new(ClusterSettings::default()),
        view: None,
        store_last_seen: 1_721_815_200,
        lease_until: Some(NOW + Duration::from_secs(20)),
        failsafe: crate::failsafe::Failsafe::of("node1"),
        fence: Default::default(),
        watchdog: Default::default(),
        stalls: Default::default(),
        wal: Default::default(),
        losses: Default::default(),
        forked: None,
        wanting: Default::default(),
        pending_restart: BTreeMap::new(),
        scheduled_restart: None,
        progress: None,
        task: None,
        next_step: NOW + Duration::from_secs(10),
        decisions: Arc::new(vec![]),
        store: Health { kind: "embedded", summary: "three of three voters".into() },
        counters: Counters::default(),
        measures: Arc::default(),
    }
}

pub struct Fake {
    pub handle: AgentHandle,
    pub published: Arc<ArcSwap<Published>>,
    pub changed: watch::Sender<u64>,
    pub requests: mpsc::Receiver<(Ask, oneshot::Sender<Reply>)>,
    /// Counts the looks at PostgreSQL.
    pub observed: watch::Receiver<u64>,
    pub kv: Arc<FakeKv>,
}

impl Fake {
    /// The keys are in the store and in the published view.
    pub async fn new(published: Published, keys: &[(&str, &str)]) -> Fake {
        let kv = Arc::new(FakeKv::new());
        let store = Arc::new(ClusterStore::new(kv.clone(), Layout::new("service", "demo", None), "node1".into()));
        for (key, value) in keys {
            store.put(key, (*value).to_owned(), Duration::from_secs(1)).await.unwrap();
        }
        let published = Arc::new(ArcSwap::from_pointee(published));
        let (changed, changes) = watch::channel(0);
        let (ask, requests) = mpsc::channel(16);
        let live = published.clone();
        let (looks, observed) = watch::channel(0);
        let handle = AgentHandle {
            published: published.clone(),
            changed: changes,
            requests: ask,
            observe: Arc::new(move || {
                looks.send_modify(|n| *n += 1);
                let observed = live.load().observed.clone();
                Box::pin(async move { observed })
            }),
            store,
            journal: None,
            loss: "/nowhere/data.surus.loss".into(),
            migrator: None,
            now: || NOW,
        };
        let fake = Fake { handle, published, changed, requests, observed, kv };
        fake.refresh().await;
        fake
    }

    /// The agent reads the store and publishes.
    pub async fn refresh(&self) {
        let view = self.handle.store.read(Duration::from_secs(1)).await.unwrap();
        let view = Some((Arc::new(view), NOW));
        self.published.rcu(|p| Published { view: view.clone(), ..(**p).clone() });
        self.changed.send_modify(|n| *n += 1);
    }

    pub async fn put(&self, key: &str, value: &str) {
        self.handle.store.put(key, value.to_owned(), Duration::from_secs(1)).await.unwrap();
    }

    pub async fn value(&self, key: &str) -> Option<Value> {
        let full = self.handle.store.layout().key(key);
        let snapshot = self.kv.read(&full, Duration::from_secs(1)).await.unwrap();
        serde_json::from_slice(&snapshot.keys.first()?.value).ok()
    }

    pub async fn router(&self) -> Router {
        let policy = Arc::new(ArcSwap::from_pointee(Policy::new(&options(rest_api()), None).await.unwrap()));
        let app = App { handle: self.handle.clone(), policy, limits: Limits::default() };
        router(Arc::new(ArcSwap::from_pointee(app)))
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        send(self.router().await, method, path, body).await
    }
}

pub async fn send(router: Router, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(body) = body {
        request = request.header("Content-Length", body.len());
    }
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let request = request.extension(Peer { address: here, reached: here, certificate: false });
    let request = request.body(Body::from(body.unwrap_or_default().to_owned())).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

pub fn member(name: &str, api_url: Option<&str>, role: &str) -> (String, String) {
    let value = json!({
        "conn_url": format!("postgres://{name}:5432/postgres"), "api_url": api_url,
        "state": "running", "role": role, "version": "4.1.5", "timeline": 2,
    });
    (format!("members/{name}"), value.to_string())
}

/// The store in memory; what it lacks is another client that is always faster.
pub struct FakeKv {
    store: MemoryStore,
    pub conflict: AtomicBool,
}

impl FakeKv {
    fn new() -> FakeKv {
        FakeKv { store: MemoryStore::manual(), conflict: AtomicBool::new(false) }
    }

    /// No request comes through any more.
    pub fn cut(&self) {
        self.store.faults().cut();
    }
}

impl Kv for FakeKv {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        self.store.read(prefix, deadline)
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(async move {
            if self.conflict.load(Ordering::Relaxed) {
                for compare in &txn.compare {
                    let (Compare::Absent { key } | Compare::Version { key, .. } | Compare::Value { key, .. }) = compare;
                    let known = self.store.read(key, deadline).await?.keys.into_iter().find(|kv| kv.key == *key);
                    let value = known.map(|kv| kv.value).unwrap_or_default();
                    let put = Op::Put { key: key.clone(), value, lease: None };
                    self.store.txn(Txn { compare: vec![], then: vec![put] }, deadline).await?;
                }
            }
            self.store.txn(txn, deadline).await
        })
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        self.store.grant(ttl, deadline)
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        self.store.renew(lease, deadline)
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        self.store.revoke(lease, deadline)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.store.watch(prefix)
    }

    fn health(&self) -> Health {
        self.store.health()
    }
}
