use std::sync::Arc;
use std::time::Duration;

use surus_core::Lsn;
use surus_core::settings::SynchronousMode;

use super::super::testing::{Fake, NOW, published};
use super::{LEADER, OTHER_LEADER, STATUS, standby, with};
use crate::handle::Published;

#[tokio::test]
async fn metrics_have_the_names_and_order_dashboards_know() {
    let fake = Fake::new(standby(), &[OTHER_LEADER, STATUS, ("failsafe", r#"{"node1":"http://x"}"#)]).await;
    let (code, text) = fake.send("GET", "/metrics", None).await;
    assert_eq!(code, 200);
    let samples: Vec<(&str, &str)> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once("{scope=\"demo\",name=\"node1\"} "))
        .collect();
    assert_eq!(
        samples,
        [
            ("patroni_version", "040105"),
            ("patroni_postgres_running", "1"),
            ("patroni_postmaster_start_time", "1784887200.123456"),
            ("patroni_primary", "0"),
            ("patroni_xlog_location", "0"),
            ("patroni_standby_leader", "0"),
            ("patroni_replica", "1"),
            ("patroni_sync_standby", "0"),
            ("patroni_quorum_standby", "0"),
            ("patroni_xlog_received_location", "4900"),
            ("patroni_xlog_replayed_location", "4800"),
            ("patroni_xlog_replayed_timestamp", "1784883600.0"),
            ("patroni_xlog_paused", "0"),
            ("patroni_postgres_streaming", "1"),
            ("patroni_postgres_in_archive_recovery", "0"),
            ("patroni_postgres_server_version", "150004"),
            ("patroni_cluster_unlocked", "0"),
            ("patroni_failsafe_mode_is_active", "0"),
            ("patroni_failsafe_mode_enabled", "0"),
            ("patroni_failsafe_member", "1"),
            ("patroni_postgres_timeline", "2"),
            ("patroni_dcs_last_seen", "1721815200"),
            ("patroni_pending_restart", "0"),
            ("patroni_is_paused", "0"),
            ("patroni_postgres_state", "5"),
            ("patroni_failover_priority", "1"),
            ("surus_steps_total", "0"),
            ("surus_promotions_total", "0"),
            ("surus_demotions_total", "0"),
            ("surus_lease_renewals_total", "0"),
            ("surus_lease_renewal_failures_total", "0"),
            ("surus_lease_renewal_seconds", "0"),
            ("surus_lease_remaining_seconds", "0"),
            ("surus_failsafe_blocked", "0"),
            ("surus_failsafe_remaining_seconds", "0"),
            ("surus_fence_working", "0"),
            ("surus_fence_armed", "0"),
            ("surus_fence_firings_total", "0"),
            ("surus_watchdog_usable", "0"),
            ("surus_watchdog_timeout_seconds", "0"),
            ("surus_watchdog_keepalives_total", "0"),
            ("surus_store_last_seen", "1721815200"),
            ("surus_journal_records_total", "0"),
            ("surus_journal_dropped_total", "0"),
            ("surus_journal_bytes", "0"),
            ("surus_journal_failing", "0"),
            ("surus_forked", "0"),
            ("surus_loss_receipts", "0"),
            ("surus_loss_transactions", "0"),
            ("surus_loss_bytes", "0"),
            ("surus_cluster_loss_receipts", "0"),
            ("surus_stall_postmaster_seconds", "0"),
            ("surus_stall_postmaster_total", "0"),
            ("surus_stall_postmaster_seconds_total", "0"),
            ("surus_stall_commits_seconds", "0"),
            ("surus_stall_commits_total", "0"),
            ("surus_stall_commits_seconds_total", "0"),
            ("surus_stall_disk_seconds", "0"),
            ("surus_stall_disk_total", "0"),
            ("surus_stall_disk_seconds_total", "0"),
            ("surus_stall_store_seconds", "0"),
            ("surus_stall_store_total", "0"),
            ("surus_stall_store_seconds_total", "0"),
            ("surus_stall_unscheduled_seconds", "0"),
            ("surus_stall_unscheduled_total", "0"),
            ("surus_stall_unscheduled_seconds_total", "0"),
            ("surus_stall_asleep_seconds", "0"),
            ("surus_stall_asleep_total", "0"),
            ("surus_stall_asleep_seconds_total", "0"),
        ]
    );
    assert!(text.starts_with(
        "# HELP patroni_version Patroni semver without periods.\n# TYPE patroni_version gauge\npatroni_version{"
    ));
    assert!(text.contains("# TYPE patroni_xlog_location counter\n"));
    assert!(text.contains(
        "# HELP patroni_postgres_state Numeric representation of Postgres state.\n# Values: 0=initdb, 1=initdb_failed, \
         2=custom_bootstrap, 3=custom_bootstrap_failed, 4=creating_replica, 5=running, 6=starting, \
         7=bootstrap_starting, 8=start_failed, 9=restarting, 10=restart_failed, 11=stopping, 12=stopped, \
         13=stop_failed, 14=crashed\n# TYPE patroni_postgres_state gauge\n"
    ));
    assert!(text.ends_with('\n'));

    let fake = Fake::new(published(), &[LEADER]).await;
    let (_, text) = fake.send("GET", "/metrics", None).await;
    assert!(text.contains("surus_lease_remaining_seconds{scope=\"demo\",name=\"node1\"} 20\n"), "{text}");
    assert!(text.contains("patroni_xlog_location{scope=\"demo\",name=\"node1\"} 5000\n"), "{text}");
}

/// A leader of which everything is known that can be.
async fn everything() -> String {
    let other = super::super::testing::member("node2", Some("http://10.0.0.2:8008/patroni"), "replica");
    let fake = Fake::new(
        with(published(), |p| {
            let mut primary = super::super::testing::primary();
            primary.senders = vec![sender("node2", 4000)];
            p.observed = Some(Arc::new(primary));
            p.measures.rule(790, NOW - Duration::from_secs(12));
            p.wal.room = Some(surus_core::slots::Room { free: 10, total: 100 });
            p.wal.ready.insert("orders".into(), true);
            p.wal.withheld = vec![surus_core::slots::Withheld {
                slot: "orders".into(),
                bytes: 7,
                full_in: Some(Duration::from_secs(9)),
                active: true,
            }];
        }),
        &[LEADER, STATUS, (other.0.as_str(), other.1.as_str())],
    )
    .await;
    fake.send("GET", "/metrics", None).await.1
}

/// Names, types and helps are what dashboards and alerts match: a change here is one for `docs/monitoring.md`,
/// `contrib/` and the change log.
#[tokio::test]
async fn metrics_change_on_purpose_only() {
    let text = everything().await;
    let described: String = text.lines().filter(|l| l.starts_with('#')).fold(String::new(), |all, l| all + l + "\n");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rest/tests/metrics.txt");
    assert_eq!(described, std::fs::read_to_string(golden).unwrap(), "{golden}");
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md")).unwrap();
    for name in described.lines().filter_map(|l| l.strip_prefix("# TYPE surus_")?.split(' ').next()) {
        assert!(page.contains(&format!("`surus_{name}`")), "docs/monitoring.md tells nothing of surus_{name}");
    }
}

#[tokio::test]
async fn whoever_could_take_over_is_a_metric() {
    let text = everything().await;
    for line in [
        "surus_failover_ready{scope=\"demo\",name=\"node1\"} 1",
        "surus_failover_candidate_fit{scope=\"demo\",name=\"node1\",member=\"node2\"} 1",
        "surus_failover_loss_bytes{scope=\"demo\",name=\"node1\",member=\"node2\"} 1000",
        "surus_rule_seconds_total{scope=\"demo\",name=\"node1\",rule=\"790\"} 12",
        "surus_store_request_seconds_bucket{scope=\"demo\",name=\"node1\",operation=\"renew\",le=\"+Inf\"} 0",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
    }
    // Far behind, not allowed, not running: nobody could.
    let member = super::super::testing::member("node2", Some("http://10.0.0.2:8008/patroni"), "replica");
    for (what, change) in [
        ("far behind", (|p| Arc::make_mut(&mut p.settings).maximum_lag_on_failover = 10) as fn(&mut Published)),
        ("not synchronous", |p| Arc::make_mut(&mut p.settings).synchronous_mode = SynchronousMode::On),
    ] {
        let fake = Fake::new(
            with(published(), |p| {
                let mut primary = super::super::testing::primary();
                primary.senders = vec![sender("node2", 4000)];
                p.observed = Some(Arc::new(primary));
                change(p);
            }),
            &[LEADER, STATUS, (member.0.as_str(), member.1.as_str()), ("sync", r#"{"leader":"node1","quorum":0}"#)],
        )
        .await;
        let text = fake.send("GET", "/metrics", None).await.1;
        assert!(text.contains("surus_failover_ready{scope=\"demo\",name=\"node1\"} 0"), "{what}: {text}");
    }
}

fn sender(name: &str, at: u64) -> surus_core::postgres::WalSender {
    surus_core::postgres::WalSender {
        pid: 1,
        user: None,
        application_name: name.into(),
        client_addr: None,
        state: "streaming".into(),
        sync_state: "async".into(),
        sync_priority: 0,
        sent_lsn: Some(Lsn(at)),
        write_lsn: Some(Lsn(at)),
        flush_lsn: Some(Lsn(at)),
        replay_lsn: Some(Lsn(at)),
    }
}
