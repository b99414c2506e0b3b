//! What PostgreSQL is to run with.

use serde_json::{Value, json};
use surus_config::{DynamicConfig, Effective, RoleOverlay};

use crate::support::{MINIMAL, load, load_with};

fn build(local: &str, document: Value, version: Option<u32>) -> Effective {
    Effective::build(&load(local).unwrap(), &DynamicConfig::read(&document).0, version)
}

fn with_postgresql(keys: &str) -> String {
    MINIMAL.replace("  data_dir: /data\n", &format!("  data_dir: /data\n{keys}"))
}

#[test]
fn the_command_line_of_a_new_member() {
    let effective = build(MINIMAL, json!({}), Some(150_004));
    let line: Vec<String> = effective.command_line.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        line,
        [
            "listen_addresses=127.0.0.1",
            "port=5432",
            "cluster_name=demo",
            "wal_level=replica",
            "hot_standby=on",
            "max_connections=100",
            "max_wal_senders=10",
            "max_prepared_transactions=0",
            "max_locks_per_transaction=64",
            "track_commit_timestamp=off",
            "max_replication_slots=10",
            "max_worker_processes=8",
            "wal_log_hints=on",
        ]
    );
    assert_eq!(effective.file["wal_keep_size"], "128MB");
    assert_eq!(effective.file["wal_retrieve_retry_interval"], "500ms");
    assert!(line.iter().all(|l| l.split_once('=').is_some_and(|(k, v)| effective.file.get(k).is_some_and(|f| f == v))));
    assert_eq!(effective.create_replica_methods, ["basebackup"]);
    assert_eq!(effective.pg_hba, None);
    assert_eq!(effective.source_of("max_connections").unwrap().to_string(), "built-in default");
}

#[test]
fn who_synchronises_failover_slots() {
    let document = json!({"postgresql": {"parameters": {"sync_replication_slots": true}}});
    let found = |tags: &str, document: &Value, version| {
        let effective = build(&format!("{MINIMAL}{tags}"), document.clone(), Some(version));
        let of = |name: &str| effective.file.get(name).cloned().unwrap_or_default();
        (of("sync_replication_slots"), of("hot_standby_feedback"))
    };
    let (on, off, unset) = (String::from("on"), String::from("off"), String::new());
    assert_eq!(found("", &document, 170_002), (on.clone(), on.clone()));
    for tag in ["nofailover: true", "nostream: true", "replicatefrom: b"] {
        assert_eq!(found(&format!("tags: {{{tag}}}\n"), &document, 170_002), (off.clone(), unset.clone()), "{tag}");
    }
    // Not asked for by the cluster; without slots there is nothing to synchronise through.
    assert_eq!(found("", &json!({}), 170_002), (unset.clone(), unset.clone()));
    let no_slots = json!({"postgresql": {"use_slots": false, "parameters": {"sync_replication_slots": "yes"}}});
    assert_eq!(found("", &no_slots, 170_002), (off, unset));
}

