//! Every invariant catches the bugs that are planted for it, within a bounded number of seeds.

use std::sync::Mutex;

use surus_sim::bug::Bug;
use surus_sim::plan::Plan;
use surus_sim::run::run;

/// By which promise, and within how many seeds.
const PLANTED: &[(Bug, &str, u64)] = &[
    (Bug::FenceNotArmed, "one writer", 300),
    (Bug::FenceArmedFromTheAnswer, "one writer", 600),
    (Bug::RenewalCountedFromTheAnswer, "one writer", 6000),
    (Bug::LeadGivenTwice, "one writer", 300),
    (Bug::StoreTimeJumps, "one writer", 1500),
    (Bug::LeftAloneUnnoted, "one writer", 3000),
    (Bug::PromisesForgotten, "one writer", 3000),
    (Bug::OneVouches, "one writer", 3000),
    (Bug::VouchedFromTheAnswer, "one writer", 3000),
    (Bug::RefusalTakenForRenewal, "one writer", 3000),
    (Bug::RemoteNotSeen, "one writer", 300),
    (Bug::PeersLookBehind, "nothing acknowledged is lost", 600),
    (Bug::SuccessorNotAwaited, "nothing acknowledged is lost", 1500),
    (Bug::NamesNotInForce, "nothing acknowledged is lost", 3000),
    (Bug::HalfRewoundStarts, "nothing acknowledged is lost", 3000),
    (Bug::ForksNotSeen, "nothing acknowledged is lost", 1500),
    (Bug::SyncNotLookedAt, "nothing acknowledged is lost", 1500),
    (Bug::OneFailureEndsTheLease, "no needless failover", 300),
    (Bug::LateRenewal, "no needless failover", 300),
    (Bug::EndOfTaskForgotten, "it comes back", 100),
    (Bug::NoNewSession, "it comes back", 300),
    (Bug::ReceiptAfterTheRewind, "no silent loss of data", 300),
    (Bug::ReceiptLeftOut, "no silent loss of data", 1500),
    (Bug::RemovedInSilence, "no silent loss of data", 1500),
    (Bug::TimelineNotAnnounced, "no silent loss of data", 1500),
    (Bug::AnnouncedTimelineTaken, "no silent loss of data", 1500),
    (Bug::DecisionNotRecorded, "every decision can be explained", 20),
    (Bug::RuleNotNamed, "every decision can be explained", 20),
    (Bug::PauseNotSeen, "paused means hands off", 1000),
    (Bug::PausedFenceStaysArmed, "paused means hands off", 1000),
];

fn caught(bug: Bug, invariant: &str, within: u64) -> Result<u64, String> {
    let mut others = std::collections::BTreeMap::new();
    for seed in 1..=within {
        if let Some(violation) = run(&Plan::of(seed), Some(bug), false).violation {
            if violation.invariant == invariant {
                println!("{bug:?}: caught by seed {seed}");
                return Ok(seed);
            }
            *others.entry(violation.invariant).or_insert(0) += 1;
        }
    }
    Err(format!("{bug:?} is not caught by \"{invariant}\" within {within} seeds, but {others:?}"))
}

/// `SURUS_SIM_BUG` names one of them.
#[test]
fn each_is_caught() {
    let named = std::env::var("SURUS_SIM_BUG").ok();
    let wanted = |bug: &Bug| named.as_ref().is_none_or(|name| format!("{bug:?}") == *name);
    let left = Mutex::new(PLANTED.iter().filter(|(bug, ..)| wanted(bug)));
    let look = || {
        let next = || left.lock().expect("nobody panics with it").next();
        let missed = std::iter::from_fn(next).filter_map(|(bug, by, within)| caught(*bug, by, *within).err());
        missed.collect::<Vec<_>>()
    };
    let missed: Vec<String> = std::thread::scope(|scope| {
        let looks = [scope.spawn(look), scope.spawn(look)];
        looks.into_iter().flat_map(|l| l.join().expect("no panic")).collect()
    });
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_promise_has_two() {
    for invariant in surus_sim::invariant::all() {
        let planted = PLANTED.iter().filter(|(_, by, _)| *by == invariant.name()).count();
        assert!(planted >= 2, "{} has {planted}", invariant.name());
    }
}
