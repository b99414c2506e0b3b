//! The clock leases are measured on: it counts through suspend and is never stepped.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use surus_core::BootTime;

/// Now on `CLOCK_BOOTTIME`.
pub fn boot_now() -> BootTime {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
    BootTime::default() + seconds + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_forward_with_the_time_since_boot() {
        let first = boot_now();
        assert!(first > BootTime::default());
        assert!(boot_now() >= first);
    }
}
