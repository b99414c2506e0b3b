//! The document in the store, read (`spec/config.md §6`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use surus_core::MemberName;
use surus_core::cluster::Upstream;
use surus_core::settings::{ClusterSettings, DiskGuard, SynchronousMode, Timing};
use surus_core::slots::{IgnoreSlot, PermanentSlot};

use crate::definition::{self, DYNAMIC};
use crate::finding::{Source, Warning};
use crate::local::{Layer, PostgresqlSettings, read_settings};
use crate::reader::{Reader, Section, is_empty};
use crate::slots;
use crate::timing;
use crate::tree::Node;
use crate::value::parse_bool;

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

impl StandbyCluster {
    /// For all members.
    pub fn recovery_conf(&self) -> BTreeMap<String, String> {
        settings([
            ("restore_command", &self.restore_command),
            ("archive_cleanup_command", &self.archive_cleanup_command),
        ])
    }

    /// For the one that follows the remote node: a delay of each member would add up along the cascade.
    pub fn leader_recovery_conf(&self) -> BTreeMap<String, String> {
        settings([("recovery_min_apply_delay", &self.recovery_min_apply_delay)])
    }

    fn remote(&self) -> Option<Upstream> {
        // As libpq does: a port without a host is on this machine.
        let host = self.host.as_deref().or(self.port.map(|_| "localhost"))?;
        Some(Upstream::remote(host, self.port.unwrap_or(5432)))
    }
}

fn settings<const N: usize>(all: [(&str, &Option<String>); N]) -> BTreeMap<String, String> {
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
}

impl DynamicConfig {
    /// Never fails: a value that cannot be used is told and the default stands in for it.
    pub fn read(document: &Value) -> (DynamicConfig, Vec<Warning>) {
        let mut r = Reader::lenient();
        let node = Node::from_json(document, &Source::Dynamic);
        definition::check::stored(&node, &mut r);
        let config = read(&Section::new(&node, "", DYNAMIC), &mut r, document.clone());
        (config, r.findings)
    }

    /// The servers of the cluster bring failover slots to standbys themselves. A file of one member alone does not make
    /// it so.
    pub fn synchronises_slots(&self) -> bool {
        let layers = [&self.postgresql.replica, &self.postgresql.common];
        let said = layers.into_iter().find_map(|layer| layer.parameters.get("sync_replication_slots"));
        said.is_some_and(|value| parse_bool(value) == Some(true))
    }
}

/// Also reads `bootstrap.dcs`, strictly and with places.
pub(crate) fn read(s: &Section<'_>, r: &mut Reader, document: Value) -> DynamicConfig {
    let default = ClusterSettings::default();
    let seconds = |key: &str| Duration::from_secs(s.number::<u64>(key).unwrap_or_default());
    let standby_cluster = standby_cluster(s, r);
    let postgresql = read_settings(&s.section("postgresql"), r, Layer::Dynamic);
    let settings = ClusterSettings {
        timing: timing(s, r),
        maximum_lag_on_failover: s.number("maximum_lag_on_failover").unwrap_or_default(),
        check_timeline: s.bool("check_timeline"),
        primary_start_timeout: seconds(newer(s, "primary_start_timeout", "master_start_timeout")),
        primary_stop_timeout: seconds(newer(s, "primary_stop_timeout", "master_stop_timeout")),
        disk_guard: disk_guard(s),
        primary_race_backoff: seconds("primary_race_backoff"),
        synchronous_mode: match s.word("synchronous_mode") {
            Some("on") => SynchronousMode::On,
            Some("quorum") => SynchronousMode::Quorum,
            _ => SynchronousMode::Off,
        },
        synchronous_mode_strict: s.bool("synchronous_mode_strict"),
        synchronous_node_count: s.number("synchronous_node_count").unwrap_or_default(),
        maximum_lag_on_syncnode: s.number("maximum_lag_on_syncnode").filter(|lag| *lag > 0),
        failsafe_mode: s.bool("failsafe_mode"),
        pause: s.bool("pause"),
        max_timelines_history: s.number("max_timelines_history").unwrap_or_default(),
        member_slots_ttl: s.time("member_slots_ttl").unwrap_or_default(),
        use_slots: postgresql.use_slots.unwrap_or(default.use_slots),
        use_pg_rewind: postgresql.use_pg_rewind.unwrap_or(false),
        remove_data_directory_on_rewind_failure: postgresql.remove_data_directory_on_rewind_failure.unwrap_or(false),
        remove_data_directory_on_diverged_timelines: postgresql
            .remove_data_directory_on_diverged_timelines
            .unwrap_or(false),
        // Which methods there are is known once the local file is laid over this.
        no_leader_methods: false,
        standby_cluster: standby_cluster.is_some(),
        remote: standby_cluster.as_ref().and_then(StandbyCluster::remote),
        remote_slot: standby_cluster
            .as_ref()
            .and_then(|s| s.primary_slot_name.as_deref())
            .map(|name| MemberName::from(name).slot_name()),
    };
    let (slots, ignore_slots) = (slots::read_slots(s, r), slots::read_ignore_slots(s));
    DynamicConfig { document, settings, postgresql, standby_cluster, slots, ignore_slots }
}

