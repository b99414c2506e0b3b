mod fake;
mod hooks;
mod methods;
mod standby_cluster;
mod stopping;
mod timeline;

use fake::{Event, FOREVER, context, leader, ms, system_id};
use surus_core::Lsn;
use surus_core::cluster::{Initialize, Leader, RawKey, Upstream};
use surus_core::loss::Recorded;
use surus_core::settings::SynchronousMode;
use surus_core::store::{StoreError, TxnOutcome};

use super::*;

fn upstream() -> Upstream {
    Upstream { name: "b".into(), host: "10.0.0.2".into(), port: 5432, remote: false }
}

fn handover() -> Task {
    Task::Demote(Demote::Handover { to: "b".into(), upstream: Some(upstream()) })
}

const HARD: [&str; 2] = ["stop Immediate", "orphans"];

fn given_up(outcome: &Outcome) -> &str {
    match outcome {
        Ok(TaskDone::GivenUp(why)) => why,
        other => panic!("not given up: {other:?}"),
    }
}

fn failed(outcome: &Outcome) -> &str {
    outcome.as_ref().expect_err("should fail")
}

#[test]
fn a_handover_gives_the_lead_up_last_and_with_the_position() {
    let fake = leader();
    assert_eq!(fake.run(handover(), context()), Ok(TaskDone::Released));
    assert_eq!(fake.done(), ["checkpoint", "stop Fast", "position", "probe", "release"]);
    assert!(!fake.state().running);
    let status = fake.state().status.clone().unwrap();
    assert!(status.contains("800"), "the position to publish, not the checkpoint's: {status}");
}

#[test]
fn each_phase_of_a_change_of_leader_is_measured() {
    let fake = leader().takes("checkpoint", ms(700)).takes("stop", ms(90));
    assert_eq!(fake.run(handover(), context()), Ok(TaskDone::Released));
    let phases = fake.state().phases.clone();
    let words: Vec<_> = phases.iter().map(|(phase, planned, _)| (phase.word(), *planned)).collect();
    assert_eq!(words, [("checkpoint", true), ("stop", true), ("catch_up", true), ("release", true)]);
    assert_eq!(phases[0].2, ms(700));

    let fake = leader().takes("promote", ms(300));
    assert_eq!(fake.run(Task::Promote, context()), Ok(TaskDone::Done));
    let phases = fake.state().phases.clone();
    let words: Vec<_> = phases.iter().map(|(phase, planned, _)| (phase.word(), *planned)).collect();
    assert_eq!(words, [("prepare", false), ("promote", false)], "nobody asked for it");
    assert_eq!(phases[1].2, ms(300));
}

#[test]
fn a_handover_waits_for_the_last_record() {
    let fake = leader().with(|s| s.peer = [Err("busy".into()), Ok(Lsn(899)), Ok(Lsn(900))].into());
    assert_eq!(fake.run(handover(), context()), Ok(TaskDone::Released));
    assert_eq!(fake.done()[3..], ["probe", "probe", "probe", "release"]);
}

#[test]
fn nothing_is_stopped_when_a_handover_is_given_up_during_its_checkpoint() {
    let slow = || leader().takes("checkpoint", FOREVER);
    for (what, fake) in [
        ("cancelled", slow().at(ms(500), Event::Cancel)),
        ("cancelled", slow().at(ms(0), Event::Cancel)),
        ("lock was about to end", slow().at(ms(100), Event::Lead(Some(ms(3000))))),
        ("lock was about to end", slow().at(ms(100), Event::Lead(None))),
        ("checkpoint broke", leader().fails("checkpoint")),
    ] {
        let outcome = fake.run(handover(), context());
        assert!(given_up(&outcome).contains(what), "{outcome:?}");
        assert!(fake.state().running && !fake.done().iter().any(|d| d.starts_with("stop")), "{:?}", fake.done());
        assert!(fake.passed() <= ms(3000 - 900), "before the lead ends: {:?}", fake.passed());
    }
}

#[test]
fn a_lead_that_is_renewed_during_the_checkpoint_carries_on() {
    let fake = leader()
        .takes("checkpoint", ms(4000))
        .at(ms(0), Event::Lead(Some(ms(3000))))
        .at(ms(1500), Event::Lead(Some(ms(20_000))));
    assert_eq!(fake.run(handover(), context()), Ok(TaskDone::Released));
}

