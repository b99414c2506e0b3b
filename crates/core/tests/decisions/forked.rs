//! A member whose log left that of the cluster does not run for the lead, and does not keep others from it.

use surus_core::cluster::{History, HistoryEntry};
use surus_core::facts::{PeerFact, TaskDone};
use surus_core::forked::{self, Forked};
use surus_core::memory::Divergence;
use surus_core::order::Task;
use surus_core::postgres::{ControlState, DataDir};
use surus_core::race::{Verdict, judge};
use surus_core::{Lsn, Timeline};

use crate::scenario::*;

const WHAT: &str = "its history forked from that of b: 300 bytes on timeline 1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Absent,
    Silent,
    Stands { position: u64, timeline: u32, forked: bool },
}

fn peers() -> Vec<Peer> {
    let mut all = vec![Peer::Absent, Peer::Silent];
    for position in [500, 1000, 5000] {
        for timeline in [1, 2] {
            all.extend([false, true].map(|forked| Peer::Stands { position, timeline, forked }));
        }
    }
    all
}

const REQUESTS: [(Option<&str>, Option<&str>); 5] =
    [(None, None), (None, Some("a")), (Some("b"), Some("a")), (Some("b"), None), (Some("a"), None)];

fn race(mine: bool, peer: Peer, request: (Option<&str>, Option<&str>), standby_cluster: bool, late: bool) -> Scenario {
    let mut s = Scenario::leaderless();
    if late {
        s.memory.leaderless_since = Some(before(25_000));
    }
    if mine {
        let what = "300 bytes on timeline 1".into();
        s.memory.forked = Some(Forked { against: "b".into(), what, remote: standby_cluster });
    }
    match peer {
        Peer::Absent => {}
        Peer::Silent => {
            s = s.with_unasked("c");
            s.facts.peers.insert("c".into(), PeerFact { asked: before(500), answer: Err("timeout".into()) });
        }
        Peer::Stands { position, timeline, forked } => {
            s = s.with_standby("c", position);
            let answer = s.facts.peers.get_mut(&"c".into()).and_then(|p| p.answer.as_mut().ok()).expect("asked");
            answer.timeline = Some(Timeline(timeline));
            answer.forked = forked.then(|| WHAT.into());
        }
    }
    if standby_cluster {
        s = s.remote();
    }
    if request != (None, None) { s.failover(request.0, request.1) } else { s }
}

fn takes(s: &Scenario) -> bool {
    matches!(judge(&s.facts(), &s.memory, &s.view).0, Verdict::Take { .. })
}

#[test]
fn it_leads_only_where_an_operator_named_it() {
    for peer in peers() {
        for request in REQUESTS {
            for late in [false, true] {
                let s = race(true, peer, request, false, late);
                let by_name = request == (None, Some("a"));
                assert_eq!(takes(&s), by_name, "{peer:?} {request:?} {late}");
                let verdict = judge(&s.facts(), &s.memory, &s.view).0;
                let (Verdict::Take { why } | Verdict::Leave { why }) = verdict else { panic!("{verdict:?}") };
                assert!(why.contains("300 bytes on timeline 1"), "{why}");
                let told = if by_name { "acknowledged since is given up" } else { "surus failover --candidate a" };
                assert!(why.contains(told), "{why}");
            }
        }
    }
}

/// For one that did not fork, a peer that did is as good as none.
#[test]
fn it_keeps_nobody_from_the_lead() {
    for peer in peers().into_iter().filter(|p| matches!(p, Peer::Stands { forked: true, .. })) {
        for request in REQUESTS {
            for standby_cluster in [false, true] {
                for late in [false, true] {
                    let with = takes(&race(false, peer, request, standby_cluster, late));
                    let without = takes(&race(false, Peer::Silent, request, standby_cluster, late));
                    assert_eq!(with, without, "{peer:?} {request:?} {standby_cluster} {late}");
                }
            }
        }
    }
    // But for one that runs as a primary all the same.
    let mut s = race(false, Peer::Stands { position: 1, timeline: 1, forked: true }, (None, None), false, false);
    if let Some(Ok(answer)) = s.facts.peers.get_mut(&"c".into()).map(|p| &mut p.answer) {
        answer.in_recovery = false;
    }
    assert!(!takes(&s));
}

