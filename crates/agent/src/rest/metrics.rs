//! `GET /metrics` (`spec/rest-api.md §5.5`).
//!
//! Names, order, types and helps are what dashboards and alerts match, among them counters without
//! the suffix that an OpenMetrics encoder would append; hence the text is written here.

mod measures;

use std::fmt::{Display, Write};

use jiff::Timestamp;
use surus_core::BootTime;
use surus_core::cluster::{MemberRole, MemberState};
use surus_core::postgres::Observed;

use super::facts::{Facts, SyncStandby};
use super::validity::Validity;
use super::version::{COMPATIBLE_VERSION, as_metric};
use crate::failsafe::Shown;
use crate::stall::{KINDS, PAUSES};

pub fn render(facts: &Facts<'_>, certificate: Option<&Validity>) -> String {
    let mut page = Page::new(&facts.published.scope, facts.published.name.as_str());
    peers(facts, &mut page);
    ours(facts, &mut page);
    measures::failover(facts, &mut page);
    measures::measures(facts, &mut page);
    losses(facts, &mut page);
    stalls(facts, &mut page);
    slots(facts, &mut page);
    if let Some(certificate) = certificate {
        let help = "Until the certificate of the REST API ends, negative once it has.";
        page.gauge("surus_certificate_expiry_seconds", help, certificate.seconds_left(Timestamp::now()));
    }
    page.text
}

fn peers(facts: &Facts<'_>, page: &mut Page) {
    let published = facts.published;
    let observed = facts.observed;
    let standby = observed.filter(|o| o.in_recovery);
    let role = |role| u8::from(facts.role == role);
    page.gauge("patroni_version", "Patroni semver without periods.", as_metric(COMPATIBLE_VERSION));
    page.flag(
        "patroni_postgres_running",
        "Value is 1 if Postgres is running, 0 otherwise.",
        facts.state == MemberState::Running,
    );
    page.gauge(
        "patroni_postmaster_start_time",
        "Epoch seconds since Postgres started.",
        epoch(observed.map(|o| o.postmaster_start_time.as_str())),
    );
    page.gauge("patroni_primary", "Value is 1 if this node is the leader, 0 otherwise.", role(MemberRole::Primary));
    page.counter(
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
        observed.filter(|o| !o.in_recovery).map_or(0, |o| o.flush_lsn.0),
    );
    page.gauge(
        "patroni_standby_leader",
        "Value is 1 if this node is the standby_leader, 0 otherwise.",
        role(MemberRole::StandbyLeader),
    );
    page.gauge("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", role(MemberRole::Replica));
    page.flag(
        "patroni_sync_standby",
        "Value is 1 if this node is a sync standby, 0 otherwise.",
        facts.sync == SyncStandby::Sync,
    );
    page.flag(
        "patroni_quorum_standby",
        "Value is 1 if this node is a quorum standby, 0 otherwise.",
        facts.sync == SyncStandby::Quorum,
    );
    page.counter(
        "patroni_xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
        facts.received().0,
    );
    page.counter(
        "patroni_xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
        facts.replayed().0,
    );
    page.gauge(
        "patroni_xlog_replayed_timestamp",
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
        epoch(standby.and_then(|o| o.replay_timestamp.as_deref())),
    );
    page.flag(
        "patroni_xlog_paused",
        "Value is 1 if the Postgres xlog is paused, 0 otherwise.",
        standby.is_some_and(|o| o.replay_paused),
    );
    if let Some(observed) = observed {
        replication(observed, page);
    }
    page.gauge(
        "patroni_postgres_server_version",
        "Version of Postgres (if running), 0 otherwise.",
        observed.map_or(0, |o| o.server_version),
    );
    page.flag(
        "patroni_cluster_unlocked",
        "Value is 1 if the cluster is unlocked, 0 if locked.",
        facts.cluster_unlocked(),
    );
    page.flag(
        "patroni_failsafe_mode_is_active",
        "Value is 1 if failsafe mode is active, 0 if inactive.",
        published.failsafe.is_active(),
    );
    page.flag(
        "patroni_failsafe_mode_enabled",
        "Value is 1 if failsafe_mode is enabled, 0 otherwise.",
        published.settings.failsafe_mode,
    );
    page.flag(
        "patroni_failsafe_member",
        "Value is 1 if this node is a member of failsafe, 0 otherwise.",
        facts.view.and_then(|v| v.failsafe.as_ref()).is_some_and(|f| f.contains_key(&published.name)),
    );
    page.gauge(
        "patroni_postgres_timeline",
        "Postgres timeline of this node (if running), 0 otherwise.",
        observed.and_then(|o| o.timeline).map_or(0, |t| t.0),
    );
    page.gauge(
        "patroni_dcs_last_seen",
        "Epoch timestamp when DCS was last contacted successfully by Patroni.",
        published.store_last_seen,
    );
    page.flag(
        "patroni_pending_restart",
        "Value is 1 if the node needs a restart, 0 otherwise.",
        !published.pending_restart.is_empty(),
    );
    page.flag("patroni_is_paused", "Value is 1 if auto failover is disabled, 0 otherwise.", published.settings.pause);
    page.series(
        "patroni_postgres_state",
        "Numeric representation of Postgres state.",
        Some(STATES),
        "gauge",
        facts.state.metric(),
    );
    page.gauge("patroni_failover_priority", "Failover priority of this node.", facts.tags.failover_priority());
}

