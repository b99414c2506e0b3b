//! `GET /explain`: why this member does what it does. Not known to peers.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::app::App;
use super::facts::Facts;
use super::readiness;
use super::respond::{self, Refusal};
use super::validity::Validity;
use crate::journal;

/// For the journal to be read: it is in the page cache, or on a disk that has other work.
const READ: Duration = Duration::from_secs(8);
/// The journal is read for one caller at a time: each takes memory, and a thread for as long as the disk takes.
static READERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

/// `GET /explain?since=`: what the journal tells since then.
pub async fn since(app: &App, text: &str) -> Result<Response, Refusal> {
    let Some(since) = moment(text, Timestamp::now()) else {
        return Err(Refusal::bad_request(format!(
            "since={text} is neither a number of seconds such as 600s nor a time such as 2026-10-01T12:00:00Z"
        )));
    };
    let Some(handle) = app.handle.journal.clone() else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "this member keeps no journal (recorder.enabled is off)"));
    };
    let place = handle.directory().display().to_string();
    let read = async {
        let permit = READERS.acquire().await.ok();
        tokio::task::spawn_blocking(move || {
            let account = journal::read(&handle, since.as_millisecond());
            drop(permit);
            account
        })
        .await
    };
    match tokio::time::timeout(READ, read).await {
        Ok(Ok(Ok(account))) => Ok(respond::document(account)),
        Ok(Ok(Err(e))) => Err(Refusal::unavailable(format!("the journal {place} cannot be read: {e}"))),
        Ok(Err(e)) => Err(Refusal::unavailable(format!("reading the journal broke: {e}; please report it as a BUG"))),
        Err(_) => Err(Refusal::unavailable(format!("the journal {place} could not be read within {READ:?}"))),
    }
}

/// `600s`, as each member's own clock counts it, or a point in time.
fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    match text.strip_suffix('s').map(str::parse::<u32>) {
        Some(Ok(seconds)) => now.checked_sub(SignedDuration::from_secs(i64::from(seconds))).ok(),
        _ => text.parse().ok(),
    }
}

/// The fields of the newest decision stand at the top, those before it (and itself) in `recent`.
pub fn document(facts: &Facts<'_>, certificate: Option<&Validity>) -> Value {
    let (published, now) = (facts.published, facts.now);
    let mut out = Map::new();
    out.insert("member".into(), json!(published.name));
    out.insert("scope".into(), json!(published.scope));
    out.insert("at".into(), json!(wall_clock(now.since(published.at))));
    out.insert("state".into(), json!(published.state.as_str()));
    out.insert("role".into(), json!(published.role.as_str()));
    if let Some(task) = &published.task {
        out.insert("task".into(), json!(task));
    }
    if let Some(Value::Object(newest)) = published.decisions.first() {
        out.extend(newest.clone());
    }
    let view = published.view.as_ref();
    let remaining = published.lease_until.map(|until| until.since(now));
    out.insert(
        "lease".into(),
        json!({
            "leader": view.and_then(|(v, _)| v.leader_name()),
            "held": published.is_leader(now),
            "remaining_seconds": remaining.unwrap_or_default().as_secs_f64(),
        }),
    );
    if let Some(takeover) = readiness::document(facts) {
        out.insert("takeover".into(), takeover);
    }
    out.insert("fence".into(), published.fence.document(now));
    if let Some(watchdog) = published.watchdog.document() {
        out.insert("watchdog".into(), watchdog);
    }
    if let Some(failsafe) = published.failsafe.document(now) {
        out.insert("failsafe".into(), failsafe);
    }
    if let Some(losses) = published.losses.document() {
        out.insert("loss".into(), losses);
    }
    if let Some(stalls) = published.stalls.document(now) {
        out.insert("stalls".into(), stalls);
    }
    if !published.wal.ready.is_empty() {
        out.insert("logical_slots".into(), json!(published.wal.ready));
    }
    if !published.wanting.is_empty() {
        out.insert("wanting".into(), json!(*published.wanting));
    }
    if let Some(certificate) = certificate {
        out.insert("certificate".into(), certificate.document(Timestamp::now()));
    }
    out.insert(
        "store".into(),
        json!({
            "kind": published.store.kind,
            "summary": published.store.summary,
            "last_seen": published.store_last_seen,
            "age_seconds": view.map(|(_, at)| now.since(*at).as_secs_f64()),
            "usable": published.usable_view(now).is_some(),
            "revision": view.map(|(v, _)| v.revision),
            "garbage": view.map(|(v, _)| v.garbage.clone()).unwrap_or_default(),
        }),
    );
    out.insert("recent".into(), Value::Array(published.decisions.to_vec()));
    Value::Object(out)
}

/// The boot-time clock says how long ago; people want to know when.
fn wall_clock(ago: Duration) -> String {
    let ago = SignedDuration::try_from(ago).unwrap_or_default();
    Timestamp::now().checked_sub(ago).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when() {
        let now: Timestamp = "2026-10-01T12:00:00Z".parse().unwrap();
        for (text, at) in [
            ("600s", Some("2026-10-01T11:50:00Z")),
            ("2026-10-01T10:00:00.5+02:00", Some("2026-10-01T08:00:00.5Z")),
            ("", None),
            ("-5s", None),
            ("10m", None),
            ("yesterday", None),
        ] {
            assert_eq!(moment(text, now), at.map(|at| at.parse().unwrap()), "{text}");
        }
    }
}
