//! All combinations of the facts that the rules distinguish, against what must hold for each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use surus_core::Step;
use surus_core::cluster::Initialize;
use surus_core::facts::{Answer, Facts};
use surus_core::memory::Divergence;
use surus_core::order::{Demote, Order, Request, Task};
use surus_core::postgres::{ControlState, DataDir, ProcessState};
use surus_core::race::{Verdict, judge};
use surus_core::report::Section;
use surus_core::rules::{Ctx, Leads, stop_reserve, table};

use crate::scenario::*;

/// What must hold for every decision, whatever the facts are.
pub fn violations(facts: &Facts, step: &Step) -> Vec<String> {
    let mut bad = vec![];
    let mut must = |ok: bool, what: &str| {
        if !ok {
            bad.push(what.to_owned());
        }
    };
    let ctx = Ctx::new(facts, &step.memory);
    let begun: Vec<&Task> = step
        .orders
        .iter()
        .filter_map(|o| match o {
            Order::Begin { task, .. } => Some(task),
            _ => None,
        })
        .collect();
    let orders = |wanted: &Order| step.orders.contains(wanted);
    let takes = orders(&Order::TakeLead) || orders(&Order::RetakeLead);
    let cancels = step.orders.iter().any(|o| matches!(o, Order::Cancel { .. }));
    let stopping = facts.task.as_ref().is_some_and(|t| t.task.is_stopping());
    let exits = step.orders.iter().any(|o| matches!(o, Order::Exit(_)));
    let readable = facts.store.view.is_some() && facts.store.broken.is_none();
    let primary = facts.postgres.is_primary();
    let lease_is_good = facts.lead.is_some_and(|l| facts.now + stop_reserve(&facts.settings.timing) < l.until);
    let named = ctx.view.and_then(|v| v.failover.as_ref()).and_then(|f| f.value.candidate.clone());

    must(step.report.rule != 0, "a rule applies");
    must(!step.report.goal.is_empty(), "the goal is said");
    must(step.again_in > Duration::ZERO, "again_in is not zero");
    must(step.again_in <= facts.settings.timing.loop_wait, "again_in is within loop_wait");
    must(begun.len() <= 1, "one task at a time");
    must(begun.is_empty() || facts.task.is_none(), "no task beside a running one");
    must(!(takes && orders(&Order::ReleaseLead)), "the lead is not taken and released at once");

    for task in &begun {
        let asked = facts.request.is_some_and(|r| match r {
            Request::Restart => **task == Task::Restart,
            Request::Reinitialize { .. } => matches!(task, Task::Reinitialize { .. }),
        });
        match task {
            Task::Bootstrap => {
                must(ctx.view.is_some_and(|v| v.initialize == Initialize::Absent), "bootstrap only an absent cluster");
                must(ctx.leads == Leads::Nobody && readable, "bootstrap only if nobody leads");
                must(facts.postgres.data_dir == DataDir::Empty && !facts.postgres.running(), "bootstrap in the empty");
                must(facts.may_bootstrap && !facts.tags.nofailover(), "bootstrap only where it is allowed");
            }
            Task::Promote | Task::StartPrimary => {
                must(ctx.i_lead() && lease_is_good && readable, "a primary is made only under a good lease");
                must(!facts.settings.standby_cluster, "a standby cluster has no primary");
            }
            Task::Demote(Demote::Handover { to, .. }) => {
                must(step.report.candidates.iter().any(|c| c.fit && c.name == *to), "handover to a fit candidate");
                must(ctx.i_lead() && primary, "only a leading primary hands over");
            }
            Task::Clone { .. } => {
                must(facts.postgres.data_dir == DataDir::Empty && !facts.postgres.running(), "clone into the empty");
            }
            Task::CloneWithoutLeader => {
                must(ctx.leads == Leads::Nobody && readable, "without a leader only if there is none");
                must(facts.postgres.data_dir == DataDir::Empty && !facts.postgres.running(), "clone into the empty");
            }
            Task::Reinitialize { .. } => {
                let allowed = facts.settings.remove_data_directory_on_diverged_timelines
                    || facts.settings.remove_data_directory_on_rewind_failure;
                let forked = !matches!(step.memory.divergence, Divergence::Unchecked | Divergence::None { .. });
                must(asked || (allowed && forked), "data is given up only by settings or an operator");
            }
            Task::Rewind { .. } => must(!ctx.i_lead() || ctx.leads_standbys(), "a leader is not rewound"),
            Task::Demote(Demote::Cluster) => must(ctx.leads_standbys() && primary, "a standby cluster was asked for"),
            Task::Restart => must(asked, "a restart was asked for"),
            Task::CopySlots { .. } => must(!primary && !ctx.i_lead(), "slots are copied to a standby"),
            Task::Demote(Demote::Release) => {
                let hung = facts.stalls.hung(&facts.settings.timing).is_some();
                let fit = step.report.candidates.iter().any(|c| c.fit);
                must(!hung || step.report.section != Section::Primary || fit, "a hung server is given up for somebody");
            }
            _ => {}
        }
        if facts.settings.pause {
            let hands_off = match task {
                Task::Promote => named.as_ref() == Some(&facts.me) || step.memory.called,
                Task::Demote(Demote::Handover { to, .. }) => named.as_ref() == Some(to),
                Task::Follow { .. } | Task::CheckDivergence { .. } | Task::KillOrphans => true,
                Task::StartStandby { .. } | Task::Rewind { .. } => step.memory.handed_over,
                // The end of its lease ends a primary of which the store does not know that it is left alone.
                Task::Demote(Demote::LeaseEnding { .. }) | Task::Shutdown { .. } => primary && !ctx.left_alone,
                _ => asked,
            };
            must(hands_off, "paused means hands off");
        }
    }
    if facts.may_not_lead().is_some() {
        let takes = takes || begun.iter().any(|t| matches!(t, Task::Bootstrap));
        must(!takes, "without a fence or a watchdog that is required no lead is taken");
    }
    if facts.no_watchdog().is_some() && ctx.i_lead() && !facts.settings.pause {
        must(!begun.contains(&&Task::Promote), "without a watchdog that is required nothing is promoted");
    }
    if takes && facts.tags.nofailover() {
        must(primary || ctx.leads == Leads::MeBefore, "nofailover takes no lead");
    }
    let copying = facts.task.as_ref().is_some_and(|t| {
        matches!(t.task, Task::Bootstrap | Task::Clone { .. } | Task::CloneWithoutLeader | Task::Reinitialize { .. })
    });
    // A rewind has stopped the server by then: what runs without taking connections is its crash recovery.
    let recovering =
        !facts.postgres.accepting() && facts.task.as_ref().is_some_and(|t| matches!(t.task, Task::Rewind { .. }));
    if !facts.settings.pause && primary && ctx.other_leads() && readable && !copying && !recovering {
        let stops = begun.iter().any(|t| t.is_stopping());
        must(stops || cancels || stopping || exits, "a primary stops if somebody else leads");
    }
    let alone = facts.task.is_none() && facts.request.is_none() && facts.postgres.observed().is_some();
    if facts.settings.standby_cluster && !facts.settings.pause && primary && ctx.i_lead() && readable && alone {
        must(begun.iter().any(|t| t.is_stopping()) || exits || takes, "a standby cluster's primary is demoted");
    }
    let unknown = facts.settings.pause && primary && facts.lead.is_some() && !ctx.left_alone;
    must(!exits || !unknown, "nobody leaves a primary behind unknown");
    if !ctx.unleased() && primary && facts.lead.is_some() && !lease_is_good && !copying && !recovering {
        let stops = begun.iter().any(|t| t.is_stopping() && !matches!(t, Task::Demote(Demote::Handover { .. })));
        let serving = facts.task.as_ref().is_some_and(|t| matches!(t.task, Task::Demote(Demote::Handover { .. })))
            && facts.postgres.accepting();
        must(stops || cancels || (stopping && (!serving || facts.shutdown)), "a primary stops before its lease ends");
    }
    bad
}

