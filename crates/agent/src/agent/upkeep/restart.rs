//! Restarts: which settings wait for one, and the one that is scheduled.

use std::time::Duration;

use surus_core::cluster::{PendingRestart, ScheduledRestart};
use surus_core::facts::Facts;
use surus_core::postgres::RECOVERY_SETTINGS;
use surus_store::clock::boot_now;
use tracing::{info, warn};

use crate::agent::Agent;
use crate::handle::{Reply, RestartFilters};

impl Agent {
    /// After a reload and after a start: which settings wait for a restart.
    pub(super) fn check_pending(&mut self, facts: &Facts) {
        let Some(observed) = facts.postgres.observed() else { return };
        // Also what the server itself reports, because it does so a moment after a reload.
        let state = (observed.postmaster_start_time.clone(), self.upkeep.generation, observed.pending_restart.clone());
        if self.upkeep.checked_pending.as_ref() == Some(&state) {
            return;
        }
        let (instance, tx) = (self.instance.clone(), self.upkeep.pending.0.clone());
        let wake = self.wake.clone();
        // Recovery settings are rewritten at each change of role; they say nothing to a server that is out of recovery.
        let mut pending = observed.pending_restart.clone();
        pending.retain(|name, change| change.old_value != change.new_value && !is_recovery_setting(name));
        let begun = self.upkeep.spawn("looking for pending restarts", async move {
            // A reload does not reach what the command line set: PostgreSQL itself reports nothing there.
            let running = instance.settings(Duration::from_secs(5)).await.map_err(|e| e.to_string())?;
            for (name, new) in instance.command_line().await {
                if let Some(setting) = running.get(&name).filter(|s| s.context == "postmaster")
                    && !same_value(&setting.value, &new, setting)
                {
                    pending.insert(name, PendingRestart { old_value: setting.value.clone(), new_value: new });
                }
            }
            let _ = tx.send(pending).await;
            wake.notify_one();
            Ok(())
        });
        if begun {
            self.upkeep.checked_pending = Some(state);
        }
    }

    pub(in crate::agent) fn restart_filtered(&self, filters: &RestartFilters) -> Option<&'static str> {
        let published = self.published.load();
        if filters.role.as_deref().is_some_and(|r| r != published.role.as_str()) {
            Some("host role mismatch")
        } else if filters.older_than.is_some_and(|v| self.settings.server_version.is_none_or(|mine| mine >= v)) {
            Some("postgres version mismatch")
        } else if filters.pending_only && self.pending_restart.is_empty() {
            Some("pending restart flag is not set")
        } else {
            None
        }
    }

    pub(in crate::agent) fn schedule_restart(
        &mut self,
        mut schedule: ScheduledRestart,
        filters: RestartFilters,
    ) -> Reply {
        if self.scheduled_restart.is_some() {
            return Reply::Refused("Another restart is already scheduled".into());
        }
        let Ok(at) = schedule.schedule.parse::<jiff::Timestamp>() else {
            return Reply::Refused("the schedule can not be understood".into());
        };
        schedule.postmaster_start_time =
            self.published.load().observed.as_ref().map(|o| o.postmaster_start_time.clone());
        self.scheduled_restart = Some((schedule, filters, at.as_millisecond()));
        Reply::Ok("Restart scheduled".into())
    }

    pub(super) fn run_schedule(&mut self, facts: &Facts) {
        let Some((schedule, filters, at)) = &self.scheduled_restart else { return };
        let started = facts.postgres.observed().map(|o| &o.postmaster_start_time);
        if started.is_some()
            && schedule.postmaster_start_time.is_some()
            && started != schedule.postmaster_start_time.as_ref()
        {
            info!(
                "Cancelling scheduled restart: postgres restart has already happened at {}",
                started.map_or("", |s| s)
            );
            self.scheduled_restart = None;
            return;
        }
        let left = at - facts.unix_ms;
        if left > 0 {
            self.member.sooner(boot_now() + Duration::from_millis(u64::try_from(left).unwrap_or(0)));
            return;
        }
        if facts.settings.pause || self.member.task().is_some() || self.member.request().is_some() {
            return;
        }
        let filters = filters.clone();
        self.scheduled_restart = None;
        if left < -60_000 {
            warn!("a scheduled restart was missed by {} s and is dropped", -left / 1000);
        } else if let Some(why) = self.restart_filtered(&filters) {
            info!("not proceeding with the scheduled restart: {why}");
        } else {
            info!("carrying out the scheduled restart");
            let (tx, _) = tokio::sync::oneshot::channel();
            // Nobody waits for the answer.
            let _ = self.member.ask(surus_core::order::Request::Restart, filters.timeout, tx);
            self.member.sooner(boot_now());
        }
    }
}

fn is_recovery_setting(name: &str) -> bool {
    name == "hot_standby" || RECOVERY_SETTINGS.contains(&name)
}

fn same_value(running: &str, wanted: &str, setting: &surus_postgres::Setting) -> bool {
    if running.eq_ignore_ascii_case(wanted) {
        return true;
    }
    match setting.vartype.as_str() {
        "bool" => surus_config::parse_bool(running) == surus_config::parse_bool(wanted),
        "integer" => {
            let running = surus_config::parse_int(running);
            running.is_some() && running == surus_config::parse_int(wanted)
        }
        // `hot_standby` is an old spelling of `replica`.
        _ => running == "replica" && wanted == "hot_standby",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_what_they_mean() {
        for (vartype, running, wanted, same) in [
            ("bool", "on", "true", true),
            ("bool", "on", "off", false),
            ("integer", "100", "100", true),
            ("integer", "100", "0x64", true),
            ("integer", "100", "200", false),
            ("integer", "100", "many", false),
            ("enum", "replica", "hot_standby", true),
            ("enum", "replica", "logical", false),
            ("string", "localhost,::1", "localhost,::1", true),
        ] {
            let setting = surus_postgres::Setting {
                value: running.into(),
                unit: None,
                vartype: vartype.into(),
                context: "postmaster".into(),
                source: String::new(),
                source_file: None,
                pending_restart: false,
            };
            assert_eq!(same_value(running, wanted, &setting), same, "{running} {wanted}");
        }
    }
}
