//! Waiting on the boot-time clock: tokio's own timers stand still while the machine sleeps.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use surus_core::BootTime;
use surus_store::clock::boot_now;
use tokio::io::unix::AsyncFd;

/// Resolves at `at`, at once after a suspend that lasted longer.
pub async fn sleep_until(at: BootTime) {
    if let Some(timer) = armed(at.since(boot_now())) {
        let _ = timer.readable().await;
    }
    // Out of descriptors: slower, and still right.
    while boot_now() < at {
        tokio::time::sleep(at.since(boot_now()).min(Duration::from_millis(100))).await;
    }
}

fn armed(after: Duration) -> Option<AsyncFd<OwnedFd>> {
    if after.is_zero() {
        return None;
    }
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).ok()?;
    let value = Timespec { tv_sec: i64::try_from(after.as_secs()).ok()?, tv_nsec: i64::from(after.subsec_nanos()) };
    let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).ok()?;
    readable(timer).ok()
}

#[expect(deprecated, reason = "the replacement is unsafe; an OwnedFd keeps the promise that one asks for")]
pub fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_at_its_time_and_not_before() {
        for ms in [0, 1, 30] {
            let at = boot_now() + Duration::from_millis(ms);
            tokio::time::timeout(Duration::from_secs(10), sleep_until(at)).await.unwrap();
            assert!(boot_now() >= at);
        }
    }
}