#[test]
fn layers_of_server_parameters() {
    let local = with_postgresql(
        "  parameters:\n    Work_Mem: 8MB\n    log_file_mode: 0640\n    fsync: off\n    max_connections: 500\n    shared_buffers: 1_000\n    nothing: ~\n",
    );
    let document = json!({"postgresql": {"parameters": {
        "max_connections": "200", "work_mem": "4MB", "wal_level": "logical", "cluster_name": "x", "hot_standby": false,
        "wal_retrieve_retry_interval": "5s", "track_commit_timestamp": "True", "seq_page_cost": 1.5, "jit": true,
    }}});
    let effective = build(&local, document, Some(150_004));
    for (name, value) in [
        ("work_mem", "8MB"),
        ("log_file_mode", "416"),
        ("fsync", "off"),
        ("max_connections", "200"),
        ("shared_buffers", "1000"),
        ("wal_level", "logical"),
        ("cluster_name", "demo"),
        ("hot_standby", "on"),
        ("wal_retrieve_retry_interval", "5s"),
        ("track_commit_timestamp", "on"),
        ("seq_page_cost", "1.5"),
        ("jit", "on"),
    ] {
        assert_eq!(effective.file.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!effective.file.contains_key("nothing"));
    assert!(effective.source_of("work_mem").unwrap().to_string().ends_with("patroni.yml:11:15"));
    assert_eq!(effective.source_of("Max_Connections").unwrap().to_string(), "dynamic configuration");
    assert!(effective.source_of("port").unwrap().to_string().ends_with("patroni.yml:8:11"));
    let warnings: Vec<String> =
        load(&local).unwrap().warnings.iter().map(|w| format!("{}: {}", w.path, w.message)).collect();
    assert_eq!(
        warnings,
        ["postgresql.parameters.max_connections: is the same for all members and roles and is ignored here; set it \
             in the dynamic configuration under postgresql.parameters"]
    );
}

#[test]
fn the_names_of_versions() {
    let parameters =
        |pairs: Value, version: Option<u32>| build(MINIMAL, json!({"postgresql": {"parameters": pairs}}), version).file;
    let get = |file: &std::collections::BTreeMap<String, String>, name: &str| file.get(name).cloned();
    for (pairs, version, segments, size) in [
        (json!({}), Some(120_000), Some("8"), None),
        (json!({"wal_keep_size": "1GB"}), Some(120_000), Some("64"), None),
        (json!({"wal_keep_segments": 10}), Some(150_000), None, Some("160MB")),
        (json!({"wal_keep_segments": 10, "wal_keep_size": "1GB"}), Some(150_000), None, Some("1GB")),
        (json!({}), None, None, Some("128MB")),
    ] {
        let file = parameters(pairs.clone(), version);
        assert_eq!(
            (get(&file, "wal_keep_segments").as_deref(), get(&file, "wal_keep_size").as_deref()),
            (segments, size),
            "{pairs} {version:?}"
        );
    }
    assert_eq!(
        get(&parameters(json!({"wal_level": "hot_standby"}), Some(150_000)), "wal_level").as_deref(),
        Some("replica")
    );
    assert_eq!(get(&parameters(json!({}), Some(90_500)), "wal_level").as_deref(), Some("hot_standby"));
    let old = parameters(json!({}), Some(90_300));
    assert!(!old.contains_key("cluster_name") && !old.contains_key("max_replication_slots"));
}

#[test]
fn recovery_settings_go_their_own_way() {
    let local = with_postgresql(
        "  recovery_conf:\n    restore_command: cp a b\n    recovery_target_time: x\n    primary_conninfo: y\n    trigger_file: /t\n",
    );
    let effective = build(&local, json!({}), Some(150_000));
    assert_eq!(
        serde_json::to_string(&effective.recovery_conf).unwrap(),
        r#"{"promote_trigger_file":"/t","restore_command":"cp a b"}"#
    );
    let stray = build(&local, json!({"postgresql": {"parameters": {"archive_cleanup_command": "c"}}}), Some(150_000));
    assert_eq!(serde_json::to_string(&stray.recovery_conf).unwrap(), r#"{"archive_cleanup_command":"c"}"#);
    assert!(!stray.file.contains_key("archive_cleanup_command"));
}

#[test]
fn local_keys_replace_stored_ones_whole() {
    let local = with_postgresql(
        "  pg_hba: [local all all trust]\n  callbacks: {on_stop: /x}\n  use_pg_rewind: false\n  config_dir: /etc/pg\n",
    );
    let document = json!({"postgresql": {
        "pg_hba": ["host all all all md5"], "pg_ident": ["m a b"], "callbacks": {"on_start": "/y"}, "use_pg_rewind": true,
        "remove_data_directory_on_diverged_timelines": true, "pg_ctl_timeout": 5, "bin_dir": "/b",
        "parameters": {"hba_file": "h.conf", "ident_file": "/abs/i.conf"},
    }});
    let effective = build(&local, document, Some(150_000));
    assert_eq!(effective.pg_hba.as_deref(), Some(&["local all all trust".to_owned()][..]));
    assert_eq!(effective.pg_ident.as_deref(), Some(&["m a b".to_owned()][..]));
    assert_eq!(effective.callbacks.keys().map(String::as_str).collect::<Vec<_>>(), ["on_stop"]);
    assert!(!effective.settings.use_pg_rewind);
    assert!(effective.settings.remove_data_directory_on_diverged_timelines);
    assert_eq!(
        (effective.pg_ctl_timeout.as_secs(), effective.bin_dir.as_deref()),
        (5, Some(std::path::Path::new("/b")))
    );
    assert_eq!(
        (effective.file["hba_file"].as_str(), effective.file["ident_file"].as_str()),
        ("/etc/pg/h.conf", "/abs/i.conf")
    );
}

#[test]
fn roles_lay_their_own_over_it() {
    let local = load(&with_postgresql(
        "  pg_hba: [a]\n  pg_hba_primary: [p]\n  parameters_replica: {work_mem: 1MB, max_connections: 7}\n",
    ))
    .unwrap();
    let document = json!({"postgresql": {"parameters_primary": {"jit": "off"}, "parameters_replica": {"jit": "off"}, "parameters": {"jit": "on"}}});
    let (dynamic, _) = DynamicConfig::read(&document);
    let at = |role| Effective::build_for(&local, &dynamic, Some(150_000), role);
    let (primary, replica, none) = (at(RoleOverlay::Primary), at(RoleOverlay::Replica), at(RoleOverlay::None));
    assert_eq!((primary.file["jit"].as_str(), primary.pg_hba.as_deref()), ("off", Some(&["p".to_owned()][..])));
    assert_eq!((replica.file["jit"].as_str(), replica.file["work_mem"].as_str()), ("on", "1MB"));
    assert_eq!((replica.file["max_connections"].as_str(), none.file.get("work_mem")), ("100", None));
    assert_eq!(replica.pg_hba, none.pg_hba);
}

#[test]
fn synchronous_standbys_are_not_the_operators_in_synchronous_mode() {
    let document = |mode: &str| json!({"synchronous_mode": mode, "postgresql": {"parameters": {"synchronous_standby_names": "*"}}});
    assert!(build(MINIMAL, document("off"), None).file.contains_key("synchronous_standby_names"));
    assert!(!build(MINIMAL, document("quorum"), None).file.contains_key("synchronous_standby_names"));
}

#[test]
fn a_variable_is_a_source_too() {
    let local = load_with(MINIMAL, &[("PATRONI_POSTGRESQL_LISTEN", "127.0.0.1,[::1]:6000")]).unwrap();
    let effective = Effective::build(&local, &DynamicConfig::read(&json!({})).0, None);
    assert_eq!(
        (effective.file["listen_addresses"].as_str(), effective.file["port"].as_str()),
        ("127.0.0.1,::1", "6000")
    );
    assert_eq!(effective.source_of("port").unwrap().to_string(), "environment variable PATRONI_POSTGRESQL_LISTEN");
}
