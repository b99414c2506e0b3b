//! What the holder of the lead keeps right in the store: identity, configuration, history.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use surus_core::Timeline;
use surus_core::cluster::{History, HistoryEntry, Initialize};
use surus_core::facts::Facts;
use surus_core::order::Order;
use surus_postgres::Setting;
use surus_store::TxnOutcome;
use tracing::info;

use super::WRITE;
use crate::agent::Agent;

impl Agent {
    pub(super) fn write_for_cluster(&mut self, order: Order, facts: &Facts) {
        let store = self.store.clone();
        let Some(view) = facts.store.view.clone() else { return };
        match order {
            Order::WriteSystemId { id } => {
                _ = self.upkeep.spawn("writing the initialize key", async move {
                    let text = id.as_str().to_owned();
                    let written = match view.initialize {
                        Initialize::Absent => store.create_initialize(text, WRITE).await,
                        _ => store.write_as_leader("initialize", text, WRITE).await,
                    };
                    written.map(drop).map_err(|e| e.to_string())
                })
            }
            Order::WriteConfig { .. } => {
                let document = self.settings.dynamic.document.clone();
                let document = match document.as_object() {
                    Some(map) if !map.is_empty() => document,
                    _ => self.settings.founding_document(),
                };
                let instance = facts.postgres.stand_alone.then(|| self.instance.clone());
                let spoilt = view.garbage.iter().any(|g| g.key == "config");
                self.upkeep.spawn("writing the config key", async move {
                    let mut document = document;
                    if let Some(instance) = instance {
                        let running = instance.settings(Duration::from_secs(5)).await.map_err(|e| e.to_string())?;
                        adopt_limits(&mut document, &running);
                    }
                    let written = if spoilt {
                        store.write_as_leader("config", document.to_string(), WRITE).await
                    } else {
                        store.compare_and_put("config", None, document.to_string(), WRITE).await
                    };
                    if written.map_err(|e| e.to_string())? != TxnOutcome::Conflict {
                        info!("the dynamic configuration was missing in the store or unusable, and was written again");
                    }
                    Ok(())
                });
            }
            Order::RequestSwitchover { version, request } => {
                self.upkeep.spawn("asking for a switchover", async move {
                    let written = store.compare_and_put("failover", version, request.to_text(), WRITE).await;
                    written.map(drop).map_err(|e| e.to_string())
                });
            }
            Order::WriteHistory => {
                let Some(timeline) = facts.postgres.observed().and_then(|o| o.timeline) else { return };
                let (instance, me) = (self.instance.clone(), self.me.clone());
                let limit = usize::try_from(facts.settings.max_timelines_history).unwrap_or(0);
                self.upkeep.spawn("writing the history key", async move {
                    let rows = if timeline.0 == 1 {
                        vec![]
                    } else {
                        instance.timeline_history(timeline).await.map_err(|e| e.to_string())?
                    };
                    let history = merge_history(rows, timeline, view.history.as_ref(), me.as_str(), limit);
                    if Some(&history) == view.history.as_ref() {
                        return Ok(());
                    }
                    store
                        .write_as_leader("history", history.to_text(), WRITE)
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string())
                });
            }
            _ => {}
        }
    }
}

/// Settings that all members have in common and that a server takes over only by a restart. The configuration of an agent
/// wins over the operator's own, so it begins with what the operator's server runs with.
const LIMITS: [&str; 8] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_worker_processes",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_replication_slots",
    "track_commit_timestamp",
    "wal_level",
];

/// What is written already stays; what is too little for a cluster is left to the defaults.
fn adopt_limits(document: &mut Value, running: &BTreeMap<String, Setting>) {
    let Some(top) = document.as_object_mut() else { return };
    let postgresql = top.entry("postgresql").or_insert_with(|| json!({}));
    let Some(postgresql) = postgresql.as_object_mut() else { return };
    let parameters = postgresql.entry("parameters").or_insert_with(|| json!({}));
    let Some(parameters) = parameters.as_object_mut() else { return };
    for name in LIMITS {
        let Some(setting) = running.get(name).filter(|_| !parameters.contains_key(name)) else { continue };
        let number = setting.value.parse::<i64>();
        let wanted = match name {
            "wal_level" => setting.value == "logical",
            "max_wal_senders" | "max_replication_slots" => number.as_ref().is_ok_and(|n| *n > 10),
            _ => setting.source != "default",
        };
        if wanted {
            let value = number.map_or_else(|_| json!(setting.value), |n| json!(n));
            parameters.insert(name.to_owned(), value);
        }
    }
}

