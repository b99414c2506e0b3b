//! The user's callbacks and hooks: in which order, and what they may hold up.

use surus_core::Lsn;
use surus_core::cluster::MemberRole;

use super::fake::{Event, FOREVER, Fake, NOW, context, leader, ms};
use super::{failed, handover, upstream};
use crate::task::*;

/// A server that was seen as the primary, or as a standby, and a user with commands.
fn hooked(primary: bool) -> Fake {
    leader().with(|s| {
        let role = if primary { MemberRole::Primary } else { MemberRole::Replica };
        s.callbacks.happened(Happened::Up { role }, NOW);
        s.hooks = true;
    })
}

#[test]
fn callbacks_in_the_order_of_what_happens() {
    let to_standby = || Task::StartStandby { upstream: Some(upstream()) };
    let standby = || TaskContext { is_primary: false, ..context() };
    type Case<'a> = (Fake, Vec<(Task, TaskContext)>, Vec<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        (hooked(true), vec![(Task::Restart, context())], vec!["before_stop", "on_restart primary"]),
        (hooked(false), vec![(Task::Restart, standby())], vec!["before_stop", "on_restart replica"]),
        (hooked(false), vec![(Task::Promote, standby())], vec!["pre_promote", "on_role_change primary"]),
        (
            hooked(true),
            vec![(handover(), context()), (to_standby(), standby())],
            vec!["before_stop", "on_stop demoted", "on_role_change replica"],
        ),
        (
            hooked(true),
            vec![(Task::Demote(Demote::Deposed), context()), (to_standby(), standby())],
            vec!["on_stop primary", "on_role_change replica"],
        ),
        (hooked(true), vec![(Task::Shutdown { to: None }, context())], vec!["before_stop", "on_stop demoted"]),
        (hooked(false), vec![(Task::Shutdown { to: None }, standby())], vec!["before_stop", "on_stop replica"]),
        (hooked(true).fails("start"), vec![(Task::StartPrimary, context())], vec!["on_role_change demoted"]),
        (leader().with(|s| s.hooks = true), vec![(Task::Bootstrap, context())], vec!["on_start primary"]),
        // The switchover is given up because the candidate lacks the last record.
        (
            hooked(true).with(|s| s.peer = [Ok(Lsn(1))].into()),
            vec![(handover(), context())],
            vec!["before_stop", "on_stop demoted", "on_start primary"],
        ),
    ];
    for (fake, tasks, expected) in cases {
        let names: Vec<String> = tasks.iter().map(|(task, _)| task.name()).collect();
        for (task, cx) in tasks {
            let _ = fake.run(task, cx);
        }
        let told: Vec<String> =
            fake.done().into_iter().filter(|d| ["on_", "pre_", "before_"].iter().any(|p| d.starts_with(p))).collect();
        assert_eq!(told, expected, "{names:?}");
    }
    // Before the lead is free: whoever takes it may want the address that on_stop gives back.
    let fake = hooked(true);
    fake.run(handover(), context()).unwrap();
    let at = |what: &str| fake.done().iter().position(|d| d == what).unwrap();
    assert!(at("on_stop demoted") < at("release"), "{:?}", fake.done());
}

#[test]
fn a_promotion_that_the_user_refuses_touches_nothing() {
    let standby = || TaskContext { is_primary: false, ..context() };
    let long = || leader().with(|s| (s.hooks, s.running) = (true, true)).at(ms(0), Event::Lead(Some(FOREVER)));
    for (fake, said) in [
        (long().fails("pre_promote"), "pre_promote broke"),
        // It hangs: the lead is not kept from others for ever.
        (long().takes("pre_promote", FOREVER), "did not end within 30 s (primary_start_timeout)"),
        (long().takes("pre_promote", FOREVER).at(ms(2000), Event::Cancel), "lost while pre_promote ran"),
        (long().takes("pre_promote", FOREVER).at(ms(2000), Event::Lead(None)), "lost while pre_promote ran"),
    ] {
        let outcome = fake.run(Task::Promote, standby());
        let why = failed(&outcome);
        assert!(why.contains(said), "{why}");
        assert_eq!(fake.done(), ["pre_promote"], "neither promoted nor stopped");
        assert!(fake.state().running);
    }
}

#[test]
fn before_stop_delays_only_what_can_wait() {
    let hangs = || hooked(true).takes("before_stop", FOREVER);
    // As long as a stop may take.
    let fake = hangs().at(ms(0), Event::Lead(Some(FOREVER)));
    assert_eq!(fake.run(handover(), context()), Ok(TaskDone::Released));
    assert!(fake.passed() >= ms(10_000) && fake.passed() < ms(11_000), "{:?}", fake.passed());
    // Never longer than the lease.
    let fake = hangs().at(ms(0), Event::Lead(Some(ms(5000))));
    let _ = fake.run(Task::Restart, context());
    assert!(fake.passed() < ms(5000) && !fake.state().running, "{:?}", fake.passed());
    // Nothing waits for it when the lead is lost.
    for task in [Demote::Deposed, Demote::Release, Demote::LeaseEnding { stop_by: NOW + ms(2000) }] {
        let fake = hangs();
        let _ = fake.run(Task::Demote(task), context());
        assert!(!fake.done().contains(&"before_stop".to_owned()) && !fake.state().running);
    }
    // An agent that is told twice to end.
    let fake = hangs().at(ms(0), Event::Lead(Some(FOREVER))).at(ms(3000), Event::Cancel);
    let _ = fake.run(Task::Shutdown { to: None }, context());
    assert!(fake.passed() < ms(6000) && !fake.state().running, "{:?}", fake.passed());
}
