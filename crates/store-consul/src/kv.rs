//! Keys and what Consul says of them. Ours begin with a `/` that Consul's do not have.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde::Deserialize;
use surus_store::{KeyValue, Revision, Snapshot};

use crate::endpoint::{Answer, Ask};
use crate::fault::Fault;
use crate::session::lease_of;

/// One key, as Consul tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) modify_index: u64,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    session: Option<String>,
}

impl Entry {
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Fault> {
        let bad = |e| Fault::WrongServer(format!("the value of {} is not what Consul sends: {e}", self.key));
        self.value.as_ref().map_or(Ok(Vec::new()), |text| BASE64.decode(text).map_err(bad))
    }
}

pub(crate) fn consul_key(key: &str) -> &str {
    key.strip_prefix('/').unwrap_or(key)
}

fn our_key(key: &str) -> String {
    format!("/{key}")
}

pub(crate) fn encode_value(value: &[u8]) -> String {
    BASE64.encode(value)
}

/// For a path; slashes stay.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// Everything below a prefix; `more` are further parameters, beginning with `&`.
pub(crate) fn listing(prefix: &str, more: &str) -> Ask {
    let key = consul_key(prefix);
    Ask {
        method: Method::GET,
        path: format!("/v1/kv/{}?recurse{more}", encode(key)),
        body: None,
        right: format!("key_prefix \"{key}\" {{ policy = \"read\" }}"),
    }
}

/// One key.
pub(crate) fn single(key: &str) -> Ask {
    let key = consul_key(key);
    Ask {
        method: Method::GET,
        path: format!("/v1/kv/{}?consistent", encode(key)),
        body: None,
        right: format!("key_prefix \"{key}\" {{ policy = \"read\" }}"),
    }
}

/// The names alone of what is below a prefix, by a leader that made sure that it is one.
pub(crate) fn names(prefix: &str) -> Ask {
    Ask { path: format!("/v1/kv/{}?keys&consistent", encode(consul_key(prefix))), ..listing(prefix, "") }
}

/// The snapshot that an answer to [`listing`] is. Its revision is the last change below the prefix, deletions included.
pub(crate) fn snapshot(answer: &Answer, right: &str) -> Result<Snapshot, Fault> {
    let entries = entries(answer, right)?;
    if answer.filtered {
        let said = "Permission denied for some of the keys";
        return Err(Fault::Refused(crate::fault::denied(said, right)));
    }
    let revision = answer.index.unwrap_or_default();
    let mut keys = Vec::with_capacity(entries.len());
    for entry in entries {
        let lease = entry.session.as_deref().and_then(lease_of);
        keys.push(KeyValue { value: entry.bytes()?, version: entry.modify_index, lease, key: our_key(&entry.key) });
    }
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Snapshot { revision, keys })
}

/// The key that an answer to [`single`] is, `None` when there is none.
pub(crate) fn entry(answer: &Answer, right: &str) -> Result<Option<Entry>, Fault> {
    Ok(entries(answer, right)?.pop())
}

fn entries(answer: &Answer, right: &str) -> Result<Vec<Entry>, Fault> {
    index(answer, right)?;
    if answer.status == 404 { Ok(Vec::new()) } else { answer.json() }
}

/// The last change of what was read, by an agent that knows a leader.
pub(crate) fn index(answer: &Answer, right: &str) -> Result<Revision, Fault> {
    if answer.leaderless {
        return Err(Fault::NoEffect("the agent knows no leader of Consul".to_owned()));
    }
    match (answer.status, answer.index) {
        // Without the index it is somebody else who does not have the page.
        (200 | 404, Some(index @ 1..)) => Ok(index),
        (200, _) => {
            Err(Fault::WrongServer("the server there answers, but not as Consul does (no X-Consul-Index)".to_owned()))
        }
        _ => Err(answer.fault(right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, index: Option<u64>, body: &str) -> Answer {
        Answer { status, body: body.into(), index, leaderless: false, filtered: false }
    }

    #[test]
    fn a_listing_becomes_a_snapshot() {
        let body = r#"[{"LockIndex":1,"Key":"s/leader","Flags":0,"Value":"bm9kZTE=","Session":"e9f1a796-bca9-7a24-8216-f215450fd698","CreateIndex":9,"ModifyIndex":9},
                       {"LockIndex":0,"Key":"s/initialize","Flags":0,"Value":null,"CreateIndex":7,"ModifyIndex":8}]"#;
        let snapshot = snapshot(&answer(200, Some(12), body), "").unwrap();
        assert_eq!(snapshot.revision, 12);
        let keys: Vec<_> = snapshot.keys.iter().map(|k| (k.key.as_str(), &k.value[..], k.version, k.lease)).collect();
        let lease = Some(0xe9f1_a796_bca9_7a24);
        assert_eq!(keys, [("/s/initialize", &b""[..], 8, None), ("/s/leader", &b"node1"[..], 9, lease)]);
    }

    #[test]
    fn what_is_no_listing_is_not_taken_for_an_empty_one() {
        assert!(snapshot(&answer(404, Some(3), ""), "").unwrap().keys.is_empty());
        for (what, answer) in [
            ("no index", answer(404, None, "")),
            ("index 0", answer(404, Some(0), "")),
            ("no JSON", answer(200, Some(3), "<html>")),
            ("no leader", Answer { leaderless: true, ..answer(404, Some(3), "") }),
            ("filtered", Answer { filtered: true, ..answer(200, Some(3), "[]") }),
            ("broken base64", answer(200, Some(3), r#"[{"Key":"a","Value":"*","ModifyIndex":1}]"#)),
        ] {
            assert!(snapshot(&answer, "").is_err(), "{what}");
        }
    }

    #[test]
    fn keys_are_encoded_for_the_path() {
        assert_eq!(listing("/service/a b/ü", "").path, "/v1/kv/service/a%20b/%C3%BC?recurse");
    }
}