struct Seen {
    combinations: u64,
    impossible: u64,
    /// How often each rule's condition held, and how often it decided.
    held: BTreeMap<u16, (u64, u64)>,
    wrong: BTreeMap<String, (u64, String)>,
}

impl Seen {
    fn look(&mut self, s: &Scenario, story: impl Fn() -> String) {
        let facts = s.facts();
        let step = surus_core::step(&s.memory, &facts);
        self.combinations += 1;
        // The table is looked at through the same conclusions as the step's own.
        let ctx = Ctx::new(&facts, &step.memory);
        for rule in table().filter(|r| (r.when)(&ctx)) {
            self.held.entry(rule.id).or_default().0 += 1;
        }
        self.held.entry(step.report.rule).or_default().1 += 1;
        for what in violations(&facts, &step) {
            let example = || format!("rule {} {:?}: {}", step.report.rule, briefs(&step), story());
            self.wrong.entry(what).or_insert_with(|| (0, example())).0 += 1;
        }
    }
}

const DIRS: [&str; 6] = ["empty", "crashed primary", "clean primary", "standby", "foreign", "unreadable"];
const LEADERS: [&str; 5] = ["nobody", "me", "me, lease ending", "me before", "other"];
const STORES: [&str; 4] = ["ok", "broken", "broken for long", "never read"];
const PROCESSES: [&str; 6] = ["down", "down with orphans", "starting", "primary", "standby", "silent"];
const TASKS: [Option<Task>; 7] = [
    None,
    Some(Task::Promote),
    Some(Task::StartPrimary),
    Some(Task::Restart),
    Some(Task::Demote(Demote::Deposed)),
    Some(Task::Bootstrap),
    Some(Task::Follow { upstream: None }),
];

