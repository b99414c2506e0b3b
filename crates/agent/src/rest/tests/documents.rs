use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::access::Peer;
use super::super::testing::{Fake, published};
use super::{LEADER, OTHER_LEADER, STATUS, standby, with};
use crate::handle::{Published, Reply, Request as Ask};

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
