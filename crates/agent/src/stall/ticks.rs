//! Whether this agent gets to run: a tick that comes late says for how long it did not.

use std::time::Duration;

use surus_core::BootTime;

/// A tick this much late is worth a word.
pub const LATE: Duration = Duration::from_millis(500);

/// One moment on both clocks: of the two only the boot-time clock goes on while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub boot: BootTime,
    pub awake: Duration,
}

impl Moment {
    pub fn now() -> Moment {
        let awake = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let awake = Duration::new(awake.tv_sec.unsigned_abs(), u32::try_from(awake.tv_nsec).unwrap_or(0));
        Moment { boot: surus_store::clock::boot_now(), awake }
    }
}

/// What lay between two ticks beyond the time that was meant to; zero when it is not worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub unscheduled: Duration,
    pub asleep: Duration,
}

pub fn gap(last: Moment, now: Moment, meant: Duration) -> Gap {
    let worth = |time: Duration| if time >= LATE { time } else { Duration::ZERO };
    let awake = now.awake.saturating_sub(last.awake);
    let asleep = now.boot.since(last.boot).saturating_sub(awake);
    Gap { unscheduled: worth(awake.saturating_sub(meant)), asleep: worth(asleep) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeping_machine_is_told_from_an_agent_that_does_not_run() {
        let ms = Duration::from_millis;
        let last = Moment { boot: BootTime::from_millis(50_000), awake: ms(40_000) };
        for (boot, awake, unscheduled, asleep) in [
            (1000, 1000, 0, 0),
            (1400, 1400, 0, 0),
            (32_200, 32_200, 31_200, 0),
            (61_000, 1000, 0, 60_000),
            (65_000, 5000, 4000, 60_000),
            // Clocks that are read one after the other differ a little.
            (1003, 1000, 0, 0),
            (1000, 1003, 0, 0),
        ] {
            let now = Moment { boot: last.boot + ms(boot), awake: last.awake + ms(awake) };
            let want = Gap { unscheduled: ms(unscheduled), asleep: ms(asleep) };
            assert_eq!(gap(last, now, ms(1000)), want, "{boot} {awake}");
        }
        assert!(Moment::now().boot.as_millis() > 0);
    }
}
