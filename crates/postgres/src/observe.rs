//! One question to the running server, one consistent answer (`spec/postgres.md §4`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use surus_core::cluster::PendingRestart;
use surus_core::postgres::{Observed, Slot, WalReceiver, WalSender};
use surus_core::slots::FAILOVER_SLOTS;
use surus_core::{BootTime, Lsn, Timeline};
use tokio::time::Instant;

use crate::instance::{Instance, lock};
use crate::sql::Row;
use crate::walsender::Walsender;
use crate::{ErrorKind, PgError, Result};

/// After a refusal (no `pg_hba.conf` line for it) the server's log is spared.
const WALSENDER_PAUSE: Duration = Duration::from_secs(60);

const TIME: &str = "'YYYY-MM-DD HH24:MI:SS.USTZH:TZM'";

fn question(version: u32) -> String {
    // Temporary: also those that the server has not synchronised to an end yet, and drops at a promotion.
    let failover = if version >= FAILOVER_SLOTS { ", 'failover', failover, 'synced', synced" } else { "" };
    format!(
        "SELECT current_setting('server_version_num'), \
         to_char(pg_postmaster_start_time(), {TIME}), \
         r.standby::text, \
         CASE WHEN r.standby THEN w.received_tli \
              ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END::text, \
         CASE WHEN NOT r.standby THEN pg_current_wal_flush_lsn() END::text, \
         CASE WHEN r.standby THEN greatest(pg_last_wal_receive_lsn(), w.written_lsn) END::text, \
         pg_last_wal_replay_lsn()::text, \
         to_char(pg_last_xact_replay_timestamp(), {TIME}), \
         CASE WHEN r.standby THEN pg_is_wal_replay_paused() ELSE false END::text, \
         CASE WHEN w.pid IS NOT NULL AND w.status IS NOT NULL THEN \
              json_build_object('status', w.status, 'timeline', w.received_tli, 'host', w.sender_host, \
                                'port', w.sender_port, 'slot', w.slot_name, 'end', w.latest_end_lsn) END::text, \
         (SELECT coalesce(json_agg(json_build_object('pid', s.pid, 'user', s.usename, \
              'application_name', s.application_name, 'client_addr', host(s.client_addr), 'state', s.state, \
              'sync_state', s.sync_state, 'sync_priority', s.sync_priority, 'sent', s.sent_lsn, 'write', s.write_lsn, \
              'flush', s.flush_lsn, 'replay', s.replay_lsn)), '[]') FROM pg_stat_replication s)::text, \
         (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'kind', slot_type, 'active', active, \
              'restart', restart_lsn, 'confirmed', confirmed_flush_lsn, \
              'xmin', coalesce(xmin, catalog_xmin) IS NOT NULL, 'wal_status', wal_status, 'plugin', plugin, \
              'database', database{failover})), '[]') FROM pg_replication_slots WHERE NOT temporary)::text, \
         current_setting('primary_conninfo'), current_setting('primary_slot_name'), \
         current_setting('restore_command'), current_setting('synchronous_standby_names'), \
         (SELECT coalesce(json_object_agg(p.name, json_build_object('old', current_setting(p.name), 'new', \
              (SELECT f.setting FROM pg_file_settings f WHERE f.name = p.name AND f.error IS DISTINCT FROM 'syntax error' \
               ORDER BY f.seqno DESC LIMIT 1), 'boot', p.boot_val)), '{{}}') \
          FROM pg_settings p WHERE p.pending_restart)::text, \
         CASE WHEN r.standby AND w.received_tli IS NULL THEN greatest( \
              (SELECT timeline_id FROM pg_control_checkpoint()), \
              (SELECT min_recovery_end_timeline FROM pg_control_recovery())) END::text, \
         CASE WHEN NOT r.standby THEN \
              CASE WHEN pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() THEN \
                   (SELECT count(*) FROM pg_stat_get_activity(NULL) a \
                    WHERE lower(a.wait_event) IN ('walwrite', 'walsync', 'walinitwrite', 'walinitsync')) END END::text, \
         current_setting('synchronous_commit') \
         FROM (SELECT pg_is_in_recovery() AS standby) r LEFT JOIN (SELECT pid, status, slot_name, sender_host, sender_port, \
              latest_end_lsn, written_lsn, CASE WHEN latest_end_lsn IS NOT NULL THEN received_tli END AS received_tli \
              FROM pg_stat_get_wal_receiver()) w ON true"
    )
}

