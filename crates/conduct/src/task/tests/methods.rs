//! Replica creation methods and custom bootstrap: which is tried when, and what is removed.

use super::fake::{Event, FOREVER, Fake, context, leader, ms};
use super::{failed, upstream};
use crate::task::*;

fn method(name: &str) -> ReplicaMethod {
    ReplicaMethod { name: name.into(), no_leader: false, keep_data: false }
}

/// A member without a server.
fn stopped(methods: &[ReplicaMethod], failing: &[&str]) -> Fake {
    leader().with(|s| {
        s.running = false;
        s.empty = true;
        s.methods = methods.to_vec();
        s.failing_methods = failing.iter().map(|f| (*f).to_owned()).collect();
    })
}

fn tried(fake: &Fake) -> Vec<String> {
    fake.done().into_iter().filter(|d| ["create", "copy", "remove"].iter().any(|p| d.starts_with(p))).collect()
}

#[test]
fn one_after_the_other_until_one_succeeds() {
    type Case<'a> = (&'a [ReplicaMethod], &'a [&'a str], Task, &'a [&'a str], bool);
    let (backup, other) = (method("backup"), ReplicaMethod { no_leader: true, ..method("other") });
    let all = [backup, other, ReplicaMethod::basebackup()];
    let from = || Task::Clone { from: upstream() };
    let cases: Vec<Case<'_>> = vec![
        (&[], &[], from(), &["copy"], true),
        (&all, &[], from(), &["create backup b"], true),
        (&all, &["backup"], from(), &["create backup b", "create other b"], true),
        (&all, &["backup", "other"], from(), &["create backup b", "create other b", "copy"], true),
        (&all[..2], &["backup", "other"], from(), &["create backup b", "create other b"], false),
        // Nobody to copy from.
        (&all, &[], Task::CloneWithoutLeader, &["create other "], true),
        (&all, &["other"], Task::CloneWithoutLeader, &["create other "], false),
        (&all[..1], &[], Task::CloneWithoutLeader, &[], false),
    ];
    for (methods, failing, task, expected, works) in cases {
        let fake = stopped(methods, failing);
        let outcome = fake.run(task, TaskContext { is_primary: false, ..context() });
        assert_eq!(tried(&fake), expected);
        assert_eq!(outcome.is_ok(), works, "{outcome:?}");
        if let Err(why) = outcome {
            assert!(failing.iter().all(|f| why.contains(&format!("{f} broke"))), "each reason is told: {why}");
        }
    }
}

#[test]
fn what_is_there_goes_when_a_method_does_not_keep_it() {
    let keeps = ReplicaMethod { keep_data: true, ..method("delta") };
    for (methods, failing, expected) in [
        (vec![method("full")], vec![], vec!["remove", "create full b"]),
        (vec![keeps.clone()], vec![], vec!["create delta b"]),
        (vec![keeps.clone(), method("full")], vec!["delta"], vec!["create delta b", "create full b"]),
        (vec![method("full"), keeps], vec!["full"], vec!["remove", "create full b", "create delta b"]),
    ] {
        let fake = stopped(&methods, &failing).with(|s| s.empty = false);
        let cx = TaskContext { is_primary: false, ..context() };
        assert_eq!(fake.run(Task::Reinitialize { from: upstream() }, cx), Ok(TaskDone::Done));
        assert_eq!(tried(&fake), expected);
    }
}

/// A disk that was not mounted for a moment: only a reinitialization was told to give up what is there.
#[test]
fn a_new_copy_removes_nothing() {
    let fake = stopped(&[method("full"), ReplicaMethod::basebackup()], &["full"]).with(|s| s.empty = false);
    let _ = fake.run(Task::Clone { from: upstream() }, TaskContext { is_primary: false, ..context() });
    assert_eq!(tried(&fake), ["create full b", "copy"]);
}

#[test]
fn told_to_end_no_other_method_is_tried() {
    let fake = stopped(&[method("slow"), ReplicaMethod::basebackup()], &["slow"]).takes("create", ms(5000));
    let fake = fake.at(ms(1000), Event::Cancel);
    failed(&fake.run(Task::Clone { from: upstream() }, TaskContext { is_primary: false, ..context() }));
    assert_eq!(tried(&fake), ["create slow b"]);
}

#[test]
fn a_new_cluster_from_a_backup() {
    let custom = || leader().with(|s| s.custom_bootstrap = Some("pitr"));
    let begin =
        ["claim", "custom", "recover", "roles", "post x.sh", "end custom", "stop Fast", "start primary", "found 7"];
    let cx = || TaskContext { post_bootstrap: Some("x.sh".into()), ..context() };
    let fake = custom();
    assert_eq!(fake.run(Task::Bootstrap, cx()), Ok(TaskDone::Done));
    assert_eq!(fake.done(), [&begin[..], &["take", "arm"]].concat());
    // Recovery may take days.
    let fake = custom().takes("recover", FOREVER).at(ms(0), Event::Lead(Some(FOREVER * 2)));
    assert_eq!(fake.run(Task::Bootstrap, cx()), Ok(TaskDone::Done));
    for (broken, so_far) in [("custom", 2), ("recover", 3), ("roles", 4), ("post", 5), ("end custom", 6), ("start", 8)]
    {
        let fake = custom().fails(broken);
        failed(&fake.run(Task::Bootstrap, cx()));
        let done = fake.done();
        assert_eq!(done[..so_far], begin[..so_far], "{broken}");
        assert!(done.contains(&"abandon 7".into()) && done.last().is_some_and(|d| d == "aside"), "{done:?}");
        assert!(!fake.state().running, "{broken}");
    }
}
