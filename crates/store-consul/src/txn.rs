//! A transaction in Consul's terms, and what its answer means. No I/O.

use serde::Deserialize;
use serde_json::{Value, json};
use surus_store::{Op, Revision};

use crate::endpoint::Answer;
use crate::fault::{Fault, denied};
use crate::kv::{Entry, consul_key, encode_value};

/// What Consul takes in one transaction.
pub(crate) const MOST_OPERATIONS: usize = 64;

/// A comparison that Consul can make. It cannot compare values: these are compared here and then held to their version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Absent(String),
    Version(String, Revision),
}

impl Check {
    fn operation(&self) -> Value {
        match self {
            Check::Absent(key) => verb("check-not-exists", key, json!({})),
            Check::Version(key, version) => verb("check-index", key, json!({"Index": version})),
        }
    }
}

fn verb(verb: &str, key: &str, more: Value) -> Value {
    let mut fields = json!({"Verb": verb, "Key": consul_key(key)});
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more);
    }
    json!({"KV": fields})
}

/// The checks in their order, then what is to be done. `session` names that of each lease.
///
/// A key is deleted before it is written. Else Consul would not let it be locked while another session holds it, not even
/// an older one of this process; a key without lease would stay bound to the session it had; and writing what is there
/// already would be no write, with no version of its own.
pub(crate) fn operations(checks: &[Check], then: &[Op], session: impl Fn(u64) -> String) -> Vec<Value> {
    let mut operations: Vec<Value> = checks.iter().map(Check::operation).collect();
    let delete = |key: &str| verb("delete", key, json!({}));
    // Deletions have no result that names the revision, so without any other write one of them leaves a mark.
    let mut unmarked = !then.iter().any(|op| matches!(op, Op::Put { .. }));
    let mut mark = |operations: &mut Vec<Value>, key: &str| {
        if std::mem::take(&mut unmarked) {
            operations.push(delete(key));
            operations.push(verb("set", key, json!({"Value": ""})));
        }
    };
    for op in then {
        match op {
            Op::Put { key, value, lease } => {
                operations.push(delete(key));
                let value = encode_value(value);
                operations.push(match lease {
                    Some(lease) => verb("lock", key, json!({"Value": value, "Session": session(*lease)})),
                    None => verb("set", key, json!({"Value": value})),
                });
            }
            Op::Delete { key } => {
                mark(&mut operations, key);
                operations.push(delete(key));
            }
            Op::DeletePrefix { prefix } => {
                mark(&mut operations, &format!("{prefix}-"));
                operations.push(verb("delete-tree", prefix, json!({})));
            }
        }
    }
    operations
}