#[derive(Deserialize)]
struct ReceiverJson {
    status: String,
    timeline: Option<u32>,
    host: Option<String>,
    port: Option<u16>,
    slot: Option<String>,
    end: Option<String>,
}

#[derive(Deserialize)]
struct SenderJson {
    pid: i32,
    user: Option<String>,
    application_name: Option<String>,
    client_addr: Option<String>,
    state: Option<String>,
    sync_state: Option<String>,
    sync_priority: Option<i32>,
    sent: Option<String>,
    write: Option<String>,
    flush: Option<String>,
    replay: Option<String>,
}

#[derive(Deserialize)]
struct SlotJson {
    name: String,
    kind: String,
    active: bool,
    restart: Option<String>,
    confirmed: Option<String>,
    xmin: bool,
    wal_status: Option<String>,
    plugin: Option<String>,
    database: Option<String>,
    #[serde(default)]
    failover: bool,
    #[serde(default)]
    synced: bool,
}

#[derive(Deserialize)]
struct PendingJson {
    old: Option<String>,
    new: Option<String>,
    boot: Option<String>,
}

fn lsn(text: Option<&String>) -> Option<Lsn> {
    text.and_then(|t| t.parse().ok()).filter(|l: &Lsn| l.is_valid())
}

fn json<T: for<'de> Deserialize<'de>>(text: Option<&String>) -> Result<Option<T>> {
    text.map(|t| serde_json::from_str(t))
        .transpose()
        .map_err(|e| PgError::new(ErrorKind::Connection, format!("PostgreSQL's answer could not be read: {e}")))
}

/// The second value is the best guess at a standby's timeline when it receives nothing.
fn read(at: BootTime, row: &Row) -> Result<(Observed, Option<Timeline>)> {
    let cell = |i: usize| row.get(i).and_then(Option::as_ref);
    let timeline = |i: usize| cell(i).and_then(|t| t.parse().ok()).and_then(Timeline::known);
    let text = |i: usize| cell(i).cloned().filter(|t| !t.is_empty());
    let receiver: Option<ReceiverJson> = json(cell(9))?;
    let senders: Vec<SenderJson> = json(cell(10))?.unwrap_or_default();
    let slots: Vec<SlotJson> = json(cell(11))?.unwrap_or_default();
    let pending: BTreeMap<String, PendingJson> = json(cell(16))?.unwrap_or_default();
    let observed = Observed {
        at,
        server_version: cell(0).and_then(|v| v.parse().ok()).unwrap_or(0),
        postmaster_start_time: cell(1).cloned().unwrap_or_default(),
        in_recovery: cell(2).is_some_and(|v| v == "true"),
        timeline: timeline(3),
        flush_lsn: lsn(cell(4)).unwrap_or_default(),
        flush_waiters: cell(18).and_then(|n| n.parse().ok()).unwrap_or(0),
        receive_lsn: lsn(cell(5)).unwrap_or_default(),
        replay_lsn: lsn(cell(6)).unwrap_or_default(),
        replay_timestamp: text(7),
        replay_timeline: None,
        replay_paused: cell(8).is_some_and(|v| v == "true"),
        receiver: receiver.map(|r| WalReceiver {
            status: r.status,
            received_timeline: r.timeline.map(u64::from).and_then(Timeline::known),
            sender_host: r.host,
            sender_port: r.port,
            slot_name: r.slot.filter(|s| !s.is_empty()),
            latest_end_lsn: lsn(r.end.as_ref()),
        }),
        senders: senders
            .into_iter()
            .map(|s| WalSender {
                pid: s.pid,
                user: s.user,
                application_name: s.application_name.unwrap_or_default(),
                client_addr: s.client_addr,
                state: s.state.unwrap_or_default(),
                sync_state: s.sync_state.unwrap_or_default(),
                sync_priority: s.sync_priority.unwrap_or(0),
                sent_lsn: lsn(s.sent.as_ref()),
                write_lsn: lsn(s.write.as_ref()),
                flush_lsn: lsn(s.flush.as_ref()),
                replay_lsn: lsn(s.replay.as_ref()),
            })
            .collect(),
        slots: slots
            .into_iter()
            .map(|s| Slot {
                name: s.name,
                logical: s.kind == "logical",
                active: s.active,
                restart_lsn: lsn(s.restart.as_ref()),
                confirmed_flush_lsn: lsn(s.confirmed.as_ref()),
                has_xmin: s.xmin,
                wal_status: s.wal_status,
                plugin: s.plugin,
                database: s.database,
                failover: s.failover,
                synced: s.synced,
            })
            .collect(),
        primary_conninfo: text(12),
        primary_slot_name: text(13),
        restore_command: text(14),
        synchronous_standby_names: cell(15).cloned().unwrap_or_default(),
        synchronous_commit: cell(19).cloned().unwrap_or_default(),
        pending_restart: pending
            .into_iter()
            .map(|(name, p)| {
                let new_value = p.new.or(p.boot).unwrap_or_else(|| "?".to_owned());
                (name, PendingRestart { old_value: p.old.unwrap_or_default(), new_value })
            })
            .collect(),
    };
    Ok((observed, timeline(17)))
}

