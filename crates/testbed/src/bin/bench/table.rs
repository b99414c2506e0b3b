//! The summary: what was measured, beside Patroni's figures and what was set out to reach.

use std::path::Path;

use anyhow::Result;
use jiff::Timestamp;
use surus_testbed::{Machine, StoreKind};

use crate::record::{STORES, store_name, values};

struct Row {
    what: &'static str,
    /// Patroni 4.1.5, etcd 3.4, PostgreSQL 15, three nodes on a two-core machine.
    peer: &'static str,
    reach: &'static str,
    bench: &'static str,
    field: &'static str,
    show: Show,
}

enum Show {
    /// Milliseconds, as seconds with the range.
    Seconds,
    Plain(&'static str),
    Sum,
}

const ROWS: &[Row] = &[
    Row {
        what: "three nodes from nothing to a leader and two streaming replicas",
        peer: "6.9 s",
        reach: "3.5 s",
        bench: "bootstrap",
        field: "healthy_ms",
        show: Show::Seconds,
    },
    Row {
        what: "planned switchover, write gap",
        peer: "2.4 s",
        reach: "0.25 s, max 0.6 s",
        bench: "switchover",
        field: "gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "old primary streaming again after a switchover",
        peer: "5.3 s",
        reach: "1.5 s",
        bench: "switchover",
        field: "streaming_ms",
        show: Show::Seconds,
    },
    Row {
        what: "primary's postmaster killed, write gap",
        peer: "5.6 s",
        reach: "1 s",
        bench: "postmaster",
        field: "gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "node lost, defaults of a new cluster, write gap",
        peer: "25.7 s",
        reach: "10 s",
        bench: "node",
        field: "gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "node lost, shortest timing allowed, write gap",
        peer: "19.9 s (ttl 20)",
        reach: "5.5 s (ttl 5)",
        bench: "node-fast",
        field: "gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "rejoin by rewind of a lost primary, from its start to streaming",
        peer: "4.8 s",
        reach: "3 s",
        bench: "rewind",
        field: "rejoin_ms",
        show: Show::Seconds,
    },
    Row {
        what: "agent stopped by SIGTERM on the primary, write gap",
        peer: "-",
        reach: "0.5 s",
        bench: "sigterm",
        field: "gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "agent killed and restarted within ttl, failed commits",
        peer: "-",
        reach: "0",
        bench: "agent-restart",
        field: "failed_commits",
        show: Show::Sum,
    },
    Row {
        what: "agent memory (RSS) idle, leader",
        peer: "47.7 MB",
        reach: "15 MB etcd, 20 MB embedded",
        bench: "idle",
        field: "leader_rss_mb",
        show: Show::Plain("MB"),
    },
    Row {
        what: "agent CPU idle, ttl 30 / loop_wait 10, per minute",
        peer: "0.02 s",
        reach: "0.02 s, embedded 0.2 s",
        bench: "idle",
        field: "mean_cpu_s_per_min",
        show: Show::Plain("s"),
    },
    Row {
        what: "store requests per minute, three members, ttl 30 / loop_wait 10",
        peer: "18",
        reach: "18",
        bench: "idle",
        field: "requests_per_min",
        show: Show::Plain(""),
    },
    Row {
        what: "200 busy clusters on one etcd, lease renewals that were late",
        peer: "-",
        reach: "0",
        bench: "clusters",
        field: "late",
        show: Show::Sum,
    },
    Row {
        what: "200 busy clusters on one etcd, longest renewal",
        peer: "-",
        reach: "-",
        bench: "clusters",
        field: "renewal_max_ms",
        show: Show::Seconds,
    },
    Row {
        what: "GET /primary from 16 connections, requests a second",
        peer: "1,300",
        reach: "20,000",
        bench: "rest",
        field: "requests_per_s",
        show: Show::Plain(""),
    },
    Row {
        what: "GET /primary from 16 connections, p99",
        peer: "15 to 60 ms",
        reach: "5 ms",
        bench: "rest",
        field: "p99_ms",
        show: Show::Plain("ms"),
    },
    Row {
        what: "GET /primary, the agent's CPU time for each",
        peer: "650 µs",
        reach: "40 µs",
        bench: "rest",
        field: "agent_us_per_request",
        show: Show::Plain("µs"),
    },
    Row {
        what: "`surus list`, three members",
        peer: "-",
        reach: "100 ms",
        bench: "list",
        field: "took_ms",
        show: Show::Plain("ms"),
    },
    Row {
        what: "`surus plan -s key=value`, three members",
        peer: "-",
        reach: "-",
        bench: "plan",
        field: "took_ms",
        show: Show::Plain("ms"),
    },
    Row {
        what: "the only synchronous standby lost and another there, write stall",
        peer: "-",
        reach: "1.5 s",
        bench: "sync-standby-lost",
        field: "gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "node lost in synchronous mode, acknowledged commits lost",
        peer: "-",
        reach: "0",
        bench: "sync-node-lost",
        field: "lost",
        show: Show::Sum,
    },
    Row {
        what: "node lost in quorum mode, acknowledged commits lost",
        peer: "-",
        reach: "0",
        bench: "quorum-node-lost",
        field: "lost",
        show: Show::Sum,
    },
    Row {
        what: "agent killed: commits acknowledged by the old primary after another was promoted",
        peer: "over 7,000 in 60 s",
        reach: "0",
        bench: "fence-agent-killed",
        field: "after_promotion",
        show: Show::Sum,
    },
    Row {
        what: "agent frozen for 60 s: commits acknowledged by the old primary after another was promoted",
        peer: "18 to 38 s of two primaries",
        reach: "0",
        bench: "fence-agent-frozen",
        field: "after_promotion",
        show: Show::Sum,
    },
    Row {
        what: "agent and store cut off: commits acknowledged by the old primary after another was promoted",
        peer: "-",
        reach: "0",
        bench: "fence-cut-off",
        field: "after_promotion",
        show: Show::Sum,
    },
    Row {
        what: "postmaster and agent frozen: commits acknowledged by the old primary after another was promoted",
        peer: "-",
        reach: "0",
        bench: "fence-both-frozen",
        field: "after_promotion",
        show: Show::Sum,
    },
    Row {
        what: "acknowledged commits lost in planned switchovers",
        peer: "0",
        reach: "0",
        bench: "switchover",
        field: "lost",
        show: Show::Sum,
    },
    Row {
        what: "20 members from nothing to a leader and 19 streaming replicas",
        peer: "-",
        reach: "-",
        bench: "herd",
        field: "healthy_ms",
        show: Show::Seconds,
    },
    Row {
        what: "20 members, planned switchover, write gap",
        peer: "-",
        reach: "-",
        bench: "herd",
        field: "switchover_gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "20 members, node lost, defaults of a new cluster, write gap",
        peer: "-",
        reach: "-",
        bench: "herd",
        field: "node_lost_gap_ms",
        show: Show::Seconds,
    },
    Row {
        what: "20 members, agent CPU idle, mean of all, per minute",
        peer: "-",
        reach: "-",
        bench: "herd",
        field: "mean_cpu_s_per_min",
        show: Show::Plain("s"),
    },
];

pub fn summary(out: &Path) -> Result<String> {
    let mut text = format!(
        "# Measured\n\n{}\n\nMedian [lowest - highest, number of runs]; a writer inserts every 5 ms and the gap is the \
         longest time between two acknowledged commits.\nThe peer is Patroni 4.1.5 with etcd 3.4 and PostgreSQL 15, \
         three nodes on a two-core machine, measured the same way. Raw data: the `.jsonl` files beside this one.\n\
         Idle is a cluster whose WAL has not moved for two and a half minutes.\n\
         The last column tells when a line was measured (UTC, the oldest run): what is older than a change knows nothing of it.\n\n\
         | what | peer | reach | etcd | embedded | measured |\n|---|---|---|---|---|---|\n",
        machine()
    );
    for row in ROWS {
        let cell = |store| row.show.cell(values(out, row.bench, store, row.field));
        let (etcd, embedded) = (cell(StoreKind::Etcd), cell(StoreKind::Embedded));
        let runs = [StoreKind::Etcd, StoreKind::Embedded].into_iter().flat_map(|s| values(out, row.bench, s, "at"));
        let when = when(runs.min_by(f64::total_cmp));
        text.push_str(&format!("| {} | {} | {} | {etcd} | {embedded} | {when} |\n", row.what, row.peer, row.reach));
    }
    text.push_str(
        "\nWhat a cluster of three at rest (ttl 30, loop_wait 10) costs its store in a minute, and a cluster of Patroni at \
         the same settings in the same minutes:\n\n| store | requests | Patroni's | bytes, both ways | Patroni's |\n|---|---|---|---|---|\n",
    );
    for store in STORES {
        let cell = |field| Show::Plain("").cell(values(out, "cost", store, field));
        let cells =
            ["requests_per_min", "patroni_requests_per_min", "bytes_per_min", "patroni_bytes_per_min"].map(cell);
        text.push_str(&format!("| {} | {} |\n", store_name(store), cells.join(" | ")));
    }
    Ok(text)
}

fn when(seconds: Option<f64>) -> String {
    let at = seconds.and_then(|s| Timestamp::from_second(s as i64).ok());
    at.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
}

impl Show {
    fn cell(&self, mut values: Vec<f64>) -> String {
        values.sort_by(f64::total_cmp);
        let (Some(lowest), Some(highest)) = (values.first(), values.last()) else { return "not measured".to_owned() };
        let n = values.len();
        let middle = if n % 2 == 1 { values[n / 2] } else { f64::midpoint(values[n / 2 - 1], values[n / 2]) };
        match self {
            Show::Seconds => {
                let [middle, lowest, highest] = [middle, *lowest, *highest].map(|ms| ms / 1000.0);
                format!("{middle:.2} s [{lowest:.2} - {highest:.2}, {n}]")
            }
            Show::Plain(unit) => {
                let space = if unit.is_empty() { "" } else { " " };
                format!("{middle:.2}{space}{unit} [{lowest:.2} - {highest:.2}, {n}]")
            }
            Show::Sum => format!("{} in {n} runs", values.iter().sum::<f64>()),
        }
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let postgres = Machine::look().ok().and_then(|machine| {
        let version = std::process::Command::new(machine.bin_dir.join("postgres")).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&version.stdout).trim().to_owned())
    });
    format!(
        "{cores} cores ({}), Linux {}, {}.",
        model.unwrap_or("unknown processor"),
        read("/proc/sys/kernel/osrelease").trim(),
        postgres.unwrap_or_else(|| "no PostgreSQL".to_owned())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        assert_eq!(Show::Seconds.cell(vec![300.0, 100.0, 200.0]), "0.20 s [0.10 - 0.30, 3]");
        assert_eq!(Show::Plain("MB").cell(vec![10.0, 20.0]), "15.00 MB [10.00 - 20.00, 2]");
        assert_eq!(Show::Sum.cell(vec![0.0, 2.0]), "2 in 2 runs");
        assert_eq!(Show::Sum.cell(Vec::new()), "not measured");
        assert_eq!((when(Some(1_795_648_243.0)), when(None)), ("2026-11-25 23:10".to_owned(), "-".to_owned()));
    }
}