/// The leader of a standby cluster writes nothing and is mended as one: only another that did not fork goes before it, and
/// has most of a ttl to come forward.
#[test]
fn in_a_standby_cluster_it_leads_when_no_other_can() {
    for peer in peers() {
        for late in [false, true] {
            let better = matches!(peer, Peer::Stands { forked: false, .. });
            let longer = matches!(peer, Peer::Stands { position: 5000, forked: true, .. })
                || matches!(peer, Peer::Stands { timeline: 2, forked: true, .. });
            let s = race(true, peer, (None, None), true, late);
            assert_eq!(takes(&s), late || !better && !longer, "{peer:?} {late}");
        }
    }
}

#[test]
fn one_that_is_asked_for_by_name_and_forked_is_not_waited_for_in_a_switchover() {
    for (leader, waited_for) in [(Some("b"), false), (None, true)] {
        let stands = Peer::Stands { position: 5000, timeline: 1, forked: true };
        let s = race(false, stands, (leader, Some("c")), false, false);
        assert_eq!(takes(&s), !waited_for, "{leader:?}");
    }
}

#[test]
fn a_leader_gives_nothing_to_it() {
    let mut s = Scenario::crashed_leader().with_standby("c", 5000);
    s.facts.settings.primary_start_timeout = std::time::Duration::ZERO;
    assert_eq!((s.step().report.rule, briefs(&s.step())), (512, vec!["release".to_owned()]));
    if let Some(Ok(answer)) = s.facts.peers.get_mut(&"c".into()).map(|p| &mut p.answer) {
        answer.forked = Some(WHAT.into());
    }
    let step = s.step();
    assert_eq!(step.report.rule, 520, "{:?}", step.report);
}

/// An agent that was started while nobody leads has compared nothing.
#[test]
fn it_is_found_in_the_history_that_the_last_leader_has_left() {
    let entry = |(timeline, lsn)| HistoryEntry {
        timeline: Timeline(timeline),
        switch_lsn: Lsn(lsn),
        reason: String::new(),
        timestamp: None,
        new_leader: None,
    };
    let (plain, gap, short): (&[_], &[_], &[_]) = (&[(1, 900)], &[(1, 900), (4, 950)], &[(4, 950)]);
    // The present one is 4: that began where 1 ended.
    let left_out: &[_] = &[(1, 900), (3, 0)];
    for (history, timeline, replayed, want) in [
        (None, Some(1), 1000, None),
        (Some(plain), Some(1), 900, None),
        (Some(plain), Some(1), 901, Some("timeline 1 ended at 0/384, and goes on to 0/385 here")),
        (Some(plain), Some(2), 1000, None),
        // What the store has is older than a promotion that it does not know of yet.
        (Some(plain), Some(3), 1000, None),
        (Some(plain), None, 1000, None),
        (Some(gap), Some(4), 951, Some("timeline 4 ended at 0/3B6")),
        (Some(gap), Some(2), 100, Some("which has no timeline 2")),
        (Some(left_out), Some(3), 100, Some("which has no timeline 3")),
        (Some(left_out), Some(2), 100, Some("which has no timeline 2")),
        (Some(left_out), Some(1), 901, Some("timeline 1 ended at 0/384")),
        (Some(left_out), Some(1), 900, None),
        (Some(left_out), Some(4), 1000, None),
        (Some(short), Some(2), 100, None),
        (Some(short), Some(1), 5000, None),
    ] {
        let mut s = Scenario::leaderless();
        let mut observed = standby_at(replayed, 1, "a", None, false);
        observed.replay_timeline = timeline.map(Timeline);
        s.facts.postgres = running(observed, true);
        s.view.history = history.map(|rows| History(rows.iter().copied().map(entry).collect()));
        let told = forked::told(&s.facts(), &s.memory);
        match want {
            None => assert_eq!(told, None, "{history:?} {timeline:?} {replayed}"),
            Some(part) => assert!(told.as_ref().is_some_and(|t| t.contains(part)), "{told:?} {part}"),
        }
        assert_eq!(takes(&s), want.is_none(), "{history:?} {timeline:?} {replayed}");
        // A cluster that follows another has no primaries of its own.
        assert_eq!(forked::told(&s.clone().remote().facts(), &s.memory), None);
        // Left to its own devices once it is the primary.
        s.facts.postgres = running(primary_at(replayed, 3), false);
        assert_eq!(forked::told(&s.facts(), &s.memory), None);
    }
}

