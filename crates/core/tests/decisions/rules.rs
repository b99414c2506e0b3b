//! Every rule by at least one example: the facts in words, the rule that fires, and what it orders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_core::cluster::{Initialize, MemberRole};
use surus_core::facts::TaskDone;
use surus_core::order::{Demote, Request, Task};
use surus_core::postgres::{ControlState, DataDir};
use surus_core::settings::{Reserve, SynchronousMode};
use surus_core::slots::LogicalSlot;
use surus_core::stall::Stall;

use crate::scenario::*;

type Row = (u16, Scenario, &'static [&'static str]);

fn slot() -> LogicalSlot {
    LogicalSlot { name: "changes".into(), database: "app".into(), plugin: "pgoutput".into() }
}

fn handover() -> Task {
    Task::Demote(Demote::Handover { to: "b".into(), upstream: Some(upstream("b")) })
}

fn reinit(force: bool) -> Request {
    Request::Reinitialize { force, from_leader: false }
}

/// The cluster exists and nobody leads it.
fn no_leader_method() -> Scenario {
    Scenario::nothing().with(|s| {
        s.view.initialize = Initialize::Done(system_id(OURS));
        s.facts.settings.no_leader_methods = true;
    })
}

fn cut_off() -> Scenario {
    Scenario::leader().store_away_since(before(4000))
}

fn shutdown_and_operator() -> Vec<Row> {
    let orphans = |s: &mut Scenario| s.facts.postgres.orphans = true;
    let on = |s: &mut Scenario| s.facts.settings.synchronous_mode = SynchronousMode::On;
    vec![
        (100, Scenario::leader().paused().shutdown(), &["exit"]),
        (102, Scenario::leader().pause_seen().shutdown(), &[]),
        (104, Scenario::leader().stand_alone().led_by_nobody().shutdown(), &["exit"]),
        (104, Scenario::standby().stand_alone().shutdown(), &["exit"]),
        (105, Scenario::leader().shutdown().runs(Task::Demote(Demote::Release)), &[]),
        (110, Scenario::standby().shutdown().runs(Task::Clone { from: upstream("b") }), &["cancel"]),
        (115, Scenario::crashed_leader().shutdown(), &["release", "exit"]),
        (115, Scenario::standby().down(ControlState::ShutDownInRecovery, true).shutdown(), &["exit"]),
        (118, Scenario::standby().sync("b", &["a"], 0).with(on).shutdown(), &[]),
        (
            125,
            Scenario::standby()
                .sync("b", &["a"], 0)
                .with(on)
                .shutdown()
                .with(|s| s.memory.leaving_since = Some(before(60_000))),
            &["shut down, to nobody"],
        ),
        (120, Scenario::leader().with_unasked("b").shutdown(), &["ask b"]),
        (125, Scenario::leader().shutdown(), &["shut down, to nobody"]),
        (
            125,
            Scenario::leader().with_standby("b", 990).shutdown().with(|s| s.memory.asked_at = Some(before(900))),
            &["shut down, to b"],
        ),
        (125, Scenario::standby().shutdown(), &["shut down, to nobody"]),
        (125, Scenario::leader().with_unasked("b").lead_until(after(500)).shutdown(), &["shut down, to nobody"]),
        (125, Scenario::crashed_leader().with(orphans).shutdown(), &["shut down, to nobody"]),
        (150, Scenario::standby().request(Request::Restart).runs(Task::Follow { upstream: None }), &[]),
        (152, Scenario::nothing().request(Request::Restart), &[]),
        (153, Scenario::crashed_leader().request(Request::Restart), &[]),
        (154, Scenario::leader().request(Request::Restart), &["restart"]),
        (154, Scenario::crashed_leader().paused().request(Request::Restart), &["restart"]),
        (156, Scenario::standby().sync("b", &["a"], 0).with(on).request(Request::Restart), &[]),
        (160, Scenario::leaderless().request(reinit(false)), &[]),
        (162, Scenario::leader().request(reinit(true)), &[]),
        (164, Scenario::standby().request(reinit(false)).runs(Task::Follow { upstream: None }), &[]),
        (166, Scenario::standby().request(reinit(true)).runs(Task::Follow { upstream: None }), &["cancel"]),
        (168, Scenario::standby().request(reinit(true)), &["reinitialize from b"]),
    ]
}

