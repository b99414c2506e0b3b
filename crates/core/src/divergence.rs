//! Whether a data directory can follow a primary as it is: its history against the other's.

use crate::ids::{Lsn, Timeline};
use crate::loss;
use crate::server::Divergence;

/// One line of a timeline history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    pub timeline: Timeline,
    pub switch_lsn: Lsn,
    pub reason: String,
}

/// How far the local WAL goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEnd {
    /// A standby: everything up to here was replayed or is needed for consistency.
    Replayed(Lsn),
    /// A primary that was shut down: its last checkpoint record, and where that ends if it could be told.
    Checkpoint { start: Lsn, end: Option<Lsn> },
}

impl LocalEnd {
    fn lsn(self) -> Lsn {
        match self {
            LocalEnd::Replayed(lsn) => lsn,
            LocalEnd::Checkpoint { start, end } => end.unwrap_or(start),
        }
    }
}

/// As [`compare`], where the past of the local timeline is known too: two that were promoted without knowing of each other,
/// as primaries of two sites, may have given one number to two timelines.
pub fn compare_past(
    local: (Timeline, &[HistoryRow]),
    end: LocalEnd,
    upstream: (Timeline, &[HistoryRow]),
) -> Divergence {
    let found = compare(local.0, end, upstream.0, upstream.1);
    let parted = loss::fork(local, upstream).filter(|(common, _)| !local.1.is_empty() && *common < local.0);
    match (&found, parted) {
        (Divergence::None, Some((_, Some(parted)))) if local.0 == upstream.0 => {
            Divergence::SameNumber { timeline: local.0, parted }
        }
        (Divergence::None | Divergence::Forked { .. }, Some((common, Some(at)))) => {
            Divergence::Forked { timeline: common, switchpoint: at, local: end.lsn() }
        }
        _ => found,
    }
}

/// The decision itself, by numbers of timelines alone. `history` is that of the upstream's timeline.
pub fn compare(local: Timeline, end: LocalEnd, upstream: Timeline, history: &[HistoryRow]) -> Divergence {
    if local > upstream {
        return Divergence::Ahead { local, upstream };
    }
    if local == upstream {
        return Divergence::None;
    }
    for row in history {
        if row.timeline > local {
            break;
        }
        if row.timeline == local {
            let fork = |at| Divergence::Forked { timeline: local, switchpoint: row.switch_lsn, local: at };
            return match end {
                LocalEnd::Replayed(lsn) if lsn > row.switch_lsn => fork(lsn),
                LocalEnd::Replayed(_) => Divergence::None,
                LocalEnd::Checkpoint { start, .. } if start >= row.switch_lsn => fork(start),
                // The new primary has our last record and nothing behind it, or it is not known what it has.
                LocalEnd::Checkpoint { end: Some(end), .. } if end == row.switch_lsn => Divergence::None,
                LocalEnd::Checkpoint { start, end } => fork(end.unwrap_or(start)),
            };
        }
    }
    Divergence::Unrelated { local, upstream }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(timeline: u32, lsn: u64) -> HistoryRow {
        HistoryRow { timeline: Timeline(timeline), switch_lsn: Lsn(lsn), reason: String::new() }
    }

    #[test]
    fn one_number_for_two_timelines() {
        use LocalEnd::Replayed;
        let (t, at) = (Timeline, |lsn| Replayed(Lsn(lsn)));
        let forked = |timeline, switchpoint, local| Divergence::Forked {
            timeline: t(timeline),
            switchpoint: Lsn(switchpoint),
            local: Lsn(local),
        };
        let same = |timeline, parted| Divergence::SameNumber { timeline: t(timeline), parted: Lsn(parted) };
        let (early, late) = (vec![row(1, 100)], vec![row(1, 150)]);
        let later = vec![row(1, 150), row(2, 300)];
        for (what, local, end, upstream, want) in [
            ("the same", (t(2), &early), at(250), (t(2), &early), Divergence::None),
            ("another second one", (t(2), &early), at(250), (t(2), &late), same(2, 100)),
            ("it went on to a third", (t(2), &early), at(250), (t(3), &later), forked(1, 100, 250)),
            ("and left that again", (t(2), &early), at(301), (t(3), &later), forked(1, 100, 301)),
            ("as far as it was left", (t(2), &late), at(250), (t(3), &later), Divergence::None),
            ("and further", (t(2), &late), at(301), (t(3), &later), forked(2, 300, 301)),
            ("its past is not known", (t(2), &vec![]), at(250), (t(2), &late), Divergence::None),
        ] {
            assert_eq!(compare_past((local.0, local.1), end, (upstream.0, upstream.1)), want, "{what}");
        }
    }

    #[test]
    fn every_case_of_the_table() {
        use Divergence as D;
        use LocalEnd::{Checkpoint, Replayed};
        let t = Timeline;
        // The upstream is on timeline 4: it left 1 at 100, 2 at 200, 3 at 300.
        let history = [row(1, 100), row(2, 200), row(3, 300)];
        let forked = |timeline, switchpoint, local| D::Forked {
            timeline: t(timeline),
            switchpoint: Lsn(switchpoint),
            local: Lsn(local),
        };
        let check = |start, end: Option<u64>| Checkpoint { start: Lsn(start), end: end.map(Lsn) };
        for (local, end, want) in [
            (5, Replayed(Lsn(1)), D::Ahead { local: t(5), upstream: t(4) }),
            (5, check(1, None), D::Ahead { local: t(5), upstream: t(4) }),
            (4, Replayed(Lsn(900)), D::None),
            (4, check(900, None), D::None),
            (3, Replayed(Lsn(299)), D::None),
            (3, Replayed(Lsn(300)), D::None),
            (3, Replayed(Lsn(301)), forked(3, 300, 301)),
            (2, Replayed(Lsn(200)), D::None),
            (2, Replayed(Lsn(250)), forked(2, 200, 250)),
            (1, check(92, Some(100)), D::None),
            (1, check(100, Some(108)), forked(1, 100, 100)),
            (1, check(101, Some(109)), forked(1, 100, 101)),
            (1, check(92, Some(108)), forked(1, 100, 108)),
            (1, check(80, Some(92)), forked(1, 100, 92)),
            (1, check(92, None), forked(1, 100, 92)),
        ] {
            assert_eq!(compare(t(local), end, t(4), &history), want, "timeline {local}, {end:?}");
        }
        // Our timeline is not in the upstream's history.
        let skipping = [row(1, 100), row(3, 300)];
        for end in [Replayed(Lsn(1)), check(1, Some(2))] {
            let want = D::Unrelated { local: t(2), upstream: t(4) };
            assert_eq!(compare(t(2), end, t(4), &skipping), want);
            assert_eq!(compare(t(2), end, t(4), &[]), want);
        }
        assert!(D::None.can_follow() && !forked(1, 1, 1).can_follow());
    }
}
