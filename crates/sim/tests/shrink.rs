//! A failing run becomes a short story.

use surus_sim::bug::Bug;
use surus_sim::plan::{Plan, StoreKind};
use surus_sim::run::run;
use surus_sim::world::clock::SECOND;
use surus_sim::{shrink, story};

/// The first seed of this kind of store with many things going on that a planted bug makes fail.
fn failing(bug: Bug, invariant: &str, embedded: bool) -> (Plan, surus_sim::history::Violation) {
    (1..3000)
        .map(Plan::of)
        .filter(|plan| (plan.store != StoreKind::Service) == embedded && plan.actions.len() >= 6 && plan.members > 2)
        .find_map(|plan| {
            Some((run(&plan, Some(bug), false).violation?, plan)).filter(|(v, _)| v.invariant == invariant)
        })
        .map(|(violation, plan)| (plan, violation))
        .expect("the bug is found")
}

#[test]
fn what_is_left_is_what_it_takes() {
    for (bug, invariant, embedded) in [
        (Bug::FenceNotArmed, "one writer", false),
        (Bug::FenceNotArmed, "one writer", true),
        (Bug::LeadGivenTwice, "one writer", false),
        (Bug::EndOfTaskForgotten, "it comes back", false),
    ] {
        let (plan, violation) = failing(bug, invariant, embedded);
        let before: u64 = plan.clone().actions.iter_mut().filter_map(|(_, a)| a.lasts().copied()).sum();
        let (small, after) = shrink::shrink(&plan, &violation, Some(bug));
        let lasts: u64 = small.clone().actions.iter_mut().filter_map(|(_, a)| a.lasts().copied()).sum();
        let told = story::tell(&small, &after, Some(bug));
        let small_enough = small.actions.len() <= 4 && small.members <= 4 && lasts <= 40 * SECOND;
        assert!(small_enough && lasts <= before, "{bug:?}: {told}");
        assert_eq!(after.invariant, invariant);
        for left_out in 0..small.actions.len() {
            let mut without = small.clone();
            without.actions.remove(left_out);
            let harmless = run(&without, Some(bug), false).violation.is_none_or(|v| v.invariant != invariant);
            assert!(harmless, "{bug:?}: action {left_out} could go: {told}");
        }
        // It is the same story every time.
        assert_eq!(run(&small, Some(bug), false).violation.as_ref(), Some(&after), "{told}");
        assert!(told.contains(&after.what) && told.contains(" is broken"), "{told}");
    }
}
