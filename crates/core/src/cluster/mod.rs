//! What the store says about a cluster, and the text of each key (`spec/dcs.md §2`).
//!
//! Reading is lenient where peers are (unknown fields, legacy forms) and never fails: a value that
//! makes no sense becomes "absent" plus an entry in [`ClusterView::garbage`], so that one spoilt key
//! cannot take a healthy primary down.

mod announced;
mod failover;
mod history;
mod member;
mod migration;
mod status;
mod sync;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use announced::{Announced, MOST_SKIPPED};
pub use failover::FailoverRequest;
pub use history::{History, HistoryEntry};
pub use member::{Member, MemberRole, MemberState, PendingRestart, ScheduledRestart, Tags, Upstream};
pub use migration::{MOVED_LEADER, Migration, MigrationPhase};
pub use status::Status;
pub use sync::SyncState;

use crate::failsafe::Vouching;
use crate::ids::{MemberName, SystemId};
use crate::loss::Remembered;

/// The version of one key as the store counts it; what compare-and-set compares.
pub type KeyVersion = u64;

/// A value together with the version under which it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    pub value: T,
    pub version: KeyVersion,
}

/// The three states of the `initialize` key.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Initialize {
    #[default]
    Absent,
    /// Somebody won the race for it and is bootstrapping.
    InProgress,
    Done(SystemId),
}

/// Who holds the leader key, as read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    pub name: MemberName,
    pub version: KeyVersion,
    /// The lease or session the key is bound to, where the store tells.
    pub lease: Option<u64>,
}

/// A key whose text could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Below the cluster's prefix, for example `members/node2`.
    pub key: String,
    pub problem: String,
}

/// One consistent reading of everything below the cluster's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterView {
    /// The store's revision of this reading; grows with every change.
    pub revision: u64,
    pub initialize: Initialize,
    pub initialize_version: KeyVersion,
    /// The dynamic configuration document, only if it is a JSON object.
    pub config: Option<Versioned<serde_json::Value>>,
    pub leader: Option<Leader>,
    pub members: BTreeMap<MemberName, Member>,
    pub status: Status,
    /// Absent when there is no request: `{}`, no key, or neither leader nor member in it.
    pub failover: Option<Versioned<FailoverRequest>>,
    /// Version of the `failover` key even when it holds no request, for clearing by compare-and-set.
    pub failover_version: Option<KeyVersion>,
    pub sync: Option<Versioned<SyncState>>,
    pub sync_version: Option<KeyVersion>,
    pub history: Option<History>,
    pub failsafe: Option<BTreeMap<MemberName, String>>,
    /// Whom members may vouch for. Not known to Patroni.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouching: Option<Versioned<Vouching>>,
    /// Also of one that makes no sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouching_version: Option<KeyVersion>,
    /// The primary that is left alone because the cluster is or was paused: until it is not named here any more,
    /// nobody can know that it has stopped writing. Not known to Patroni.
    #[serde(default)]
    pub unguarded: Option<Versioned<MemberName>>,
    #[serde(default)]
    pub announced: Option<Versioned<Announced>>,
    /// Also of one that makes no sense, for overwriting it by compare-and-set.
    #[serde(default)]
    pub announced_version: Option<KeyVersion>,
    /// A move to another store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Versioned<Migration>>,
    /// Also of one that makes no sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_version: Option<KeyVersion>,
    /// Loss receipts that nobody has acknowledged, by the member they are or were on. Not known to Patroni.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub losses: BTreeMap<MemberName, Versioned<Vec<Remembered>>>,
    pub garbage: Vec<Garbage>,
}

/// One key below the cluster's prefix as the store returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawKey {
    /// Relative to the prefix: `leader`, `members/node1`.
    pub key: String,
    pub value: Vec<u8>,
    pub version: KeyVersion,
    pub lease: Option<u64>,
}

