//! The race, and what who leads does.

use std::time::Duration;

use surus_core::cluster::Initialize;

use super::Row;
use crate::scenario::*;

pub(super) fn race() -> Vec<Row> {
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

pub(super) fn primary() -> Vec<Row> {
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

pub(super) fn without_the_store() -> Vec<Row> {
    use surus_core::failsafe::Of::Majority;

    use crate::failsafe::{crashed, holding, leaderless};
    vec![
        (519, crashed(Majority), &["consent of b c"]),
        (625, leaderless(Majority), &["consent of b c"]),
        (713, holding(Majority), &["consent of b c"]),
    ]
}
