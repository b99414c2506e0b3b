use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use surus_core::cluster::{MemberRole, MemberState, PendingRestart, ScheduledRestart};
use surus_core::settings::SynchronousMode;
use surus_core::{BootTime, Lsn};

use super::super::limits;
use super::super::testing::{Fake, NOW, published, replica};
use super::{LEADER, OTHER_LEADER, STATUS, SYNC, settings, standby, tags, with};
use crate::handle::Published;

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
