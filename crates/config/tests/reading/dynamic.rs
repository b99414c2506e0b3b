//! The stored document.

use std::time::Duration;

use serde_json::json;
use surus_config::DynamicConfig;
use surus_core::cluster::Upstream;
use surus_core::settings::{ClusterSettings, DiskGuard, Reserve, SynchronousMode, Timing};
use surus_core::slots::PermanentSlot;

fn read(document: serde_json::Value) -> (DynamicConfig, Vec<String>) {
    let (config, warnings) = DynamicConfig::read(&document);
    (config, warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn an_empty_document_means_the_defaults_of_peers() {
    for document in [json!({}), json!(null), json!([1]), json!({"ttl": null, "postgresql": null})] {
        let (config, warnings) = read(document);
        assert_eq!(config.settings, ClusterSettings::default());
        assert_eq!(warnings, Vec::<String>::new());
    }
}

#[test]
fn every_key() {
    let (config, warnings) = read(json!({
        "ttl": "20", "loop_wait": 5, "retry_timeout": 6.9,
        "maximum_lag_on_failover": 0, "maximum_lag_on_syncnode": 100, "max_timelines_history": "7",
        "master_start_timeout": 60, "primary_stop_timeout": "9", "primary_race_backoff": 3,
        "disk_guard": {"warn": "20%", "switchover": "1GB", "drop_absent_slots": "on"},
        "synchronous_mode": "Quorum", "synchronous_mode_strict": "on", "synchronous_node_count": 2,
        "failsafe_mode": "yes", "pause": true, "check_timeline": 1, "member_slots_ttl": "10min",
        "standby_cluster": {
            "host": "a,b", "port": "5433", "primary_slot_name": "Site-2", "create_replica_methods": ["x"],
            "recovery_min_apply_delay": 5,
        },
        "postgresql": {"use_slots": false, "use_pg_rewind": "true", "remove_data_directory_on_rewind_failure": true},
    }));
    assert_eq!(warnings, Vec::<String>::new());
    let seconds = Duration::from_secs;
    assert_eq!(
        config.settings,
        ClusterSettings {
            timing: Timing { ttl: seconds(20), loop_wait: seconds(5), retry_timeout: seconds(6) },
            maximum_lag_on_failover: 0,
            check_timeline: true,
            primary_start_timeout: seconds(60),
            primary_stop_timeout: seconds(9),
            primary_race_backoff: seconds(3),
            disk_guard: DiskGuard {
                warn: Reserve { percent: 20, least: 0, most: u64::MAX },
                switchover: Reserve { percent: 0, least: 1 << 30, most: 1 << 30 },
                drop_absent_slots: true,
            },
            synchronous_mode: SynchronousMode::Quorum,
            synchronous_mode_strict: true,
            synchronous_node_count: 2,
            maximum_lag_on_syncnode: Some(100),
            failsafe_mode: true,
            pause: true,
            max_timelines_history: 7,
            member_slots_ttl: seconds(600),
            use_slots: false,
            use_pg_rewind: true,
            remove_data_directory_on_rewind_failure: true,
            remove_data_directory_on_diverged_timelines: false,
            no_leader_methods: false,
            standby_cluster: true,
            remote: Some(Upstream::remote("a,b", 5433)),
            remote_slot: Some("site_2".into()),
        }
    );
    let standby = config.standby_cluster.unwrap();
    assert_eq!(
        (standby.host.as_deref(), standby.port, standby.recovery_min_apply_delay.as_deref()),
        (Some("a,b"), Some(5433), Some("5"))
    );
    assert_eq!(config.settings.primary_race_backoff, seconds(3));
}

#[test]
fn nothing_in_the_document_makes_reading_fail() {
    let (config, warnings) = read(json!({
        "ttl": "thirty", "maximum_lag_on_failover": "1MB", "synchronous_mode": "maybe", "pause": [],
        "primary_start_timeout": -1, "member_slots_ttl": "soon", "standby_cluster": "x", "slots": [1],
        "postgresql": {"parameters": {"max_connections": 5, "work_mem": {"a": 1}}, "pg_hba": "x", "data_dir": "/x"},
        "disk_guard": {"warn": "60%", "switchover": "much"}, "new_key_of_a_peer": {},
    }));
    assert_eq!(config.settings, ClusterSettings::default());
    assert!(config.postgresql.common.parameters.is_empty());
    assert_eq!(
        warnings,
        [
            "dynamic configuration: ttl: expected a whole number of seconds, found \"thirty\"; it is ignored",
            "dynamic configuration: maximum_lag_on_failover: expected a whole number of bytes without a unit, 0 or more, found \"1MB\"; it is ignored",
            "dynamic configuration: synchronous_mode: expected one of off, on, quorum, found \"maybe\"; it is ignored",
            "dynamic configuration: primary_start_timeout: expected a whole number of seconds, 0 or more, found -1; it is ignored",
            "dynamic configuration: member_slots_ttl: expected seconds or a time such as 30min, found \"soon\"; it is ignored",
            "dynamic configuration: standby_cluster: expected a map of keys and values, found text; it is ignored",
            "dynamic configuration: slots: expected a map of keys and values, found a list; it is ignored",
            "dynamic configuration: postgresql.parameters.work_mem: expected one value, found a map; it is ignored",
            "dynamic configuration: postgresql.pg_hba: expected a list (one `- item` per line), found \"x\"; it is ignored",
            "dynamic configuration: postgresql.data_dir: only counts in a member's own file and is ignored here",
            "dynamic configuration: disk_guard.warn: expected a share such as 5% (50% at the most), a size such as 10GB, or off; found \"60%\"; it is ignored",
            "dynamic configuration: disk_guard.switchover: expected a share such as 5% (50% at the most), a size such as 10GB, or off; found \"much\"; it is ignored",
            "dynamic configuration: new_key_of_a_peer: is not a known key and is ignored; remove it, or look it up in the documentation",
            "dynamic configuration: postgresql.parameters.max_connections: expected a whole number, at least 25, found \"5\"; it is ignored",
        ]
    );
}

#[test]
fn stored_timing_is_bent_into_the_rule_and_told() {
    let (config, warnings) = read(json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10}));
    let seconds = Duration::from_secs;
    assert_eq!(config.settings.timing, Timing { ttl: seconds(20), loop_wait: seconds(1), retry_timeout: seconds(9) });
    assert_eq!(
        warnings,
        [
            "dynamic configuration: loop_wait: 10 breaks the rule loop_wait + 2 * retry_timeout <= ttl (20); 1 is used \
             in its place until the stored value is changed",
            "dynamic configuration: retry_timeout: 10 breaks the rule loop_wait + 2 * retry_timeout <= ttl (20); 9 is \
             used in its place until the stored value is changed",
        ]
    );
}

