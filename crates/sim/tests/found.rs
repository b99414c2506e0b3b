//! What the simulator found, kept by name: with the mend each story ends well, without it (planted again) it does not.

use surus_core::settings::Timing;
use surus_sim::bug::Bug;
use surus_sim::plan::{Action, Plan, Who};
use surus_sim::run::run;
use surus_sim::world::clock::{MS, SECOND};
use surus_sim::{shrink, story};

const SEEDS: u64 = 150;

fn plan(seed: u64, members: usize, actions: &[(u64, Action)], heal_at: u64) -> Plan {
    let mut plan = Plan::calm(seed, members, Timing::NEW_CLUSTER);
    plan.actions = actions.to_vec();
    plan.heal_at = heal_at;
    plan
}

fn ends_well(tell: impl Fn(u64) -> Plan) {
    for seed in 1..=SEEDS {
        let plan = tell(seed);
        if let Some(violation) = run(&plan, None, false).violation {
            let (plan, violation) = shrink::shrink(&plan, &violation, None);
            panic!("{}", story::tell(&plan, &violation, None));
        }
    }
}

fn ends_badly(bug: Bug, tell: impl Fn(u64) -> Plan) {
    let failed = (1..=SEEDS).filter(|seed| run(&tell(*seed), Some(bug), false).violation.is_some()).count();
    assert!(failed > 0, "{bug:?} does no harm here: the story is not about it any more");
}

/// A former leader was frozen while another one led and wrote. It thaws just when that one's lease ends: its last
/// reading still shows its own name in the leader key, and the key is free. It took it, and started its old data as the
/// primary.
#[test]
fn a_former_leader_with_an_old_view_does_not_lead_again() {
    let tell = |seed| {
        let first = Action::FreezeAgent { who: Who::Leader, lasts: 19_250 * MS + seed * 10 * MS };
        let second = Action::Suspend { who: Who::Leader, lasts: 17 * SECOND };
        plan(seed, 2, &[(14 * SECOND, first), (24 * SECOND, second)], 45 * SECOND)
    };
    ends_badly(Bug::LeadRetakenBlindly, tell);
    ends_well(tell);
}

/// The source of a rewind went away in the middle of it. What was left did not start, and nobody compared it again.
#[test]
fn a_rewind_that_broke_off_is_done_again() {
    let tell = |seed| {
        let isolate = Action::Isolate { who: Who::Leader, lasts: 14 * SECOND };
        let again = Action::Isolate { who: Who::Leader, lasts: 12 * SECOND };
        plan(seed, 3, &[(14 * SECOND, isolate), (28_300 * MS + seed * 10 * MS, again)], 42 * SECOND)
    };
    ends_badly(Bug::HalfRewoundStarts, tell);
    ends_well(tell);
}

/// Seeds 5130727 and 5191918. The next leader parted from the one that broke off later, so that a comparison found nothing
/// to rewind, and the server started for ever on what the other one had left; or it did start, on blocks of both.
#[test]
fn what_a_rewind_left_is_mended_only_by_one_that_can() {
    let part = |side, lasts| Action::Partition { side, with_store: true, lasts };
    let actions = [
        (14_110 * MS, part(0b110_1111, 1440 * MS)),
        (15_800 * MS, Action::SlowStore { by: 743 * MS, lasts: 5500 * MS }),
        (16_422 * MS, part(0b001_1100, 19_120 * MS)),
        (19_881 * MS, Action::KillAgent { who: Who::Other(6), down: 500 * MS }),
        (20_641 * MS, Action::PowerOff { who: Who::Other(3), down: 21 * SECOND }),
        (20_962 * MS, Action::StoreOutage { lasts: 3390 * MS, again: false }),
        (36 * SECOND, Action::StallWatch { who: Who::Other(1), lasts: 3 * SECOND }),
        (37_800 * MS, Action::Partition { side: 0b000_1101, with_store: false, lasts: 11 * SECOND }),
    ];
    let tell = |seed: u64| {
        let mut plan = plan(5_130_577 + seed, 7, &actions, 48_800 * MS);
        if seed.is_multiple_of(2) {
            plan.set(
                "postgresql",
                serde_json::json!({
                    "use_pg_rewind": true, "use_slots": true, "remove_data_directory_on_rewind_failure": true,
                }),
            );
        }
        plan
    };
    ends_badly(Bug::HalfRewoundStarts, tell);
    ends_well(tell);
}

