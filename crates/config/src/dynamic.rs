//! The document in the store, read (`spec/config.md §6`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use surus_core::MemberName;
use surus_core::cluster::Upstream;
use surus_core::settings::{ClusterSettings, DiskGuard, Reserve, SynchronousMode, Timing};
use surus_core::slots::{IgnoreSlot, PermanentSlot};

use crate::finding::{Source, Warning};
use crate::local::{Layer, PostgresqlSettings, read_settings};
use crate::reader::{Reader, Section, found, is_empty};
use crate::slots;
use crate::timing;
use crate::tree::{Node, NodeValue};
use crate::value::{self, TimeUnit, parse_bool};

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

/// The top-level keys.
pub(crate) const KEYS: &[&str] = &[
    "ttl",
    "loop_wait",
    "retry_timeout",
    "maximum_lag_on_failover",
    "maximum_lag_on_syncnode",
    "max_timelines_history",
    "primary_start_timeout",
    "master_start_timeout",
    "primary_stop_timeout",
    "master_stop_timeout",
    "primary_race_backoff",
    "synchronous_mode",
    "synchronous_mode_strict",
    "synchronous_node_count",
    "failsafe_mode",
    "pause",
    "check_timeline",
    "disk_guard",
    "member_slots_ttl",
    "slots",
    "permanent_slots",
    "permanent_replication_slots",
    "ignore_slots",
    "standby_cluster",
    "postgresql",
];