fn tasks_and_store() -> Vec<Row> {
    let other = |s: &mut Scenario| s.facts.lead = None;
    let no_signal = |s: &mut Scenario| s.facts.postgres = stopped(data(ControlState::ShutDown, false));
    vec![
        (200, Scenario::leaderless().runs(Task::Promote), &["cancel"]),
        (200, Scenario::standby().paused().runs(Task::Promote), &["cancel"]),
        (205, Scenario::leader().lead_until(after(1000)).runs(Task::Restart), &["cancel"]),
        (205, Scenario::standby().with(no_signal).runs(Task::Restart), &["cancel"]),
        (205, Scenario::leader().lead_until(after(1000)).runs(handover()), &["cancel"]),
        (
            290,
            Scenario::standby().with(no_signal).starting(before(100)).runs(Task::Rewind { from: upstream("b") }),
            &[],
        ),
        // Single-user recovery, which nobody can write to, under a lead that a standby cluster's leader has.
        (
            290,
            Scenario::standby()
                .with(no_signal)
                .starting(before(100))
                .runs(Task::Rewind { from: upstream("b") })
                .lead_until(NOW)
                .with(|s| s.readable = false),
            &[],
        ),
        (210, Scenario::leaderless().runs(Task::CheckDivergence { from: upstream("b") }), &["cancel"]),
        (290, Scenario::standby().runs(Task::CheckDivergence { from: upstream("b") }), &[]),
        (210, Scenario::leaderless().runs(Task::CheckDivergence { from: upstream("b") }), &["cancel"]),
        (290, Scenario::standby().runs(Task::Restart), &[]),
        (290, Scenario::leader().lead_until(after(1000)).runs(Task::Demote(Demote::Release)), &[]),
        (300, Scenario::leader().lead_until(after(2000)), &["demote, lease ends"]),
        (300, Scenario::leader().pause_seen().lead_until(after(2000)), &["demote, lease ends"]),
        // An operator's request does not get in between.
        (300, Scenario::leader().lead_until(after(2000)).request(Request::Restart), &["demote, lease ends"]),
        (305, Scenario::leader().store_away_since(before(11_000)).with(other), &["demote, lease ends"]),
        (
            305,
            Scenario::leader().pause_seen().store_away_since(before(11_000)).with(other).with(|s| {
                s.facts.inherited = Some(before(1000));
            }),
            &["demote, lease ends"],
        ),
        (310, Scenario::leader().pause_seen().store_away_since(before(11_000)).with(other), &[]),
        // An agent that has never seen the store, and was left by its earlier run that this primary is left alone.
        (
            310,
            Scenario::leader().left_alone("a").store_away_since(before(11_000)).with(other).with(|s| {
                s.readable = false;
            }),
            &[],
        ),
        // Nobody has taken it over yet, and the store was never seen.
        (
            330,
            Scenario::leader().stand_alone().with(|s| {
                s.readable = false;
                s.memory.unreadable_since = Some(before(60_000));
            }),
            &[],
        ),
        // The pause is over.
        (305, Scenario::leader().left_alone("a").store_away_since(before(11_000)).with(other), &["demote, lease ends"]),
        (
            305,
            Scenario::leader().with(other).with(|s| {
                s.readable = false;
                s.memory.unreadable_since = Some(before(11_000));
            }),
            &["demote, lease ends"],
        ),
        (310, cut_off().paused().lead_until(after(100)), &[]),
        (
            312,
            cut_off().with(|s| s.facts.postgres = stopped(data(ControlState::InProduction, false))).with(|s| {
                s.facts.postgres.orphans = true;
            }),
            &["kill orphans"],
        ),
        (
            315,
            cut_off().with(other).down(ControlState::ShutDown, false).with(|s| s.memory.lost_store = true),
            &["start standby of nobody"],
        ),
        (320, cut_off(), &[]),
        (330, Scenario::standby().store_away_since(before(60_000)), &[]),
        (335, Scenario::standby().with(|s| s.facts.store.session = false), &[]),
    ]
}

