//! No data, no server or none that answers, and a disk that is nearly full.

use std::time::Duration;

use surus_core::cluster::Initialize;
use surus_core::facts::TaskDone;
use surus_core::postgres::{ControlState, DataDir};
use surus_core::settings::{Reserve, SynchronousMode};

use super::{Row, disk, handover, history};
use crate::scenario::*;

/// The cluster exists and nobody leads it.
fn no_leader_method() -> Scenario {
    Scenario::nothing().with(|s| {
        s.view.initialize = Initialize::Done(system_id(OURS));
        s.facts.settings.no_leader_methods = true;
    })
}

pub(super) fn startup() -> Vec<Row> {
    let another = |s: &mut Scenario| s.view.initialize = Initialize::Done(system_id(THEIRS));
    let unclaimed = |s: &mut Scenario| {
        s.view.initialize = Initialize::Absent;
        s.memory.last_leader = None;
    };
    let joining = || Scenario::standby().with(|s| s.facts.postgres = stopped(DataDir::Empty));
    vec![
        (400, joining().dir(DataDir::Foreign("a file".into())), &["exit with error"]),
        (405, Scenario::crashed_leader().dir(DataDir::Unreadable("EIO".into())), &["demote and release"]),
        (405, Scenario::crashed_leader().dir(DataDir::Unreadable("EIO".into())).paused(), &["release"]),
        (410, Scenario::standby().with(another), &["exit with error"]),
        (410, Scenario::leader().with(another), &["release", "exit with error"]),
        (412, Scenario::leader().paused().with(another), &["release"]),
        (413, Scenario::leader().stand_alone().led_by("b"), &["exit with error"]),
        (
            413,
            Scenario::leader().stand_alone().led_by_nobody().with(|s| s.view.history = Some(history(2))),
            &["exit with error"],
        ),
        (415, Scenario::leaderless().with(unclaimed), &[]),
        (415, Scenario::leaderless().with(unclaimed).starting(before(100)), &[]),
        (416, Scenario::leader().stand_alone().led_by_nobody().with(unclaimed).silent(), &[]),
        (416, Scenario::leader().stand_alone().led_by_nobody().with(unclaimed).starting(before(100)), &[]),
        (418, Scenario::leader().stand_alone().led_by_nobody().with(unclaimed), &["write system id"]),
        (418, Scenario::leaderless().with(unclaimed).down(ControlState::ShutDown, false), &["write system id"]),
        (425, Scenario::leader().dir(DataDir::Empty), &["demote and release"]),
        (425, Scenario::standby().dir(DataDir::Empty), &["demote, deposed"]),
        (430, Scenario::crashed_leader().dir(DataDir::Empty), &["release"]),
        (432, joining().paused(), &[]),
        (434, joining().with(|s| (s.memory.start_failures, s.memory.last_failure) = (3, Some(before(3000)))), &[]),
        (435, joining(), &["clone b"]),
        (
            435,
            joining().with_standby("c", 1000).with(|s| {
                let c = s.view.members.get_mut(&"c".into()).expect("c");
                c.tags.0.insert("clonefrom".into(), true.into());
            }),
            &["clone c"],
        ),
        (439, Scenario::nothing().unfenced(), &[]),
        (439, Scenario::nothing().unwatched(), &[]),
        (440, Scenario::nothing(), &["bootstrap"]),
        (442, no_leader_method(), &["clone without leader"]),
        (442, no_leader_method().with(|s| s.facts.may_bootstrap = false), &["clone without leader"]),
        // Somebody creates the cluster, and its first data will do.
        (445, no_leader_method().with(|s| s.view.initialize = Initialize::InProgress), &[]),
        (445, Scenario::nothing().with(|s| s.view.initialize = Initialize::InProgress), &[]),
        (445, Scenario::nothing().tag("nofailover", true), &[]),
        (445, Scenario::nothing().with(|s| s.facts.may_bootstrap = false), &[]),
        // The store forgot everything; I saw `b` lead.
        (445, Scenario::nothing().with(|s| s.memory.last_leader = Some("b".into())), &[]),
    ]
}

