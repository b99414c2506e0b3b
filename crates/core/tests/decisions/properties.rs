//! What holds for random facts, and the race against a slow twin of its ranking.

use proptest::prelude::*;
use surus_core::cluster::Tags;
use surus_core::facts::{FinishedTask, PeerFact, TaskDone};
use surus_core::memory::Memory;
use surus_core::order::{Demote, Task};
use surus_core::race::{Verdict, judge};
use surus_core::settings::SynchronousMode;

use crate::combinations::violations;
use crate::scenario::*;

/// Some example, with something else thrown in.
fn anything() -> impl Strategy<Value = Scenario> {
    let examples = crate::rules::all().into_iter().map(|(_, scenario, _)| scenario).collect::<Vec<_>>();
    let tweaks = proptest::collection::vec(0..12_usize, 0..4);
    (proptest::sample::select(examples), tweaks, 0..40_000_u64).prop_map(|(mut s, tweaks, ms)| {
        for tweak in tweaks {
            match tweak {
                0 => s = s.paused(),
                1 => s = s.tag("nofailover", true),
                2 => s = s.store_away_since(before(ms)),
                3 => s.facts.lead = None,
                4 => s = s.lead_until(after(ms)),
                5 => s.view.leader = None,
                6 => s.memory.abstain_until = Some(after(ms)),
                7 => s.memory.released = true,
                8 => s = s.with_standby("d", ms),
                9 => s = s.failover(None, Some("d")),
                10 => s.memory.leaderless_since = Some(before(ms)),
                _ => s.facts.failover_due = Some(Ok(UNIX_MS + i64::try_from(ms).expect("small") - 20_000)),
            }
        }
        s
    })
}

fn any_task() -> impl Strategy<Value = (Task, Result<TaskDone, String>)> {
    let tasks = vec![
        Task::Bootstrap,
        Task::StartPrimary,
        Task::Promote,
        Task::Demote(Demote::Handover { to: "b".into(), upstream: None }),
        Task::Demote(Demote::Release),
        Task::Demote(Demote::LeaseEnding { stop_by: NOW }),
        Task::Rewind { from: upstream("b") },
        Task::CheckDivergence { from: upstream("b") },
        Task::Follow { upstream: None },
        Task::CopySlots { from: upstream("b"), slots: vec![] },
    ];
    let outcomes = vec![Ok(TaskDone::Done), Ok(TaskDone::Released), Ok(TaskDone::LostRace), Err("why".to_owned())];
    (proptest::sample::select(tasks), proptest::sample::select(outcomes))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_step_is_safe_and_says_the_same_twice(s in anything()) {
        let facts = s.facts();
        let step = surus_core::step(&s.memory, &facts);
        prop_assert_eq!(violations(&facts, &step), Vec::<String>::new());
        prop_assert_eq!(&step, &surus_core::step(&s.memory, &facts));
    }

    #[test]
    fn the_end_of_an_old_task_changes_nothing(s in anything(), (task, outcome) in any_task()) {
        let mut s = s;
        s.facts.finished = None;
        let without = s.step();
        s.facts.finished = Some(FinishedTask { task, epoch: s.memory.epoch - 1, at: NOW, outcome });
        prop_assert_eq!(without, s.step());
    }

    #[test]
    fn an_epoch_is_used_once(s in anything()) {
        let step = s.step();
        let begun = step.orders.iter().any(|o| matches!(o, surus_core::order::Order::Begin { .. }));
        prop_assert_eq!(step.memory.epoch, s.memory.epoch + u64::from(begun));
    }
}

/// A member of the race: position, priority (0: may not be promoted), runs as a primary, has its logical slots ready.
type Runner = (u64, i64, bool, bool);

fn runners() -> impl Strategy<Value = Vec<Runner>> {
    let one = (990..1003_u64, 0..3_i64, proptest::bool::weighted(0.1), any::<bool>());
    proptest::collection::vec(one, 1..6)
}

fn tags(priority: i64) -> Tags {
    let mut tags = Tags::default();
    tags.0.insert("failover_priority".into(), priority.into());
    tags
}

fn unready(ready: bool) -> Vec<String> {
    if ready { vec![] } else { vec!["changes".to_owned()] }
}

/// What the member at `i` knows when it has asked all others.
fn seen_by(runners: &[Runner], i: usize) -> Scenario {
    let mut s = Scenario::leaderless();
    s.memory.last_leader = None;
    s.view.members.clear();
    for (n, (position, priority, primary, ready)) in runners.iter().enumerate() {
        let name = format!("m{n}");
        if n == i {
            let observed =
                if *primary { primary_at(*position, 1) } else { standby_at(*position, 1, &name, None, false) };
            s.facts.me = name.as_str().into();
            s.facts.unready_slots = unready(*ready);
            s.facts.tags = tags(*priority);
            s.facts.postgres.data_dir = data(surus_core::postgres::ControlState::InArchiveRecovery, !*primary);
            s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
        } else {
            s = s.with_standby(&name, *position);
            let mut answer = answer(!*primary, *position);
            answer.tags = tags(*priority);
            answer.unready_slots = unready(*ready);
            s.facts.peers.insert(name.as_str().into(), PeerFact { asked: before(100), answer: Ok(answer) });
            s.view.members.get_mut(&name.as_str().into()).expect("just added").tags = tags(*priority);
        }
    }
    s
}

fn takes(s: &Scenario) -> bool {
    matches!(judge(&s.facts(), &s.memory, &s.view).0, Verdict::Take { .. })
}