#[test]
fn a_given_up_handover_starts_the_primary_again() {
    for (what, fake) in [
        ("did not receive", leader().with(|s| s.peer = [Ok(Lsn(899))].into())),
        ("did not receive", leader().with(|s| s.peer = [Err("dead".into())].into())),
        ("did not stop cleanly", leader().with(|s| s.position = None)),
        ("did not stop within", leader().takes("stop", FOREVER)),
    ] {
        let outcome = fake.run(handover(), context());
        assert!(given_up(&outcome).contains(what), "{outcome:?}");
        assert_eq!(fake.done().last().unwrap(), "start primary");
        assert!(!fake.done().contains(&"release".to_owned()) && fake.lead().is_some());
        assert!(fake.passed() <= ms(10_000), "{:?}", fake.passed());
    }
}

#[test]
fn a_primary_does_not_come_back_after_its_lead() {
    // The stop hangs and the lead cannot be renewed: killed before its end, and not started again.
    let fake = leader().takes("stop", FOREVER).at(ms(0), Event::Lead(Some(ms(4000))));
    assert!(failed(&fake.run(handover(), context())).contains("lock ended"));
    assert!(fake.passed() < ms(4000) && !fake.state().running, "{:?}", fake.done());
    assert!(!fake.done().contains(&"start primary".to_owned()), "{:?}", fake.done());
    // The lead ends while it starts.
    let fake = leader().with(|s| s.position = None).takes("start", ms(4000)).at(ms(1000), Event::Lead(None));
    assert!(failed(&fake.run(handover(), context())).contains("lock ended"));
    assert_eq!(fake.done()[3..], ["arm", "start primary", HARD[0], HARD[1]]);
    assert_eq!(fake.passed(), ms(1000));
    // Left alone, its lead means nothing.
    let fake = leader().with(|s| s.left_alone = true).with(|s| s.position = None).takes("start", ms(4000));
    let outcome = fake.at(ms(1000), Event::Lead(None)).run(handover(), context());
    assert!(given_up(&outcome).contains("did not stop cleanly"), "{outcome:?}");
}

#[test]
fn a_primary_whose_lease_ends_stops_in_time_whatever_it_takes() {
    for (left, stop, want, most) in [
        (2000, ms(500), vec!["stop Fast"], 500),
        (2000, FOREVER, vec!["stop Fast", "stop Immediate", "orphans"], 1400),
        (700, ms(0), vec!["stop Immediate", "orphans"], 0),
        (0, ms(0), vec!["stop Immediate", "orphans"], 0),
    ] {
        let fake = leader().takes("stop", stop);
        let stop_by = fake.now() + ms(left);
        assert_eq!(fake.run(Task::Demote(Demote::LeaseEnding { stop_by }), context()), Ok(TaskDone::Done));
        assert_eq!(fake.done(), want, "{left}");
        assert!(!fake.state().running && fake.passed() <= ms(most), "{left}: {:?}", fake.passed());
    }
}

