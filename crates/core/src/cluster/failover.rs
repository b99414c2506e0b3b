use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::MemberName;

/// The `failover` key: a switchover (it names the leader) or a manual failover (it does not).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FailoverRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<MemberName>,
    #[serde(default, rename = "member", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<MemberName>,
    /// ISO 8601 with offset; only switchovers are scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

impl FailoverRequest {
    pub fn parse(text: &str) -> Result<Option<FailoverRequest>, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let request = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(map)) => {
                let field =
                    |key: &str| map.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
                FailoverRequest {
                    leader: field("leader").map(MemberName),
                    candidate: field("member").map(MemberName),
                    scheduled_at: field("scheduled_at"),
                }
            }
            Ok(_) => return Err("is JSON but not an object".into()),
            Err(e) => match text.split_once(':') {
                // The form before JSON: `leader:candidate`, either side may be empty.
                Some((leader, candidate)) if !text.contains(['{', '[', '"', ' ']) => FailoverRequest {
                    leader: Some(leader).filter(|s| !s.is_empty()).map(MemberName::from),
                    candidate: Some(candidate).filter(|s| !s.is_empty()).map(MemberName::from),
                    scheduled_at: None,
                },
                _ => return Err(format!("is not JSON ({e})")),
            },
        };
        Ok((request.leader.is_some() || request.candidate.is_some()).then_some(request))
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The word peers and logs use for it.
    pub fn action(&self) -> &'static str {
        if self.leader.is_some() { "switchover" } else { "manual failover" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_requests_and_their_absence() {
        let both = FailoverRequest { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
        assert_eq!(FailoverRequest::parse(r#"{"leader":"a","member":"b"}"#), Ok(Some(both.clone())));
        assert_eq!(FailoverRequest::parse("a:b"), Ok(Some(both.clone())));
        assert_eq!(both.to_text(), r#"{"leader":"a","member":"b"}"#);
        for none in ["", "{}", r#"{"leader":"","member":null}"#, r#"{"scheduled_at":"2026-10-01T12:00:00+00:00"}"#, ":"]
        {
            assert_eq!(FailoverRequest::parse(none), Ok(None), "{none}");
        }
        for bad in ["[]", "{", "nonsense"] {
            assert!(FailoverRequest::parse(bad).is_err(), "{bad}");
        }
    }
}
