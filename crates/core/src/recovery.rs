//! How long a server that recovers still takes, as far as it can be told, and when somebody else should serve instead.

use std::time::Duration;

use crate::candidate;
use crate::cluster::ClusterView;
use crate::facts::{Facts, Replay};
use crate::ids::Lsn;

/// What a failover to a ready member takes, with a lot to spare: nothing shorter is worth one.
pub const FAILOVER: Duration = Duration::from_secs(10);
/// Before that the pace says nothing.
const LOOKED: Duration = Duration::from_secs(1);

/// The least time that replay up to `end` still takes. Only whole segments are seen, so the one that is under way counts
/// as done on both sides of the division: the truth is not shorter.
pub fn at_least(replay: &Replay, end: Lsn, now: crate::BootTime) -> Option<Duration> {
    let looked = now.since(replay.since);
    if looked < LOOKED || !end.is_valid() {
        return None;
    }
    let done = replay.at.0.saturating_sub(replay.from.0) + replay.segment;
    let left = end.0.saturating_sub(replay.at.0 + replay.segment);
    Some(looked.mul_f64(left as f64 / done.max(1) as f64))
}

/// Of my own replay, up to the last position that I am known to have written.
pub fn estimate(facts: &Facts, view: Option<&ClusterView>) -> Option<Duration> {
    let replay = facts.postgres.replay.as_ref()?;
    let told = view.map(|v| v.status.optime).unwrap_or_default();
    at_least(replay, replay.end.unwrap_or_default().max(told), facts.now)
}

/// Why a leader that is starting up should not be waited for, if somebody can take over.
pub fn too_long(facts: &Facts, view: Option<&ClusterView>) -> Option<String> {
    let (timeout, waited) = (facts.settings.primary_start_timeout, facts.now.since(facts.postgres.since));
    if waited >= timeout {
        return Some(format!("primary_start_timeout ({} s) has passed", timeout.as_secs()));
    }
    let left = estimate(facts, view)?;
    if left > timeout.saturating_sub(waited) {
        return Some(format!(
            "recovery takes {} s more at least, and primary_start_timeout ends in {} s",
            left.as_secs(),
            (timeout - waited).as_secs()
        ));
    }
    // Without a synchronous standby a failover may lose what recovery brings back, so it is not for me to hurry.
    let sync = view.and_then(|v| candidate::active_sync(facts, v)).filter(|s| s.is_leader(&facts.me));
    (sync.is_some() && left >= FAILOVER).then(|| {
        format!("recovery takes {} s more at least, and a synchronous standby has every commit", left.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootTime;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn the_least_that_replay_takes() {
        let second = Duration::from_secs;
        for (from, at, end, looked, least) in [
            (0, 0, 100, 0, None),
            (0, 0, 0, 10, None),
            // Not even the first segment is done after 10 s: the other 99 take 10 s each, or longer.
            (0, 0, 100, 10, Some(second(990))),
            (0, 9, 100, 10, Some(second(90))),
            (0, 99, 100, 10, Some(Duration::ZERO)),
            // More than it was known to have.
            (0, 120, 100, 10, Some(Duration::ZERO)),
            (50, 59, 100, 20, Some(second(80))),
        ] {
            let replay = Replay {
                since: BootTime::from_millis(5_000),
                from: Lsn(from * SEGMENT),
                at: Lsn(at * SEGMENT),
                segment: SEGMENT,
                end: None,
            };
            let now = BootTime::from_millis(5_000 + looked * 1000);
            assert_eq!(at_least(&replay, Lsn(end * SEGMENT), now), least, "{from} {at} {end} {looked}");
        }
    }
}