#[test]
fn what_does_not_stop_is_killed() {
    let hanging = || leader().takes("stop at once", FOREVER);
    let fake = hanging();
    assert_eq!(fake.run(Task::Demote(Demote::Deposed), context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["stop Immediate", "kill", "orphans"]);
    assert!(fake.passed() <= demote::KILL_RESERVE);
    let fake = hanging().fails("kill");
    assert_eq!(failed(&fake.run(Task::Demote(Demote::Release), context())), "kill broke");
    assert!(!fake.done().contains(&"release".to_owned()), "it may still acknowledge");
}

#[test]
fn giving_the_lead_up_is_tried_for_a_while() {
    let cut = || Err(StoreError::Unavailable("cut".into()));
    let fake = leader().with(|s| s.released = [cut(), cut()].into());
    assert_eq!(fake.run(Task::Demote(Demote::Release), context()), Ok(TaskDone::Released));
    assert_eq!(fake.done(), ["stop Immediate", "orphans", "release", "release", "release"]);
    let fake = leader().with(|s| s.released = std::iter::repeat_with(cut).take(100).collect());
    assert_eq!(fake.run(Task::Demote(Demote::Release), context()), Ok(TaskDone::Released));
    assert_eq!(fake.passed(), ms(2000), "its lease ends by itself");
}

#[test]
fn a_dead_disk_holds_up_whatever_needs_the_server_gone_and_not_the_lead() {
    let dead = |seconds| {
        leader().takes("stop at once", FOREVER).with(|s| {
            s.disk_dead_until = Some(fake::NOW + Duration::from_secs(seconds));
        })
    };
    let fake = dead(3600);
    assert_eq!(fake.run(Task::Demote(Demote::Release), context()), Ok(TaskDone::Released));
    assert_eq!(fake.done(), [HARD[0], "kill", "release"]);
    assert!(fake.passed() < Duration::from_secs(1));

    for needs_gone in [Task::Demote(Demote::Deposed), Task::Reinitialize { from: upstream() }] {
        let fake = dead(3600);
        assert!(failed(&fake.run(needs_gone.clone(), context())).contains("dead disk"));
        assert!(fake.passed() < Duration::from_secs(15));
        assert!(!fake.done().contains(&"remove".into()), "{:?}", fake.done());
        let fake = dead(3);
        fake.run(needs_gone, context()).unwrap();
    }
}

#[test]
fn a_promotion_needs_the_lead_to_its_end() {
    let fake = leader();
    assert_eq!(fake.run(Task::Promote, context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["arm", "promote", "promoted"]);

    for short in [None, Some(ms(900))] {
        let fake = leader().at(ms(0), Event::Lead(short));
        assert!(failed(&fake.run(Task::Promote, context())).contains("before the promotion began"));
        assert_eq!(fake.done(), [""; 0]);
    }
    // Cancelled because the lead was lost: the promotion may still come to its end, so the server must not live on.
    let fake = leader().takes("promoted", FOREVER).at(ms(200), Event::Cancel);
    assert!(failed(&fake.run(Task::Promote, context())).contains("lost during the promotion; PostgreSQL was stopped"));
    assert_eq!(fake.done(), ["arm", "promote", "promoted", HARD[0], HARD[1]]);
    assert!(!fake.state().running);
    for (broken, order) in [("promote", vec!["promote"]), ("promoted", vec!["promote", "promoted"])] {
        let fake = leader().fails(broken);
        assert!(failed(&fake.run(Task::Promote, context())).contains("PostgreSQL was stopped"));
        assert_eq!(fake.done(), [vec!["arm"], order, HARD.to_vec()].concat());
    }
    // Nothing has begun that would have to be stopped.
    let fake = leader().fails("arm");
    assert_eq!(failed(&fake.run(Task::Promote, context())), "arm broke");
    assert_eq!(fake.done(), ["arm"]);
    // But an earlier run may have ordered it, and the lead is given away.
    let cx = TaskContext { inherited: true, ..context() };
    for (fake, begun) in
        [(leader().fails("arm"), vec!["arm"]), (leader().at(ms(0), Event::Lead(Some(ms(900)))), vec![])]
    {
        assert!(failed(&fake.run(Task::Promote, cx.clone())).contains("PostgreSQL was stopped"));
        assert_eq!(fake.done(), [begun, HARD.to_vec()].concat());
    }
    let fake = leader().fails("promote").fails("orphans");
    assert!(failed(&fake.run(Task::Promote, context())).contains("could not be stopped"));
}

#[test]
fn before_the_first_commit_it_is_agreed_who_is_synchronous() {
    let settings = ClusterSettings { synchronous_mode: SynchronousMode::Quorum, ..ClusterSettings::default() };
    let cx = || TaskContext { settings: settings.clone(), ..context() };
    let view = |text: &str| {
        let sync = RawKey { key: "sync".into(), value: text.into(), version: 4, lease: None };
        Ok(ClusterView::read(9, &[sync]))
    };
    let old = r#"{"leader":"z","quorum":1,"sync_standby":"a,b"}"#;
    let fake = leader().with(|s| s.views = [view(old)].into());
    assert_eq!(fake.run(Task::Promote, cx()), Ok(TaskDone::Done));
    let mine = r#"sync {"leader":"a","quorum":1,"sync_standby":"b,z"}"#;
    assert_eq!(fake.done(), ["read", "names ANY 1 (b,z)", mine, "arm", "promote", "promoted"]);

    // It led before, and nothing has to be written.
    let fake = leader().with(|s| s.views = [view(r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#)].into());
    assert_eq!(fake.run(Task::StartPrimary, cx()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["read", "names ANY 1 (b,c)", "arm", "start primary"]);

    // Not without the store, however long that takes.
    let fake = leader().fails("sync").at(ms(1000), Event::Lead(Some(ms(1500))));
    fake.state().views = (0..100).map(|_| view(old)).collect();
    assert!(failed(&fake.run(Task::Promote, cx())).contains("before it was written down who is synchronous"));
    assert!(!fake.done().contains(&"promote".to_owned()), "{:?}", fake.done());
}

#[test]
fn a_primary_that_is_told_to_leave_while_it_starts_does_not_live_on() {
    let fake = leader().takes("start", ms(3000)).at(ms(100), Event::Cancel);
    failed(&fake.run(Task::StartPrimary, context()));
    assert_eq!(fake.done(), ["arm", "start primary", HARD[0], HARD[1]]);
    let fake = leader().fails("arm");
    failed(&fake.run(Task::StartPrimary, context()));
    assert_eq!(fake.done(), ["arm"], "no primary without a fence");
    let fake = leader().takes("start", ms(3000)).at(ms(100), Event::Cancel);
    failed(&fake.run(Task::StartStandby { upstream: Some(upstream()) }, context()));
    assert_eq!(fake.done(), ["start standby"], "it goes on by itself");
    let fake = leader().takes("start", FOREVER);
    let outcome = fake.run(Task::StartPrimary, context());
    assert!(matches!(outcome, Ok(TaskDone::Undecided(_))), "{outcome:?}");
}

#[test]
fn a_restart_checkpoints_first_and_respects_the_lease() {
    let fake = leader();
    assert_eq!(fake.run(Task::Restart, context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["checkpoint", "stop Fast", "orphans", "arm", "start primary"]);
    let fake = leader().takes("checkpoint", FOREVER).at(ms(50), Event::Cancel);
    failed(&fake.run(Task::Restart, context()));
    assert_eq!(fake.done(), ["checkpoint"]);
    let fake = leader().takes("stop", FOREVER).at(ms(0), Event::Lead(Some(ms(4000))));
    assert!(failed(&fake.run(Task::Restart, context())).contains("not started again as the primary"));
    assert_eq!(fake.done()[fake.done().len() - 2..], HARD);
    assert!(fake.passed() < ms(4000));
    // Paused, without the lead: as the operator asked.
    let fake = leader().at(ms(0), Event::Lead(None));
    assert_eq!(fake.run(Task::Restart, context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["checkpoint", "stop Fast", "orphans", "start primary"]);
    // Left alone: however the lease ends, and unguarded, since nothing would disarm the fence before it ends.
    let alone = || leader().with(|s| s.left_alone = true).takes("stop", ms(2500));
    let stops = ["checkpoint", "stop Fast", "stop Fast", "stop Fast", "orphans"];
    for until in [Some(ms(1000)), Some(ms(60_000)), None] {
        let fake = alone().at(ms(0), Event::Lead(until));
        assert_eq!(fake.run(Task::Restart, context()), Ok(TaskDone::Done));
        assert_eq!(fake.done(), [&stops[..], &["start primary"]].concat(), "{until:?}");
    }
    // The pause ended while it stopped.
    let fake = alone().at(ms(1500), Event::PauseEnds);
    assert_eq!(fake.run(Task::Restart, context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), [&stops[..], &["arm", "start primary"]].concat());
    let fake = leader();
    fake.run(Task::Restart, TaskContext { is_primary: false, ..context() }).unwrap();
    assert_eq!(fake.done(), ["stop Fast", "orphans", "start standby"]);
}

#[test]
fn a_shutdown_hands_over_what_it_can() {
    let to_b = || Task::Shutdown { to: Some("b".into()) };
    let fake = leader();
    assert_eq!(fake.run(to_b(), context()), Ok(TaskDone::Released));
    assert_eq!(fake.done(), ["checkpoint", "stop Fast", "orphans", "position", "probe", "release"]);
    // Backends that outlive a killed postmaster may still finish a commit: they come before the lead.
    let fake = leader().fails("orphans");
    failed(&fake.run(to_b(), context()));
    assert!(!fake.done().contains(&"release".into()), "{:?}", fake.done());
    // Told again to end: no waiting for a stop that hangs.
    let fake = leader().takes("stop", FOREVER).at(ms(2500), Event::Cancel);
    assert_eq!(fake.run(to_b(), context()), Ok(TaskDone::Released));
    assert!(fake.passed() < ms(6000) && !fake.state().running, "{:?}", fake.passed());
    let fake = leader().at(ms(0), Event::Lead(None));
    assert_eq!(fake.run(to_b(), context()), Ok(TaskDone::Released));
    assert_eq!(fake.done(), ["stop Fast", "orphans"], "nothing to give up");
}

#[test]
fn the_local_copy_goes_only_when_another_can_be_had() {
    let reinitialize = || Task::Reinitialize { from: upstream() };
    let fake = leader();
    assert_eq!(fake.run(reinitialize(), context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["reach", HARD[0], HARD[1], "receipt", "remove", "copy"]);
    for (fake, what) in
        [(leader().fails("reach"), "cannot be reached"), (leader().takes("reach", FOREVER), "does not answer")]
    {
        assert!(failed(&fake.run(reinitialize(), context())).contains(what));
        assert_eq!(fake.done(), ["reach"]);
        assert!(fake.passed() <= ms(5000));
    }
}

#[test]
fn nothing_is_cut_off_or_removed_before_it_is_written_down() {
    let rewind = || Task::Rewind { from: upstream() };
    let reinitialize = || Task::Reinitialize { from: upstream() };
    let told = |what: Recorded| leader().with(|s| s.recorded = Some(what));
    for what in [Recorded::Nothing("no commit".into()), Recorded::Receipt("x".into())] {
        let fake = told(what.clone());
        assert_eq!(fake.run(rewind(), context()), Ok(TaskDone::Done));
        assert_eq!(fake.done(), ["stop Fast", "orphans", "receipt", "archive", "recover", "rewind"]);
        fake.with(|s| s.done.clear()).run(reinitialize(), context()).unwrap();
    }
    // Rows are read when all else is safe, and hold nothing up. Where that was cut short, the server is to be recovered.
    for fails in [false, true] {
        let fake = told(Recorded::Receipt("x".into())).with(|s| s.rows_lost = true);
        let fake = if fails { fake.fails("rows") } else { fake };
        assert_eq!(fake.run(rewind(), context()), Ok(TaskDone::Done));
        let done = ["stop Fast", "orphans", "receipt", "archive", "recover", "rows", "recover", "rewind"];
        assert_eq!(fake.done(), done);
        fake.with(|s| s.done.clear()).run(reinitialize(), context()).unwrap();
    }
    // Whoever is to be followed is no primary any more: nothing is touched.
    let later = || Recorded::Undecided("b is not a primary".into());
    let fake = told(later());
    assert_eq!(fake.run(rewind(), context()), Ok(TaskDone::Undecided("b is not a primary".into())));
    assert_eq!(fake.done().last().unwrap(), "receipt");
    let fake = told(later());
    assert!(failed(&fake.run(reinitialize(), context())).contains("the local copy is kept"));
    assert!(!fake.done().contains(&"remove".into()), "{:?}", fake.done());
    for (task, undone) in [(rewind(), "rewind"), (reinitialize(), "remove")] {
        let fake = leader().fails("receipt");
        assert_eq!(failed(&fake.run(task, context())), "receipt broke");
        assert!(!fake.done().contains(&undone.to_owned()), "{:?}", fake.done());
    }
}

#[test]
fn a_rewind_that_fails() {
    let rewind = || Task::Rewind { from: upstream() };
    // An archive that does not work is no reason to stay out.
    let fake = leader().fails("archive");
    assert_eq!(fake.run(rewind(), context()), Ok(TaskDone::Done));
    let fake = leader().fails("recover");
    assert_eq!(failed(&fake.run(rewind(), context())), "recover broke");
    let fake = leader().fails("rewind");
    assert_eq!(failed(&fake.run(rewind(), context())), "rewind broke");
    // Its source went away in the middle of it.
    for fake in [leader().fails("rewind").fails("reach"), leader().fails("rewind").takes("reach", FOREVER)] {
        let outcome = fake.run(rewind(), context());
        assert!(matches!(&outcome, Ok(TaskDone::Undecided(why)) if why.contains("rewind broke")), "{outcome:?}");
    }
}

#[test]
fn following_by_restart_where_reload_does_not_do() {
    let fake = leader();
    fake.run(Task::Follow { upstream: Some(upstream()) }, context()).unwrap();
    assert_eq!(fake.done(), ["follow a", "stop Fast", "orphans", "start standby"]);
}

const CREATED: [&str; 5] = ["claim", "initdb", "start primary", "roles", "found 7"];

fn then(after: &[&str]) -> Vec<String> {
    CREATED.iter().chain(after).map(|s| (*s).to_owned()).collect()
}

fn unknown() -> Result<TxnOutcome, StoreError> {
    Err(StoreError::OutcomeUnknown("slow".into()))
}

/// What a reading after the lost answer may show.
fn reading(initialize: Initialize, version: u64, leader: Option<&str>) -> ClusterView {
    let leader = leader.map(|name| Leader { name: name.into(), version: 8, lease: None });
    ClusterView { initialize, initialize_version: version, leader, ..ClusterView::default() }
}

#[test]
fn a_new_cluster() {
    let fake = leader();
    assert_eq!(fake.run(Task::Bootstrap, context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), then(&["take", "arm"]));
    for broken in ["take", "arm"] {
        let fake = leader().fails(broken);
        assert_eq!(fake.run(Task::Bootstrap, context()), Ok(TaskDone::Done), "the rules confirm it later");
    }
    let fake = leader();
    let cx = TaskContext { post_bootstrap: Some("x.sh".into()), ..context() };
    fake.run(Task::Bootstrap, cx).unwrap();
    assert_eq!(fake.done()[4], "post x.sh");
}

#[test]
fn a_lost_answer_does_not_cost_a_cluster() {
    let mine = || Initialize::Done(system_id());
    let other = Initialize::Done(surus_core::SystemId::parse("7000000000000000001").unwrap());
    let gone = [HARD[0], HARD[1], "aside"];
    for (view, end, after) in [
        (reading(mine(), 8, Some("a")), TaskDone::Done, vec!["read", "take", "arm"]),
        (reading(mine(), 8, Some("b")), TaskDone::Done, vec!["read"]),
        (reading(Initialize::InProgress, 7, None), TaskDone::Done, vec!["read", "found 7", "take", "arm"]),
        (reading(other, 8, Some("b")), TaskDone::LostRace, [&["read"][..], &gone].concat()),
        (reading(Initialize::InProgress, 9, None), TaskDone::LostRace, [&["read"][..], &gone].concat()),
        (reading(Initialize::Absent, 0, None), TaskDone::LostRace, [&["read"][..], &gone].concat()),
    ] {
        let text = format!("{view:?}");
        let fake = leader().with(|s| {
            s.founded = [unknown()].into();
            s.views = [Ok(view)].into();
        });
        assert_eq!(fake.run(Task::Bootstrap, context()), Ok(end), "{text}");
        assert_eq!(fake.done(), then(&after), "{text}");
    }
    // Not readable at first, and the second try gets lost as well.
    let fake = leader().with(|s| {
        s.founded = [unknown(), unknown()].into();
        s.views = [
            Err(StoreError::Unavailable("cut".into())),
            Ok(reading(Initialize::InProgress, 7, None)),
            Ok(reading(mine(), 8, Some("a"))),
        ]
        .into();
    });
    assert_eq!(fake.run(Task::Bootstrap, context()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), then(&["read", "read", "found 7", "read", "take", "arm"]));
}

#[test]
fn data_of_a_cluster_that_may_exist_is_kept() {
    let cut = || Err(StoreError::Unavailable("cut".into()));
    let fake = leader()
        .with(|s| {
            s.founded = [unknown()].into();
            s.views = std::iter::repeat_with(cut).take(100).collect();
        })
        .at(ms(1000), Event::Cancel);
    assert_eq!(fake.run(Task::Bootstrap, context()), Ok(TaskDone::Done));
    assert!(fake.state().running && !fake.done().contains(&"aside".to_owned()));
}

#[test]
fn nothing_of_an_unfinished_cluster_stays() {
    let refused = || Err(StoreError::Refused("no".into()));
    // Without a server to tell, what might be left of one is killed.
    let none = ["abandon 7", HARD[0], "kill", HARD[1], "aside"];
    let running = ["abandon 7", HARD[0], HARD[1], "aside"];
    for (fake, done, after) in [
        (leader().with(|s| s.running = false).fails("initdb"), &CREATED[..2], &none[..]),
        (leader().fails("start"), &CREATED[..3], &running),
        (leader().takes("start", FOREVER), &CREATED[..3], &running),
        (leader().fails("roles"), &CREATED[..4], &running),
        (leader().with(|s| s.founded = [refused()].into()), &CREATED, &running),
    ] {
        failed(&fake.run(Task::Bootstrap, context()));
        assert_eq!(fake.done(), [done, after].concat());
    }
    let fake = leader().with(|s| s.founded = [Ok(TxnOutcome::Conflict)].into());
    assert_eq!(fake.run(Task::Bootstrap, context()), Ok(TaskDone::LostRace));
    assert_eq!(fake.done(), then(&[HARD[0], HARD[1], "aside"]));
    // A server that cannot be stopped keeps its files.
    let fake = leader().fails("roles").fails("orphans");
    failed(&fake.run(Task::Bootstrap, context()));
    assert!(!fake.done().contains(&"aside".to_owned()));
}