fn dir(kind: &str) -> DataDir {
    match kind {
        "empty" => DataDir::Empty,
        "crashed primary" => data(ControlState::InProduction, false),
        "clean primary" => data(ControlState::ShutDown, false),
        "standby" => data(ControlState::InArchiveRecovery, true),
        "foreign" => DataDir::Foreign("a file".into()),
        _ => DataDir::Unreadable("EIO".into()),
    }
}

/// `None`: cannot be.
fn world(dir_kind: &str, initialize: &Initialize, leader: &str, store: &str, process: &str) -> Option<Scenario> {
    let mut s = match leader {
        "other" => Scenario::standby(),
        "nobody" => Scenario::leaderless(),
        _ => Scenario::leader(),
    };
    match leader {
        "me, lease ending" => s.facts.lead = s.facts.lead.map(|l| surus_core::facts::Lead { until: after(500), ..l }),
        "me before" => s.facts.lead = None,
        _ => {}
    }
    s = s.with_standby("c", 900);
    s.view.initialize = initialize.clone();
    match store {
        "broken" => s = s.store_away_since(before(500)),
        "broken for long" => s = s.store_away_since(before(60_000)),
        "never read" => s.readable = false,
        _ => {}
    }
    s.facts.postgres.data_dir = dir(dir_kind);
    let signal = s.facts.postgres.standby_signal();
    let postgres = &mut s.facts.postgres;
    postgres.answer = Answer::Unknown(before(2000), "no answer".into());
    postgres.process = ProcessState::Accepting;
    match process {
        // A server in recovery without its signal file, or the reverse, does not come about.
        "primary" if signal => return None,
        "standby" if !signal && matches!(postgres.data_dir, DataDir::Present { .. }) => return None,
        "primary" => postgres.answer = Answer::Known(Arc::new(primary_at(1000, 1))),
        "standby" => postgres.answer = Answer::Known(Arc::new(standby_at(1000, 1, "a", Some("b"), true))),
        "silent" => {}
        "starting" => postgres.process = ProcessState::NotAccepting,
        _ => {
            postgres.process = ProcessState::NotRunning;
            postgres.orphans = process == "down with orphans";
        }
    }
    Some(s)
}

