//! Takes out of a decision what is nobody's business and changes nothing about it.
//!
//! A decision turns on a few words of what is redacted: host and port of a connection string, whether a
//! command is set, whether a document is there. Those stay.

use std::sync::Arc;

use serde_json::Value;
use surus_core::cluster::{ClusterView, Member};
use surus_core::facts::{Answer, Facts};
use surus_core::follow::conninfo_value;
use surus_core::memory::Memory;
use surus_core::postgres::Observed;

use crate::record::Decision;

const HIDDEN: &str = "***";
/// Known to hold no secret; every other key of a connection string may.
const HARMLESS: [&str; 7] = ["host", "hostaddr", "port", "user", "dbname", "application_name", "sslmode"];

pub fn redact(mut decision: Decision) -> Decision {
    memory(&mut decision.memory);
    memory(&mut decision.step.memory);
    facts(&mut decision.facts);
    decision
}

fn memory(memory: &mut Memory) {
    Arc::make_mut(&mut memory.known_members).values_mut().for_each(member);
}

fn facts(facts: &mut Facts) {
    if let Some(view) = &mut facts.store.view {
        cluster(Arc::make_mut(view));
    }
    if let Answer::Known(observed) = &mut facts.postgres.answer {
        server(Arc::make_mut(observed));
    }
}

fn cluster(view: &mut ClusterView) {
    // Server parameters, pg_hba and whatever else people keep in it; what decisions are made on is in the settings.
    if let Some(config) = &mut view.config {
        config.value = Value::Object(serde_json::Map::new());
    }
    view.members.values_mut().for_each(member);
    view.failsafe.iter_mut().flatten().for_each(|(_, url)| self::url(url));
}

fn member(member: &mut Member) {
    for url in [&mut member.conn_url, &mut member.api_url, &mut member.proxy_url].into_iter().flatten() {
        self::url(url);
    }
    hide_values(&mut member.pending_restart_reason);
}

fn server(observed: &mut Observed) {
    if let Some(conninfo) = &mut observed.primary_conninfo {
        *conninfo = harmless_conninfo(conninfo);
    }
    if let Some(command) = observed.restore_command.as_mut().filter(|c| !c.is_empty()) {
        *command = HIDDEN.to_owned();
    }
    hide_values(&mut observed.pending_restart);
}

/// The names say enough; the values of an extension's settings may be keys.
fn hide_values(pending: &mut std::collections::BTreeMap<String, surus_core::cluster::PendingRestart>) {
    for change in pending.values_mut() {
        HIDDEN.clone_into(&mut change.old_value);
        HIDDEN.clone_into(&mut change.new_value);
    }
}

/// `scheme://user:password@host:port/path?query` without the user's part and the query.
fn url(text: &mut String) {
    let Some((scheme, rest)) = text.split_once("://") else { return };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if tail.contains('@') {
        // A slash in a password: what is host and what is secret cannot be told, so nobody takes it for a host.
        *text = format!("{scheme}://{HIDDEN}:{HIDDEN}");
        return;
    }
    let path = tail.split('?').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let user = if host.len() < authority.len() { "***@" } else { "" };
    let query = if path.len() < tail.len() { "?***" } else { "" };
    *text = format!("{scheme}://{user}{host}{path}{query}");
}

fn harmless_conninfo(text: &str) -> String {
    if text.trim().is_empty() {
        return text.to_owned();
    }
    // As a URI, or not understood, it has none of them.
    let known = HARMLESS.iter().filter_map(|key| Some((*key, conninfo_value(text, key)?)));
    let mut kept: Vec<String> =
        known.map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))).collect();
    kept.push(format!("other='{HIDDEN}'"));
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_where_and_lose_who() {
        for (before, after) in [
            ("postgres://10.0.0.1:5432/postgres", "postgres://10.0.0.1:5432/postgres"),
            ("postgres://u:s3cr@t@h:1/db?password=x", "postgres://***@h:1/db?***"),
            ("http://h:8008/patroni", "http://h:8008/patroni"),
            ("http://[::1]:8008", "http://[::1]:8008"),
            ("http://h?token=x", "http://h?***"),
            ("postgres://u:pa/ss@h:1/db", "postgres://***:***"),
            ("nonsense", "nonsense"),
        ] {
            let mut text = before.to_owned();
            url(&mut text);
            assert_eq!(text, after);
            let upstream = |url: &str| {
                Member { conn_url: Some(url.to_owned()), ..Member::default() }.upstream().map(|u| (u.host, u.port))
            };
            assert_eq!(upstream(before), upstream(after), "{before}");
        }
    }

    #[test]
    fn connection_strings_keep_where_and_lose_the_rest() {
        for text in [
            r"user=replicator password=hunter2 host='a b\'c' port=5433 sslpassword='hunter2' sslmode=prefer",
            "host=h passfile=/x/hunter2 options='-c x=hunter2'",
            "postgres://u:hunter2@h:5432/db",
            "password = 'hunter2' host = h",
            r"password=hunt\ hunter2 port=1",
            "hunter2",
        ] {
            let after = harmless_conninfo(text);
            assert!(!after.contains("hunter2") && !after.trim().is_empty(), "{text} became {after}");
            for key in ["host", "port"] {
                assert_eq!(conninfo_value(&after, key), conninfo_value(text, key), "{key} of {text}");
            }
        }
        assert_eq!(harmless_conninfo(" "), " ");
    }
}
