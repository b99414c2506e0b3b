//! A cluster that becomes one that follows another: what it wrote last reaches the archive.

use super::*;

fn demoted() -> TaskContext {
    let mut cx = context();
    cx.settings.standby_cluster = true;
    cx
}

fn start() -> Task {
    Task::StartStandby { upstream: None }
}

#[test]
fn what_a_former_primary_wrote_last_is_archived_before_it_is_a_standby() {
    let fake = leader();
    assert_eq!(fake.run(Task::Demote(Demote::Cluster), demoted()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["checkpoint", "stop Fast", "orphans", "position"]);
    // The agent may have died in between: only the data tells.
    let fake = leader().with(|s| s.shut_down = true);
    assert_eq!(fake.run(start(), demoted()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), ["archive", "archive the end", "start standby"]);
}

#[test]
fn whoever_was_not_the_last_primary_archives_nothing() {
    let led_by = |name: &str| {
        let mut cx = demoted();
        let mut view = ClusterView::clone(cx.view.as_ref().unwrap());
        view.leader = Some(Leader { name: name.into(), version: 1, lease: None });
        cx.view = Some(Arc::new(view));
        cx
    };
    for (what, cx, shut_down, archived) in [
        ("a standby, or a server that crashed", demoted(), false, false),
        ("somebody else leads", led_by("b"), true, false),
        ("it leads", led_by("a"), true, true),
        ("no standby cluster", context(), true, false),
    ] {
        let fake = leader().with(|s| s.shut_down = shut_down);
        assert_eq!(fake.run(start(), cx), Ok(TaskDone::Done), "{what}");
        assert_eq!(fake.done().contains(&"archive the end".to_owned()), archived, "{what}: {:?}", fake.done());
    }
}

#[test]
fn an_archive_that_fails_is_tried_again_and_not_for_ever() {
    for what in ["archive", "archive the end"] {
        let fake = leader().with(|s| s.shut_down = true).fails(what);
        assert_eq!(fake.run(start(), demoted()), Ok(TaskDone::Done));
        let tried = fake.done().iter().filter(|done| *done == what).count();
        assert_eq!(tried, 10, "{what}");
        assert!(fake.passed() < demoted().patience && fake.done().last().unwrap() == "start standby");
    }
    let fake = leader().with(|s| s.shut_down = true).fails("archive").at(ms(1500), Event::Cancel);
    let outcome = fake.run(start(), demoted());
    assert!(failed(&outcome).contains("given up on request") && fake.passed() < ms(2500), "{outcome:?}");
}