/// The reserves are 10 and 3 percent.
pub(super) fn nearly_full() -> Vec<Row> {
    let forgotten = |s: &mut Scenario| s.facts.peers.clear();
    vec![
        (780, disk(2_900, 50_000).with(forgotten), &["ask b"]),
        (790, disk(3_100, 50_000).with(forgotten), &[]),
        (790, disk(2_900, 50_000).with(forgotten).with(|s| s.memory.disk_asked = Some(before(9_000))), &[]),
        (780, disk(2_900, 50_000).with(forgotten).with(|s| s.memory.disk_asked = Some(before(10_000))), &["ask b"]),
        (782, disk(2_900, 50_000), &["ask for a switchover to b"]),
        // It would be warned itself, so the lead would soon come back.
        (790, disk(2_900, 9_000), &[]),
        (790, disk(2_900, 50_000).with(|s| s.memory.disk_request = Some(before(59_000))), &[]),
        (790, disk(2_900, 50_000).paused(), &[]),
        (
            790,
            disk(2_900, 50_000).with(|s| s.facts.peers = Scenario::leader().with_standby("b", 1000).facts.peers),
            &[],
        ),
        (790, disk(2_900, 50_000).with(|s| s.facts.settings.disk_guard.switchover = Reserve::OFF), &[]),
        (300, disk(2_900, 50_000).lead_until(after(1000)), &["demote, lease ends"]),
        // An operator's request is carried out like any other.
        (740, disk(2_900, 50_000).failover(Some("a"), None).asked(), &["name b", "hand over to b"]),
    ]
}

/// `b` has every commit and just answered.
fn synchronous(s: Scenario) -> Scenario {
    s.with_standby("b", 1000).sync("a", &["b"], 0).with(|s| s.facts.settings.synchronous_mode = SynchronousMode::On)
}

fn only_as_primary() -> Scenario {
    Scenario::leaderless().down(ControlState::InProduction, false).with(|s| {
        if let DataDir::Present { control, .. } = &mut s.facts.postgres.data_dir {
            control.wal_level_minimal = true;
        }
    })
}