/// What the history file says, with time and new leader of what was known before (`spec/dcs.md §2.9`).
fn merge_history(
    rows: Vec<HistoryEntry>,
    timeline: Timeline,
    known: Option<&History>,
    me: &str,
    limit: usize,
) -> History {
    let last = rows.len().saturating_sub(1);
    let rows: Vec<HistoryEntry> = rows
        .into_iter()
        .enumerate()
        .map(|(i, row)| {
            let before =
                known.and_then(|h| h.0.iter().find(|k| k.timeline == row.timeline && k.switch_lsn == row.switch_lsn));
            match before {
                Some(before) if before.timestamp.is_some() => {
                    HistoryEntry { timestamp: before.timestamp.clone(), new_leader: before.new_leader.clone(), ..row }
                }
                _ if i == last => HistoryEntry {
                    timestamp: row
                        .timestamp
                        .clone()
                        .or_else(|| Some(jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string())),
                    new_leader: Some(me.to_owned()),
                    ..row
                },
                _ => row,
            }
        })
        .collect();
    let mut history = History::of(rows, timeline);
    if limit > 0 && history.0.len() > limit {
        history.0.drain(..history.0.len() - limit);
    }
    history
}

#[cfg(test)]
mod tests {
    use surus_core::Lsn;

    use super::*;

    fn row(timeline: u32, lsn: u64, time: Option<&str>, leader: Option<&str>) -> HistoryEntry {
        HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(lsn),
            reason: "no recovery target specified".into(),
            timestamp: time.map(str::to_owned),
            new_leader: leader.map(str::to_owned),
        }
    }

    #[test]
    fn the_limits_of_a_server_that_is_taken_over() {
        let setting = |value: &str, source: &str| Setting {
            value: value.into(),
            unit: None,
            vartype: String::new(),
            context: "postmaster".into(),
            source: source.into(),
            source_file: None,
            pending_restart: false,
        };
        let running: BTreeMap<String, Setting> = [
            ("max_connections", setting("500", "configuration file")),
            ("max_worker_processes", setting("8", "default")),
            ("max_prepared_transactions", setting("7", "configuration file")),
            ("max_wal_senders", setting("0", "configuration file")),
            ("max_replication_slots", setting("30", "command line")),
            ("track_commit_timestamp", setting("on", "configuration file")),
            ("wal_level", setting("logical", "configuration file")),
            ("work_mem", setting("7", "configuration file")),
        ]
        .map(|(name, setting)| (name.to_owned(), setting))
        .into();
        let mut document = json!({"ttl": 30, "postgresql": {"parameters": {"max_prepared_transactions": 9}}});
        adopt_limits(&mut document, &running);
        let parameters = json!({
            "max_connections": 500, "max_prepared_transactions": 9, "max_replication_slots": 30,
            "track_commit_timestamp": "on", "wal_level": "logical",
        });
        assert_eq!(document, json!({"ttl": 30, "postgresql": {"parameters": parameters}}));
        let mut empty = json!({});
        adopt_limits(&mut empty, &[("wal_level".to_owned(), setting("minimal", "configuration file"))].into());
        assert_eq!(empty, json!({"postgresql": {"parameters": {}}}));
    }

    #[test]
    fn known_entries_keep_their_time_and_leader() {
        let rows = || vec![row(1, 10, None, None), row(2, 20, None, None), row(3, 30, Some("t3"), None)];
        let known = History(vec![row(1, 10, Some("t1"), Some("b")), row(2, 21, Some("t2"), Some("c"))]);
        let merged = merge_history(rows(), Timeline(4), Some(&known), "a", 0);
        assert_eq!(
            merged.0,
            [
                row(1, 10, Some("t1"), Some("b")),
                // Switched elsewhere: that was another branch.
                row(2, 20, None, None),
                row(3, 30, Some("t3"), Some("a")),
            ]
        );
        assert_eq!(merge_history(rows(), Timeline(4), Some(&merged), "z", 0), merged, "written once");
        assert_eq!(merge_history(rows(), Timeline(4), Some(&merged), "a", 1).0, [row(3, 30, Some("t3"), Some("a"))]);
        let left_out = merge_history(rows(), Timeline(6), Some(&merged), "a", 0);
        assert_eq!(left_out.0[..3], merged.0);
        let last = &left_out.0[3];
        assert_eq!((last.timeline, last.switch_lsn, last.new_leader.as_deref()), (Timeline(5), Lsn(0), Some("a")));
        assert_eq!(merge_history(rows(), Timeline(6), Some(&left_out), "z", 0), left_out, "written once");
        let now = merge_history(vec![row(1, 10, None, None)], Timeline(2), None, "a", 0);
        let time = now.0[0].timestamp.clone().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(merge_history(vec![], Timeline(1), Some(&known), "a", 0), History::default());
    }
}
