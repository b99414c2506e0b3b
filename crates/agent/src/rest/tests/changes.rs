use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use surus_core::cluster::MemberRole;
use surus_core::settings::ClusterSettings;
use tokio::task::JoinHandle;

use super::super::limits::BODY_BYTES;
use super::super::testing::{Fake, published};
use crate::handle::{Published, Reply, Request, RestartFilters};

const CONFIG: (&str, &str) = ("config", r#"{"ttl":30,"postgresql":{"parameters":{"work_mem":"4MB"}}}"#);

#[tokio::test]
async fn patch_merges_and_wakes_the_agent() {
    let mut fake = Fake::new(published(), &[CONFIG]).await;
    let change =
        r#"{"ttl": 20, "loop_wait": 30, "postgresql": {"parameters": {"max_connections": 101, "work_mem": null}}}"#;
    let merged = json!({"ttl": 20, "postgresql": {"parameters": {"max_connections": 101}}, "loop_wait": 30});
    let (code, body) = fake.send("PATCH", "/config", Some(change)).await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (200, merged.clone()));
    assert_eq!(fake.value("config").await, Some(merged.clone()));
    assert!(matches!(fake.requests.try_recv(), Ok((Request::Wake, _))));

    let revision = fake.handle.store.read(Duration::from_secs(1)).await.unwrap().revision;
    let (code, body) = fake.send("PATCH", "/config", Some(r#"{"ttl": "20"}"#)).await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()), (200, merged));
    assert_eq!(fake.handle.store.read(Duration::from_secs(1)).await.unwrap().revision, revision, "nothing to write");
}

#[tokio::test]
async fn put_replaces() {
    let mut fake = Fake::new(published(), &[CONFIG]).await;
    let (code, body) = fake.send("PUT", "/config", Some(r#"{"ttl":20,"x":null}"#)).await;
    assert_eq!((code, body.as_str()), (200, r#"{"ttl": 20, "x": null}"#));
    assert_eq!(fake.value("config").await, Some(json!({"ttl": 20, "x": null})));
    assert!(matches!(fake.requests.try_recv(), Ok((Request::Wake, _))));
}

#[tokio::test]
async fn configuration_that_cannot_be_written() {
    let fake = Fake::new(published(), &[]).await;
    let (code, body) = fake.send("PATCH", "/config", Some(r#"{"ttl":20}"#)).await;
    assert_eq!((code, body.contains("no valid dynamic configuration")), (503, true), "{body}");
    assert_eq!(fake.send("PUT", "/config", Some(r#"{"ttl":20}"#)).await.0, 200);

    fake.kv.conflict.store(true, Ordering::Relaxed);
    let (code, body) = fake.send("PATCH", "/config", Some(r#"{"ttl":21}"#)).await;
    assert_eq!((code, body.contains("try again")), (409, true), "{body}");

    fake.kv.cut();
    for method in ["PATCH", "PUT"] {
        let (code, body) = fake.send(method, "/config", Some(r#"{"ttl":22}"#)).await;
        assert_eq!((code, body.contains("was cut")), (503, true), "{body}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_object() {
    let fake = Fake::new(published(), &[CONFIG]).await;
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(BODY_BYTES));
    let required =
        [("PATCH", "/config"), ("PUT", "/config"), ("POST", "/switchover"), ("POST", "/failover")].map(|e| (e, true));
    let optional = [("POST", "/restart"), ("POST", "/reinitialize")].map(|e| (e, false));
    for ((method, path), required) in required.into_iter().chain(optional) {
        for (body, part) in [
            ("not json", "expected a JSON object, but the request body is not JSON"),
            ("[1]", "expected a JSON object, but the request body is an array"),
            ("5", "is a number"),
            ("\"x\"", "is a string"),
            ("{\"a\":1", "is not JSON"),
        ] {
            let (code, answer) = fake.send(method, path, Some(body)).await;
            assert!(code == 400 && answer.contains(part), "{method} {path} {body}: {code} {answer}");
        }
        let (code, answer) = fake.send(method, path, Some(&large)).await;
        assert!(code == 413 && answer.contains("1048576"), "{method} {path}: {code} {answer}");
        if required {
            assert_eq!(fake.send(method, path, None).await.0, 411, "{method} {path}");
            assert_eq!(fake.send(method, path, Some("")).await.0, 400, "{method} {path}");
            assert_eq!(fake.send(method, path, Some("{}")).await.0, 400, "{method} {path}");
        }
    }
    assert_eq!(fake.value("config").await, Some(serde_json::from_str(CONFIG.1).unwrap()), "nothing changed");
    let (code, answer) = fake.send("POST", "/switchover", Some(r#"{"leader": 5}"#)).await;
    assert!(code == 400 && answer.contains("must be strings"), "{answer}");
}

#[tokio::test]
async fn methods_that_do_not_exist() {
    let fake = Fake::new(published(), &[]).await;
    for (method, path) in [
        ("POST", "/"),
        ("POST", "/config"),
        ("PUT", "/patroni"),
        ("DELETE", "/failover"),
        ("DELETE", "/config"),
        ("TRACE", "/patroni"),
        ("POST", "/sigterm"),
    ] {
        let (code, body) = fake.send(method, path, None).await;
        assert!(
            code == 501 && body.contains("Server does not support this operation"),
            "{method} {path}: {code} {body}"
        );
    }
    assert_eq!(fake.send("POST", "/failsafe", Some("{}")).await.0, 502);
}

#[tokio::test]
async fn what_members_promise_each_other() {
    let on = |role| {
        let settings = Arc::new(ClusterSettings { failsafe_mode: true, ..ClusterSettings::default() });
        let observed = Some(Arc::new(super::super::testing::replica()));
        Published { role, settings, observed, ..published() }
    };
    let vouch = |who: &str| format!(r#"{{"name":"{who}","conn_url":"","api_url":"","slots":{{"a":5}},"x":1}}"#);
    let consent = |who: &str, ms: u64| format!(r#"{{"name":"{who}","length_ms":{ms}}}"#);
    let fake = Fake::new(on(MemberRole::Primary), &[]).await;
    for (path, body) in [("/failsafe", vouch("node2")), ("/consent", consent("node2", 5000))] {
        assert_eq!(fake.send("POST", path, Some(&body)).await, (500, "Running as a leader".into()), "{path}");
    }
    let fake = Fake::new(on(MemberRole::Replica), &[]).await;
    assert_eq!(fake.send("POST", "/failsafe", Some(&vouch("node2"))).await, (200, "Accepted".into()));
    assert_eq!(fake.send("POST", "/failsafe", Some(&vouch("node2"))).await, (200, "Accepted".into()));
    for (path, body) in [("/failsafe", vouch("node3")), ("/consent", consent("node3", 5000))] {
        let (code, text) = fake.send("POST", path, Some(&body)).await;
        assert!(code == 409 && text.starts_with("node1 vouches for node2 for another "), "{path}: {code} {text}");
    }
    assert_eq!(fake.send("POST", "/consent", Some(&consent("node2", 5000))).await, (200, "Accepted".into()));
    for (path, body) in
        [("/failsafe", r#"{"name":7}"#), ("/consent", r#"{"name":"a"}"#), ("/consent", &consent("a", 9999))]
    {
        let (code, text) = fake.send("POST", path, Some(body)).await;
        assert_eq!(code, 400, "{path}: {text}");
    }
    let (_, status) = fake.send("GET", "/patroni", None).await;
    assert!(status.contains(r#""failsafe_mode_is_active": true"#), "{status}");
    // A member on which the mode is off consents all the same: its candidate may rest on a list of before.
    let fake = Fake::new(Published { role: MemberRole::Replica, ..published() }, &[]).await;
    assert_eq!(fake.send("POST", "/failsafe", Some(&vouch("node2"))).await.0, 502);
    assert_eq!(fake.send("POST", "/consent", Some(&consent("node2", 5000))).await.0, 200);
}

/// Sends a request and answers the agent's part; what the agent was asked comes back in words.
async fn with_agent(
    fake: &mut Fake,
    method: &str,
    path: &str,
    body: Option<&str>,
    reply: Reply,
) -> (u16, String, String) {
    let router = fake.router().await;
    let (method, path, body) = (method.to_owned(), path.to_owned(), body.map(str::to_owned));
    let call: JoinHandle<(u16, String)> =
        tokio::spawn(async move { super::super::testing::send(router, &method, &path, body.as_deref()).await });
    let (asked, answer) = fake.requests.recv().await.unwrap();
    answer.send(reply).unwrap();
    let (code, body) = call.await.unwrap();
    (code, body, format!("{asked:?}"))
}

#[tokio::test]
async fn actions_reach_the_agent_and_its_answer_the_client() {
    let mut fake = Fake::new(published(), &[("leader", "node2"), CONFIG]).await;
    let ok = |s: &str| Reply::Ok(s.into());
    let no = |s: &str| Reply::Refused(s.into());
    let filters = RestartFilters { role: Some("replica".into()), ..RestartFilters::default() };
    let scheduled = r#"{"schedule":"2199-01-01T00:00:00+00:00","role":"replica"}"#;
    let restart = |filters: &RestartFilters| format!("Restart({filters:?})");
    for (method, path, body, reply, code, text, asked) in [
        ("POST", "/reload", None, ok(""), 202, "reload scheduled", "Reload".to_owned()),
        ("POST", "/reload", None, no("bad file"), 503, "bad file", "Reload".into()),
        (
            "POST",
            "/restart",
            None,
            ok("restarted successfully"),
            200,
            "restarted successfully",
            restart(&RestartFilters::default()),
        ),
        (
            "POST",
            "/restart",
            Some("{}"),
            no("restart failed"),
            503,
            "restart failed",
            restart(&RestartFilters::default()),
        ),
        (
            "POST",
            "/restart",
            Some(r#"{"role":"replica"}"#),
            no("restart conditions are not satisfied"),
            503,
            "restart conditions are not satisfied",
            restart(&filters),
        ),
        (
            "POST",
            "/restart",
            Some(scheduled),
            ok(""),
            202,
            "Restart scheduled",
            format!(
                "ScheduleRestart(ScheduledRestart {{ schedule: \"2199-01-01T00:00:00+00:00\", postmaster_start_time: Some(\"2026-07-24 10:00:00.123456+00:00\"), filters: {{\"role\": String(\"replica\")}} }}, {filters:?})"
            ),
        ),
        (
            "POST",
            "/restart",
            Some(scheduled),
            no("Another restart is already scheduled"),
            409,
            "Another restart is already scheduled",
            "ScheduleRestart".into(),
        ),
        ("DELETE", "/restart", None, ok(""), 200, "scheduled restart deleted", "CancelScheduledRestart".into()),
        (
            "DELETE",
            "/restart",
            None,
            no("no restarts are scheduled"),
            404,
            "no restarts are scheduled",
            "CancelScheduledRestart".into(),
        ),
        (
            "POST",
            "/reinitialize",
            None,
            ok(""),
            200,
            "reinitialize started",
            "Reinitialize { force: false, from_leader: false }".into(),
        ),
        (
            "POST",
            "/reinitialize",
            Some(r#"{"force":"On","from_leader":true}"#),
            no("restart already in progress"),
            503,
            "restart already in progress",
            "Reinitialize { force: true, from_leader: true }".into(),
        ),
    ] {
        let (got, answer, order) = with_agent(&mut fake, method, path, body, reply).await;
        assert_eq!((got, answer.as_str()), (code, text), "{method} {path} {body:?}");
        assert!(order.starts_with(&asked), "{order}");
    }
}

#[tokio::test]
async fn actions_refused_before_the_agent_is_asked() {
    let mut fake = Fake::new(published(), &[("leader", "node1"), ("config", r#"{"pause":true}"#)]).await;
    for (path, body, code, text) in [
        ("/reinitialize", r#"{"force":true}"#, 503, "I am the leader, can not reinitialize"),
        ("/restart", r#"{"schedule":"x"}"#, 500, "Can't schedule restart in the paused state"),
        ("/restart", r#"{"x":"x"}"#, 400, "Unknown filter for the scheduled restart: x"),
    ] {
        assert_eq!(fake.send("POST", path, Some(body)).await, (code, text.to_owned()));
    }
    assert!(fake.requests.try_recv().is_err());

    let fake = Fake::new(published(), &[]).await;
    let want = (503, "Cluster has no leader, can not reinitialize".to_owned());
    assert_eq!(fake.send("POST", "/reinitialize", None).await, want);

    // While the store is away, the last known setting counts.
    let paused = ClusterSettings { pause: true, ..ClusterSettings::default() };
    let fake = Fake::new(Published { settings: Arc::new(paused), ..published() }, &[]).await;
    fake.kv.cut();
    assert_eq!(fake.send("POST", "/restart", Some(r#"{"schedule":"x"}"#)).await.0, 500);
}

#[tokio::test]
async fn an_agent_that_is_gone() {
    let fake = Fake::new(published(), &[("leader", "node2")]).await;
    let router = fake.router().await;
    drop(fake.requests);
    for (method, path) in [("POST", "/restart"), ("DELETE", "/restart"), ("POST", "/reload"), ("POST", "/reinitialize")]
    {
        let (code, body) = super::super::testing::send(router.clone(), method, path, None).await;
        assert_eq!((code, body.as_str()), (503, "the agent is shutting down"), "{method} {path}");
    }
}
