//! The pages and the schema that are made of the tables of settings.

use std::path::Path;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;
use surus_config::reference_files;

use crate::support::{MINIMAL, minimal_and, with_store};

#[test]
fn the_pages_say_what_the_tables_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let write = std::env::var_os("SURUS_WRITE_REFERENCE").is_some();
    std::fs::create_dir_all(&dir).unwrap();
    for (name, text) in reference_files() {
        if write {
            std::fs::write(dir.join(name), &text).unwrap();
        }
        let there = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(there == text, "docs/reference/{name} is not of these tables any more; run `cargo xtask docs`");
    }
}

struct Schema {
    schemas: Schemas,
    file: SchemaIndex,
    dynamic: SchemaIndex,
}

fn schema() -> Schema {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let at = "http://surus.example/patroni.schema.json";
    compiler.add_resource(at, surus_config::schema()).unwrap();
    let file = compiler.compile(at, &mut schemas).unwrap();
    let dynamic = compiler.compile(&format!("{at}#/definitions/dynamic"), &mut schemas).unwrap();
    Schema { schemas, file, dynamic }
}

/// As an editor reads it.
fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn the_schema_takes_configurations_that_work() {
    let schema = schema();
    let all = "\
log: {type: json, level: INFO, format: [message, {levelname: level}], mode: 0640, loggers: {raft: DEBUG}, static_fields: {a: [1]}}
tags: {nofailover: false, failover_priority: 2, zone: [a]}
watchdog: {mode: off, safety_margin: -1}
fence: {mode: required}
recorder: {max_size: 16MB}
bootstrap:
  method: wal_g
  wal_g: {command: /x, anything: 1}
  initdb: [encoding: UTF8, data-checksums]
  pg_hba: [local all all trust]
  dcs:
    ttl: '30'
    synchronous_mode: on
    member_slots_ttl: 30min
    slots: {a: null, b: {type: logical, database: d, plugin: p}}
    ignore_slots: [{name: a}]
    standby_cluster: {host: a, port: 5432, create_replica_methods: [basebackup]}
    postgresql: {use_slots: yes, parameters: {max_connections: 100, wal_level: replica, shared_buffers: null}}
";
    let method = MINIMAL.replace(
        "  data_dir: /data\n",
        "  data_dir: /data\n  create_replica_methods: [x]\n  x: {command: /x, no_leader: 1}\n  pg_hba:\n  basebackup: {max-rate: 1M}\n",
    );
    let etcd = with_store("etcd3: {hosts: 'a:1,b:2', protocol: https}\n");
    for text in [MINIMAL, &minimal_and(all), &method, &etcd] {
        crate::support::load(text).unwrap();
        if let Err(e) = schema.schemas.validate(&yaml(text), schema.file) {
            panic!("{e:#}\n{text}");
        }
    }
    for block in crate::docs::blocks("yaml") {
        if let Err(e) = schema.schemas.validate(&yaml(block), schema.file) {
            panic!("{e:#}\n{block}");
        }
    }
    for block in crate::docs::blocks("json") {
        if let Err(e) = schema.schemas.validate(&yaml(block), schema.dynamic) {
            panic!("{e:#}\n{block}");
        }
    }
}

#[test]
fn the_schema_refuses_what_reading_refuses_or_warns_of() {
    let schema = schema();
    for section in [
        "watchdg: {}\n",
        "ttl: 30\n",
        "exhibitor: {hosts: [a], port: 1}\n",
        "log: {level: LOUD}\n",
        "log: {file_num: many}\n",
        "log: {file_size: 0}\n",
        "tags: {failover_priority: high}\n",
        "fence: perhaps\n",
        "ctl: {insecure: maybe}\n",
        "recorder: {max_size: big}\n",
        "bootstrap: {dcs: {tll: 30}}\n",
        "bootstrap: {dcs: {ttl: soon}}\n",
        "bootstrap: {dcs: {synchronous_mode: maybe}}\n",
        "bootstrap: {dcs: {postgresql: {data_dir: /x}}}\n",
        "bootstrap: {dcs: {ignore_slots: [{nam: a}]}}\n",
        "bootstrap: {pg_hba: local all all trust}\n",
    ] {
        let text = minimal_and(section);
        let heard = match crate::support::load(&text) {
            Ok(config) => !config.warnings.is_empty(),
            Err(_) => true,
        };
        assert!(heard, "reading says nothing of {section}");
        assert!(schema.schemas.validate(&yaml(&text), schema.file).is_err(), "{section}");
    }
    for (from, to) in [
        ("  data_dir: /data\n", "  data_dir: /data\n  use_pg_rewnd: true\n"),
        ("  data_dir: /data\n", "  data_dir: /data\n  use_slots: true\n"),
        ("  data_dir: /data\n", "  data_dir: [/data]\n"),
        ("  listen: 127.0.0.1:8008\n", "  listen: nowhere\n"),
        ("{username: postgres,", "{user: postgres,"),
    ] {
        let text = MINIMAL.replace(from, to);
        assert!(schema.schemas.validate(&yaml(&text), schema.file).is_err(), "{to}");
    }
}