#[test]
fn what_was_found_lasts_until_it_is_mended() {
    let after = |s: &Scenario| s.step().memory.forked;
    let known = Some(Forked { against: "b".into(), what: "300 bytes on timeline 1".into(), remote: false });
    let mut s = Scenario::standby().with(|s| s.facts.postgres = running(standby_at(900, 1, "a", None, false), true));
    s = s.forked(false);
    assert_eq!(after(&s), known);
    // Its leader goes, and a rewind that failed is forgotten to be tried again.
    let mut left = Scenario::leaderless().forked(true);
    left.memory.divergence_checked = Some(before(70_000));
    let step = left.step();
    assert_eq!(step.memory.divergence, Divergence::Unchecked);
    let failed = step.memory.forked.clone().expect("known");
    assert!(failed.what.contains("pg_rewind failed: no connection"), "{failed:?}");
    left.memory = step.memory;
    assert_eq!(after(&left).as_ref(), Some(&failed));
    // Another leads, against whom it is compared anew.
    let other = Scenario { memory: left.memory.clone(), ..s.clone().led_by("c") };
    assert_eq!(after(&other).as_ref(), Some(&failed));
    let compare = Task::CheckDivergence { from: upstream("c") };
    let mut none = other.clone().finished(compare, Ok(TaskDone::NotDiverged));
    none.memory.last_leader = Some("c".into());
    assert_eq!(after(&none), None);
    for (task, mends) in [
        (Task::Reinitialize { from: upstream("b") }, true),
        (Task::Clone { from: upstream("b") }, true),
        (Task::Promote, false),
        (Task::Restart, false),
    ] {
        let mut done = s.clone().finished(task.clone(), Ok(TaskDone::Done));
        done.memory.forked = known.clone();
        done.memory.divergence = Divergence::Unchecked;
        assert_eq!(after(&done).is_none(), mends, "{task:?}");
    }
    let mut rewound = s.clone().finished(Task::Rewind { from: upstream("b") }, Ok(TaskDone::Done));
    rewound.memory.forked = known.clone();
    assert_eq!(after(&rewound), None);
    let promoted = s.clone().with(|s| s.facts.postgres = running(primary_at(1000, 3), false));
    assert_eq!(after(&promoted), None);
    assert_eq!(after(&s.clone().dir(DataDir::Empty)), None);
}

#[test]
fn a_failed_rewind_is_tried_again_soon_and_then_less_often() {
    let rewind = Task::Rewind { from: upstream("b") };
    let mut s =
        Scenario::standby().with(|s| s.facts.postgres = running(standby_at(900, 1, "a", Some("b"), false), true));
    s = s.forked(true);
    for pause in [5, 10, 20, 40, 60, 60] {
        let mut failed = s.clone().finished(rewind.clone(), Err("no connection".into()));
        failed.memory = failed.step().memory;
        failed.facts.finished = None;
        for (passed, again) in [(pause * 1000 - 1, false), (pause * 1000, true)] {
            failed.memory.divergence_checked = Some(before(passed));
            let tried = failed.step().memory.divergence == Divergence::Unchecked;
            assert_eq!(tried, again, "{passed} ms after a failure, when {pause} s are to pass");
        }
        s.memory = failed.memory;
    }
    for done in [
        s.clone().finished(rewind, Ok(TaskDone::Done)),
        s.clone().finished(Task::Reinitialize { from: upstream("b") }, Ok(TaskDone::Done)),
        s.clone().finished(Task::CheckDivergence { from: upstream("b") }, Ok(TaskDone::NotDiverged)),
    ] {
        assert_eq!(done.step().memory.rewinds_failed, 0);
    }
}

type Change<'a> = &'a dyn Fn(&mut Scenario);