pub(super) fn stopped_server() -> Vec<Row> {
    let at_once = |s: &mut Scenario| s.facts.settings.primary_start_timeout = Duration::ZERO;
    let failed = |s: &mut Scenario| (s.memory.start_failures, s.memory.last_failure) = (1, Some(before(200)));
    let deposed = || Scenario::standby().down(ControlState::ShutDown, false);
    let recovering = || Scenario::leader().with_standby("b", 1000).starting(before(40_000));
    let later = |s: &mut Scenario| s.facts.failover_due = Some(Ok(UNIX_MS + 60_000));
    vec![
        (500, Scenario::crashed_leader().with(|s| s.facts.postgres.orphans = true), &["kill orphans"]),
        (505, Scenario::crashed_leader().paused(), &["release"]),
        (505, deposed().paused(), &[]),
        (507, Scenario::crashed_leader().with(|s| s.facts.lead = None).unfenced(), &["release"]),
        (508, Scenario::crashed_leader().with(|s| s.facts.lead = None), &["retake"]),
        (
            510,
            Scenario::crashed_leader().with(at_once).with_unasked("b").with(|s| {
                s.facts.postgres.since = before(100);
            }),
            &["ask b"],
        ),
        (512, Scenario::crashed_leader().with(at_once).with_standby("b", 1000), &["release"]),
        (512, Scenario::crashed_leader().with(failed).with_standby("b", 1000), &["release"]),
        (515, Scenario::crashed_leader().with(failed).with_unasked("b"), &["ask b"]),
        (518, Scenario::crashed_leader().lead_until(after(500)), &[]),
        (520, Scenario::crashed_leader(), &["start primary"]),
        (525, Scenario::crashed_leader().down(ControlState::ShutDownInRecovery, true), &["start standby of nobody"]),
        (530, deposed(), &["compare with b"]),
        (
            530,
            Scenario::standby().down(ControlState::ShutDownInRecovery, true).with(|s| {
                s.memory.start_failures = 1;
                s.memory.last_failure = Some(before(20_000));
            }),
            &["compare with b"],
        ),
        (532, deposed().forked(false).with(|s| s.facts.settings.use_pg_rewind = true), &["rewind from b"]),
        (
            532,
            deposed().forked(true).with(|s| s.facts.settings.remove_data_directory_on_rewind_failure = true),
            &["reinitialize from b"],
        ),
        (
            540,
            Scenario::leaderless()
                .down(ControlState::ShutDown, false)
                .with(|s| s.memory.abstain_until = Some(after(500))),
            &[],
        ),
        // The reading still shows my name, and I know better.
        (
            540,
            Scenario::leader()
                .with(|s| s.facts.lead = None)
                .down(ControlState::ShutDown, false)
                .finished(handover(), Ok(TaskDone::Released)),
            &["release"],
        ),
        (542, only_as_primary(), &["take"]),
        (545, only_as_primary().with(|s| s.view.history = Some(history(2))), &["start standby of nobody"]),
        (
            545,
            only_as_primary().sync("b", &[], 0).with(|s| {
                s.facts.settings.synchronous_mode = SynchronousMode::On;
            }),
            &["start standby of nobody"],
        ),
        (545, deposed().forked(false), &["start standby of b"]),
        (534, deposed().same_number("b", 5000), &["compare with b"]),
        (535, deposed().same_number("b", 3000), &[]),
        (535, deposed().same_number("b", 3000).with(|s| s.facts.settings.use_pg_rewind = true), &[]),
        (
            532,
            deposed()
                .same_number("b", 3000)
                .with(|s| s.facts.settings.remove_data_directory_on_diverged_timelines = true),
            &["reinitialize from b"],
        ),
        (545, Scenario::leaderless().down(ControlState::InProduction, false), &["start standby of nobody"]),
        // A switchover asked for while paused ends with the former primary running as a standby.
        (545, deposed().forked(false).paused().with(|s| s.memory.handed_over = true), &["start standby of b"]),
        (
            550,
            Scenario::standby().dir(data(ControlState::InCrashRecovery, false)).starting(before(100)),
            &["demote, deposed"],
        ),
        (552, Scenario::leader().with_standby("b", 1000).starting(before(301_000)), &["demote and release"]),
        (
            553,
            Scenario::standby()
                .with(|s| s.memory.followed = Some((Some(upstream("c")), before(90_000))))
                .starting(before(90_000)),
            &["follow b"],
        ),
        (551, Scenario::leader().with_unasked("b").starting(before(301_000)), &["ask b"]),
        // At least 270 s more, and 260 s are left until the timeout.
        (551, Scenario::leader().with_unasked("b").starting(before(40_000)).replaying(30_000, 1, 20), &["ask b"]),
        (
            552,
            Scenario::leader().with_standby("b", 1000).starting(before(40_000)).replaying(30_000, 1, 20),
            &["demote and release"],
        ),
        // Nobody has every commit, so what fits into the timeout is waited for.
        (555, Scenario::leader().with_standby("b", 1000).starting(before(40_000)).replaying(30_000, 10, 20), &[]),
        (
            552,
            synchronous(Scenario::leader()).starting(before(40_000)).replaying(30_000, 10, 20),
            &["demote and release"],
        ),
        (555, synchronous(Scenario::leader()).starting(before(40_000)).replaying(30_000, 18, 20), &[]),
        // Another voter would have to vouch for it.
        (
            554,
            synchronous(Scenario::leader())
                .sync("a", &["b", "c"], 1)
                .with(|s| s.facts.settings.synchronous_mode = SynchronousMode::Quorum)
                .starting(before(40_000))
                .replaying(30_000, 10, 20),
            &[],
        ),
        (554, Scenario::leader().starting(before(301_000)), &[]),
        // Asked for while it starts up: by name, left open, nobody is fit, not yet due, paused.
        (730, recovering().with_unasked("b").failover(Some("a"), Some("b")), &["ask b"]),
        (739, recovering().failover(Some("a"), Some("b")).asked(), &["demote and release"]),
        (739, recovering().failover(Some("a"), None).asked(), &["name b", "demote and release"]),
        (735, recovering().failover(None, Some("c")).asked(), &["clear request"]),
        (735, Scenario::leader().starting(before(301_000)).failover(None, Some("c")).asked(), &["clear request"]),
        (555, recovering().failover(Some("a"), Some("b")).asked().with(later), &[]),
        (555, recovering().failover(Some("a"), Some("b")).asked().paused(), &[]),
        (555, Scenario::leader().with_unasked("b").starting(before(299_000)), &[]),
        (
            555,
            Scenario::standby()
                .with(|s| s.memory.followed = Some((Some(upstream("b")), before(90_000))))
                .starting(before(90_000)),
            &[],
        ),
    ]
}
