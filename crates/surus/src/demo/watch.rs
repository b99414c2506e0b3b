//! Asks each member how it is, again and again.

use std::time::Duration;

use serde_json::Value;
use surus_api::{Client, PatroniStatus};
use tokio::sync::mpsc;

use super::plan::Plan;

const PAUSE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_millis(1500);

/// One look at one member; no status when its agent does not answer.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub status: Option<PatroniStatus>,
    /// Goal of its latest decision.
    pub goal: Option<String>,
}

pub fn start(client: &Client, plan: &Plan) -> mpsc::UnboundedReceiver<(usize, Seen)> {
    let (updates, receiver) = mpsc::unbounded_channel();
    for node in 0..plan.nodes.len() {
        let (client, url, updates) = (client.clone(), plan.api_url(node), updates.clone());
        tokio::spawn(async move {
            while updates.send((node, look(&client, &url).await)).is_ok() {
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    receiver
}

async fn look(client: &Client, url: &str) -> Seen {
    let status = client.get(url, "/patroni", PATIENCE).await.ok().and_then(|answer| answer.json().ok());
    let mut seen = Seen { status, goal: None };
    if seen.status.is_some() {
        let explained = client.get(url, "/explain", PATIENCE).await.ok().and_then(|answer| answer.json().ok());
        seen.goal = explained.as_ref().and_then(goal);
    }
    seen
}

/// The first decision told of, wherever in the document it stands, and what it waits for.
fn goal(explained: &Value) -> Option<String> {
    match explained {
        Value::Object(object) => {
            if let Some(goal) = object.get("goal").and_then(Value::as_str) {
                let waits: Vec<&str> = object
                    .get("waiting_for")
                    .and_then(Value::as_array)
                    .map(|list| list.iter().filter_map(Value::as_str).collect())
                    .unwrap_or_default();
                let waits = if waits.is_empty() { String::new() } else { format!(" (waits for {})", waits.join(", ")) };
                return Some(format!("{goal}{waits}"));
            }
            object.values().find_map(goal)
        }
        Value::Array(list) => list.iter().find_map(goal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_the_latest_goal() {
        let explained = json!({"name": "node1", "decisions": [
            {"report": {"goal": "follow node2", "waiting_for": ["its checkpoint"]}},
            {"report": {"goal": "older", "waiting_for": []}},
        ]});
        assert_eq!(goal(&explained).as_deref(), Some("follow node2 (waits for its checkpoint)"));
        assert_eq!(goal(&json!([])), None);
    }
}
