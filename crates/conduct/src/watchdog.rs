//! When a hardware watchdog is started, kept alive and stopped.
//!
//! The fence ends PostgreSQL where the kernel still schedules it; the watchdog ends the machine where nothing is
//! scheduled any more. It is kept alive by nothing but confirmed renewals of the lead.

use std::time::Duration;

use surus_core::BootTime;

/// A confirmation is never so prompt that it takes no time at all; with a margin below this it still counts.
const PROMPT: Duration = Duration::from_secs(1);

/// What the device is set to: it fires this long after it was last kept alive. `Err`: the sums leave no room.
///
/// Without a margin from the operator it is 5 s, or a quarter of a short ttl: with less than one renewal to spare, one
/// that is late would reset a healthy machine.
pub fn timeout(ttl: Duration, loop_wait: Duration, margin: Option<i64>) -> Result<Duration, String> {
    let (seconds, wait) = (i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX), loop_wait.as_secs());
    let timeout = match margin {
        None => seconds - (seconds / 4).clamp(1, 5),
        Some(margin) if margin < 0 => seconds / 2,
        Some(margin) => seconds - margin,
    };
    let margin = seconds - timeout;
    match u64::try_from(timeout) {
        Ok(timeout) if timeout >= wait.max(1) => Ok(Duration::from_secs(timeout)),
        _ => Err(format!(
            "ttl ({seconds} s) less watchdog.safety_margin ({margin} s) is less than loop_wait ({wait} s): it would fire \
             between two renewals. Make ttl longer, or the margin or loop_wait smaller"
        )),
    }
}

/// What an opened device turned out to do, `actual` instead of `wanted`. `Err`: it is of no use; `Ok(Some)`: what an
/// operator should know of it.
pub fn acceptable(
    wanted: Duration,
    actual: Duration,
    loop_wait: Duration,
    required: bool,
) -> Result<Option<String>, String> {
    let (w, a) = (wanted.as_secs(), actual.as_secs());
    if actual < loop_wait {
        return Err(format!("it fires after {a} s, which is less than loop_wait ({} s)", loop_wait.as_secs()));
    }
    if actual <= wanted {
        return Ok(None);
    }
    let late = format!("it fires after {a} s and not after {w} s, which is later than the lead may end");
    if required { Err(late) } else { Ok(Some(late)) }
}

/// A renewal of my lead that the store confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    pub sent: BootTime,
    /// Until when the lead is good by it.
    pub until: BootTime,
}

/// What is to be done with the device now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Nothing,
    Start,
    /// The device is to fire after another time than it was set to.
    Retime,
    Keepalive,
    Stop,
}

/// What is known when an act is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    pub now: BootTime,
    pub ttl: Duration,
    /// This server may accept writes, or is about to.
    pub guard: bool,
    /// What the device should be set to; absent: it is not to be used.
    pub wanted: Option<Duration>,
    /// It runs, set to this.
    pub running: Option<Duration>,
    pub confirmed: Option<Confirmed>,
    /// The confirmation that was passed on last.
    pub passed: Option<Confirmed>,
}

