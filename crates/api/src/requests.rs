//! Bodies of the requests (`spec/rest-api.md §7, §8, §9`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use surus_core::{Lsn, MemberName};

/// `POST /switchover` and `POST /failover`. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchoverRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    #[serde(default)]
    pub candidate: Option<String>,
    /// Older spelling of `candidate`, used when that is empty.
    #[serde(default, skip_serializing)]
    pub member: Option<String>,
    /// ISO 8601 with offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// Not known to Patroni. A failover while nobody leads: whoever may go on as the primary without the store has
    /// certainly stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl SwitchoverRequest {
    pub fn leader(&self) -> Option<MemberName> {
        self.leader.as_deref().filter(|s| !s.is_empty()).map(MemberName::from)
    }

    pub fn candidate(&self) -> Option<MemberName> {
        let given = |field: &Option<String>| field.as_deref().filter(|s| !s.is_empty()).map(MemberName::from);
        given(&self.candidate).or_else(|| given(&self.member))
    }

    pub fn scheduled_at(&self) -> Option<&str> {
        self.scheduled_at.as_deref().filter(|s| !s.is_empty())
    }
}

/// `POST /restart` as a client sends it. The server validates key by key in the order given, so it
/// reads the document itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestartRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_pending: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// ISO 8601 with offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A number of seconds, or a text with a unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Value>,
}

/// `POST /reinitialize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReinitRequest {
    pub force: bool,
    pub from_leader: bool,
}

impl ReinitRequest {
    /// Both fields may be JSON booleans or one of the words for true; everything else means false.
    pub fn read(body: &serde_json::Map<String, Value>) -> ReinitRequest {
        let on = |key: &str| match body.get(key) {
            Some(Value::Bool(b)) => *b,
            Some(Value::String(s)) => matches!(s.to_lowercase().as_str(), "true" | "on" | "yes" | "1"),
            Some(Value::Number(n)) => n.as_i64() == Some(1),
            _ => false,
        };
        ReinitRequest { force: on("force"), from_leader: on("from_leader") }
    }
}

/// `POST /failsafe`: a primary that lost the store asks whether it may go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafeRequest {
    pub name: MemberName,
    pub conn_url: String,
    pub api_url: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Lsn>,
    /// Not known to Patroni: for how long it counts on the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// `POST /consent`: a member asks whether it may lead, although another may go on without the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentRequest {
    pub name: MemberName,
    /// For how long.
    pub length_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_stands_in_for_an_empty_candidate() {
        let read = |text: &str| serde_json::from_str::<SwitchoverRequest>(text).unwrap();
        assert_eq!(read(r#"{"member":"a","candidate":"b","x":1}"#).candidate(), Some("b".into()));
        assert_eq!(read(r#"{"member":"a","candidate":""}"#).candidate(), Some("a".into()));
        assert_eq!(
            read(r#"{"candidate":null,"leader":""}"#),
            SwitchoverRequest { leader: Some(String::new()), ..Default::default() }
        );
        assert_eq!(read(r#"{"leader":""}"#).leader(), None);
        assert!(serde_json::from_str::<SwitchoverRequest>(r#"{"leader":7}"#).is_err());
    }

    #[test]
    fn what_is_sent() {
        let switchover = SwitchoverRequest { leader: Some("a".into()), ..Default::default() };
        assert_eq!(serde_json::to_string(&switchover).unwrap(), r#"{"leader":"a","candidate":null}"#);
        assert_eq!(serde_json::to_string(&RestartRequest::default()).unwrap(), "{}");
    }

    #[test]
    fn words_for_true() {
        for (text, force) in [
            (r#"{"force":"On"}"#, true),
            (r#"{"force":true}"#, true),
            (r#"{"force":1}"#, true),
            (r#"{"force":"x"}"#, false),
            (r#"{"force":null}"#, false),
            ("{}", false),
        ] {
            assert_eq!(ReinitRequest::read(&serde_json::from_str(text).unwrap()).force, force, "{text}");
        }
    }
}
