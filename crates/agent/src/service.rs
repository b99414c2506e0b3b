//! What the service manager is told: systemd, by its notify protocol, where `NOTIFY_SOCKET` says so.

use std::time::Duration;

use sd_notify::NotifyState;
use surus_core::BootTime;
use surus_store::clock::boot_now;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::handle::{AgentHandle, Published};

/// How late a step may be before the agent counts as stuck. Steps wait for nothing longer than this.
const LATE: Duration = Duration::from_secs(30);

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Ready; from here on a line for `systemctl status`, and signs of life while the agent takes its steps.
pub fn start(handle: AgentHandle, stop: CancellationToken) {
    let status = status(&handle.published.load());
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        tokio::spawn(async move {
            tokio::select! {
                () = keep(handle, status) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn keep(mut handle: AgentHandle, mut told: String) {
    // Twice as often as asked for. Never as rarely as a step: what is said should be true.
    let every = sd_notify::watchdog_enabled().map_or(Duration::from_secs(3600), |limit| limit / 2);
    let mut signs = interval(every.max(Duration::from_millis(100)));
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stuck = false;
    loop {
        tokio::select! {
            _ = signs.tick() => {
                let late = late(&handle.published.load(), boot_now());
                if late.is_zero() {
                    tell(&[NotifyState::Watchdog]);
                } else if !stuck {
                    warn!("the agent has taken no step for {} s; the service manager is not told that all is well", late.as_secs());
                }
                stuck = !late.is_zero();
            }
            changed = handle.changed.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = status(&handle.published.load());
                if now != told {
                    tell(&[NotifyState::Status(&now)]);
                    told = now;
                }
            }
        }
    }
}

/// For how long a step has been overdue, zero within what is usual.
fn late(published: &Published, now: BootTime) -> Duration {
    let late = now.since(published.next_step);
    if late > LATE { late } else { Duration::ZERO }
}

fn status(published: &Published) -> String {
    let timeline = published.observed.as_ref().and_then(|o| o.timeline).map(|t| format!(", timeline {t}"));
    let paused = if published.settings.pause { ", paused" } else { "" };
    let task = published.task.as_ref().map(|task| format!(", {task} under way")).unwrap_or_default();
    format!(
        "{} of {}: {}, PostgreSQL {}{}{paused}{task}",
        published.name,
        published.scope,
        published.role.as_str(),
        published.state.as_str(),
        timeline.unwrap_or_default(),
    )
}

fn tell(what: &[NotifyState]) {
    // Nobody listens, or the manager is gone: the agent goes on.
    let _ = sd_notify::notify(what);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::testing::{NOW, published};

    #[test]
    fn a_step_that_does_not_come() {
        let published = published();
        let due = published.next_step;
        assert_eq!(late(&published, NOW), Duration::ZERO);
        assert_eq!(late(&published, due + LATE), Duration::ZERO);
        assert_eq!(late(&published, due + LATE * 2), LATE * 2);
    }

    #[test]
    fn one_line_says_what_this_member_is() {
        assert_eq!(status(&published()), "node1 of demo: primary, PostgreSQL running, timeline 2");
    }
}