#[test]
fn why_a_fork_is_not_mended_is_told_as_it_is() {
    const FULL: &str = "pg_rewind from b (b:5432) failed: pg_rewind: error: could not write file \"/data/base/5/1259\": No space \
                        left on device";
    let stuck =
        || Scenario::standby().with(|s| s.facts.postgres = running(standby_at(900, 1, "a", Some("b"), false), true));
    let found = |s: &mut Scenario| *s = s.clone().forked(false);
    let failed = |s: &mut Scenario| *s = s.clone().forked(true);
    let full = |s: &mut Scenario| {
        s.memory.divergence = Divergence::RewindFailed { against: "b".into(), why: FULL.into() };
    };
    let rewinds = |s: &mut Scenario| s.facts.settings.use_pg_rewind = true;
    let bare = |s: &mut Scenario| {
        if let DataDir::Present { control, .. } = &mut s.facts.postgres.data_dir {
            (control.data_checksums, control.wal_log_hints) = (false, false);
        }
    };
    let backs_off = |s: &mut Scenario| (s.memory.start_failures, s.memory.last_failure) = (3, Some(before(500)));
    let paused = |s: &mut Scenario| *s = s.clone().paused();
    let settings = "the settings do not allow mending it; allow use_pg_rewind or run `surus reinit` for a";
    let cases: [(&[Change], &[&str]); 8] = [
        (&[&found], &[settings]),
        (&[&found, &rewinds, &bare], &["cannot mend it without data checksums or wal_log_hints", "surus reinit"]),
        (&[&found, &rewinds, &backs_off], &["mended in a moment"]),
        (&[&found, &rewinds, &paused], &["mended after the pause"]),
        (&[&failed], &["pg_rewind failed: no connection", settings]),
        (&[&failed, &rewinds], &["pg_rewind failed: no connection", "tried again 5 s after the last attempt"]),
        (&[&failed, &rewinds, &full], &["/data/base/5/1259", "the disk is full: make room there; it is tried again"]),
        (&[&failed, &rewinds, &full, &paused], &["the disk is full"]),
    ];
    for (changes, parts) in cases {
        let s = changes.iter().fold(stuck(), |s, change| s.with(change));
        let report = s.step().report;
        assert_eq!(report.rule, 825, "{parts:?}: {}", report.goal);
        for part in parts {
            assert!(report.goal.contains(part), "{part}: {}", report.goal);
        }
        let blamed = report.goal.contains("settings do not allow");
        assert_eq!(blamed, parts.contains(&settings), "{}", report.goal);
    }
    // And it goes on by itself: what failed is compared anew, and tried anew.
    let mut later = stuck();
    for change in [&failed as Change, &rewinds, &full] {
        later = later.with(change);
    }
    later.memory.divergence_checked = Some(before(61_000));
    later.memory.not_streaming_since = Some(before(70_000));
    assert_eq!(briefs(&later.step()), ["compare with b"]);
}

/// What a standby cluster is promoted without is given up by whoever promotes it.
#[test]
fn what_parted_from_another_site_counts_while_that_is_followed() {
    let mut s = Scenario::leaderless().remote().forked(false);
    if let Divergence::Found { against, .. } = &mut s.memory.divergence {
        *against = "far:5432".into();
    }
    let memory = s.step().memory;
    assert!(memory.forked.as_ref().is_some_and(|f| f.remote), "{:?}", memory.forked);
    assert!(forked::told(&s.facts(), &memory).is_some());
    let mut promoted = Scenario { memory, ..Scenario::leaderless() };
    for _ in 0..2 {
        assert_eq!(forked::told(&promoted.facts(), &promoted.memory), None);
        promoted.memory = promoted.step().memory;
    }
    assert!(takes(&promoted));
}

/// What a broken rewind leaves does not start, and only who serves can lead.
#[test]
fn a_standby_cluster_mends_what_does_not_start_although_nobody_leads() {
    let down = |s: Scenario| {
        let mut s = s.down(ControlState::InArchiveRecovery, true);
        s.memory.start_failures = 1;
        s.facts.settings.use_pg_rewind = true;
        s
    };
    let compared = |s: Scenario| {
        let mut s = down(s).remote().forked(false);
        if let Divergence::Found { against, .. } = &mut s.memory.divergence {
            *against = "far:5432".into();
        }
        s
    };
    let on = |s: &Scenario| (s.step().report.rule, briefs(&s.step()));
    assert_eq!(on(&down(Scenario::leaderless()).remote()), (530, vec!["compare with far:5432".to_owned()]));
    assert_eq!(on(&compared(Scenario::leaderless())), (532, vec!["rewind from far:5432".to_owned()]));
    // Of a cluster of its own nobody knows yet who will lead it.
    assert_eq!(on(&down(Scenario::leaderless())).0, 545);
    let mut unread = compared(Scenario::leaderless());
    unread.readable = false;
    assert!(briefs(&unread.step()).is_empty(), "{:?}", unread.step().report);
}