#[test]
fn every_combination_is_decided_and_safe() {
    let identities = [
        Initialize::Absent,
        Initialize::InProgress,
        Initialize::Done(system_id(OURS)),
        Initialize::Done(system_id(THEIRS)),
    ];
    let mut seen = Seen { combinations: 0, impossible: 0, held: BTreeMap::new(), wrong: BTreeMap::new() };
    for (dir, identity) in DIRS.iter().flat_map(|d| identities.iter().map(move |i| (d, i))) {
        for (leader, store) in LEADERS.iter().flat_map(|l| STORES.iter().map(move |s| (l, s))) {
            let pauses = ["not", "just seen", "left alone"];
            for (process, paused) in PROCESSES.iter().flat_map(|p| pauses.map(|b| (p, b))) {
                let Some(world) = world(dir, identity, leader, store, process) else {
                    seen.impossible += 1;
                    continue;
                };
                let mut look = |what: &str, change: &dyn Fn(&mut Scenario)| {
                    let mut s = world.clone();
                    s.facts.settings.pause = paused != "not";
                    s.facts.unguarded = paused == "left alone";
                    change(&mut s);
                    let first = s.view.initialize.clone();
                    seen.look(&s, || {
                        format!("{dir}, {first:?}, {leader} leads, store {store}, {process}, paused {paused}, {what}")
                    });
                };
                for task in TASKS {
                    for request in ["nothing", "restart", "reinit", "forced reinit", "shutdown"] {
                        look(&format!("{request} asked, task {task:?}"), &|s| {
                            if let Some(task) = &task {
                                *s = s.clone().runs(task.clone());
                            }
                            s.facts.request = match request {
                                "restart" => Some(Request::Restart),
                                "reinit" => Some(Request::Reinitialize { force: false, from_leader: false }),
                                "forced reinit" => Some(Request::Reinitialize { force: true, from_leader: true }),
                                _ => None,
                            };
                            s.facts.shutdown = request == "shutdown";
                        });
                    }
                }
                look("handover runs", &|s| {
                    let task = Task::Demote(Demote::Handover { to: "c".into(), upstream: None });
                    *s = s.clone().runs(task);
                });
                for (from, to) in [(None, Some("a")), (None, Some("c")), (Some("a"), None), (Some("b"), Some("c"))] {
                    look(&format!("failover from {from:?} to {to:?}"), &|s| *s = s.clone().failover(from, to).asked());
                }
                look("nofailover", &|s| *s = s.clone().tag("nofailover", true));
                look("no bootstrap section", &|s| s.facts.may_bootstrap = false);
                look("saw nobody lead", &|s| s.memory.last_leader = None);
                look("abstaining", &|s| s.memory.abstain_until = Some(after(5000)));
                look("released", &|s| (s.memory.released, s.memory.abstain_until) = (true, Some(after(5000))));
                look("promotion failed", &|s| s.memory.promotion_failed = Some("why".into()));
                look("lost the store", &|s| s.memory.lost_store = true);
                look("start failed", &|s| (s.memory.start_failures, s.memory.last_failure) = (3, Some(before(100))));
                look("start failed earlier", &|s| {
                    (s.memory.start_failures, s.memory.last_failure) = (1, Some(before(9000)))
                });
                look("forked", &|s| {
                    *s = s.clone().forked(false);
                    s.facts.settings.use_pg_rewind = true;
                });
                look("rewind failed", &|s| {
                    *s = s.clone().forked(true);
                    s.facts.settings.remove_data_directory_on_rewind_failure = true;
                });
                for (what, peer) in [("nobody to take over", false), ("somebody to take over", true)] {
                    look(&format!("the disk hangs, {what}"), &|s| {
                        s.facts.stalls.disk = hangs(20_000);
                        if !peer {
                            s.facts.peers.values_mut().for_each(|p| p.answer = Err("timeout".into()));
                        }
                    });
                }
                look("the postmaster hangs", &|s| s.facts.stalls.postmaster = hangs(20_000));
                look("no fence works", &|s| *s = s.clone().unfenced());
                look("no watchdog works", &|s| *s = s.clone().unwatched());
                look("handed over while paused", &|s| s.memory.handed_over = true);
                look("standby cluster", &|s| *s = s.clone().remote());
                look("standby cluster of an archive", &|s| s.facts.settings.standby_cluster = true);
                look("fail over at once", &|s| s.facts.settings.primary_start_timeout = Duration::ZERO);
                look("no session", &|s| s.facts.store.session = false);
            }
        }
    }
    for (rule, scenario, _) in crate::rules::all() {
        seen.look(&scenario, || format!("the example of rule {rule}"));
    }
    let wrong: Vec<_> = seen.wrong.iter().map(|(what, (n, example))| format!("{what}: {n}x, {example}")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.combinations > 100_000 && seen.impossible > 0, "{} combinations", seen.combinations);
    let hidden: Vec<_> = seen.held.iter().filter(|(_, (held, decided))| *held > 0 && *decided == 0).collect();
    assert!(hidden.is_empty(), "rules whose condition holds and that never decide: {hidden:?}");
}

