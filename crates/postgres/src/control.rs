//! Reading `pg_control`: all of it through `pg_controldata`, the state field alone directly.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use surus_core::postgres::{ControlData, ControlState};
use surus_core::{Lsn, SystemId, Timeline};

/// `pg_controldata`'s label and the setting it belongs to. A standby may not run with less than its primary.
const LIMITS: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
];

pub(crate) fn parse_controldata(text: &str) -> Result<ControlData, String> {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.trim().trim_start_matches("Current "), v.trim()))
        .collect();
    let get = |label: &str| fields.get(label).copied().ok_or_else(|| format!("pg_controldata shows no \"{label}\""));
    let bad = |label: &str, value: &str| format!("pg_controldata shows an odd \"{label}\": {value}");
    let lsn = |label: &str| get(label).and_then(|v| v.parse::<Lsn>().map_err(|_| bad(label, v)));
    let number = |label: &str| get(label).and_then(|v| v.parse::<u64>().map_err(|_| bad(label, v)));

    let id = "Database system identifier";
    let state = get("Database cluster state")?;
    let tli = "Latest checkpoint's TimeLineID";
    let mut limits = BTreeMap::new();
    for (label, name) in LIMITS {
        if let Some(n) = fields.get(label).and_then(|v| v.parse::<i64>().ok()) {
            limits.insert(name.to_owned(), n);
        }
    }
    Ok(ControlData {
        system_id: get(id).and_then(|v| SystemId::parse(v).ok_or_else(|| bad(id, v)))?,
        state: state_from_text(state).ok_or_else(|| bad("Database cluster state", state))?,
        checkpoint_timeline: Timeline::known(number(tli)?).ok_or_else(|| bad(tli, "0"))?,
        checkpoint_lsn: lsn("Latest checkpoint location")?,
        min_recovery_timeline: Timeline::known(number("Min recovery ending loc's timeline")?),
        min_recovery_lsn: lsn("Minimum recovery ending location")?,
        data_checksums: number("Data page checksum version")? != 0,
        wal_log_hints: get("wal_log_hints setting")? == "on",
        wal_level_minimal: fields.get("wal_level setting") == Some(&"minimal"),
        wal_segment: number("Bytes per WAL segment")?,
        limits,
    })
}

fn state_from_text(text: &str) -> Option<ControlState> {
    Some(match text {
        "starting up" => ControlState::StartingUp,
        "shut down" => ControlState::ShutDown,
        "shut down in recovery" => ControlState::ShutDownInRecovery,
        "shutting down" => ControlState::ShuttingDown,
        "in crash recovery" => ControlState::InCrashRecovery,
        "in archive recovery" => ControlState::InArchiveRecovery,
        "in production" => ControlState::InProduction,
        _ => return None,
    })
}

pub(crate) fn wal_segment_size(text: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix("Bytes per WAL segment:")?.trim().parse().ok())
}

/// The segment that recovery from the last checkpoint begins with.
pub(crate) fn redo_segment(text: &str) -> Option<&str> {
    text.lines().find_map(|l| l.strip_prefix("Latest checkpoint's REDO WAL file:")).map(str::trim)
}

/// The state straight from the file: behind the system identifier (8 bytes) and two version numbers (4 bytes each), in
/// every version we support. Cheap enough to be asked every few milliseconds. Blocking.
pub(crate) fn quick_state(data_dir: &Path) -> Option<ControlState> {
    let mut head = [0_u8; 20];
    File::open(data_dir.join("global/pg_control")).and_then(|mut f| f.read_exact(&mut head)).ok()?;
    let state = u32::from_ne_bytes([head[16], head[17], head[18], head[19]]);
    Some(match state {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
pg_control version number:            1300
Database system identifier:           7710904247095016795
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/17414D0
Latest checkpoint's REDO location:    0/17414D0
Latest checkpoint's TimeLineID:       2
Time of latest checkpoint:            Sun Nov 22 08:06:39 2026
Minimum recovery ending location:     0/3000060
Min recovery ending loc's timeline:   0
wal_log_hints setting:                off
Current max_connections setting:      100
max_prepared_xacts setting:           7
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn reads_the_fields() {
        let data = parse_controldata(TEXT).unwrap();
        assert_eq!(data.system_id.as_str(), "7710904247095016795");
        assert_eq!(data.state, ControlState::ShutDownInRecovery);
        assert_eq!((data.checkpoint_timeline, data.checkpoint_lsn), (Timeline(2), Lsn(0x17414D0)));
        assert_eq!((data.min_recovery_timeline, data.min_recovery_lsn), (None, Lsn(0x3000060)));
        assert!(data.data_checksums && !data.wal_log_hints);
        assert_eq!(data.limits.get("max_connections"), Some(&100));
        assert_eq!(data.limits.get("max_prepared_transactions"), Some(&7));
        assert_eq!(data.limits.get("max_wal_senders"), None);
        assert_eq!(wal_segment_size(TEXT), Some(16 << 20));
    }

    #[test]
    fn says_what_is_missing_or_odd() {
        assert!(parse_controldata("").unwrap_err().contains("Database"));
        for (from, to, about) in [
            ("shut down in recovery", "asleep", "cluster state"),
            ("7710904247095016795", "x", "system identifier"),
            ("0/17414D0", "0-1", "checkpoint location"),
        ] {
            let error = parse_controldata(&TEXT.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(about), "{error}");
        }
    }
}