/// The agent was told to end, and its postmaster was killed just then. It took the server for stopped and gave the lead
/// away while backends could still acknowledge a commit; and began to end again and again.
#[test]
fn backends_that_outlive_their_postmaster_end_before_the_lead_is_given_up() {
    ends_well(|seed| {
        let end = Action::EndAgent { who: Who::Leader };
        let kill = Action::KillPostmaster { who: Who::Leader, outlive: 20 * SECOND };
        plan(seed, 2, &[(14 * SECOND, end), (14 * SECOND + seed * 5 * MS, kill)], 40 * SECOND)
    });
}

/// Seed 3001894. A former leader was told to rewind, and while it stopped its source was deposed. It was rewound all the
/// same, and what only it had was told of against a server that did not count any more.
#[test]
fn what_a_rewind_cuts_off_is_told_against_whoever_leads_then() {
    let (leader, n2) = (Who::Leader, Who::Node(1));
    let actions = [
        (13_752_854, Action::Switchover { to: None }),
        (14_151_854, Action::CutPair { a: leader, b: n2, one_way: false, lasts: 7760 * MS }),
        (15_891_854, Action::SlowNode { who: n2, percent: 4000, lasts: 50_880 * MS }),
        (18_291_854, Action::KillAgent { who: leader, down: 9040 * MS }),
        (18_327_354, Action::FreezeAgent { who: leader, lasts: 17_760 * MS }),
        (27_367_354, Action::KillPostmaster { who: leader, outlive: 0 }),
        (32_407_354, Action::FreezePostmaster { who: leader, lasts: 18_480 * MS }),
        (42_407_354, Action::KillAgent { who: leader, down: 10 * SECOND }),
        (51_527_354, Action::StallWatch { who: leader, lasts: 17_280 * MS }),
        (66_887_354, Action::LoseAnswers { percent: 36, lasts: 7440 * MS }),
    ];
    let tell = |seed| {
        let mut plan = plan(seed, 3, &actions, 75_957_354);
        plan.commit_bytes = 60_000;
        plan.set("primary_start_timeout", 20.into());
        plan.set("check_timeline", false.into());
        plan
    };
    let found = run(&tell(3_001_894), None, false);
    assert!(found.violation.is_none(), "{:?}", found.violation);
    ends_well(tell);
}

/// An operator sets a `loop_wait` that the rule for the three times permits. The next renewal was due after the primary had
/// to begin to stop, for the sake of the margin and the time that stopping takes: it stopped, and started, for ever.
#[test]
fn no_timing_that_is_permitted_stops_a_primary_that_is_well() {
    ends_well(|seed| {
        let set = Action::Set { setting: "loop_wait", value: 5 };
        let mut plan = plan(seed, 2, &[(14 * SECOND, set)], 16 * SECOND);
        plan.timing.ttl = std::time::Duration::from_secs(7);
        for (setting, value) in [("ttl", 7), ("loop_wait", 1), ("retry_timeout", 1)] {
            plan.set(setting, value.into());
        }
        plan
    });
}

/// A primary that was cut off had seen a pause, and its agent was replaced by one that could not reach the store. The
/// others went on after the pause and promoted: two writers. A primary is left alone only once the store knows of it, and
/// nobody takes over from one that it knows of.
#[test]
fn nobody_takes_over_from_a_primary_that_is_left_alone() {
    let isolate = Action::Isolate { who: Who::Leader, lasts: 30 * SECOND };
    let pause = Action::Pause { lasts: 4 * SECOND };
    // Cut off in the moment in which it learns of the pause.
    let told = |seed| {
        let cut = 14 * SECOND + seed * MS / 2;
        plan(seed, 3, &[(14 * SECOND, pause), (cut, isolate)], 50 * SECOND)
    };
    ends_badly(Bug::LeftAloneUnnoted, told);
    ends_well(told);
    ends_well(|seed| {
        let cut = 14 * SECOND + seed * 10 * MS;
        let replace = Action::UpgradeAgent { who: Who::Leader };
        let all = [(14 * SECOND, pause), (cut, isolate), (cut + 2 * SECOND, replace)];
        plan(seed, 3, &all, 50 * SECOND)
    });
}

/// Seeds 7967 and 24140. An operator restarted the primary of a paused cluster, which armed the fence. Its machine slept, or
/// its agent was frozen, before that restart was over: the fence acted before it could be disarmed.
#[test]
fn a_restart_while_paused_is_left_alone() {
    let pause = Action::Pause { lasts: 30 * SECOND };
    let restart = Action::Restart { who: Who::Leader };
    let slept = Action::Suspend { who: Who::Leader, lasts: 12 * SECOND };
    let frozen = Action::FreezeAgent { who: Who::Leader, lasts: 12 * SECOND };
    for what in [slept, frozen] {
        let tell = |seed| {
            let actions = [(14 * SECOND, pause), (18 * SECOND, restart), (18 * SECOND + seed * 10 * MS, what)];
            plan(seed, 3, &actions, 60 * SECOND)
        };
        ends_badly(Bug::RestartArmsTheFence, tell);
        ends_well(tell);
    }
}

