//! The `patroni.yml` of a member.

use std::path::Path;

use serde_json::{Value, json};

use crate::machine::Machine;

pub const SUPERUSER: &str = "postgres";
/// Of every user; the clusters live on loopback and for minutes.
pub const PASSWORD: &str = "only for tests";

/// Comes in without a password: checking one takes an unoptimised client longer than the writer waits for a connection.
pub const WRITER: &str = "writer";

/// What differs between members and clusters.
pub struct Member<'a> {
    pub scope: &'a str,
    pub name: &'a str,
    pub dir: &'a Path,
    pub rest: &'a str,
    pub postgres: &'a str,
    /// REST and PostgreSQL as the other members reach them.
    pub seen: [String; 2],
    pub data: &'a Path,
    /// Name and content of the store's section.
    pub store: (&'static str, Value),
}

impl Member<'_> {
    pub fn config(&self, machine: &Machine) -> Value {
        let (section, store) = &self.store;
        let mut config = json!({
            "scope": self.scope,
            "name": self.name,
            "restapi": {"listen": self.rest, "connect_address": self.seen[0]},
            "bootstrap": {
                // Most tests tell what happens by the lease alone.
                "dcs": {
                    "failsafe_mode": false,
                    "postgresql": {"use_pg_rewind": true, "parameters": {"max_connections": 100}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": self.postgres,
                "connect_address": self.seen[1],
                "data_dir": self.data,
                "bin_dir": machine.bin_dir,
                "pgpass": self.dir.join("pgpass"),
                "authentication": {
                    "superuser": {"username": SUPERUSER, "password": PASSWORD},
                    "replication": {"username": "replicator", "password": PASSWORD},
                    "rewind": {"username": "rewind_user", "password": PASSWORD},
                },
                "pg_hba": [
                    "local all all trust",
                    format!("host all {WRITER} 127.0.0.1/32 trust"),
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                ],
                "parameters": {"unix_socket_directories": self.dir, "shared_buffers": "32MB"},
            },
        });
        config[*section] = store.clone();
        config
    }
}

/// Objects merge, everything else replaces.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
