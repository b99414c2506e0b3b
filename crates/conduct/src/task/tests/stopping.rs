//! `primary_stop_timeout`: a leader that does not stop in time, where somebody has every commit.

use surus_core::cluster::{SyncState, Versioned};

use super::*;

fn synchronous(mode: SynchronousMode, listed: &str, timeout: u64) -> TaskContext {
    let mut cx = context();
    let mut view = ClusterView::clone(cx.view.as_ref().unwrap());
    let value = SyncState { leader: "a".into(), standbys: vec![listed.into()], quorum: 0 };
    view.sync = Some(Versioned { value, version: 1 });
    cx.view = Some(Arc::new(view));
    cx.settings.synchronous_mode = mode;
    cx.settings.primary_stop_timeout = Duration::from_secs(timeout);
    cx
}

#[test]
fn a_leader_that_does_not_stop_in_time_is_killed_where_nothing_is_lost_by_it() {
    let stuck = || leader().takes("stop", FOREVER).with(|s| s.position = None);
    let shutdown = || Task::Shutdown { to: Some("b".into()) };
    for task in [handover(), shutdown()] {
        let fake = stuck();
        assert_eq!(fake.run(task.clone(), synchronous(SynchronousMode::On, "b", 3)), Ok(TaskDone::Released));
        let done: Vec<String> = fake.done().into_iter().filter(|done| done != "position").collect();
        let end: Vec<&str> = done[done.len() - 3..].iter().map(String::as_str).collect();
        assert_eq!(end, [HARD[0], HARD[1], "release"], "{task:?}");
        assert!(!fake.state().running && fake.state().status.is_none(), "where its log ends is not known");
        assert!(fake.passed() >= ms(3000) && fake.passed() < ms(5000), "{task:?}: {:?}", fake.passed());
    }
    for (what, cx) in [
        ("it is off", synchronous(SynchronousMode::On, "b", 0)),
        ("nobody waits for it", synchronous(SynchronousMode::Off, "b", 3)),
        ("it may lack a commit", synchronous(SynchronousMode::On, "c", 3)),
    ] {
        let fake = stuck();
        let outcome = fake.run(handover(), cx.clone());
        assert!(given_up(&outcome).contains("did not stop within 10 s"), "{what}: {outcome:?}");
        let fake = stuck();
        assert_eq!(fake.run(shutdown(), cx), Ok(TaskDone::Released));
        assert!(fake.passed() > ms(50_000), "{what}: until its lease ends, {:?}", fake.passed());
    }
}

#[test]
fn the_timeout_does_not_prolong_what_ends_anyway() {
    let fake = leader().takes("stop", ms(2000));
    assert_eq!(fake.run(handover(), synchronous(SynchronousMode::On, "b", 3)), Ok(TaskDone::Released));
    assert!(fake.state().status.is_some() && !fake.done().contains(&HARD[0].to_owned()));
    let fake = leader().takes("stop", FOREVER);
    let outcome = fake.run(handover(), synchronous(SynchronousMode::On, "b", 3600));
    assert!(given_up(&outcome).contains("did not stop within 10 s"), "{outcome:?}");
}