/// A primary was promoted and wrote while nobody could receive its timeline, and was lost. Its successor gave its own
/// timeline the same number: when the first one came back it was taken for a healthy standby, and what only it had went
/// without a receipt, or later with one that began too late.
#[test]
fn two_forks_do_not_get_one_number() {
    let tell = |seed| {
        // The second leader is alone with what it writes: the third member comes back when it is gone.
        let third = Action::PowerOff { who: Who::Other(0), down: 24 * SECOND };
        let first = Action::PowerOff { who: Who::Leader, down: 36 * SECOND };
        let second = Action::PowerOff { who: Who::Leader, down: 20 * SECOND };
        let promoted = 26 * SECOND + seed * 20 * MS;
        plan(seed, 3, &[(14 * SECOND, third), (14_500 * MS, first), (promoted, second)], 54 * SECOND)
    };
    ends_badly(Bug::TimelineNotAnnounced, tell);
    ends_badly(Bug::AnnouncedTimelineTaken, tell);
    ends_well(tell);
}

/// Seeds 5052897 and 5312202. A promotion was ordered and its disk hung; the agent died, and the fence after it. The next
/// agent and its fence knew nothing of the deadline, and the promotion came to its end after another one.
#[test]
fn a_promotion_that_was_ordered_ends_in_time_whoever_died() {
    let tell = |seed: u64| {
        let (n3, hangs) = (Who::Node(2), 14_020 * MS + seed * 5 * MS);
        let actions = [
            (14 * SECOND, Action::Failover { to: n3 }),
            (hangs, Action::HangDisk { who: n3, lasts: 13 * SECOND }),
            (hangs + 20 * MS, Action::KillAgent { who: n3, down: 500 * MS }),
            (hangs + 30 * MS, Action::Isolate { who: n3, lasts: 12 * SECOND }),
            (hangs + 300 * MS, Action::KillFence { who: n3 }),
        ];
        plan(seed, 3, &actions, 40 * SECOND)
    };
    ends_badly(Bug::NewFenceNotTold, tell);
    ends_well(tell);
}

/// Seeds 5376547 and 5404021. The leader key was bound to a lease with a shorter ttl, and its agent was frozen before it heard
/// that: the fence waited for the end of the old lease, and the next leader did not.
#[test]
fn a_lead_does_not_end_before_its_fence_knows() {
    ends_well(|seed| {
        let actions = [
            (14 * SECOND, Action::SlowStore { by: 300 * MS, lasts: 5 * SECOND }),
            (14 * SECOND, Action::Set { setting: "ttl", value: 8 }),
            (14 * SECOND + seed * 10 * MS, Action::FreezeAgent { who: Who::Leader, lasts: 25 * SECOND }),
        ];
        let mut plan = plan(seed, 2, &actions, 45 * SECOND);
        plan.timing.ttl = std::time::Duration::from_secs(20);
        plan.set("ttl", 20.into());
        plan
    });
    ends_well(|seed| {
        let actions = [
            (14 * SECOND, Action::Set { setting: "ttl", value: 20 }),
            (14 * SECOND, Action::SlowStore { by: 500 * MS, lasts: 5 * SECOND }),
            (16 * SECOND, Action::UpgradeAgent { who: Who::Leader }),
            (16 * SECOND + seed * 20 * MS, Action::FreezeAgent { who: Who::Leader, lasts: 25 * SECOND }),
        ];
        plan(seed, 2, &actions, 45 * SECOND)
    });
}

/// A former leader came back when the next one was lost, knew from the history in the store that its log had left that
/// one's, and took the lead all the same: what was acknowledged since was gone without a word.
#[test]
fn a_member_that_forked_does_not_take_the_place_of_what_it_lacks() {
    let tell = |seed| {
        let cut = Action::Isolate { who: Who::Leader, lasts: 14 * SECOND };
        let lost = Action::PowerOff { who: Who::Leader, down: 40 * SECOND };
        plan(seed, 2, &[(14 * SECOND, cut), (27_500 * MS + seed * 10 * MS, lost)], 70 * SECOND)
    };
    ends_badly(Bug::ForksNotSeen, tell);
    ends_well(tell);
}

