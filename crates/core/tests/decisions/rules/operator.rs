//! Who ends, operators, tasks, the store, and what stands still.

use surus_core::order::{Demote, Request, Task};
use surus_core::postgres::ControlState;
use surus_core::settings::SynchronousMode;
use surus_core::stall::Stall;

use super::{Row, handover};
use crate::scenario::*;

fn reinit(force: bool) -> Request {
    Request::Reinitialize { force, from_leader: false }
}

fn cut_off() -> Scenario {
    Scenario::leader().store_away_since(before(4000))
}

pub(super) fn shutdown_and_operator() -> Vec<Row> {
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

pub(super) fn tasks_and_store() -> Vec<Row> {
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

pub(super) fn hung_server() -> Vec<Row> {
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
