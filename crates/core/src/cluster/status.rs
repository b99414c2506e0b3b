use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::Lsn;

/// The `status` key: the leader's last known position and the slots that must not be lost.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    pub optime: Lsn,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Lsn>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retain_slots: Vec<String>,
}

impl Status {
    pub fn parse(text: &str) -> Result<Status, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON ({e})"))?;
        match value {
            Value::Number(n) => Ok(Status { optime: Lsn(n.as_u64().unwrap_or(0)), ..Status::default() }),
            Value::Object(map) => Ok(Status {
                optime: map.get("optime").and_then(lsn).unwrap_or_default(),
                slots: embedded(map.get("slots"))
                    .and_then(|v| {
                        v.as_object().map(|o| o.iter().filter_map(|(k, v)| Some((k.clone(), lsn(v)?))).collect())
                    })
                    .unwrap_or_default(),
                retain_slots: embedded(map.get("retain_slots"))
                    .and_then(|v| {
                        v.as_array().map(|a| a.iter().filter_map(|s| s.as_str().map(str::to_owned)).collect())
                    })
                    .unwrap_or_default(),
            }),
            _ => Err("is neither a JSON object nor a number".into()),
        }
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn lsn(v: &Value) -> Option<Lsn> {
    v.as_u64().or_else(|| v.as_str()?.parse().ok()).map(Lsn)
}

/// On Kubernetes the nested values are themselves JSON texts.
fn embedded(v: Option<&Value>) -> Option<Value> {
    match v? {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_every_form_peers_write() {
        let full = r#"{"optime":50331744,"slots":{"node1":50331744,"log1":50331600},"retain_slots":["node2"]}"#;
        let status = Status::parse(full).unwrap();
        assert_eq!(status.optime, Lsn(50_331_744));
        assert_eq!(status.slots["log1"], Lsn(50_331_600));
        assert_eq!(Status::parse("50331744").unwrap().optime, Lsn(50_331_744));
        let k8s = Status::parse(r#"{"optime":"7","slots":"{\"a\":1}","retain_slots":"[\"b\"]"}"#).unwrap();
        assert_eq!((k8s.optime, k8s.slots["a"], k8s.retain_slots), (Lsn(7), Lsn(1), vec!["b".to_owned()]));
        assert_eq!(Status::parse("{}").unwrap(), Status::default());
        assert!(Status::parse("[]").is_err());
    }

    #[test]
    fn empty_parts_are_left_out_when_written() {
        assert_eq!(Status { optime: Lsn(5), ..Status::default() }.to_text(), r#"{"optime":5}"#);
    }
}