/// Seeds 27088, 39105, 211381 and 216321. The site that a standby cluster follows went away while its leader, or everybody,
/// was rewound against it. What a broken rewind leaves does not start; so nobody could lead, and only under a leader was
/// the rewind done again.
#[test]
fn a_standby_cluster_mends_a_broken_rewind_although_nobody_can_lead() {
    let lost = |bytes| Action::RemoteFailsOver { lost: bytes };
    let leader = |down| Action::KillAgent { who: Who::Leader, down };
    let follows = |mut plan: Plan| {
        plan.remote = true;
        plan.set("standby_cluster", serde_json::json!({"host": "far", "port": 5432}));
        plan
    };
    let demoted = |seed: u64| {
        let actions = [
            (12_500 * MS, Action::SlowNetwork { who: Who::Other(2), by: 657_027, lasts: 3450 * MS }),
            (13 * SECOND, Action::SlowStore { by: 505_536, lasts: 8 * SECOND }),
            (16_697_404, Action::DemoteCluster { hasty: true }),
            (19 * SECOND, lost(20_000)),
            (20_500 * MS + (seed - 1) * 5 * MS, Action::RemoteFails { lasts: SECOND }),
        ];
        let mut plan = plan(27_087 + seed, 5, &actions, 30_500 * MS);
        (plan.remote, plan.commit_bytes) = (true, 60_000);
        plan.set("failsafe_mode", true.into());
        plan
    };
    let ended = |seed: u64| {
        let actions = [
            (12 * SECOND, Action::Switchover { to: Some(Who::Other(0)) }),
            (12 * SECOND, Action::HangDisk { who: Who::Node(1), lasts: 7 * SECOND }),
            (17 * SECOND, lost(20_000)),
            (17_200 * MS, Action::Pause { lasts: 400 * MS }),
            (18_200 * MS + (seed - 1) * 5 * MS, Action::EndAgent { who: Who::Leader }),
        ];
        let mut plan = plan(39_104 + seed, 2, &actions, 28_200 * MS);
        plan.set("maximum_lag_on_failover", 65_536.into());
        follows(plan)
    };
    let twice = |seed: u64| {
        let killed = 15 * SECOND + (seed - 1) * 5 * MS;
        let actions = [(12_666_107, lost(400)), (killed, leader(8 * SECOND)), (16 * SECOND, lost(400))];
        follows(plan(211_380 + seed, 2, &actions, 26 * SECOND))
    };
    let copied = |seed: u64| {
        let actions = [
            (12_030 * MS, lost(20_000)),
            (12_035 * MS, Action::Reinit { who: Who::Other(0), force: true }),
            (13_500 * MS + (seed - 1) * 5 * MS, leader(8 * SECOND)),
        ];
        follows(plan(216_320 + seed, 2, &actions, 23_500 * MS))
    };
    for tell in [&demoted as &dyn Fn(u64) -> Plan, &ended, &twice, &copied] {
        ends_badly(Bug::RemoteUnknownWithoutALeader, tell);
        ends_well(tell);
    }
}

/// As above, and the next leader is lost at any moment, also before it has written the history: what it has published is
/// lacked by no more than the settings allow.
#[test]
fn a_longer_log_that_forked_lags_by_what_it_lacks() {
    let tell = |seed| {
        let cut = Action::Isolate { who: Who::Leader, lasts: 16 * SECOND };
        let lost = Action::PowerOff { who: Who::Leader, down: 40 * SECOND };
        let mut plan = plan(seed, 2, &[(14 * SECOND, cut), (21 * SECOND + seed * 66 * MS, lost)], 75 * SECOND);
        plan.commit_bytes = 60_000;
        plan.set("maximum_lag_on_failover", 65_536.into());
        plan
    };
    ends_badly(Bug::ForksNotSeen, tell);
    ends_well(tell);
}

/// The second leader was lost before anybody received its timeline, and the third left out that number. The history in the
/// store named as the present timeline the number after its last row, which was that of the second leader: when that one
/// came back and the third was lost, it took itself for up to date.
#[test]
fn a_number_that_was_left_out_is_not_the_present_timeline() {
    let tell = |seed| {
        let off = |who, down| Action::PowerOff { who, down: down * SECOND };
        let actions = [
            (14 * SECOND, off(Who::Other(0), 18)),
            (14_500 * MS, off(Who::Leader, 80)),
            (29_700 * MS, off(Who::Leader, 21)),
            (48_500 * MS + seed * 10 * MS, off(Who::Leader, 45)),
        ];
        let mut plan = plan(seed, 3, &actions, 100 * SECOND);
        // The third wrote more than that, and the second not so much less.
        plan.set("maximum_lag_on_failover", 3_145_728.into());
        plan.commit_bytes = 60_000;
        plan
    };
    ends_badly(Bug::LeftOutNotInHistory, tell);
    ends_well(tell);
}