fn hung_server() -> Vec<Row> {
    let disk = |s: &mut Scenario| s.facts.stalls.disk = hangs(15_000);
    let postmaster = |s: &mut Scenario| s.facts.stalls.postmaster = hangs(15_000);
    let commits = |s: &mut Scenario| s.facts.stalls.commits = hangs(15_000);
    let orphans = |s: &mut Scenario| s.facts.postgres.orphans = true;
    vec![
        (350, Scenario::leader().with(postmaster).with_unasked("b"), &["ask b"]),
        // An answer that is too old to count.
        (
            350,
            Scenario::leader().with_standby("b", 1000).with(disk).with(|s| {
                s.facts.peers.get_mut(&"b".into()).expect("b").asked = before(6000);
            }),
            &["ask b"],
        ),
        (352, Scenario::leader().with(postmaster).with_standby("b", 1000), &["demote and release"]),
        (352, Scenario::leader().with(disk).with_standby("b", 1000), &["demote and release"]),
        (352, Scenario::leader().with(commits).with_standby("b", 1000), &["demote and release"]),
        // Its sessions are lost as well.
        (352, Scenario::leader().with(disk).with_standby("b", 1000).silent(), &["demote and release"]),
        (
            352,
            Scenario::leader().with(postmaster).with_standby("b", 1000).starting(before(900)),
            &["demote and release"],
        ),
        // The postmaster crashed, its backends go on.
        (352, Scenario::crashed_leader().with(orphans).with(disk).with_standby("b", 1000), &["demote and release"]),
        (354, Scenario::leader().with(disk), &[]),
        (
            354,
            Scenario::leader().with(disk).with_standby("b", 1000).with_standby("c", 1000).with(|s| {
                for peer in s.facts.peers.values_mut() {
                    (peer.asked, peer.answer) = (before(1500), Err("timeout".into()));
                }
            }),
            &["ask b c"],
        ),
        (
            354,
            Scenario::leader().with(disk).with_standby("b", 1000).with(|s| {
                s.facts.peers.get_mut(&"b".into()).expect("b").answer = Err("timeout".into());
            }),
            &[],
        ),
        // Not for long enough, not while paused, not a standby's; what was seen of it counts, not how long ago it began.
        (790, Scenario::leader().with(|s| s.facts.stalls.disk = hangs(14_900)).with_standby("b", 1000), &[]),
        (790, Scenario::leader().with(disk).paused().with_standby("b", 1000), &[]),
        (
            790,
            Scenario::leader().with_standby("b", 1000).with(|s| {
                s.facts.stalls.postmaster = Some(Stall { since: before(60_000), seen: before(50_000) });
            }),
            &[],
        ),
        (640, Scenario::leaderless().with(disk).with_standby("b", 1000), &[]),
        (300, Scenario::leader().with(disk).with_standby("b", 1000).lead_until(after(2000)), &["demote, lease ends"]),
    ]
}