/// In the file a contradiction is a fault. A stored one is bent into shape, because every member has to go on.
fn timing(s: &Section<'_>, r: &mut Reader) -> Timing {
    let [ttl, loop_wait, retry_timeout] = ["ttl", "loop_wait", "retry_timeout"].map(|key| s.said().whole_seconds(key));
    let or = |value: Option<i64>, d: Duration| value.unwrap_or_else(|| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    if !r.is_lenient() {
        let whole = timing::complete(ttl, loop_wait, retry_timeout);
        let (t, l, q) = (or(ttl, whole.ttl), or(loop_wait, whole.loop_wait), or(retry_timeout, whole.retry_timeout));
        for fault in timing::check_timing(t, l, q).err().unwrap_or_default() {
            r.fault(&s.place_of(fault.key), &s.below(fault.key), fault.message);
        }
        return whole;
    }
    let peers = Timing::PATRONI;
    let (timing, changes) =
        timing::adjust(or(ttl, peers.ttl), or(loop_wait, peers.loop_wait), or(retry_timeout, peers.retry_timeout));
    for (key, message) in changes {
        r.warn(&s.place_of(key), &s.below(key), message);
    }
    timing
}

/// The newer name counts if it is there at all.
fn newer<'k>(s: &Section<'_>, key: &'k str, older: &'k str) -> &'k str {
    if s.has(key) || s.said().int(older).is_none() { key } else { older }
}

/// Ours alone; Patroni keeps it and does nothing with it.
fn disk_guard(s: &Section<'_>) -> DiskGuard {
    let (s, default) = (s.section("disk_guard"), DiskGuard::default());
    DiskGuard {
        warn: s.said().reserve("warn").unwrap_or(default.warn),
        switchover: s.said().reserve("switchover").unwrap_or(default.switchover),
        drop_absent_slots: s.bool("drop_absent_slots"),
    }
}

/// In force only with an upstream to follow.
fn standby_cluster(s: &Section<'_>, r: &mut Reader) -> Option<StandbyCluster> {
    let s = s.section("standby_cluster");
    let methods = s.texts_or_csv("create_replica_methods");
    let port = s.said().int("port").and_then(|port| u16::try_from(port).ok());
    let config = StandbyCluster {
        host: s.text("host"),
        port,
        primary_slot_name: s.text("primary_slot_name"),
        create_replica_methods: methods.map(|methods| methods.into_iter().map(|(name, _)| name).collect()),
        restore_command: s.text("restore_command"),
        archive_cleanup_command: s.text("archive_cleanup_command"),
        recovery_min_apply_delay: s.text("recovery_min_apply_delay"),
    };
    let active = config.host.is_some() || config.port.is_some() || config.restore_command.is_some();
    let says_something = s.node().and_then(Node::entries).unwrap_or_default().iter().any(|e| !is_empty(&e.node));
    if says_something && !active {
        let message = "has no effect: it needs at least one of host, port and restore_command";
        r.warn(&s.place, &s.path, message);
    }
    active.then_some(config)
}
