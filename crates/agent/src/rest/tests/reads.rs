use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use surus_core::cluster::{MemberRole, MemberState, PendingRestart, ScheduledRestart, Tags};
use surus_core::settings::{ClusterSettings, SynchronousMode};
use surus_core::{BootTime, Lsn};
use tower::ServiceExt;

use super::super::access::Peer;
use super::super::limits;
use super::super::testing::{Fake, NOW, published, replica};
use crate::handle::{Published, Reply, Request as Ask};

const LEADER: (&str, &str) = ("leader", "node1");
const OTHER_LEADER: (&str, &str) = ("leader", "node2");
const SYNC: (&str, &str) = ("sync", r#"{"leader":"node2","sync_standby":"NODE1","quorum":0}"#);
const STATUS: (&str, &str) = ("status", r#"{"optime":5000}"#);

fn standby() -> Published {
    Published { role: MemberRole::Replica, observed: Some(Arc::new(replica())), lease_until: None, ..published() }
}

fn with(mut published: Published, change: impl FnOnce(&mut Published)) -> Published {
    change(&mut published);
    published
}

fn tags(tags: Value) -> Tags {
    Tags(tags.as_object().cloned().unwrap())
}

fn settings(change: impl FnOnce(&mut ClusterSettings)) -> Arc<ClusterSettings> {
    let mut settings = ClusterSettings::default();
    change(&mut settings);
    Arc::new(settings)
}

async fn passing(fake: &Fake, paths: &[&str]) -> Vec<String> {
    let mut passing = Vec::new();
    for path in paths {
        let (code, body) = fake.send("GET", path, None).await;
        assert!(code == 200 || code == 503, "{path}: {code}");
        if !path.starts_with("/liveness") && !path.starts_with("/readiness") {
            assert!(body.starts_with(r#"{"state": "#), "{path}: {body}");
        }
        if code == 200 {
            passing.push((*path).to_owned());
        }
        for method in ["HEAD", "OPTIONS"] {
            assert_eq!(fake.send(method, path, None).await.0, code, "{method} {path}");
        }
    }
    passing
}

/// Every check that exists, against every state it distinguishes.
#[tokio::test]
async fn health_checks_by_state() {
    const PATHS: [&str; 22] = [
        "/",
        "/primary",
        "/master",
        "/read-write",
        "/leader",
        "/standby-leader",
        "/standby_leader",
        "/replica",
        "/read-only",
        "/sync",
        "/synchronous",
        "/read-only-sync",
        "/quorum",
        "/read-only-quorum",
        "/async",
        "/asynchronous",
        "/health",
        "/liveness",
        "/readiness",
        "/nonexistent",
        "/restart",
        "/sync/",
    ];
    let leads = "/ /primary /master /read-write /leader";
    let any_leader = "/read-only /read-only-sync /read-only-quorum";
    let sync = settings(|s| s.synchronous_mode = SynchronousMode::On);
    let quorum = settings(|s| s.synchronous_mode = SynchronousMode::Quorum);
    let standby_cluster = settings(|s| s.standby_cluster = true);
    let paused = settings(|s| s.pause = true);
    let store_lost = |p: Published| with(p, |p| p.store_last_seen = -1);
    type Keys<'a> = &'a [(&'a str, &'a str)];
    let cases: Vec<(&str, Published, Keys<'_>, String)> = vec![
        ("primary", published(), &[LEADER, STATUS], format!("{leads} {any_leader} /health /liveness /readiness")),
        (
            "holds the lead, not promoted yet",
            with(standby(), |p| p.lease_until = published().lease_until),
            &[LEADER, STATUS],
            format!("{leads} /replica {any_leader} /async /asynchronous /health /liveness /readiness"),
        ),
        (
            "primary whose lease is over",
            with(published(), |p| p.lease_until = Some(NOW)),
            &[LEADER, STATUS],
            "/health /liveness".into(),
        ),
        (
            "replica",
            standby(),
            &[OTHER_LEADER, STATUS],
            "/replica /read-only /async /asynchronous /health /liveness /readiness".into(),
        ),
        (
            "synchronous standby",
            with(standby(), |p| p.settings = sync.clone()),
            &[OTHER_LEADER, STATUS, SYNC],
            "/replica /read-only /sync /synchronous /read-only-sync /health /liveness /readiness".into(),
        ),
        (
            "not listed in synchronous mode",
            with(standby(), |p| p.settings = sync),
            &[OTHER_LEADER, STATUS],
            "/replica /read-only /async /asynchronous /health /liveness /readiness".into(),
        ),
        (
            "quorum standby",
            with(standby(), |p| p.settings = quorum),
            &[OTHER_LEADER, STATUS, SYNC],
            "/replica /read-only /quorum /read-only-quorum /health /liveness /readiness".into(),
        ),
        (
            "no load balancing",
            with(standby(), |p| p.tags = tags(json!({"noloadbalance": true}))),
            &[OTHER_LEADER, STATUS],
            "/health /liveness /readiness".into(),
        ),
        (
            "not streaming",
            with(standby(), |p| {
                let mut observed = replica();
                observed.receiver = None;
                p.observed = Some(Arc::new(observed));
            }),
            &[OTHER_LEADER, STATUS],
            "/replica /read-only /async /asynchronous /health /liveness".into(),
        ),
        (
            "standby cluster's leader",
            with(standby(), |p| {
                p.role = MemberRole::StandbyLeader;
                p.settings = standby_cluster.clone();
                p.lease_until = published().lease_until;
            }),
            &[LEADER, STATUS],
            format!("/leader /standby-leader /standby_leader {any_leader} /health /liveness /readiness"),
        ),
        (
            "PostgreSQL does not answer",
            with(published(), |p| {
                p.observed = None;
                p.lease_until = None;
            }),
            &[LEADER, STATUS],
            "/liveness".into(),
        ),
        (
            "PostgreSQL is stopped",
            with(standby(), |p| p.state = MemberState::Stopped),
            &[OTHER_LEADER, STATUS],
            "/liveness".into(),
        ),
        (
            "replica without a view of the store",
            store_lost(standby()),
            &[OTHER_LEADER, STATUS],
            "/replica /read-only /health /liveness".into(),
        ),
        (
            "primary in pause without a view of the store",
            store_lost(with(published(), |p| {
                p.lease_until = None;
                p.settings = paused.clone();
            })),
            &[LEADER, STATUS],
            format!("{leads} /read-only /health /liveness"),
        ),
        (
            "primary whose loop is late by less than a lease",
            with(published(), |p| p.next_step = NOW - Duration::from_secs(29)),
            &[LEADER],
            format!("{leads} {any_leader} /health /liveness /readiness"),
        ),
        (
            "primary whose loop stands still",
            with(published(), |p| {
                p.next_step = NOW - Duration::from_secs(31);
                p.lease_until = None;
            }),
            &[LEADER],
            "/health".into(),
        ),
        (
            "replica whose loop is as late",
            with(standby(), |p| p.next_step = NOW - Duration::from_secs(31)),
            &[OTHER_LEADER],
            "/replica /read-only /async /asynchronous /health /liveness /readiness".into(),
        ),
    ];
    for (name, state, keys, want) in cases {
        let lost = state.store_last_seen == -1;
        let fake = Fake::new(state, keys).await;
        if lost {
            fake.published
                .rcu(|p| Published { view: p.view.clone().map(|(v, _)| (v, BootTime::default())), ..(**p).clone() });
        }
        let mut got = passing(&fake, &PATHS).await;
        let mut want: Vec<String> = want.split(' ').map(str::to_owned).collect();
        got.sort();
        want.sort();
        assert_eq!(got, want, "{name}");
    }
}

#[tokio::test]
async fn health_checks_by_parameters() {
    let state = with(standby(), |p| p.tags = tags(json!({"zone": "a", "fast": true, "nofailover": false})));
    let fake = Fake::new(state, &[OTHER_LEADER, STATUS]).await;
    for (path, want) in [
        ("/replica?lag=200", 200),
        ("/replica?lag=199", 503),
        ("/replica?lag=nonsense", 200),
        ("/read-only?lag=10kB", 200),
        ("/async?lag=1", 503),
        ("/replica?tag_zone=a&tag_fast=true", 200),
        ("/replica?tag_zone=b", 503),
        ("/health?tag_nofailover=false", 503),
        ("/replica?replication_state=streaming", 200),
        ("/replica?replication_state=in+archive+recovery", 503),
        ("/readiness?lag=199", 503),
        ("/readiness?lag=199&mode=write", 200),
        ("/readiness?lag=99&mode=write", 503),
        ("//replica", 200),
        ("/patroni/x?y", 200),
    ] {
        assert_eq!(fake.send("GET", path, None).await.0, want, "{path}");
    }
}

#[tokio::test]
async fn status_of_a_primary_and_of_a_replica() {
    let state = with(published(), |p| {
        p.pending_restart = BTreeMap::from([(
            "max_connections".into(),
            PendingRestart { old_value: "100".into(), new_value: "200".into() },
        )]);
        p.scheduled_restart = Some(ScheduledRestart {
            schedule: "2030-01-01T00:00:00+00:00".into(),
            postmaster_start_time: Some("x".into()),
            filters: json!({"role": "primary"}).as_object().cloned().unwrap(),
        });
        p.settings = settings(|s| s.pause = true);
        p.tags = tags(json!({"nofailover": false, "zone": "a"}));
    });
    let fake = Fake::new(state, &[LEADER, STATUS]).await;
    let (code, body) = fake.send("GET", "/patroni", None).await;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(code, 200);
    assert_eq!(
        body,
        r#"{"state": "running", "postmaster_start_time": "2026-07-24 10:00:00.123456+00:00", "role": "primary", "server_version": 150004, "xlog": {"location": 5000}, "timeline": 2, "replication": [{"usename": "replicator", "application_name": "node2", "client_addr": null, "state": "streaming", "sync_state": "async", "sync_priority": 0}], "pause": true, "dcs_last_seen": 1721815200, "tags": {"zone": "a"}, "database_system_identifier": "7277694203142172922", "pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}}, "patroni": {"version": "4.1.5", "scope": "demo", "name": "node1"}, "scheduled_restart": {"schedule": "2030-01-01T00:00:00+00:00", "role": "primary"}, "surus": {"version": "VERSION", "store": {"kind": "embedded", "summary": "three of three voters"}, "fence": {"mode": "required", "state": "off", "firings": 0}}}"#
            .replace("VERSION", version)
    );
    assert_eq!(fake.send("GET", "/primary", None).await.1, body);

    let fake = Fake::new(standby(), &[STATUS]).await;
    let (_, body) = fake.send("GET", "/patroni", None).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        status["xlog"],
        json!({"received_location": 4900, "replayed_location": 4800,
               "replayed_timestamp": "2026-07-24 11:00:00+02:00", "paused": false})
    );
    assert_eq!((&status["role"], &status["replication_state"]), (&json!("replica"), &json!("streaming")));
    assert_eq!(status["cluster_unlocked"], true);
}

#[tokio::test]
async fn before_the_first_byte_was_received_the_replayed_position_stands_in() {
    let mut observed = replica();
    observed.receive_lsn = Lsn::INVALID;
    let fake = Fake::new(with(standby(), |p| p.observed = Some(Arc::new(observed))), &[]).await;
    let status: Value = serde_json::from_str(&fake.send("GET", "/patroni", None).await.1).unwrap();
    assert_eq!(status["xlog"]["received_location"], 4800);
}

/// A query that hangs delays the live documents by its limit, and no health check at all.
#[tokio::test]
async fn a_hung_postgresql_makes_the_state_unknown() {
    let mut fake = Fake::new(published(), &[LEADER]).await;
    fake.handle.observe = Arc::new(|| Box::pin(std::future::pending()));
    let before = std::time::Instant::now();
    assert_eq!(fake.send("GET", "/health", None).await.0, 200);
    assert!(before.elapsed() < limits::OBSERVE);
    let ((code, body), (_, text)) =
        tokio::join!(fake.send("GET", "/patroni", None), fake.send("GET", "/metrics", None));
    assert_eq!(code, 200);
    assert!(body.starts_with(r#"{"state": "unknown", "role": "primary", "dcs_last_seen""#), "{body}");
    assert!(text.contains("\npatroni_postgres_state{scope=\"demo\",name=\"node1\"} -1\n"), "{text}");
    assert!(!text.contains("patroni_postgres_streaming"));
}

#[tokio::test]
async fn metrics_have_the_names_and_order_dashboards_know() {
    let fake = Fake::new(standby(), &[OTHER_LEADER, STATUS, ("failsafe", r#"{"node1":"http://x"}"#)]).await;
    let (code, text) = fake.send("GET", "/metrics", None).await;
    assert_eq!(code, 200);
    let samples: Vec<(&str, &str)> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once("{scope=\"demo\",name=\"node1\"} "))
        .collect();
    assert_eq!(
        samples,
        [
            ("patroni_version", "040105"),
            ("patroni_postgres_running", "1"),
            ("patroni_postmaster_start_time", "1784887200.123456"),
            ("patroni_primary", "0"),
            ("patroni_xlog_location", "0"),
            ("patroni_standby_leader", "0"),
            ("patroni_replica", "1"),
            ("patroni_sync_standby", "0"),
            ("patroni_quorum_standby", "0"),
            ("patroni_xlog_received_location", "4900"),
            ("patroni_xlog_replayed_location", "4800"),
            ("patroni_xlog_replayed_timestamp", "1784883600.0"),
            ("patroni_xlog_paused", "0"),
            ("patroni_postgres_streaming", "1"),
            ("patroni_postgres_in_archive_recovery", "0"),
            ("patroni_postgres_server_version", "150004"),
            ("patroni_cluster_unlocked", "0"),
            ("patroni_failsafe_mode_is_active", "0"),
            ("patroni_failsafe_mode_enabled", "0"),
            ("patroni_failsafe_member", "1"),
            ("patroni_postgres_timeline", "2"),
            ("patroni_dcs_last_seen", "1721815200"),
            ("patroni_pending_restart", "0"),
            ("patroni_is_paused", "0"),
            ("patroni_postgres_state", "5"),
            ("patroni_failover_priority", "1"),
            ("surus_steps_total", "0"),
            ("surus_promotions_total", "0"),
            ("surus_demotions_total", "0"),
            ("surus_lease_renewals_total", "0"),
            ("surus_lease_renewal_failures_total", "0"),
            ("surus_lease_renewal_seconds", "0"),
            ("surus_lease_remaining_seconds", "0"),
            ("surus_failsafe_blocked", "0"),
            ("surus_failsafe_remaining_seconds", "0"),
            ("surus_fence_working", "0"),
            ("surus_fence_armed", "0"),
            ("surus_fence_firings_total", "0"),
            ("surus_watchdog_usable", "0"),
            ("surus_watchdog_timeout_seconds", "0"),
            ("surus_watchdog_keepalives_total", "0"),
            ("surus_store_last_seen", "1721815200"),
            ("surus_journal_records_total", "0"),
            ("surus_journal_dropped_total", "0"),
            ("surus_journal_bytes", "0"),
            ("surus_journal_failing", "0"),
            ("surus_forked", "0"),
            ("surus_loss_receipts", "0"),
            ("surus_loss_transactions", "0"),
            ("surus_loss_bytes", "0"),
            ("surus_cluster_loss_receipts", "0"),
            ("surus_stall_postmaster_seconds", "0"),
            ("surus_stall_postmaster_total", "0"),
            ("surus_stall_postmaster_seconds_total", "0"),
            ("surus_stall_commits_seconds", "0"),
            ("surus_stall_commits_total", "0"),
            ("surus_stall_commits_seconds_total", "0"),
            ("surus_stall_disk_seconds", "0"),
            ("surus_stall_disk_total", "0"),
            ("surus_stall_disk_seconds_total", "0"),
            ("surus_stall_store_seconds", "0"),
            ("surus_stall_store_total", "0"),
            ("surus_stall_store_seconds_total", "0"),
            ("surus_stall_unscheduled_seconds", "0"),
            ("surus_stall_unscheduled_total", "0"),
            ("surus_stall_unscheduled_seconds_total", "0"),
            ("surus_stall_asleep_seconds", "0"),
            ("surus_stall_asleep_total", "0"),
            ("surus_stall_asleep_seconds_total", "0"),
        ]
    );
    assert!(text.starts_with(
        "# HELP patroni_version Patroni semver without periods.\n# TYPE patroni_version gauge\npatroni_version{"
    ));
    assert!(text.contains("# TYPE patroni_xlog_location counter\n"));
    assert!(text.contains(
        "# HELP patroni_postgres_state Numeric representation of Postgres state.\n# Values: 0=initdb, 1=initdb_failed, \
         2=custom_bootstrap, 3=custom_bootstrap_failed, 4=creating_replica, 5=running, 6=starting, \
         7=bootstrap_starting, 8=start_failed, 9=restarting, 10=restart_failed, 11=stopping, 12=stopped, \
         13=stop_failed, 14=crashed\n# TYPE patroni_postgres_state gauge\n"
    ));
    assert!(text.ends_with('\n'));

    let fake = Fake::new(published(), &[LEADER]).await;
    let (_, text) = fake.send("GET", "/metrics", None).await;
    assert!(text.contains("surus_lease_remaining_seconds{scope=\"demo\",name=\"node1\"} 20\n"), "{text}");
    assert!(text.contains("patroni_xlog_location{scope=\"demo\",name=\"node1\"} 5000\n"), "{text}");
}

/// A leader of which everything is known that can be.
async fn everything() -> String {
    let other = super::super::testing::member("node2", Some("http://10.0.0.2:8008/patroni"), "replica");
    let fake = Fake::new(
        with(published(), |p| {
            let mut primary = super::super::testing::primary();
            primary.senders = vec![sender("node2", 4000)];
            p.observed = Some(Arc::new(primary));
            p.measures.rule(790, NOW - Duration::from_secs(12));
            p.wal.room = Some(surus_core::slots::Room { free: 10, total: 100 });
            p.wal.ready.insert("orders".into(), true);
            p.wal.withheld = vec![surus_core::slots::Withheld {
                slot: "orders".into(),
                bytes: 7,
                full_in: Some(Duration::from_secs(9)),
                active: true,
            }];
        }),
        &[LEADER, STATUS, (other.0.as_str(), other.1.as_str())],
    )
    .await;
    fake.send("GET", "/metrics", None).await.1
}

/// Names, types and helps are what dashboards and alerts match: a change here is one for `docs/monitoring.md`,
/// `contrib/` and the change log.
#[tokio::test]
async fn metrics_change_on_purpose_only() {
    let text = everything().await;
    let described: String = text.lines().filter(|l| l.starts_with('#')).fold(String::new(), |all, l| all + l + "\n");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rest/tests/metrics.txt");
    assert_eq!(described, std::fs::read_to_string(golden).unwrap(), "{golden}");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md")).unwrap();
    for name in described.lines().filter_map(|l| l.strip_prefix("# TYPE surus_")?.split(' ').next()) {
        assert!(page.contains(&format!("`surus_{name}`")), "docs/monitoring.md tells nothing of surus_{name}");
    }
}

#[tokio::test]
async fn whoever_could_take_over_is_a_metric() {
    let text = everything().await;
    for line in [
        "surus_failover_ready{scope=\"demo\",name=\"node1\"} 1",
        "surus_failover_candidate_fit{scope=\"demo\",name=\"node1\",member=\"node2\"} 1",
        "surus_failover_loss_bytes{scope=\"demo\",name=\"node1\",member=\"node2\"} 1000",
        "surus_rule_seconds_total{scope=\"demo\",name=\"node1\",rule=\"790\"} 12",
        "surus_store_request_seconds_bucket{scope=\"demo\",name=\"node1\",operation=\"renew\",le=\"+Inf\"} 0",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
    }
    // Far behind, not allowed, not running: nobody could.
    let member = super::super::testing::member("node2", Some("http://10.0.0.2:8008/patroni"), "replica");
    for (what, change) in [
        ("far behind", (|p| Arc::make_mut(&mut p.settings).maximum_lag_on_failover = 10) as fn(&mut Published)),
        ("not synchronous", |p| Arc::make_mut(&mut p.settings).synchronous_mode = SynchronousMode::On),
    ] {
        let fake = Fake::new(
            with(published(), |p| {
                let mut primary = super::super::testing::primary();
                primary.senders = vec![sender("node2", 4000)];
                p.observed = Some(Arc::new(primary));
                change(p);
            }),
            &[LEADER, STATUS, (member.0.as_str(), member.1.as_str()), ("sync", r#"{"leader":"node1","quorum":0}"#)],
        )
        .await;
        let text = fake.send("GET", "/metrics", None).await.1;
        assert!(text.contains("surus_failover_ready{scope=\"demo\",name=\"node1\"} 0"), "{what}: {text}");
    }
}

fn sender(name: &str, at: u64) -> surus_core::postgres::WalSender {
    surus_core::postgres::WalSender {
        pid: 1,
        user: None,
        application_name: name.into(),
        client_addr: None,
        state: "streaming".into(),
        sync_state: "async".into(),
        sync_priority: 0,
        sent_lsn: Some(Lsn(at)),
        write_lsn: Some(Lsn(at)),
        flush_lsn: Some(Lsn(at)),
        replay_lsn: Some(Lsn(at)),
    }
}

#[tokio::test]
async fn documents_of_the_cluster() {
    let (member, value) = super::super::testing::member("node1", Some("http://10.0.0.1:8008/patroni"), "primary");
    let history = r#"[[1,25623960,"no recovery target specified","2026-07-01T10:00:00+00:00","node1"]]"#;
    let keys = [
        LEADER,
        STATUS,
        (member.as_str(), value.as_str()),
        ("config", r#"{"ttl":30,"pause":true,"x":null}"#),
        ("history", history),
        ("failover", r#"{"leader":"node1","scheduled_at":"2030-01-01T12:00:00+00:00"}"#),
        ("failsafe", r#"{"node1":"http://10.0.0.1:8008/patroni"}"#),
    ];
    let fake = Fake::new(published(), &keys).await;
    let get = async |path: &str| {
        let (code, body) = fake.send("GET", path, None).await;
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    assert_eq!(
        get("/cluster").await,
        json!({
            "members": [{"name": "node1", "role": "leader", "state": "running",
                "api_url": "http://10.0.0.1:8008/patroni", "host": "node1", "port": 5432, "timeline": 2}],
            "pause": true,
            "scheduled_switchover": {"at": "2030-01-01T12:00:00+00:00", "from": "node1"},
            "scope": "demo",
        })
    );
    assert_eq!(get("/config").await, json!({"ttl": 30, "pause": true, "x": null}));
    assert_eq!(get("/config/deeper").await["ttl"], 30);
    assert_eq!(get("/history").await, serde_json::from_str::<Value>(history).unwrap());
    assert_eq!(get("/failsafe").await, json!({"node1": "http://10.0.0.1:8008/patroni"}));

    // What the agent knows is still told while the store is away; what must be fresh is not.
    fake.kv.cut();
    assert_eq!(get("/config").await["ttl"], 30);
    assert_eq!(get("/history").await.as_array().unwrap().len(), 1);
    let (code, body) = fake.send("GET", "/cluster", None).await;
    assert_eq!((code, body.contains("could not be read") && body.contains("was cut")), (503, true), "{body}");
}

/// What is put out is in the schemas; whether it is of the types there is tried on a real member.
#[tokio::test]
async fn the_document_of_the_api_knows_every_field() {
    let (member, value) = super::super::testing::member("node1", Some("http://10.0.0.1:8008/patroni"), "primary");
    let fake = Fake::new(standby(), &[OTHER_LEADER, STATUS, (member.as_str(), value.as_str())]).await;
    let get = async |path: &str| serde_json::from_str::<Value>(&fake.send("GET", path, None).await.1).unwrap();
    let schemas = get("/openapi.json").await["components"]["schemas"].clone();
    let full: surus_api::PatroniStatus = serde_json::from_value(json!({
        "quorum_standby": true, "sync_standby": true, "replication_state": "streaming", "pause": true,
        "cluster_unlocked": true, "failsafe_mode_is_active": true, "tags": {"a": 1}, "pending_restart": true,
        "pending_restart_reason": {"a": {"old_value": "", "new_value": ""}}, "watchdog_failed": true,
        "scheduled_restart": {"schedule": "x"}, "logger_queue_size": 3, "logger_records_lost": 1, "task": "x",
    }))
    .unwrap();
    for (schema, document) in [
        ("Status", get("/patroni").await),
        ("Status", json!(full)),
        ("Cluster", get("/cluster").await),
        ("Member", get("/cluster").await["members"][0].clone()),
    ] {
        let known = schemas[schema]["properties"].as_object().unwrap();
        let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
        assert!(keys.len() > 1 && keys.iter().all(|key| known.contains_key(*key)), "{schema}: {keys:?}");
        for required in schemas[schema]["required"].as_array().unwrap() {
            let there = document.get(required.as_str().unwrap()).is_some()
                || (document == json!(full) && required.as_str() == Some("surus"));
            assert!(there, "{schema}: {required}");
        }
    }
}

#[tokio::test]
async fn documents_of_an_empty_cluster() {
    let fake = Fake::new(published(), &[]).await;
    assert_eq!(fake.send("GET", "/history", None).await, (200, "[]".into()));
    assert_eq!(fake.send("GET", "/config", None).await.0, 502);
    assert_eq!(fake.send("GET", "/failsafe", None).await.0, 502);
    fake.published.rcu(|p| Published { view: None, ..(**p).clone() });
    assert_eq!(fake.send("GET", "/failsafe", None).await, (200, "{}".into()));
}

#[tokio::test]
async fn explain_puts_the_newest_decision_on_top() {
    let decisions =
        [json!({"rule": 61, "goal": "no action", "why": "all is well"}), json!({"rule": 7, "goal": "race"})];
    let state = with(published(), |p| p.decisions = Arc::new(decisions.to_vec()));
    let fake = Fake::new(state, &[LEADER, ("sync", "nonsense")]).await;
    let (code, body) = fake.send("GET", "/explain", None).await;
    let document: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert_eq!((&document["member"], &document["scope"]), (&json!("node1"), &json!("demo")));
    assert_eq!((&document["rule"], &document["goal"]), (&json!(61), &json!("no action")));
    assert_eq!(document["recent"], json!(decisions));
    assert_eq!(document["lease"], json!({"leader": "node1", "held": true, "remaining_seconds": 20.0}));
    assert_eq!((&document["store"]["kind"], &document["store"]["usable"]), (&json!("embedded"), &json!(true)));
    assert_eq!(document["store"]["garbage"][0]["key"], "sync");
    assert!(document["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
}

#[tokio::test]
async fn explain_since_reads_the_journal() {
    let mut fake = Fake::new(published(), &[LEADER]).await;
    let (code, body) = fake.send("GET", "/explain?since=60s", None).await;
    assert_eq!((code, body.as_str()), (404, "this member keeps no journal (recorder.enabled is off)"));

    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("journal");
    let options = surus_journal::Options { directory: directory.clone(), max_size: 1 << 20 };
    let recorder = surus_journal::Recorder::start(options, surus_journal::Header::now());
    fake.handle.journal = recorder.handle();
    let (code, body) = fake.send("GET", "/explain?since=60s", None).await;
    assert!(code == 503 && body.contains("cannot be read"), "{code} {body}");
    let (code, body) = fake.send("GET", "/explain?since=soon", None).await;
    assert!(code == 400 && body.contains("since=soon is neither"), "{code} {body}");

    std::fs::create_dir(&directory).unwrap();
    let header = surus_journal::Header {
        scope: "demo".into(),
        member: "node1".into(),
        at: 1_790_000_000_000,
        ..surus_journal::Header::now()
    };
    let lines = [
        serde_json::to_string(&header).unwrap(),
        r#"{"lost":3,"at":1790000001000,"why":"x"}"#.to_owned(),
        "garbage".to_owned(),
        r#"{"lost":4,"at":1790000002000,"why":"y"}"#.to_owned(),
    ];
    std::fs::write(directory.join("00000001.jsonl"), lines.join("\n") + "\n").unwrap();
    let (code, body) = fake.send("GET", "/explain?since=2026-09-21T14:13:21.500Z", None).await;
    assert_eq!(code, 200, "{body}");
    let told: surus_journal::Account = serde_json::from_str(&body).unwrap();
    assert_eq!((told.scope.as_str(), told.member.as_str()), ("demo", "node1"));
    assert_eq!(told.events, [surus_journal::Event::Lost { at: 1_790_000_002_000, lost: 4, why: "y".into() }]);
    assert!(told.problems[0].contains("00000001.jsonl:3: is no record"), "{:?}", told.problems);
}

/// Who may change something may see what is set; others see no texts and no files.
#[tokio::test]
async fn settings_are_told_to_whom_they_concern() {
    let mut fake = Fake::new(published(), &[]).await;
    let here = IpAddr::from([127, 0, 0, 1]);
    for (address, expected) in [(here, true), (IpAddr::from([10, 0, 0, 9]), false)] {
        let request = Request::builder().uri("/settings");
        let request = request.extension(Peer { address, reached: here, certificate: false });
        let answer = tokio::spawn(fake.router().await.oneshot(request.body(Body::empty()).unwrap()));
        let (asked, reply) = fake.requests.recv().await.unwrap();
        assert!(matches!(asked, Ask::Settings { trusted } if trusted == expected), "{address}: {asked:?}");
        reply.send(Reply::Ok("{}".into())).unwrap();
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
}