#[test]
fn slots_in_their_forms() {
    let (config, warnings) = read(json!({
        "slots": {
            "a": null, "b": {}, "c": 0, "d": {"type": "physical", "cluster_type": "standby", "lsn": 5},
            "e": {"database": "x", "plugin": "y"}, "i": {"database": "x", "plugin": "y", "failover": "on"},
            "j": {"database": "x", "plugin": "y", "failover": "perhaps"}, "f": {"type": "logical", "database": "x"},
            "Bad-Name": {}, "g": [1], "h": {"type": "odd"},
        },
        "ignore_slots": [{"name": "x", "type": "logical"}, {}, 5],
    }));
    let everywhere = PermanentSlot::Physical { on_primary_cluster: true, on_standby_cluster: true };
    assert_eq!(config.slots["a"], everywhere);
    assert_eq!(config.slots["c"], everywhere);
    assert_eq!(config.slots["d"], PermanentSlot::Physical { on_primary_cluster: false, on_standby_cluster: true });
    let logical = |failover| PermanentSlot::Logical { database: "x".into(), plugin: "y".into(), failover };
    assert_eq!((&config.slots["e"], &config.slots["i"]), (&logical(None), &logical(Some(true))));
    assert_eq!(config.slots.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "i"]);
    assert_eq!(config.ignore_slots.len(), 2);
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
}
