//! Small configurations as a whole: three members, each failure of each part, each thing an operator can ask for, one
//! before the other in every order and at every distance that leads through another phase.

use surus_core::settings::Timing;
use surus_sim::plan::{Action, Plan, Refuses, Who};
use surus_sim::run::run;
use surus_sim::world::clock::{MS, SECOND, True};
use surus_sim::{shrink, story};

const AT: True = 20 * SECOND;

/// From long before the failure, over the phases of a checkpoint, a stop and a handover, to after the lease has ended.
const DISTANCES: [i64; 13] = [-4000, -1500, -700, -300, -100, -20, 0, 20, 100, 300, 1000, 4000, 9000];

fn failures() -> Vec<Action> {
    let lasts = 12 * SECOND;
    let mut all =
        vec![Action::StoreOutage { lasts, again: true }, Action::StoreOutage { lasts: 3 * SECOND, again: false }];
    for who in [Who::Leader, Who::Other(0)] {
        all.extend([
            Action::KillAgent { who, down: lasts },
            Action::FreezeAgent { who, lasts },
            Action::EndAgent { who },
            Action::PowerOff { who, down: lasts },
            Action::Suspend { who, lasts },
            Action::KillPostmaster { who, outlive: SECOND },
            Action::FreezePostmaster { who, lasts },
            Action::KillFence { who },
            Action::CutStore { who, one_way: false, lasts },
            Action::Isolate { who, lasts },
            Action::HangDisk { who, lasts },
            Action::PromotionFails { who, lasts },
        ]);
    }
    all
}

/// With failsafe mode by default, as nobody could live with these otherwise.
fn half_alive() -> Vec<Action> {
    let lasts = 12 * SECOND;
    vec![
        Action::ReadOnlyStore { who: None, refuses: Refuses::Puts, lasts },
        Action::ReadOnlyStore { who: Some(Who::Leader), refuses: Refuses::Writes, lasts },
        Action::StoreErrors { who: None, percent: 60, lasts },
        Action::FlapStore { who: None, away: 700 * MS, back: 700 * MS, lasts },
    ]
}

fn operations() -> Vec<Action> {
    vec![
        Action::Switchover { to: None },
        Action::Switchover { to: Some(Who::Other(0)) },
        Action::Failover { to: Who::Other(0) },
        Action::Failover { to: Who::Other(1) },
        Action::Pause { lasts: 5 * SECOND },
        Action::Set { setting: "ttl", value: 12 },
        Action::Restart { who: Who::Leader },
        Action::Reinit { who: Who::Other(0), force: true },
    ]
}

fn plan(seed: usize, failure: Action, operation: Action, distance: i64) -> Plan {
    let at = AT.saturating_add_signed(distance * MS as i64);
    let mut actions = vec![(AT, failure), (at, operation)];
    actions.sort_by_key(|(at, _)| *at);
    let mut plan = Plan::calm(seed as u64, 3, Timing::NEW_CLUSTER);
    (plan.actions, plan.heal_at) = (actions, AT + 22 * SECOND);
    if half_alive().contains(&failure) {
        plan.unset("failsafe_mode");
    }
    plan
}

#[test]
fn one_failure_and_one_operation_in_every_order() {
    let mut plans = vec![];
    for failure in failures().into_iter().chain(half_alive()) {
        for operation in operations() {
            for distance in DISTANCES {
                plans.push(plan(plans.len(), failure, operation, distance));
            }
        }
    }
    assert_eq!(plans.len(), (26 + 4) * 8 * 13);
    end_well(&plans);
}

/// A cluster that follows another site, or comes to.
#[test]
fn one_failure_and_two_sites_that_change_places_in_every_order() {
    let changes = [
        (true, Action::PromoteCluster),
        (true, Action::RemoteFailsOver { lost: 20_000 }),
        (false, Action::DemoteCluster { hasty: false }),
        (false, Action::DemoteCluster { hasty: true }),
    ];
    let mut plans = vec![];
    for failure in failures() {
        for (follows, change) in changes {
            for distance in [-4000, -700, -100, 0, 100, 1000, 9000] {
                let mut plan = plan(plans.len(), failure, change, distance);
                plan.remote = true;
                if follows {
                    plan.set("standby_cluster", serde_json::json!({"host": "far", "port": 5432}));
                }
                plans.push(plan);
            }
        }
    }
    assert_eq!(plans.len(), 26 * 4 * 7);
    end_well(&plans);
}

fn end_well(plans: &[Plan]) {
    let halves = plans.chunks(plans.len().div_ceil(2));
    let failed: Vec<_> = std::thread::scope(|scope| {
        let looks: Vec<_> = halves
            .map(|plans| {
                scope.spawn(move || {
                    plans.iter().filter_map(|p| run(p, None, false).violation.map(|v| (p, v))).collect::<Vec<_>>()
                })
            })
            .collect();
        looks.into_iter().flat_map(|l| l.join().expect("no panic")).collect()
    });
    if let Some((plan, violation)) = failed.first() {
        let (plan, violation) = shrink::shrink(plan, violation, None);
        panic!("{} of {} fail; the first:\n{}", failed.len(), plans.len(), story::tell(&plan, &violation, None));
    }
}