impl ClusterView {
    pub fn read<'a>(revision: u64, keys: impl IntoIterator<Item = &'a RawKey>) -> ClusterView {
        let mut view = ClusterView { revision, ..ClusterView::default() };
        let mut legacy_optime = None;
        let mut has_status = false;
        for raw in keys {
            let Ok(text) = std::str::from_utf8(&raw.value) else {
                view.spoilt(&raw.key, "is not UTF-8 text");
                continue;
            };
            match raw.key.as_str() {
                "initialize" => view.read_initialize(raw, text),
                "config" => view.read_config(raw, text),
                "leader" => view.read_leader(raw, text),
                "status" => {
                    has_status = true;
                    match Status::parse(text) {
                        Ok(status) => view.status = status,
                        Err(problem) => view.spoilt("status", &problem),
                    }
                }
                "optime/leader" => legacy_optime = text.trim().parse().ok().map(crate::Lsn),
                "failover" => {
                    view.failover_version = Some(raw.version);
                    match FailoverRequest::parse(text) {
                        Ok(request) => view.failover = request.map(|value| Versioned { value, version: raw.version }),
                        Err(problem) => view.spoilt("failover", &problem),
                    }
                }
                "sync" => {
                    view.sync_version = Some(raw.version);
                    match SyncState::parse(text) {
                        Ok(sync) => view.sync = sync.map(|value| Versioned { value, version: raw.version }),
                        Err(problem) => view.spoilt("sync", &problem),
                    }
                }
                "history" => match History::parse(text) {
                    Ok(history) => view.history = Some(history),
                    Err(problem) => view.spoilt("history", &problem),
                },
                "failsafe" => match serde_json::from_str(text) {
                    Ok(map) => view.failsafe = Some(map),
                    Err(_) => view.spoilt("failsafe", "is not a JSON object of member names to URLs"),
                },
                "vouching" => {
                    view.vouching_version = Some(raw.version);
                    match Vouching::parse(text) {
                        Ok(value) => view.vouching = Some(Versioned { value, version: raw.version }),
                        Err(problem) => view.spoilt("vouching", &problem),
                    }
                }
                "unguarded" if !text.trim().is_empty() => {
                    view.unguarded = Some(Versioned { value: MemberName::from(text.trim()), version: raw.version });
                }
                "unguarded" => view.spoilt("unguarded", "is empty"),
                "timeline" => {
                    view.announced_version = Some(raw.version);
                    match Announced::parse(text) {
                        Ok(value) => view.announced = Some(Versioned { value, version: raw.version }),
                        Err(problem) => view.spoilt("timeline", &problem),
                    }
                }
                "migrate" => {
                    view.migration_version = Some(raw.version);
                    match Migration::parse(text) {
                        Ok(value) => view.migration = Some(Versioned { value, version: raw.version }),
                        Err(problem) => view.spoilt("migrate", &problem),
                    }
                }
                key => {
                    if let Some(name) = key.strip_prefix("members/").filter(|n| !n.is_empty() && !n.contains('/')) {
                        let name = MemberName::from(name);
                        let member = match Member::parse(name.clone(), text) {
                            Ok(member) => member,
                            Err(problem) => {
                                view.spoilt(&raw.key, &problem);
                                Member::unknown(name.clone())
                            }
                        };
                        view.members.insert(name, member);
                    } else if let Some(name) = key.strip_prefix("loss/").filter(|n| !n.is_empty()) {
                        // One that makes no sense is overwritten by its member.
                        let value = Remembered::parse(text).unwrap_or_else(|problem| {
                            view.spoilt(&raw.key, &problem);
                            vec![]
                        });
                        view.losses.insert(MemberName::from(name), Versioned { value, version: raw.version });
                    }
                }
            }
        }
        if !has_status && let Some(optime) = legacy_optime {
            view.status.optime = optime;
        }
        // A leader without a member key is legal: peers make an empty member of that name.
        if let Some(leader) = &view.leader {
            let name = leader.name.clone();
            view.members.entry(name.clone()).or_insert_with(|| Member::unknown(name));
        }
        view
    }

    fn spoilt(&mut self, key: &str, problem: &str) {
        self.garbage.push(Garbage { key: key.to_owned(), problem: problem.to_owned() });
    }

    fn read_initialize(&mut self, raw: &RawKey, text: &str) {
        self.initialize_version = raw.version;
        self.initialize = if text.trim().is_empty() {
            Initialize::InProgress
        } else if let Some(id) = SystemId::parse(text) {
            Initialize::Done(id)
        } else {
            self.spoilt("initialize", &format!("\"{}\" is no PostgreSQL system identifier", clip(text)));
            // Readers treat an invalid identifier as "not valid": nobody may bootstrap over it, and
            // the lock owner writes the right one.
            Initialize::InProgress
        };
    }

    fn read_config(&mut self, raw: &RawKey, text: &str) {
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) if value.is_object() => self.config = Some(Versioned { value, version: raw.version }),
            Ok(_) => self.spoilt("config", "is not a JSON object; the last good configuration stays in force"),
            Err(e) => self.spoilt("config", &format!("is not JSON ({e}); the last good configuration stays in force")),
        }
    }

    fn read_leader(&mut self, raw: &RawKey, text: &str) {
        if text.trim().is_empty() {
            self.spoilt("leader", "is empty");
        } else {
            self.leader = Some(Leader { name: MemberName::from(text), version: raw.version, lease: raw.lease });
        }
    }

    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|l| &l.name)
    }

    pub fn leader_member(&self) -> Option<&Member> {
        self.leader.as_ref().and_then(|l| self.members.get(&l.name))
    }

    /// Somebody else may still accept writes, whatever became of its lead.
    pub fn left_alone_beside(&self, me: &MemberName) -> Option<&MemberName> {
        self.unguarded.as_ref().map(|u| &u.value).filter(|name| *name != me)
    }

    pub fn others<'a>(&'a self, me: &'a MemberName) -> impl Iterator<Item = &'a Member> {
        self.members.values().filter(move |m| m.name != *me)
    }

    /// The timeline the history key says the cluster is on (`spec/dcs.md §2.9`).
    pub fn history_timeline(&self) -> Option<crate::Timeline> {
        self.history.as_ref().map(History::current_timeline)
    }
}

