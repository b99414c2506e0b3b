use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use surus_core::cluster::{MemberRole, Tags};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::testing::{Fake, member, options, published, replica, rest_api, send};
use super::super::{RestServer, limits};
use crate::handle::Published;

/// Another member with a server of its own.
struct Peer {
    fake: Fake,
    url: String,
    stop: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn peer(name: &str, tags: Value) -> Peer {
    let state = Published {
        name: name.into(),
        role: MemberRole::Replica,
        observed: Some(Arc::new(replica())),
        lease_until: None,
        tags: Tags(tags.as_object().cloned().unwrap()),
        ..published()
    };
    let fake = Fake::new(state, &[]).await;
    let bound = RestServer::bind(options(rest_api())).await.unwrap();
    let url = format!("http://{}/patroni", bound.address().unwrap());
    let stop = CancellationToken::new();
    bound.serve(fake.handle.clone(), stop.clone());
    Peer { fake, url, stop }
}

/// node1 leads and serves the request; the others are given by name and URL.
async fn cluster(config: &str, sync: &str, others: &[(&str, Option<&str>)]) -> Fake {
    let mut members = vec![member("node1", Some("http://127.0.0.1:1/patroni"), "primary")];
    members.extend(others.iter().map(|(name, url)| member(name, *url, "replica")));
    let mut keys = vec![("leader", "node1"), ("config", config), ("sync", sync)];
    keys.extend(members.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    Fake::new(published(), &keys).await
}

#[tokio::test]
async fn requests_that_are_refused() {
    let good = peer("good", json!({})).await;
    let barred = peer("barred", json!({"nofailover": true})).await;
    let (good, barred) = (Some(good.url.as_str()), Some(barred.url.as_str()));
    let dead = Some("http://127.0.0.1:1/patroni");
    let sync = r#"{"leader":"node1","sync_standby":"good"}"#;
    let off = "{}";
    let on = r#"{"synchronous_mode":true}"#;
    type Others<'a> = &'a [(&'a str, Option<&'a str>)];
    let cases: [(&str, &str, &str, Others<'_>, Value, u16, &str); 15] = [
        (
            "/switchover",
            off,
            "",
            &[],
            json!({"candidate": "x"}),
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            "/failover",
            off,
            "",
            &[],
            json!({"foo": "bar"}),
            400,
            "Failover could be performed only to a specific candidate",
        ),
        ("/failover", off, "", &[], json!({"candidate": "x", "scheduled_at": "x"}), 400, "Failover can't be scheduled"),
        (
            "/switchover",
            r#"{"pause":true}"#,
            "",
            &[("good", good)],
            json!({"leader": "node1"}),
            400,
            "Switchover is possible only to a specific candidate in a paused state",
        ),
        (
            "/switchover",
            off,
            "",
            &[],
            json!({"leader": "node1", "candidate": "node1"}),
            400,
            "Switchover target and source are the same",
        ),
        ("/switchover", off, "", &[("good", good)], json!({"leader": "x"}), 412, "leader name does not match"),
        (
            "/switchover",
            on,
            sync,
            &[("good", good), ("b", good)],
            json!({"leader": "node1", "candidate": "b"}),
            412,
            "candidate name does not match with sync_standby",
        ),
        (
            "/switchover",
            off,
            "",
            &[("good", good)],
            json!({"leader": "node1", "candidate": "x"}),
            412,
            "candidate does not exists",
        ),
        (
            "/switchover",
            on,
            "",
            &[("good", good)],
            json!({"leader": "node1"}),
            412,
            "switchover is not possible: can not find sync_standby",
        ),
        (
            "/switchover",
            off,
            "",
            &[],
            json!({"leader": "node1"}),
            412,
            "switchover is not possible: cluster does not have members except leader",
        ),
        (
            "/switchover",
            off,
            "",
            &[("mute", None)],
            json!({"leader": "node1"}),
            412,
            "switchover is not possible: cluster does not have members except leader",
        ),
        (
            "/failover",
            off,
            "",
            &[("barred", barred)],
            json!({"candidate": "barred"}),
            412,
            "failover is not possible: no good candidates have been found: barred: not allowed to promote",
        ),
        (
            "/switchover",
            off,
            "",
            &[("dead", dead), ("barred", barred)],
            json!({"leader": "node1"}),
            412,
            "switchover is not possible: no good candidates have been found: barred: not allowed to promote, dead: not reachable (",
        ),
        (
            "/failover",
            off,
            "",
            &[("mute", None)],
            json!({"candidate": "mute"}),
            412,
            "no good candidates have been found: mute: not reachable",
        ),
        (
            "/failover",
            off,
            "",
            &[("good", good)],
            json!({"candidate": "node1"}),
            412,
            "failover is not possible: node1 is the leader already",
        ),
    ];
    for (path, config, sync, others, body, code, text) in cases {
        let fake = cluster(config, sync, others).await;
        let (got, answer) = fake.send("POST", path, Some(&body.to_string())).await;
        assert!(got == code && answer.contains(text), "{path} {body}: {got} {answer}");
        assert_eq!(fake.value("failover").await, None, "{path} {body}");
    }
}

#[tokio::test]
async fn scheduling_and_taking_it_back() {
    let fake = cluster("{}", "", &[]).await;
    assert_eq!(fake.send("DELETE", "/switchover", None).await, (404, "no switchover is scheduled".into()));
    let body = r#"{"leader":"node1","candidate":"absent","scheduled_at":"2199-01-01T12:00:00+01:00"}"#;
    assert_eq!(fake.send("POST", "/switchover", Some(body)).await, (202, "Switchover scheduled".into()));
    let stored = json!({"leader": "node1", "member": "absent", "scheduled_at": "2199-01-01T12:00:00+01:00"});
    assert_eq!(fake.value("failover").await, Some(stored));
    fake.kv.conflict.store(true, Ordering::Relaxed);
    assert_eq!(fake.send("DELETE", "/switchover", None).await.0, 409);
    fake.kv.conflict.store(false, Ordering::Relaxed);
    assert_eq!(fake.send("DELETE", "/switchover", None).await, (200, "scheduled switchover deleted".into()));
    assert_eq!(fake.value("failover").await, Some(json!({})));
    assert_eq!(fake.send("DELETE", "/switchover", None).await.0, 404);
}

/// Sends the request and waits until it is in the store.
async fn begin(fake: &Fake, path: &str, body: &str) -> JoinHandle<(u16, String)> {
    let router = fake.router().await;
    let (path, body) = (path.to_owned(), body.to_owned());
    let call = tokio::spawn(async move { send(router, "POST", &path, Some(&body)).await });
    while fake.value("failover").await.is_none() {
        tokio::task::yield_now().await;
    }
    call
}

async fn hand_over(fake: &Fake, to: &str) {
    fake.put("leader", to).await;
    fake.put("failover", "{}").await;
    fake.refresh().await;
}

#[tokio::test]
async fn success_is_told_when_the_new_leader_accepts_writes() {
    let next = peer("node2", json!({})).await;
    for (path, body, text) in [
        ("/switchover", r#"{"leader":"node1"}"#, "Successfully switched over to \"node2\""),
        ("/switchover", r#"{"leader":"node1","member":"node2"}"#, "Successfully switched over to \"node2\""),
        ("/failover", r#"{"candidate":"node2"}"#, "Successfully failed over to \"node2\""),
    ] {
        let fake = cluster("{}", "", &[("node2", Some(&next.url))]).await;
        let call = begin(&fake, path, body).await;
        let mut looks = next.fake.observed.clone();
        hand_over(&fake, "node2").await;
        // Asked again only after it has answered: it was seen in recovery twice since.
        let asked = *looks.borrow_and_update();
        looks.wait_for(|n| *n >= asked + 3).await.unwrap();
        assert!(!call.is_finished(), "the new leader is still in recovery");
        let (key, value) = member("node2", Some(&next.url), "primary");
        fake.put(&key, &value).await;
        fake.refresh().await;
        assert_eq!(call.await.unwrap(), (200, text.to_owned()));
    }

    // Known from the new leader itself before its key says so.
    let fake = cluster("{}", "", &[("node2", Some(&next.url))]).await;
    let call = begin(&fake, "/switchover", r#"{"leader":"node1"}"#).await;
    next.fake.published.store(Arc::new(Published { name: "node2".into(), ..published() }));
    hand_over(&fake, "node2").await;
    let started = Instant::now();
    assert_eq!(call.await.unwrap().0, 200);
    assert!(started.elapsed() < limits::OUTCOME_READ, "no polling of the store: {:?}", started.elapsed());
}

#[tokio::test]
async fn somebody_else_may_win() {
    let next = peer("node2", json!({})).await;
    let fake = cluster("{}", "", &[("node2", Some(&next.url)), ("node3", None)]).await;
    let (key, value) = member("node3", None, "primary");
    fake.put(&key, &value).await;
    let call = begin(&fake, "/switchover", r#"{"leader":"node1","candidate":"node2"}"#).await;
    hand_over(&fake, "node3").await;
    assert_eq!(call.await.unwrap(), (200, "Switched over to \"node3\" instead of \"node2\"".into()));
}

#[tokio::test]
async fn a_request_that_the_leader_drops_failed_and_says_why() {
    let next = peer("node2", json!({})).await;
    let fake = cluster("{}", "", &[("node2", Some(&next.url))]).await;
    let call = begin(&fake, "/switchover", r#"{"leader":"node1"}"#).await;
    let decision = json!({"goal": "switchover: no healthy members found (node2: lags 5 MB)"});
    fake.published.rcu(|p| Published { decisions: Arc::new(vec![decision.clone()]), ..(**p).clone() });
    fake.put("failover", "{}").await;
    fake.refresh().await;
    let want = "Switchover failed: no healthy members found (node2: lags 5 MB)";
    assert_eq!(call.await.unwrap(), (503, want.to_owned()));
}

/// The view that the agent published before the request was written shows no request: that is no refusal.
#[tokio::test]
async fn an_older_view_is_not_mistaken_for_a_refusal() {
    let next = peer("node2", json!({})).await;
    let fake = cluster("{}", "", &[("node2", Some(&next.url))]).await;
    let call = begin(&fake, "/switchover", r#"{"leader":"node1"}"#).await;
    // Such a clock moves only when nobody has anything left to do: whatever was going to be concluded from that view is.
    tokio::time::pause();
    fake.changed.send_modify(|n| *n += 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished());
    tokio::time::resume();
    let (key, value) = member("node2", None, "primary");
    fake.put(&key, &value).await;
    // The agent's view stands still; the store is read every second.
    fake.put("leader", "node2").await;
    assert_eq!(call.await.unwrap().0, 200);
}

#[tokio::test]
async fn a_store_that_is_away() {
    let fake = cluster("{}", "", &[]).await;
    fake.kv.cut();
    let (code, body) = fake.send("POST", "/switchover", Some(r#"{"leader":"node1"}"#)).await;
    assert_eq!((code, body.contains("was cut")), (503, true), "{body}");
}