/// What the token needs for these operations.
pub(crate) fn right(then: &[Op]) -> String {
    let key = then.iter().map(|op| match op {
        Op::Put { key, .. } | Op::Delete { key } | Op::DeletePrefix { prefix: key } => consul_key(key),
    });
    // All keys of a cluster are below one prefix, so the first one's directory names it well enough.
    let prefix = key.map(|k| k.rfind('/').map_or(k, |at| &k[..=at])).min_by_key(|k| k.len()).unwrap_or_default();
    format!("key_prefix \"{prefix}\" {{ policy = \"write\" }} and session_prefix \"\" {{ policy = \"write\" }}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With the revision, which a transaction of checks alone does not have.
    Applied(Option<Revision>),
    /// These checks did not hold, by their number.
    Conflict(Vec<usize>),
    LeaseGone,
    /// A session that just ended left a delay behind: nothing was done, and in a moment it can be.
    LockDelay,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    #[serde(default)]
    results: Option<Vec<Done>>,
    #[serde(default)]
    errors: Option<Vec<Failed>>,
}

#[derive(Deserialize)]
struct Done {
    #[serde(rename = "KV")]
    kv: Option<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    op_index: usize,
    #[serde(default)]
    what: String,
}

pub(crate) fn outcome(answer: &Answer, checks: usize, right: &str) -> Result<Outcome, Fault> {
    match answer.status {
        200 => {
            let said: Said = answer.json()?;
            let indexes = said.results.unwrap_or_default().into_iter().filter_map(|done| done.kv);
            Ok(Outcome::Applied(indexes.map(|entry| entry.modify_index).max()))
        }
        409 => {
            let errors = answer.json::<Said>()?.errors.unwrap_or_default();
            let with = |part: &str| errors.iter().find(|failed| failed.what.contains(part));
            if let Some(failed) = with("Permission denied").or_else(|| with("ACL not found")) {
                return Err(Fault::Refused(denied(&failed.what, right)));
            }
            let failed: Vec<usize> = errors.iter().map(|f| f.op_index).filter(|index| *index < checks).collect();
            if !failed.is_empty() {
                return Ok(Outcome::Conflict(failed));
            }
            if with("invalid session").is_some() {
                return Ok(Outcome::LeaseGone);
            }
            if with("lock delay").is_some() {
                return Ok(Outcome::LockDelay);
            }
            let texts: Vec<String> = errors.into_iter().map(|failed| failed.what).collect();
            Err(Fault::Refused(format!("the transaction was not carried out: {}", texts.join("; "))))
        }
        _ => Err(answer.fault(right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, lease: Option<u64>) -> Op {
        Op::Put { key: key.into(), value: "v".into(), lease }
    }

    fn verbs(checks: &[Check], then: &[Op]) -> Vec<String> {
        let text = |op: &Value| {
            let kv = &op["KV"];
            format!("{} {}", kv["Verb"].as_str().unwrap(), kv["Key"].as_str().unwrap())
        };
        operations(checks, then, |lease| format!("s{lease}")).iter().map(text).collect()
    }

    #[test]
    fn checks_come_first_and_keys_are_written_anew() {
        let checks = [Check::Absent("/a/x".into()), Check::Version("/a/y".into(), 7)];
        let then = [put("/a/leader", Some(5)), put("/a/status", None), Op::Delete { key: "/a/z".into() }];
        assert_eq!(
            verbs(&checks, &then),
            [
                "check-not-exists a/x",
                "check-index a/y",
                "delete a/leader",
                "lock a/leader",
                "delete a/status",
                "set a/status",
                "delete a/z"
            ]
        );
        let written = &operations(&checks, &then, |lease| format!("s{lease}"))[3]["KV"];
        assert_eq!((&written["Session"], &written["Value"]), (&json!("s5"), &json!("dg==")));
    }

    #[test]
    fn deletions_alone_leave_a_mark_that_tells_the_revision() {
        let delete = Op::Delete { key: "/a/z".into() };
        assert_eq!(verbs(&[], std::slice::from_ref(&delete)), ["delete a/z", "set a/z", "delete a/z"]);
        let all = Op::DeletePrefix { prefix: "/a/".into() };
        assert_eq!(
            verbs(&[], &[all, delete]),
            ["delete a/-", "set a/-", "delete-tree a/", "delete a/z"],
            "one mark is enough, and it is below what is deleted"
        );
        assert!(verbs(&[], &[]).is_empty());
    }

    #[test]
    fn answers_to_transactions() {
        let say = |status, body: &str| {
            let answer = Answer { status, body: body.into(), index: None, leaderless: false, filtered: false };
            outcome(&answer, 2, "right")
        };
        let conflict = |errors: &str| say(409, &format!(r#"{{"Results":null,"Errors":[{errors}]}}"#));
        let applied = r#"{"Results":[{"KV":{"Key":"a","Flags":0,"Value":null,"ModifyIndex":11}}],"Errors":null}"#;
        assert_eq!(say(200, applied), Ok(Outcome::Applied(Some(11))));
        assert_eq!(say(200, r#"{"Results":[],"Errors":null}"#), Ok(Outcome::Applied(None)));
        let gone = r#"{"OpIndex":3,"What":"invalid session \"7\""}"#;
        let stale = r#"{"OpIndex":1,"What":"failed to check index"}"#;
        assert_eq!(conflict(gone), Ok(Outcome::LeaseGone));
        // A comparison that does not hold decides, whatever else would have failed.
        assert_eq!(conflict(&format!("{gone},{stale}")), Ok(Outcome::Conflict(vec![1])));
        let delay = r#"{"OpIndex":2,"What":"failed to lock key \"a\" due to lock delay"}"#;
        assert_eq!(conflict(delay), Ok(Outcome::LockDelay));
        let denied = r#"{"OpIndex":0,"What":"Permission denied"}"#;
        assert!(matches!(conflict(denied), Err(Fault::Refused(text)) if text.contains("right")));
        assert!(matches!(conflict(""), Err(Fault::Refused(_))));
        assert!(matches!(say(500, "leadership lost while committing log"), Err(Fault::Unknown(_))));
    }

    #[test]
    fn the_missing_right_is_named_by_the_cluster() {
        let then = [put("/service/demo/members/a", None), put("/service/demo/leader", None)];
        assert!(right(&then).starts_with("key_prefix \"service/demo/\" { policy = \"write\" }"), "{}", right(&then));
    }
}