/// One peer as the race can find it.
const PEERS: [&str; 9] =
    ["absent", "unasked", "unreachable", "behind", "equal", "ahead", "primary", "nofailover ahead", "old answer"];

#[test]
fn every_race_has_one_verdict_and_a_reason() {
    let mut verdicts = BTreeSet::new();
    for (b, c) in PEERS.iter().flat_map(|b| PEERS.iter().map(move |c| (b, c))) {
        for request in [None, Some((None, "a")), Some((None, "c")), Some((Some("b"), "")), Some((Some("a"), ""))] {
            for (paused, nofailover, synchronous) in [false, true]
                .into_iter()
                .flat_map(|p| [false, true].map(|n| (p, n)))
                .flat_map(|(p, n)| [None, Some("listed"), Some("unlisted")].map(|s| (p, n, s)))
            {
                let mut s = peer(peer(Scenario::leaderless(), "b", b), "c", c);
                s.facts.settings.pause = paused;
                if nofailover {
                    s = s.tag("nofailover", true);
                }
                if let Some((leader, to)) = request {
                    s = s.failover(leader, Some(to).filter(|t| !t.is_empty()));
                }
                if let Some(listed) = synchronous {
                    s.facts.settings.synchronous_mode = surus_core::settings::SynchronousMode::On;
                    s = s.sync("b", if listed == "listed" { &["a"] } else { &["c"] }, 0);
                }
                let (verdict, candidates) = judge(&s.facts(), &s.memory, &s.view);
                let story = format!("b {b}, c {c}, {request:?}, paused {paused}, {nofailover}, {synchronous:?}");
                let called = request == Some((None, "a"));
                match &verdict {
                    Verdict::Take { why } => {
                        assert!(!nofailover && (!paused || called), "{story}: {why}");
                        assert!(called || synchronous != Some("unlisted"), "{story}: {why}");
                        // A stepped down leader is left out of the weighing by the one who asked for that.
                        let against = |name: &str, kind: &str| {
                            let counts = match (synchronous, request) {
                                (_, Some((Some(l), _))) if l == name => false,
                                (Some("listed"), _) => name == "b" && kind == "primary",
                                _ => true,
                            };
                            counts && matches!(kind, "ahead" | "primary" | "unasked" | "old answer")
                        };
                        let stepped_down = matches!(request, Some((Some("a"), _)));
                        assert!(called || stepped_down || !(against("b", b) || against("c", c)), "{story}: {why}");
                    }
                    Verdict::Consent { why, .. } => assert!(!why.is_empty(), "{story}"),
                    Verdict::Ask(members) => assert!(!members.is_empty(), "{story}: asks nobody"),
                    Verdict::Leave { why } => assert!(!why.is_empty(), "{story}"),
                }
                assert!(candidates.iter().all(|c| !c.why.is_empty()), "{story}");
                verdicts.insert(format!("{verdict:?}").split(['{', '(']).next().map(str::trim).map(str::to_owned));
                assert_eq!(violations(&s.facts(), &s.step()), Vec::<String>::new(), "{story}");
            }
        }
    }
    assert_eq!(verdicts.len(), 3);
}

fn peer(mut s: Scenario, name: &str, kind: &str) -> Scenario {
    let lsn = match kind {
        "behind" => 900,
        "ahead" | "nofailover ahead" => 1100,
        _ => 1000,
    };
    match kind {
        "absent" => return s,
        "unasked" => return s.with_unasked(name),
        _ => s = s.with_standby(name, lsn),
    }
    let fact = s.facts.peers.get_mut(&name.into()).expect("just added");
    match kind {
        "unreachable" => fact.answer = Err("timeout".into()),
        "old answer" => fact.asked = before(1500),
        "primary" => fact.answer = Ok(answer(false, 1000)),
        "nofailover ahead" => {
            let member = s.view.members.get_mut(&name.into()).expect("just added");
            member.tags.0.insert("nofailover".into(), true.into());
        }
        _ => {}
    }
    s
}