impl DynamicConfig {
    /// Never fails: a value that cannot be used is told and the default stands in for it.
    pub fn read(document: &Value) -> (DynamicConfig, Vec<Warning>) {
        let mut r = Reader::lenient();
        let node = Node::from_json(document, &Source::Dynamic);
        let config = read(Section::new(&node, ""), &mut r, document.clone());
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
pub(crate) fn read(mut s: Section<'_>, r: &mut Reader, document: Value) -> DynamicConfig {
    s.knows(KEYS);
    let default = ClusterSettings::default();
    let timing = timing(&mut s, r);
    let primary_start_timeout = aliased(&mut s, r, "primary_start_timeout", "master_start_timeout");
    let primary_stop_timeout = aliased(&mut s, r, "primary_stop_timeout", "master_stop_timeout");
    let race = s.int(r, "primary_race_backoff", "a whole number of seconds, 0 or more", 0..=i64::from(u32::MAX));
    let standby_cluster = standby_cluster(&mut s, r);
    let slots = slots::read_slots(&mut s, r);
    let ignore_slots = slots::read_ignore_slots(&mut s, r);
    let postgresql = read_settings(s.section(r, "postgresql"), r, Layer::Dynamic);
    let disk_guard = disk_guard(&mut s, r);
    let bool = |s: &mut Section<'_>, r: &mut Reader, key: &str| s.bool(r, key).unwrap_or(false);
    let bytes = "a whole number of bytes without a unit, 0 or more";
    let settings = ClusterSettings {
        timing,
        maximum_lag_on_failover: s
            .int(r, "maximum_lag_on_failover", bytes, 0..=i64::MAX)
            .map_or(default.maximum_lag_on_failover, i64::unsigned_abs),
        check_timeline: bool(&mut s, r, "check_timeline"),
        primary_start_timeout: primary_start_timeout.unwrap_or(default.primary_start_timeout),
        primary_stop_timeout: primary_stop_timeout.unwrap_or(default.primary_stop_timeout),
        disk_guard,
        primary_race_backoff: race.map_or(default.primary_race_backoff, |n| Duration::from_secs(n.unsigned_abs())),
        synchronous_mode: synchronous_mode(&mut s, r),
        synchronous_mode_strict: bool(&mut s, r, "synchronous_mode_strict"),
        synchronous_node_count: small(&mut s, r, "synchronous_node_count", "a whole number, at least 1", 1)
            .unwrap_or(default.synchronous_node_count),
        maximum_lag_on_syncnode: s
            .int(r, "maximum_lag_on_syncnode", "a whole number of bytes, or -1 for no limit", -1..=i64::MAX)
            .filter(|lag| *lag > 0)
            .map(i64::unsigned_abs),
        failsafe_mode: bool(&mut s, r, "failsafe_mode"),
        pause: bool(&mut s, r, "pause"),
        max_timelines_history: small(&mut s, r, "max_timelines_history", "a whole number, 0 or more", 0)
            .unwrap_or(default.max_timelines_history),
        member_slots_ttl: member_slots_ttl(&mut s, r).unwrap_or(default.member_slots_ttl),
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
    s.finish(r);
    DynamicConfig { document, settings, postgresql, standby_cluster, slots, ignore_slots }
}

/// In the file a contradiction is a fault. A stored one is bent into shape, because every member has to go on.
fn timing(s: &mut Section<'_>, r: &mut Reader) -> Timing {
    let mut written = [None, None, None];
    for (key, value) in ["ttl", "loop_wait", "retry_timeout"].into_iter().zip(&mut written) {
        let Some(node) = s.take(key) else { continue };
        *value = timing::whole_seconds(&node.to_json());
        if value.is_none() {
            let message = format!("expected a whole number of seconds, found {}", found(node));
            r.fault(&node.place, &s.below(key), message);
        }
    }
    let [ttl, loop_wait, retry_timeout] = written;
    let place =
        |s: &Section<'_>, key: &str| s.node().and_then(|n| n.get(key)).map_or(s.place.clone(), |n| n.place.clone());
    if !r.is_lenient() {
        let whole = timing::complete(ttl, loop_wait, retry_timeout);
        let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        let (t, l, q) = (
            ttl.unwrap_or(seconds(whole.ttl)),
            loop_wait.unwrap_or(seconds(whole.loop_wait)),
            retry_timeout.unwrap_or(seconds(whole.retry_timeout)),
        );
        for fault in timing::check_timing(t, l, q).err().unwrap_or_default() {
            r.fault(&place(s, fault.key), &s.below(fault.key), fault.message);
        }
        return whole;
    }
    let default =
        |value: Option<i64>, d: Duration| value.unwrap_or_else(|| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    let peers = Timing::PATRONI;
    let (timing, changes) = timing::adjust(
        default(ttl, peers.ttl),
        default(loop_wait, peers.loop_wait),
        default(retry_timeout, peers.retry_timeout),
    );
    for (key, message) in changes {
        r.warn(&place(s, key), &s.below(key), message);
    }
    timing
}

/// The newer name counts if it is there at all.
fn aliased(s: &mut Section<'_>, r: &mut Reader, key: &str, legacy: &str) -> Option<Duration> {
    let key = if s.has(key) { key } else { legacy };
    let seconds = s.int(r, key, "a whole number of seconds, 0 or more", 0..=i64::from(u32::MAX))?;
    Some(Duration::from_secs(seconds.unsigned_abs()))
}

fn small(s: &mut Section<'_>, r: &mut Reader, key: &str, what: &str, minimum: i64) -> Option<u32> {
    s.int(r, key, what, minimum..=i64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok())
}

fn synchronous_mode(s: &mut Section<'_>, r: &mut Reader) -> SynchronousMode {
    let modes = [
        ("on", SynchronousMode::On),
        ("off", SynchronousMode::Off),
        ("quorum", SynchronousMode::Quorum),
        ("true", SynchronousMode::On),
        ("false", SynchronousMode::Off),
        ("yes", SynchronousMode::On),
        ("no", SynchronousMode::Off),
        ("1", SynchronousMode::On),
        ("0", SynchronousMode::Off),
    ];
    s.choice(r, "synchronous_mode", &modes).unwrap_or(SynchronousMode::Off)
}

fn member_slots_ttl(s: &mut Section<'_>, r: &mut Reader) -> Option<Duration> {
    let node = s.take("member_slots_ttl")?;
    let seconds = match &node.value {
        NodeValue::Number(n) => n.as_i64(),
        NodeValue::Text(t) => value::parse_time(t, TimeUnit::Seconds),
        _ => None,
    };
    if let Some(seconds) = seconds.filter(|n| (0..=i64::from(u32::MAX)).contains(n)) {
        return Some(Duration::from_secs(seconds.unsigned_abs()));
    }
    let message = format!("expected seconds or a time such as 30min, found {}", found(node));
    r.fault(&node.place, &s.below("member_slots_ttl"), message);
    None
}

/// Ours alone; Patroni keeps it and does nothing with it.
fn disk_guard(s: &mut Section<'_>, r: &mut Reader) -> DiskGuard {
    let (mut s, default) = (s.section(r, "disk_guard"), DiskGuard::default());
    let guard = DiskGuard {
        warn: reserve(&mut s, r, "warn").unwrap_or(default.warn),
        switchover: reserve(&mut s, r, "switchover").unwrap_or(default.switchover),
        drop_absent_slots: s.bool(r, "drop_absent_slots").unwrap_or(default.drop_absent_slots),
    };
    s.finish(r);
    guard
}

/// `5%`, `10GB`, or `off`.
fn reserve(s: &mut Section<'_>, r: &mut Reader, key: &str) -> Option<Reserve> {
    let node = s.take(key)?;
    let text = node.scalar_text().unwrap_or_default();
    let percent = text.strip_suffix('%').map(|n| n.trim().parse::<u8>().ok().filter(|n| *n <= 50));
    let given = match percent {
        Some(percent) => percent.map(|percent| Reserve { percent, least: 0, most: u64::MAX }),
        None if value::parse_bool(&text) == Some(false) => Some(Reserve::OFF),
        None => value::parse_bytes(&text).and_then(|n| u64::try_from(n).ok()).map(|n| Reserve {
            percent: 0,
            least: n,
            most: n,
        }),
    };
    if given.is_none() {
        let message = format!(
            "expected a share such as 5% (50% at the most), a size such as 10GB, or off; found {}",
            found(node)
        );
        r.fault(&node.place, &s.below(key), message);
    }
    given
}

/// In force only with an upstream to follow.
fn standby_cluster(s: &mut Section<'_>, r: &mut Reader) -> Option<StandbyCluster> {
    let mut s = s.section(r, "standby_cluster");
    let config = StandbyCluster {
        host: s.text(r, "host"),
        port: s.int(r, "port", "a port from 1 to 65535", 1..=65535).and_then(|p| u16::try_from(p).ok()),
        primary_slot_name: s.text(r, "primary_slot_name"),
        create_replica_methods: s
            .texts_or_csv(r, "create_replica_methods")
            .map(|methods| methods.into_iter().map(|(name, _)| name).collect()),
        restore_command: s.text(r, "restore_command"),
        archive_cleanup_command: s.text(r, "archive_cleanup_command"),
        recovery_min_apply_delay: s.text(r, "recovery_min_apply_delay"),
    };
    let active = config.host.is_some() || config.port.is_some() || config.restore_command.is_some();
    let says_something = s.node().and_then(Node::entries).unwrap_or_default().iter().any(|e| !is_empty(&e.node));
    if says_something && !active {
        let message = "has no effect: it needs at least one of host, port and restore_command";
        r.warn(&s.place, &s.path, message);
    }
    s.finish(r);
    active.then_some(config)
}