fn replication(observed: &Observed, page: &mut Page) {
    let state = observed.replication_state();
    page.flag(
        "patroni_postgres_streaming",
        "Value is 1 if Postgres is streaming, 0 otherwise.",
        state == Some("streaming"),
    );
    page.flag(
        "patroni_postgres_in_archive_recovery",
        "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
        state == Some("in archive recovery"),
    );
}

fn failsafe(shown: &Shown, now: BootTime, page: &mut Page) {
    let (until, answers, blocked) = match shown {
        Shown::Active { until, answers } => (Some(*until), Some(answers), false),
        Shown::Blocked { until, answers } => (Some(*until), Some(answers), true),
        Shown::Idle | Shown::Vouches { .. } => (None, None, false),
    };
    page.flag(
        "surus_failsafe_blocked",
        "Value is 1 on a primary without the store for which too few members vouch: it stops before its lead ends.",
        blocked,
    );
    page.gauge(
        "surus_failsafe_remaining_seconds",
        "Time for which this primary may go on without the store unless members go on vouching for it, 0 otherwise.",
        until.map(|until| until.since(now)).unwrap_or_default().as_secs_f64(),
    );
    let of = answers.into_iter().flat_map(|answers| &answers.of);
    let of = of.map(|(name, said)| (name.as_str(), if said.is_ok() { 1.0 } else { 0.0 }));
    let help = "Value is 1 if this member vouches for this primary without the store, 0 if it was asked and does not.";
    page.for_each("surus_failsafe_vouches", help, "gauge", "member", of);
}

fn ours(facts: &Facts<'_>, page: &mut Page) {
    let published = facts.published;
    let counters = published.counters;
    let remaining = published.lease_until.map(|until| until.since(facts.now)).unwrap_or_default();
    page.counter("surus_steps_total", "Decisions taken.", counters.steps);
    page.counter("surus_promotions_total", "Promotions of this node.", counters.promotions);
    page.counter("surus_demotions_total", "Demotions of this node.", counters.demotions);
    page.counter("surus_lease_renewals_total", "Successful renewals of the lease.", counters.lease_renewals);
    page.counter(
        "surus_lease_renewal_failures_total",
        "Failed renewals of the lease.",
        counters.lease_renewal_failures,
    );
    page.gauge(
        "surus_lease_renewal_seconds",
        "Duration of the last successful renewal of the lease, 0 before the first.",
        counters.last_lease_renewal.unwrap_or_default().as_secs_f64(),
    );
    page.gauge(
        "surus_lease_remaining_seconds",
        "Time for which this node may still call itself the leader, 0 if it does not.",
        remaining.as_secs_f64(),
    );
    failsafe(&published.failsafe.shown(facts.now), facts.now, page);
    let fence = &published.fence;
    page.flag("surus_fence_working", "Value is 1 if the fence works, 0 if it is off or does not.", fence.works());
    page.flag(
        "surus_fence_armed",
        "Value is 1 if the fence ends PostgreSQL should the lead end unextended, 0 otherwise.",
        fence.state.armed_until.is_some(),
    );
    page.counter("surus_fence_firings_total", "Times the fence had to end PostgreSQL.", fence.state.firings);
    let watchdog = &published.watchdog;
    page.flag(
        "surus_watchdog_usable",
        "Value is 1 if a hardware watchdog runs here or could, 0 if it is off or cannot be used.",
        watchdog.fact == surus_core::facts::Fence::Working,
    );
    page.gauge(
        "surus_watchdog_timeout_seconds",
        "Time after which the hardware watchdog resets this machine unless the lead is renewed, 0 while it does not run.",
        watchdog.state.running.unwrap_or_default().as_secs(),
    );
    page.counter(
        "surus_watchdog_keepalives_total",
        "Times the hardware watchdog was kept alive.",
        watchdog.state.keepalives,
    );
    page.gauge(
        "surus_store_last_seen",
        "Epoch timestamp of the last successful reading of the store.",
        published.store_last_seen,
    );
    page.counter(
        "surus_journal_records_total",
        "Records written to the journal of decisions.",
        counters.journal.recorded,
    );
    page.counter(
        "surus_journal_dropped_total",
        "Decisions that are not in the journal because it could not be written in time.",
        counters.journal.dropped,
    );
    page.gauge("surus_journal_bytes", "Size of the journal of decisions on disk.", counters.journal.size);
    page.flag(
        "surus_journal_failing",
        "Value is 1 if the journal of decisions cannot be written, 0 otherwise.",
        counters.journal.failing,
    );
}

