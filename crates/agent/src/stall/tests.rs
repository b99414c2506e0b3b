use surus_core::Lsn;

use super::*;

fn observed(at: BootTime, flushed: u64, waiters: u32) -> Observed {
    Observed { at, flush_lsn: Lsn(flushed), flush_waiters: waiters, ..crate::rest::testing::primary() }
}

#[test]
fn commits_hang_only_while_somebody_waits_and_nothing_arrives() {
    let second = Duration::from_secs(1);
    let start = BootTime::from_millis(1_000_000);
    let mut commits = Commits::default();
    let mut look = |n: u32, flushed, waiters| {
        commits.look(&observed(start + second * n, flushed, waiters), second);
        commits.waiting.map(|w| w.stall().lasted())
    };
    assert_eq!(look(0, 500, 0), None);
    assert_eq!(look(1, 500, 3), Some(Duration::ZERO));
    assert_eq!(look(2, 500, 3), Some(second));
    assert_eq!(look(3, 500, 1), Some(second * 2));
    assert_eq!(look(4, 501, 3), None, "the log moved");
    assert_eq!(look(5, 501, 3), Some(Duration::ZERO));
    assert_eq!(look(6, 501, 0), None, "nobody waits");
    assert_eq!(commits.progress, Some(start + second * 4));
}

#[test]
fn the_whole_stays_below_the_ttl() {
    let seconds = Duration::from_secs;
    for (ttl, loop_wait) in [(30, 10), (8, 2), (30, 28), (60, 10), (20, 1)] {
        let timing = Timing { ttl: seconds(ttl), loop_wait: seconds(loop_wait), retry_timeout: seconds(3) };
        let worst = interval(&timing) + TICK + Stalls::limit(&timing) + TICK_OUTSTANDING;
        assert!(worst < seconds(ttl), "{ttl} {loop_wait}: {worst:?}");
    }
}
