//! The document in the store, read (`spec/config.md §6`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use surus_core::settings::ClusterSettings;

use crate::finding::Warning;
use crate::local::PostgresqlSettings;

#[derive(Clone, Debug, PartialEq)]
pub struct DynamicConfig {
    /// As stored; unknown keys and all.
    pub document: Value,
    pub settings: ClusterSettings,
    /// `use_pg_rewind` and the like are here as the document has them; [`crate::Effective`] holds the last word.
    pub postgresql: PostgresqlSettings,
    pub standby_cluster: Option<StandbyCluster>,
    pub slots: BTreeMap<String, PermanentSlot>,
    pub ignore_slots: Vec<IgnoreSlot>,
    /// Bytes; `None`: no limit.
    pub maximum_lag_on_syncnode: Option<u64>,
    pub primary_race_backoff: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StandbyCluster {
    /// May be several, separated by commas.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub primary_slot_name: Option<String>,
    pub create_replica_methods: Option<Vec<String>>,
    pub restore_command: Option<String>,
    pub archive_cleanup_command: Option<String>,
    pub recovery_min_apply_delay: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PermanentSlot {
    /// `on_primary_cluster` / `on_standby_cluster`: whether it exists in a cluster of that kind.
    Physical {
        on_primary_cluster: bool,
        on_standby_cluster: bool,
    },
    Logical {
        database: String,
        plugin: String,
    },
}

/// A slot that is none of our business matches an entry when every given field equals; an empty entry matches all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IgnoreSlot {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub database: Option<String>,
    pub plugin: Option<String>,
}

impl DynamicConfig {
    pub fn read(_document: &Value) -> (DynamicConfig, Vec<Warning>) {
        unimplemented!()
    }
}