pub fn act(s: &Situation) -> Act {
    let Some(wanted) = s.wanted.filter(|_| s.guard) else {
        return if s.running.is_some() { Act::Stop } else { Act::Nothing };
    };
    // One that was answered late, or that waited here while this process was frozen, would let the machine go on for
    // longer than the store keeps the lead. The next one is on its way.
    let fresh = |c: &Confirmed| s.now < c.until && s.now.since(c.sent) <= s.ttl.saturating_sub(wanted).max(PROMPT);
    let news = s.confirmed.filter(fresh).filter(|c| s.passed.is_none_or(|p| p.until < c.until));
    match (news, s.running) {
        (None, _) => Act::Nothing,
        (Some(_), None) => Act::Start,
        (Some(_), Some(set)) if set != wanted => Act::Retime,
        (Some(_), Some(_)) => Act::Keepalive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;
    const NOW: BootTime = BootTime::from_millis(1_000_000);

    #[test]
    fn sums() {
        for (ttl, loop_wait, margin, expected) in [
            (30, 10, None, Some(25)),
            (21, 10, None, Some(16)),
            (20, 10, None, Some(15)),
            (8, 2, None, Some(6)),
            (5, 1, None, Some(4)),
            (30, 10, Some(5), Some(25)),
            (30, 10, Some(0), Some(30)),
            (30, 10, Some(20), Some(10)),
            (30, 10, Some(21), None),
            (31, 10, Some(-1), Some(15)),
            (20, 10, Some(-1), Some(10)),
            (20, 11, Some(-1), None),
            (8, 2, Some(5), Some(3)),
            (5, 1, Some(5), None),
            (5, 1, Some(900), None),
        ] {
            let got = timeout(S(ttl), S(loop_wait), margin);
            assert_eq!(got.ok(), expected.map(S), "ttl {ttl}, loop_wait {loop_wait}, margin {margin:?}");
        }
        let told = timeout(S(30), S(10), Some(21)).unwrap_err();
        assert!(
            told.starts_with("ttl (30 s) less watchdog.safety_margin (21 s) is less than loop_wait (10 s)"),
            "{told}"
        );
    }

    #[test]
    fn devices_that_do_not_do_as_told() {
        let fit = |actual, required| acceptable(S(25), S(actual), S(10), required);
        assert_eq!(fit(25, true), Ok(None));
        assert_eq!(fit(20, true), Ok(None), "earlier is safe");
        assert!(fit(9, false).unwrap_err().contains("less than loop_wait"));
        assert!(fit(60, true).unwrap_err().contains("later than the lead may end"));
        assert!(fit(60, false).unwrap().unwrap().contains("after 60 s and not after 25 s"));
    }

    /// A lead of 30 s whose renewal was sent so many seconds ago.
    fn renewed(ago: u64) -> Confirmed {
        Confirmed { sent: NOW - S(ago), until: NOW - S(ago) + S(27) }
    }

    fn leading() -> Situation {
        Situation {
            now: NOW,
            ttl: S(30),
            guard: true,
            wanted: Some(S(25)),
            running: Some(S(25)),
            confirmed: Some(renewed(0)),
            passed: Some(renewed(10)),
        }
    }

    #[test]
    fn kept_alive_by_confirmed_renewals_only() {
        let new = Situation { running: None, passed: None, ..leading() };
        for (what, situation, expected) in [
            ("a renewal", leading(), Act::Keepalive),
            ("passed on already", Situation { passed: Some(renewed(0)), ..leading() }, Act::Nothing),
            ("no lead", Situation { confirmed: None, ..leading() }, Act::Nothing),
            ("answered within the margin", Situation { confirmed: Some(renewed(5)), ..leading() }, Act::Keepalive),
            ("answered later than that", Situation { confirmed: Some(renewed(6)), ..leading() }, Act::Nothing),
            (
                "the lead of a thawed process",
                Situation { confirmed: Some(renewed(28)), passed: None, ..leading() },
                Act::Nothing,
            ),
            (
                "an older one again",
                Situation { confirmed: Some(renewed(3)), passed: Some(renewed(1)), ..leading() },
                Act::Nothing,
            ),
            ("another ttl", Situation { running: Some(S(15)), ..leading() }, Act::Retime),
            ("not without a renewal", Situation { running: Some(S(15)), confirmed: None, ..leading() }, Act::Nothing),
            ("promoted", new, Act::Start),
            ("promoted on an old renewal", Situation { confirmed: Some(renewed(9)), ..new }, Act::Nothing),
            ("no margin at all", Situation { wanted: Some(S(30)), running: Some(S(30)), ..leading() }, Act::Keepalive),
            ("a standby", Situation { guard: false, ..new }, Act::Nothing),
            ("demoted, or paused", Situation { guard: false, ..leading() }, Act::Stop),
            ("switched off", Situation { wanted: None, ..leading() }, Act::Stop),
            ("off", Situation { wanted: None, ..new }, Act::Nothing),
        ] {
            assert_eq!(act(&situation), expected, "{what}");
        }
    }

    /// Whatever the moment: a machine that is kept alive is reset before the store gives the lead to another.
    #[test]
    fn never_kept_alive_beyond_the_lead() {
        for ttl in 5..=60 {
            for margin in [None, Some(-1), Some(1), Some(5), Some(20)] {
                let Ok(wanted) = timeout(S(ttl), S(1), margin) else { continue };
                for ago in 0..=ttl * 10 {
                    let sent = NOW - Duration::from_millis(ago * 100);
                    let confirmed = Some(Confirmed { sent, until: sent + S(ttl) - crate::lease::margin(S(ttl)) });
                    let s = Situation { ttl: S(ttl), wanted: Some(wanted), confirmed, passed: None, ..leading() };
                    for running in [None, Some(wanted), Some(S(1))] {
                        let kept = act(&Situation { running, ..s }) != Act::Nothing;
                        assert!(!kept || NOW + wanted <= sent + S(ttl), "ttl {ttl}, {margin:?}, {ago}");
                    }
                }
            }
        }
    }
}