/// The clock leases are measured on.
pub(crate) fn boot_time() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ms = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    BootTime::from_millis(u64::try_from(ms).unwrap_or(0))
}

impl Instance {
    pub async fn observe(&self, timeout: Duration) -> Result<Observed> {
        let deadline = Instant::now() + timeout;
        if self.process().await.is_none() {
            return Err(self.no_server());
        }
        let version = self.binaries_version().await.unwrap_or(0);
        let at = boot_time();
        let rows = self.kept_rows(&question(version), deadline).await?;
        let row = rows.first().ok_or_else(|| PgError::new(ErrorKind::Connection, "PostgreSQL answered with no row"))?;
        let (mut observed, guess) = read(at, row)?;
        if observed.in_recovery && observed.timeline.is_none() {
            // Between two upstreams no function tells which timeline was replayed last; the walsender knows.
            observed.replay_timeline = self.replayed_timeline(deadline).await;
            observed.timeline = observed.replay_timeline.or(guess);
        } else if observed.is_streaming() {
            // One that waits may have been left behind by what comes from an archive.
            observed.replay_timeline = observed.timeline;
        }
        Ok(observed)
    }

    async fn replayed_timeline(&self, deadline: Instant) -> Option<Timeline> {
        let now = std::time::Instant::now();
        if lock(&self.inner.no_walsender_until).is_some_and(|until| now < until) {
            return None;
        }
        let result = self.local_walsender(deadline).await;
        let result = match result {
            Ok(mut walsender) => walsender.identify_system().await,
            Err(e) => Err(e),
        };
        match result {
            Ok(identity) => Some(identity.timeline),
            Err(e) => {
                tracing::debug!("the timeline is taken from pg_control: {e}");
                *lock(&self.inner.no_walsender_until) = Some(now + WALSENDER_PAUSE);
                None
            }
        }
    }

    pub(crate) async fn local_walsender(&self, deadline: Instant) -> Result<Walsender> {
        let config = self.config();
        let mut first = None;
        for way in self.endpoints().await? {
            for who in [&config.replication, &config.superuser] {
                match Walsender::connect(&way, who, deadline).await {
                    Ok(walsender) => return Ok(walsender),
                    Err(e) => first = first.or(Some(e)),
                }
            }
        }
        Err(first.unwrap_or_else(|| self.no_server()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_an_answer() {
        let mut row: Row = vec![None; 18];
        let mut set = |i: usize, v: &str| row[i] = Some(v.to_owned());
        set(0, "150020");
        set(2, "true");
        set(5, "0/3000060");
        set(8, "false");
        set(9, r#"{"status":"streaming","timeline":2,"host":"h","port":5432,"slot":"","end":"0/3000060"}"#);
        set(10, "[]");
        set(16, r#"{"max_connections":{"old":"100","new":"200","boot":"100"},"x":{"old":"1","new":null,"boot":null}}"#);
        set(17, "3");
        let (observed, guess) = read(BootTime::from_millis(7), &row).unwrap();
        assert!(observed.in_recovery && observed.is_streaming());
        assert_eq!((observed.receive_lsn, observed.flush_lsn), (Lsn(0x300_0060), Lsn::INVALID));
        assert_eq!(observed.receiver.as_ref().and_then(|r| r.slot_name.clone()), None);
        assert_eq!(observed.pending_restart["max_connections"].new_value, "200");
        assert_eq!(observed.pending_restart["x"].new_value, "?");
        assert_eq!((observed.timeline, guess), (None, Some(Timeline(3))));
        row[10] = Some("{".into());
        assert!(read(BootTime::default(), &row).is_err());
    }
}
