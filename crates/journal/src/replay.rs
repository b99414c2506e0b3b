//! Takes recorded decisions again.

use serde_json::Value;

use crate::delta;
use crate::record::{Decision, Recorded};

/// Where the decision of now is another than the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path within the step: `report.rule`.
    pub what: String,
    pub recorded: String,
    pub now: String,
}

/// The same core on the same memory and facts. Nothing: it decides as it did.
pub fn replay(recorded: &Decision) -> Vec<Difference> {
    let now = surus_core::step(&recorded.memory, &recorded.facts);
    if now == recorded.step {
        return Vec::new();
    }
    let value = |step| serde_json::to_value(step).unwrap_or(Value::Null);
    paths(&value(&recorded.step), &value(&now))
}

/// What is different in the facts and the memory of `now`, of what changes for a reason: clocks are left out.
pub fn changed(before: &Recorded, now: &Recorded) -> Vec<Difference> {
    let value = |r: &Recorded| {
        let mut facts = serde_json::to_value(&r.decision.facts).unwrap_or(Value::Null);
        if let Value::Object(map) = &mut facts {
            map.remove("now");
            map.remove("unix_ms");
            if let Some(at) = map.get_mut("postgres").and_then(|p| p.pointer_mut("/answer/Known")) {
                at.as_object_mut().map(|o| o.remove("at"));
            }
        }
        facts
    };
    paths(&value(before), &value(now))
}

fn paths(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    if delta::between(old, new).is_some() {
        walk(String::new(), Some(old), Some(new), &mut found);
    }
    found
}

fn walk(path: String, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    if old == new {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (old, new) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
        keys.sort();
        for key in keys {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(below, a.get(key), b.get(key), found);
        }
        return;
    }
    let shown = |v: Option<&Value>| match v {
        None => "nothing".to_owned(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    };
    found.push(Difference { what: path, recorded: shown(old), now: shown(new) });
}