fn startup() -> Vec<Row> {
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

const MB: u64 = 1 << 20;

/// As the leader, with so many megabytes of 100000 free, and `b` with as many.
fn disk(mine: u64, theirs: u64) -> Scenario {
    let room = |free: u64| Some(surus_core::slots::Room { free: free * MB, total: 100_000 * MB });
    Scenario::leader().with_standby("b", 1000).with(|s| {
        s.facts.room = room(mine);
        if let Some(Ok(answer)) = s.facts.peers.get_mut(&"b".into()).map(|p| p.answer.as_mut()) {
            answer.room = room(theirs);
        }
    })
}

/// The reserves are 10 and 3 percent.
fn nearly_full() -> Vec<Row> {
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

fn history(timeline: u32) -> surus_core::cluster::History {
    let entry = |n: u32| surus_core::cluster::HistoryEntry {
        timeline: surus_core::Timeline(n),
        switch_lsn: surus_core::Lsn(900),
        reason: String::new(),
        timestamp: None,
        new_leader: None,
    };
    surus_core::cluster::History((1..timeline).map(entry).collect())
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

fn stopped_server() -> Vec<Row> {
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

fn race() -> Vec<Row> {
    let vacant = |s: &mut Scenario| (s.facts.lead, s.view.leader) = (None, None);
    let unready = |s: &mut Scenario| s.facts.unready_slots = vec!["changes".into()];
    let waited = |s: &mut Scenario| {
        s.memory.leaderless_since = Some(before(60_000));
        s.memory.race_round = Some(before(900));
    };
    let led_before = || Scenario::standby().with(|s| s.view.leader = Scenario::leader().view.leader);
    vec![
        (
            595,
            Scenario::leader().with(|s| {
                s.facts.lead = None;
                s.memory.unled_since = Some(before(30_000));
            }),
            &["demote, deposed"],
        ),
        (
            600,
            Scenario::leader().with(|s| {
                s.facts.lead = None;
                s.memory.unled_since = Some(before(30_000));
                s.facts.inherited = Some(after(5_000));
            }),
            &["retake"],
        ),
        (
            330,
            Scenario::leader().store_away_since(before(11_000)).with(|s| {
                s.facts.lead = None;
                s.facts.inherited = Some(after(5_000));
            }),
            &[],
        ),
        (598, Scenario::leader().with(|s| s.facts.lead = None).unfenced(), &["demote, deposed"]),
        (598, Scenario::leader().with(|s| s.facts.lead = None).unfenced().paused(), &[]),
        (598, led_before().unfenced(), &["release"]),
        (598, led_before().unfenced().with(|s| s.facts.inherited = Some(after(1000))), &[]),
        (600, Scenario::leader().with(|s| s.facts.lead = None), &["retake"]),
        (610, Scenario::leaderless().with_standby("b", 1000), &["take"]),
        (610, Scenario::leaderless().paused().failover(None, Some("a")), &["take"]),
        (620, Scenario::leaderless().with_unasked("b"), &["ask b"]),
        (
            630,
            Scenario::leader().unfenced().with(|s| {
                s.facts.lead = None;
                s.view.leader = None;
            }),
            &["demote, deposed"],
        ),
        (640, Scenario::leaderless().unfenced().with_standby("b", 1000), &[]),
        (640, Scenario::leaderless().unwatched().with_standby("b", 1000), &[]),
        (
            630,
            Scenario::leader().with(|s| {
                s.facts.lead = None;
                s.view.leader = None;
                s.memory.abstain_until = Some(after(1000));
            }),
            &["demote, deposed"],
        ),
        (640, Scenario::leaderless().with_standby("b", 1001), &[]),
        (640, Scenario::leaderless().with_standby("c", 1000).with(unready), &[]),
        (610, Scenario::leaderless().with_standby("c", 999).with(unready), &["take"]),
        (610, Scenario::leaderless().with_standby("c", 1000).with(unready).with(waited), &["take"]),
        (640, Scenario::leaderless().paused(), &[]),
        (640, Scenario::leaderless().with_standby("c", 1000).left_alone("b"), &[]),
        (640, Scenario::leaderless().with_standby("c", 1000).failover(None, Some("a")).left_alone("b"), &[]),
        (630, Scenario::leader().with(vacant).left_alone("b"), &["demote, deposed"]),
        (610, Scenario::leader().with(vacant).left_alone("a"), &["take"]),
        (610, Scenario::leader().with(vacant).left_alone("b").paused(), &["take"]),
        (640, Scenario::leaderless().tag("nofailover", true), &[]),
        // What an operator started and nobody took over is left alone, whatever the store says.
        (
            640,
            Scenario::leader().stand_alone().led_by_nobody().silent().with(|s| {
                s.memory.unled_since = Some(before(60_000));
            }),
            &[],
        ),
        (640, Scenario::leader().stand_alone().led_by_nobody().with(|s| s.memory.abstain_until = Some(after(1))), &[]),
        // Its primary runs, perhaps, and is to be taken over as well.
        (640, Scenario::leaderless().stand_alone().with_standby("b", 900).with(|s| s.memory.last_leader = None), &[]),
        (
            610,
            Scenario::leaderless().stand_alone().failover(None, Some("a")).with(|s| s.memory.last_leader = None),
            &["take"],
        ),
        // A primary that still sends may come back to the store.
        (640, backing_off(5_000, 1_000, true), &[]),
        (640, backing_off(25_000, 5_000, true), &[]),
        (610, backing_off(25_000, 11_000, true), &["take"]),
        (610, backing_off(25_000, 5_000, false), &["take"]),
        (610, backing_off(31_000, 1_000, true), &["take"]),
        (610, backing_off(5_000, 1_000, true).failover(None, Some("a")), &["take"]),
    ]
}

/// `primary_race_backoff` is 30 s: leaderless for so long, and the log grew so long ago.
fn backing_off(leaderless: u64, grew: u64, streams: bool) -> Scenario {
    Scenario::leaderless().with_standby("b", 900).with(|s| {
        s.facts.settings.primary_race_backoff = Duration::from_secs(30);
        s.memory.leaderless_since = Some(before(leaderless));
        s.memory.received = Some((surus_core::Lsn(1000), before(grew)));
        s.facts.postgres = running(standby_at(1000, 1, "a", Some("b"), streams), true);
    })
}

fn primary() -> Vec<Row> {
    let promotable =
        || Scenario::standby().with(|s| s.view.leader = Scenario::leader().view.leader).lead_until(after(9000));
    let due = |ms: i64| move |s: &mut Scenario| s.facts.failover_due = Some(Ok(UNIX_MS + ms));
    let lagging = || {
        Scenario::leader().with_standby("c", 1000).failover(Some("a"), None).with(|s| {
            for answer in s.facts.peers.values_mut().filter_map(|peer| peer.answer.as_mut().ok()) {
                answer.timeline = Some(surus_core::Timeline(7));
            }
        })
    };
    let unready = |s: &mut Scenario, name: &str| {
        let peer = s.facts.peers.get_mut(&name.into()).expect("asked");
        peer.answer.as_mut().expect("answers").unready_slots = vec!["changes".into()];
    };
    let (b_unready, c_unready) = (move |s: &mut Scenario| unready(s, "b"), move |s: &mut Scenario| unready(s, "c"));
    let wanted = || Scenario::leader().with_standby("b", 990).with_standby("c", 1000).failover(Some("a"), None);
    vec![
        (700, promotable().with(|s| s.memory.promotion_failed = Some("pre_promote".into())), &["release"]),
        (704, promotable().paused().with(|s| s.facts.inherited = Some(after(1000))), &[]),
        (705, promotable().paused(), &["release"]),
        (708, Scenario::leader().silent(), &[]),
        (710, Scenario::leader().unwatched(), &["demote and release"]),
        (710, promotable().unwatched(), &["release"]),
        (710, promotable().unwatched().with(|s| s.facts.inherited = Some(after(1000))), &["demote and release"]),
        (712, promotable().lead_until(after(100)), &[]),
        (715, promotable(), &["promote"]),
        (715, promotable().paused().with(|s| s.memory.called = true), &["promote"]),
        (715, promotable().paused().failover(None, Some("a")), &["promote"]),
        (718, wanted().with(|s| s.memory.refused = Some(9)), &["clear request"]),
        (720, wanted().asked().with(|s| s.memory.given_up = Some("slow".into())), &["clear request"]),
        (722, Scenario::leader().failover(Some("b"), Some("c")), &["clear request"]),
        (722, Scenario::leader().failover(None, Some("a")), &["clear request"]),
        (722, wanted().paused(), &["clear request"]),
        (722, wanted().with(due(-60_000)), &["clear request"]),
        (722, wanted().with(|s| s.facts.failover_due = Some(Err("soon".into()))), &["clear request"]),
        (725, wanted().with(due(60_000)), &[]),
        (730, wanted(), &["ask b c"]),
        (730, Scenario::leader().with_unasked("b").with_unasked("c").failover(Some("a"), Some("c")), &["ask c"]),
        (735, Scenario::leader().asked().failover(Some("a"), Some("c")), &["clear request"]),
        (733, lagging().asked(), &["ask c"]),
        (735, lagging().with(|s| s.memory.asked_for = Some((9, before(2_100)))), &["clear request"]),
        (740, wanted().asked(), &["name c", "hand over to c"]),
        (740, wanted().asked().failover(Some("a"), Some("b")), &["hand over to b"]),
        // Whose logical slots are ready is preferred, and nobody is refused for them.
        (740, wanted().asked().with(c_unready), &["name b", "hand over to b"]),
        (740, wanted().asked().with(c_unready).with(b_unready), &["name c", "hand over to c"]),
        (740, wanted().asked().with(c_unready).failover(Some("a"), Some("c")), &["hand over to c"]),
        (790, Scenario::leader(), &[]),
        (790, Scenario::leader().with(|s| s.view.config = None), &["write config"]),
        (790, Scenario::leader().with(|s| s.view.initialize = Initialize::InProgress), &["write system id"]),
        (
            790,
            Scenario::leader().with(|s| {
                s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(primary_at(1000, 2)));
            }),
            &["write history"],
        ),
    ]
}

fn replica() -> Vec<Row> {
    let demotable = || {
        Scenario::leader().with(|s| {
            s.facts.lead = None;
            s.view.leader = Scenario::standby().view.leader;
            s.view.members.insert("b".into(), member("b", MemberRole::Primary));
        })
    };
    let stuck = || {
        Scenario::standby().with(|s| {
            s.facts.postgres.answer =
                surus_core::facts::Answer::Known(std::sync::Arc::new(standby_at(1000, 1, "a", Some("b"), false)));
            s.memory.last_leader = Some("b".into());
            s.memory.not_streaming_since = Some(before(900));
        })
    };
    let chained = |from: &str, streams: bool| {
        let observed = standby_at(1000, 1, "a", Some(from), streams);
        Scenario::standby().member(member("c", MemberRole::Replica)).tag("replicatefrom", "c").with(|s| {
            s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
            s.memory.last_leader = Some("b".into());
        })
    };
    let away = |s: &mut Scenario| s.memory.away = Some("c".into());
    vec![
        (890, chained("c", true), &[]),
        (890, chained("c", false), &["ask c"]),
        (810, chained("c", false).with(away), &["follow b"]),
        (890, chained("b", true).with(away), &["ask c"]),
        (800, demotable(), &["demote, deposed"]),
        (805, demotable().paused(), &[]),
        (808, Scenario::standby().silent(), &[]),
        (810, Scenario::standby().member(member("c", MemberRole::Replica)).tag("replicatefrom", "c"), &["follow c"]),
        (820, stuck().forked(false).with(|s| s.facts.settings.use_pg_rewind = true), &["rewind from b"]),
        (
            820,
            stuck().forked(false).with(|s| {
                s.facts.settings.use_pg_rewind = true;
                s.view.members.get_mut(&"b".into()).expect("b").checkpoint_after_promote = Some(false);
            }),
            &[],
        ),
        (825, stuck().forked(false), &[]),
        (810, stuck().same_number("b", 5000), &["follow nobody"]),
        (822, stuck().same_number("b", 5000).with(follows_nobody), &["compare with b"]),
        (825, stuck().same_number("b", 3000).with(follows_nobody), &[]),
        (825, stuck().forked(true).with(|s| s.facts.settings.use_pg_rewind = true), &[]),
        (830, stuck(), &["compare with b"]),
        (840, Scenario::standby().with(|s| s.facts.missing_slots = vec![slot()]), &["copy 1 slot from b"]),
        (890, Scenario::standby(), &[]),
        (890, Scenario::standby().paused(), &[]),
    ]
}

fn follows_nobody(s: &mut Scenario) {
    let observed = standby_at(1000, 1, "a", None, false);
    s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
    s.memory.followed = Some((None, before(1000)));
}

fn standby_cluster() -> Vec<Row> {
    let leads = |streams: bool| {
        let remote = surus_core::cluster::Upstream::remote("far", 5432);
        let observed = surus_core::postgres::Observed {
            primary_slot_name: None,
            ..standby_at(1000, 1, "a", Some("far"), streams)
        };
        Scenario::leader().remote().with(|s| {
            s.facts.postgres.data_dir = data(ControlState::InArchiveRecovery, true);
            s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
            s.memory.followed = Some((Some(remote), before(90_000)));
        })
    };
    let stuck = || {
        leads(false).with(|s| {
            s.memory.last_leader = Some("a".into());
            s.memory.not_streaming_since = Some(before(900));
        })
    };
    let forked = |s: &mut Scenario| {
        *s = s.clone().forked(false);
        s.memory.last_leader = Some("a".into());
        s.memory.divergence =
            surus_core::memory::Divergence::Found { against: "far:5432".into(), what: "300 bytes".into() };
    };
    let same_number = |s: &mut Scenario| {
        *s = s.clone().same_number("far:5432", 3000);
        s.memory.last_leader = Some("a".into());
    };
    let long_ago = |s: &mut Scenario| s.memory.divergence_checked = Some(before(5000));
    let nobody_leads = |s: &mut Scenario| {
        s.facts.lead = None;
        s.view.leader = None;
    };
    let rewinds = |s: &mut Scenario| s.facts.settings.use_pg_rewind = true;
    let gives_up = |s: &mut Scenario| s.facts.settings.remove_data_directory_on_diverged_timelines = true;
    let archive_only = |s: &mut Scenario| s.facts.settings.remote = None;
    let unclaimed = |s: &mut Scenario| {
        s.view.initialize = Initialize::Absent;
        s.memory.last_leader = None;
    };
    let empty = || Scenario::standby().remote().with(|s| s.facts.postgres = stopped(DataDir::Empty));
    let asked = || leads(true).with_standby("b", 990).with_standby("c", 1000).failover(Some("a"), None).asked();
    vec![
        (437, Scenario::nothing().remote(), &["bootstrap"]),
        (439, Scenario::nothing().remote().unfenced(), &[]),
        (445, Scenario::nothing().remote().tag("nofailover", true), &[]),
        (435, empty(), &["clone b"]),
        (418, Scenario::leaderless().remote().with(unclaimed), &["write system id"]),
        // What would start as a primary follows the remote node, once the histories were compared.
        (530, Scenario::crashed_leader().remote(), &["compare with far:5432"]),
        (532, Scenario::crashed_leader().remote().with(forked).with(rewinds), &["rewind from far:5432"]),
        (545, Scenario::crashed_leader().remote().with(forked).with(gives_up), &["start standby of far:5432"]),
        (535, Scenario::crashed_leader().remote().with(same_number), &[]),
        (535, Scenario::crashed_leader().remote().with(same_number).with(nobody_leads), &[]),
        (
            545,
            Scenario::crashed_leader().down(ControlState::ShutDownInRecovery, true).remote(),
            &["start standby of far:5432"],
        ),
        (
            545,
            Scenario::crashed_leader().down(ControlState::ShutDownInRecovery, true).remote().with(archive_only),
            &["start standby of nobody"],
        ),
        (
            545,
            Scenario::leaderless().down(ControlState::ShutDownInRecovery, true).remote(),
            &["start standby of far:5432"],
        ),
        (530, Scenario::standby().down(ControlState::ShutDown, false).remote(), &["compare with far:5432"]),
        (553, leads(true).with(|s| s.memory.followed = None).starting(before(9000)), &["follow far:5432"]),
        (610, Scenario::leaderless().remote().with_standby("b", 1000), &["take"]),
        (640, Scenario::leaderless().remote().with_standby("b", 1001), &[]),
        // It takes the lead as it is, and steps down under it.
        (610, Scenario::leader().remote().with(|s| (s.facts.lead, s.view.leader) = (None, None)), &["take"]),
        (
            800,
            Scenario::leader()
                .remote()
                .with(|s| (s.facts.lead, s.view.leader) = (None, Scenario::standby().view.leader)),
            &["demote, deposed"],
        ),
        (738, asked(), &["name c", "release"]),
        (738, asked().failover(None, Some("b")), &["release"]),
        (738, asked().starting(before(9000)), &["name c", "release"]),
        (735, asked().failover(None, Some("d")), &["clear request"]),
        (788, leads(true), &[]),
        (788, leads(true).paused(), &[]),
        (788, leads(true).lead_until(after(100)), &[]),
        (708, leads(true).silent(), &[]),
        (890, Scenario::standby().remote(), &[]),
        (900, Scenario::leader().remote(), &["demote the cluster"]),
        (902, Scenario::leader().remote().paused(), &[]),
        (910, stuck().with(|s| s.facts.settings.remote_slot = Some("site".into())), &["follow far:5432"]),
        (910, stuck().with(archive_only), &["follow nobody"]),
        (920, stuck().with(forked).with(rewinds), &["rewind from far:5432"]),
        (925, stuck().with(forked), &[]),
        (910, stuck().with(same_number), &["follow nobody"]),
        (925, stuck().with(same_number).with(follows_nobody), &[]),
        (922, stuck().with(same_number).with(follows_nobody).with(long_ago), &["compare with far:5432"]),
        (925, stuck().with(forked).with(gives_up), &[]),
        (930, stuck(), &["compare with far:5432"]),
        (788, stuck().paused(), &[]),
    ]
}

fn without_the_store() -> Vec<Row> {
    use surus_core::failsafe::Of::Majority;

    use crate::failsafe::{crashed, holding, leaderless};
    vec![
        (519, crashed(Majority), &["consent of b c"]),
        (625, leaderless(Majority), &["consent of b c"]),
        (713, holding(Majority), &["consent of b c"]),
    ]
}

pub fn all() -> Vec<Row> {
    [
        shutdown_and_operator(),
        tasks_and_store(),
        hung_server(),
        startup(),
        stopped_server(),
        nearly_full(),
        race(),
        primary(),
        standby_cluster(),
        replica(),
        without_the_store(),
    ]
    .concat()
}

#[test]
fn every_example_meets_its_rule_and_orders() {
    let mut wrong = vec![];
    for (i, (rule, scenario, orders)) in all().iter().enumerate() {
        let step = scenario.step();
        if step.report.rule != *rule || briefs(&step) != *orders {
            let got = (step.report.rule, briefs(&step), &step.report.goal);
            wrong.push(format!("example {i} of rule {rule} {orders:?}: got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_an_example() {
    let shown: BTreeSet<u16> = all().iter().map(|(rule, ..)| *rule).collect();
    let without: Vec<_> =
        surus_core::rules::table().filter(|r| !shown.contains(&r.id)).map(|r| (r.id, r.name)).collect();
    assert!(without.is_empty(), "rules that no example reaches: {without:?}");
}

#[test]
fn numbers_are_unique_and_every_rule_says_why() {
    let mut names: BTreeMap<u16, &str> = BTreeMap::new();
    for rule in surus_core::rules::table() {
        assert!(names.insert(rule.id, rule.name).is_none(), "two rules have the number {}", rule.id);
        assert!(rule.id > 0 && !rule.name.is_empty() && rule.why.ends_with('.'), "rule {}", rule.id);
    }
}

#[test]
fn an_answer_to_an_operator_does_not_hold_the_cluster_up() {
    for (rule, scenario, _) in all() {
        let step = scenario.step();
        if step.reply.is_some() && !step.orders.iter().any(|o| matches!(o, surus_core::order::Order::Begin { .. })) {
            assert!(step.again_in <= Duration::from_millis(10), "rule {rule} waits {:?}", step.again_in);
        }
    }
}