/// The ranking in the words of `spec/ha.md §9.3`, without regard to cost.
fn naive(runners: &[Runner], i: usize) -> bool {
    let (position, priority, primary, ready) = runners[i];
    let promotable = || runners.iter().enumerate().filter(|(n, (_, priority, ..))| *n != i && *priority > 0);
    if primary {
        return true;
    }
    priority > 0
        && promotable().all(|(_, (_, _, primary, _))| !primary)
        && promotable().all(|(_, (theirs, ..))| *theirs <= position)
        && promotable().all(|(_, (theirs, theirs_priority, ..))| *theirs < position || *theirs_priority <= priority)
        && promotable().all(|(_, (theirs, theirs_priority, _, theirs_ready))| {
            ready || !theirs_ready || *theirs < position || *theirs_priority < priority
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_ranking_is_that_of_its_twin(runners in runners()) {
        for i in 0..runners.len() {
            let s = seen_by(&runners, i);
            prop_assert_eq!(takes(&s), naive(&runners, i), "member {} of {:?}", i, runners);
        }
    }

    #[test]
    fn somebody_takes_the_lead_and_is_not_behind(runners in runners()) {
        let takers: Vec<_> = (0..runners.len()).filter(|i| takes(&seen_by(&runners, *i))).collect();
        let primary = runners.iter().any(|(_, _, primary, _)| *primary);
        let nobody = runners.iter().all(|(_, priority, ..)| *priority == 0);
        prop_assert!(primary || nobody || !takers.is_empty(), "a mutual veto: {:?}", runners);
        let best = runners.iter().filter(|(_, priority, ..)| *priority > 0).map(|r| r.0).max().unwrap_or(0);
        for taker in takers {
            prop_assert!(runners[taker].2 || runners[taker].0 == best, "{} of {:?}", taker, runners);
        }
    }

    /// A commit was acknowledged by all but `quorum` of the voters. Whoever takes the lead has it.
    #[test]
    fn in_quorum_mode_the_winner_has_what_was_acknowledged(
        positions in proptest::collection::vec((990..1003_u64, any::<bool>()), 1..6),
        quorum in 0..5_usize,
        outsider in any::<bool>(),
        waited in 0..60_000_u64,
    ) {
        let quorum = quorum.min(positions.len() - 1);
        let runners: Vec<Runner> = positions.iter().map(|(p, _)| (*p, 1, false, true)).collect();
        let mut voters: Vec<String> = (0..runners.len()).map(|n| format!("m{n}")).collect();
        let mut ranked: Vec<u64> = positions.iter().map(|(p, _)| *p).collect();
        if outsider {
            voters.remove(0);
            ranked.remove(0);
        }
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        let acknowledged = ranked.len().checked_sub(quorum + 1).and_then(|n| ranked.get(n)).copied().unwrap_or(0);
        let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
        for (i, (position, _)) in positions.iter().enumerate() {
            let mut s = seen_by(&runners, i).sync("gone", &voters, u32::try_from(quorum).expect("small"));
            s.facts.settings.synchronous_mode = SynchronousMode::Quorum;
            s.memory.leaderless_since = Some(before(waited.max(900)));
            for (n, (_, reachable)) in positions.iter().enumerate().filter(|(n, _)| *n != i) {
                if !reachable {
                    let gone = PeerFact { asked: before(100), answer: Err("timeout".into()) };
                    s.facts.peers.insert(format!("m{n}").as_str().into(), gone);
                }
            }
            prop_assert!(!takes(&s) || *position >= acknowledged, "m{} lacks {}: {:?}", i, acknowledged, positions);
        }
    }
}

#[test]
fn a_named_candidate_that_never_comes_is_not_waited_for_for_ever() {
    let waiting = |ms| {
        let mut s =
            Scenario::leaderless().with_standby("b", 1000).with_standby("c", 1000).failover(Some("z"), Some("c"));
        s.memory = Memory { leaderless_since: Some(before(ms)), race_round: Some(before(900)), ..s.memory };
        takes(&s)
    };
    assert!(!waiting(10_000));
    assert!(waiting(31_000));
}

#[test]
fn a_member_that_is_not_in_the_failsafe_list_does_not_race() {
    let mut s = Scenario::leaderless();
    s.facts.settings.failsafe_mode = true;
    assert!(takes(&s));
    s.view.failsafe = Some([("b".into(), "http://b:8008/patroni".to_owned())].into());
    assert!(!takes(&s));
    s.view.failsafe = Some([("a".into(), "http://a:8008/patroni".to_owned())].into());
    assert!(takes(&s));
}

#[test]
fn a_member_that_is_ahead_and_never_takes_the_lead_does_not_keep_others_from_it() {
    let waiting = |ms: u64, primary: bool| {
        let mut s = Scenario::leaderless().with_standby("b", 1100);
        s.facts.peers.get_mut(&"b".into()).expect("just added").answer = Ok(answer(!primary, 1100));
        s.memory = Memory { leaderless_since: Some(before(ms)), race_round: Some(before(900)), ..s.memory };
        takes(&s)
    };
    assert!(!waiting(10_000, false));
    assert!(waiting(23_000, false));
    assert!(!waiting(600_000, true), "a running primary always counts");
}

#[test]
fn a_candidate_called_while_paused_is_promoted_although_the_request_is_cleared_with_the_lead() {
    let taken = Scenario::leaderless().paused().failover(None, Some("a")).step();
    assert_eq!(briefs(&taken), ["take"]);
    let mut s = Scenario::standby().paused().lead_until(after(20_000));
    s.view.leader = Scenario::leader().view.leader;
    s.memory = taken.memory;
    assert_eq!(briefs(&s.step()), ["promote"]);
}
