use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::MemberName;

/// The `sync` key: who may be promoted without losing an acknowledged commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    pub leader: MemberName,
    /// Sorted; in quorum mode these are the voters.
    pub standbys: Vec<String>,
    pub quorum: u32,
}

impl SyncState {
    /// A key without a leader counts as absent.
    pub fn parse(text: &str) -> Result<Option<SyncState>, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON ({e})"))?;
        let Value::Object(map) = value else { return Err("is JSON but not an object".into()) };
        let Some(leader) = map.get("leader").and_then(Value::as_str).filter(|s| !s.is_empty()) else { return Ok(None) };
        let mut standbys: Vec<String> = map
            .get("sync_standby")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .split(',')
            .map(|s| s.trim().to_owned())
            .filter(|s| !s.is_empty())
            .collect();
        standbys.sort();
        let quorum = map.get("quorum").and_then(|q| q.as_u64().or_else(|| q.as_str()?.parse().ok())).unwrap_or(0);
        Ok(Some(SyncState { leader: leader.into(), standbys, quorum: u32::try_from(quorum).unwrap_or(u32::MAX) }))
    }

    pub fn to_text(&self) -> String {
        let standbys = if self.standbys.is_empty() { Value::Null } else { Value::String(self.standbys.join(",")) };
        serde_json::json!({"leader": self.leader, "quorum": self.quorum, "sync_standby": standbys}).to_string()
    }

    /// PostgreSQL compares these names without regard to case, and so do peers.
    pub fn lists(&self, name: &MemberName) -> bool {
        self.standbys.iter().any(|s| s.eq_ignore_ascii_case(name.as_str()))
    }

    pub fn is_leader(&self, name: &MemberName) -> bool {
        self.leader.as_str().eq_ignore_ascii_case(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_shared_form() {
        let text = r#"{"leader":"node1","quorum":1,"sync_standby":"node2,node3"}"#;
        let sync = SyncState::parse(text).unwrap().unwrap();
        assert_eq!(sync.to_text(), text);
        assert!(sync.lists(&"NODE2".into()) && !sync.lists(&"node1".into()) && sync.is_leader(&"Node1".into()));
        let spaced = SyncState::parse(r#"{"leader":"a","sync_standby":" c , ,b"}"#).unwrap().unwrap();
        assert_eq!(spaced.standbys, ["b", "c"]);
        for none in ["", "{}", r#"{"leader":null,"sync_standby":"a"}"#] {
            assert_eq!(SyncState::parse(none), Ok(None));
        }
    }
}