/// Enough of a foreign text for an error message.
fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    fn raw(key: &str, value: &str) -> RawKey {
        RawKey { key: key.into(), value: value.into(), version: 7, lease: None }
    }

    #[test]
    fn reads_a_patroni_cluster() {
        let view = ClusterView::read(
            9,
            &[
                raw("initialize", "7277694203142172922"),
                raw("config", r#"{"ttl":30}"#),
                raw("leader", "node1"),
                raw(
                    "members/node1",
                    r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"master","version":"3.0.0","xlog_location":50331744,"timeline":2}"#,
                ),
                raw("status", r#"{"optime":50331744,"slots":{"node1":50331744},"retain_slots":["node2"]}"#),
                raw(
                    "history",
                    r#"[[1,25623960,"no recovery target specified","2026-07-01T10:00:00.123456+00:00","node2"]]"#,
                ),
                raw("failover", "{}"),
                raw("unguarded", "node1"),
                raw("timeline", r#"{"leader":"node2","timeline":2}"#),
                raw(
                    "loss/gone",
                    r#"[{"id":"x","at":"","transactions":2,"what":"w","changed":[],"wal_bytes":1,"directory":"/d"}]"#,
                ),
                raw("unknown/thing", "x"),
                raw("members/x/y", "x"),
            ],
        );
        assert_eq!(view.garbage, vec![]);
        assert_eq!(view.leader_name(), Some(&"node1".into()));
        assert_eq!(view.leader_member().map(|m| m.role), Some(MemberRole::Primary));
        assert_eq!(view.status.optime, Lsn(50_331_744));
        assert_eq!(view.history_timeline(), Some(crate::Timeline(2)));
        assert_eq!(view.failover, None);
        assert_eq!(view.failover_version, Some(7));
        assert_eq!(view.left_alone_beside(&"node2".into()), Some(&"node1".into()));
        assert_eq!(view.left_alone_beside(&"node1".into()), None);
        assert_eq!(view.announced.as_ref().map(|a| a.value.timeline), Some(crate::Timeline(2)));
        assert_eq!(view.losses[&MemberName::from("gone")].value[0].transactions, 2);
        assert_eq!(view.members.len(), 1);
    }

    #[test]
    fn garbage_in_every_key_is_named_and_survived() {
        let keys = [
            "initialize",
            "config",
            "status",
            "failover",
            "sync",
            "history",
            "failsafe",
            "vouching",
            "timeline",
            "loss/a",
            "members/a",
        ];
        let raws: Vec<_> = keys.iter().map(|k| raw(k, "\u{1}{[not json")).chain([raw("leader", " ")]).collect();
        let view = ClusterView::read(1, &raws);
        let named: Vec<_> = view.garbage.iter().map(|g| g.key.as_str()).collect();
        assert_eq!(named, [&keys[..], &["leader"]].concat());
        assert_eq!((&view.announced, view.announced_version), (&None, Some(7)));
        assert_eq!(view.initialize, Initialize::InProgress, "nobody may bootstrap over a spoilt identifier");
        assert!(view.config.is_none() && view.leader.is_none());
        let binary =
            ClusterView::read(1, &[RawKey { key: "leader".into(), value: vec![0xff], version: 1, lease: None }]);
        assert_eq!(binary.garbage.len(), 1);
    }

    #[test]
    fn a_leader_without_member_key_is_an_empty_member() {
        let view = ClusterView::read(1, &[raw("leader", "ghost")]);
        assert_eq!(view.leader_member().map(|m| m.state), Some(MemberState::Unknown));
    }
}