fn slots(facts: &Facts<'_>, page: &mut Page) {
    let shown = &facts.published.wal;
    let held = || shown.withheld.iter().map(|w| (w.slot.as_str(), w.bytes as f64));
    page.for_each("surus_slot_withheld_bytes", "WAL that a replication slot holds back.", "gauge", "slot", held());
    let full = shown.withheld.iter().filter_map(|w| Some((w.slot.as_str(), w.full_in?.as_secs_f64())));
    let help = "Until the disk is full if the reader of a replication slot stays where it is.";
    page.for_each("surus_slot_disk_full_seconds", help, "gauge", "slot", full);
    let ready = shown.ready.iter().map(|(slot, ready)| (slot.as_str(), if *ready { 1.0 } else { 0.0 }));
    let help = "Value is 1 if a permanent logical slot is safe to be used here after a failover, 0 otherwise.";
    page.for_each("surus_slot_failover_ready", help, "gauge", "slot", ready);
    if let Some(room) = shown.room {
        page.gauge("surus_wal_disk_free_bytes", "Free space on the disk of the WAL.", room.free);
        let low = room.free < facts.published.settings.disk_guard.warn.bytes(room.total);
        page.flag("surus_wal_disk_low", "Value is 1 if less is free than disk_guard.warn asks for, 0 otherwise.", low);
        page.gauge("surus_wal_disk_total_bytes", "Size of the disk of the WAL.", room.total);
    }
}

fn losses(facts: &Facts<'_>, page: &mut Page) {
    let forked = facts.published.forked.is_some();
    let help = "Value is 1 if the log here left that of the cluster, so that this member is not to lead, 0 otherwise.";
    page.flag("surus_forked", help, forked);
    let losses = &facts.published.losses;
    page.gauge("surus_loss_receipts", "Loss receipts that nobody has acknowledged.", losses.receipts);
    page.gauge("surus_loss_transactions", "Transactions that those tell of.", losses.transactions);
    page.gauge("surus_loss_bytes", "Size of the log that is kept with them.", losses.bytes);
    let view = facts.published.view.as_ref().map(|(view, _)| view);
    let remembered: usize = view.map_or(0, |view| view.losses.values().map(|l| l.value.len()).sum());
    page.gauge("surus_cluster_loss_receipts", "The same of all members, also of those that are gone.", remembered);
}

fn stalls(facts: &Facts<'_>, page: &mut Page) {
    let shown = &facts.published.stalls;
    let lasting = shown.stalling().map(|stall| stall.map(|s| s.lasted()).unwrap_or_default());
    let paused = shown.paused().map(|pause| pause.map(|p| p.lasted).unwrap_or_default());
    let now = KINDS.iter().zip(lasting).zip(shown.totals).map(|row| (row, "now"));
    let last = PAUSES.iter().zip(paused).zip(shown.pauses).map(|row| (row, "the last time"));
    for ((((name, what), lasting), total), when) in now.chain(last) {
        let gauge = format!("surus_stall_{name}_seconds");
        page.gauge(&gauge, &format!("For how long, {when}: {what}; 0 if not."), lasting.as_secs_f64());
        page.counter(&format!("surus_stall_{name}_total"), &format!("Times that are over: {what}."), total.times);
        let sum = format!("surus_stall_{name}_seconds_total");
        page.series(&sum, &format!("Sum of those times: {what}."), None, "counter", total.lasted.as_secs_f64());
    }
}

const STATES: &str = "# Values: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, \
                      4=creating_replica, 5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, 9=restarting, \
                      10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, 14=crashed";

struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn new(scope: &str, name: &str) -> Page {
        let labels = format!("{{scope=\"{}\",name=\"{}\"}}", escape(scope), escape(name));
        Page { text: String::new(), labels }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.series(name, help, None, "gauge", value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.series(name, help, None, "counter", value);
    }

    fn series(&mut self, name: &str, help: &str, comment: Option<&str>, kind: &str, value: impl Display) {
        let comment = comment.map(|c| format!("{c}\n")).unwrap_or_default();
        let labels = &self.labels;
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n{comment}# TYPE {name} {kind}\n{name}{labels} {value}");
    }
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Seconds since 1970 of a time as PostgreSQL prints it: `1724873966.352526`, and `0` if there is none.
fn epoch(text: Option<&str>) -> String {
    let Some(time) = text.and_then(|t| t.parse::<jiff::Timestamp>().ok()) else { return "0".into() };
    let fraction = format!("{:06}", time.subsec_microsecond());
    let fraction = fraction.trim_end_matches('0');
    format!("{}.{}", time.as_second(), if fraction.is_empty() { "0" } else { fraction })
}
