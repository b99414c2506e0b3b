//! `GET /explain`: why this member does what it does. Not known to peers.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use surus_core::BootTime;

use crate::handle::Published;

/// The fields of the newest decision stand at the top, those before it (and itself) in `recent`.
pub fn document(published: &Published, now: BootTime) -> Value {
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
