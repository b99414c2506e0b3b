use surus_core::cluster::{ClusterView, FailoverRequest, Leader, Member as Peer, MemberRole, RawKey, Tags, Versioned};
use surus_core::facts::{Answer, PostgresFact, StoreFact, TaskDone};
use surus_core::order::{Demote, Task};
use surus_core::postgres::{DataDir, Observed, ProcessState};
use surus_core::settings::ClusterSettings;
use surus_core::store::{StoreError, TxnOutcome};
use surus_core::{Lsn, Timeline};

use super::*;

const NOW: BootTime = BootTime::from_millis(1_000_000);
const TIMING: Timing = Timing::NEW_CLUSTER;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn leader(name: &str) -> Option<Leader> {
    Some(Leader { name: name.into(), version: 10, lease: None })
}

fn view(revision: u64, name: &str) -> ClusterView {
    ClusterView { revision, leader: leader(name), ..ClusterView::default() }
}

fn followed(view: ClusterView) -> Arc<Followed> {
    Arc::new(Followed { view: Some(Arc::new(view)), confirmed_at: NOW, ..Followed::default() })
}

fn lead(left: u64) -> Option<Lead> {
    Some(Lead { until: NOW + ms(left), version: 10 })
}

fn facts(view: ClusterView) -> Facts {
    Facts {
        now: NOW,
        unix_ms: 0,
        me: "a".into(),
        tags: Tags::default(),
        settings: ClusterSettings { timing: TIMING, ..ClusterSettings::default() },
        may_bootstrap: true,
        store: StoreFact { view: Some(Arc::new(view)), broken: None, session: true },
        lead: None,
        inherited: None,
        unguarded: false,
        failsafe: Default::default(),
        postgres: PostgresFact {
            data_dir: DataDir::Empty,
            process: ProcessState::NotRunning,
            since: NOW,
            orphans: false,
            replay: None,
            stand_alone: false,
            answer: Answer::Unknown(NOW, "does not run".into()),
        },
        task: None,
        finished: None,
        peers: BTreeMap::new(),
        request: None,
        room: None,
        missing_slots: vec![],
        unready_slots: vec![],
        shutdown: false,
        failover_due: None,
        fence: Default::default(),
        watchdog: Default::default(),
        stalls: Default::default(),
        synchronous: Default::default(),
    }
}

fn member() -> Member<&'static str> {
    Member::new("a".into(), Arc::default(), None, NOW)
}

fn ordered(orders: Vec<Order>) -> Member<&'static str> {
    Member { orders: orders.into(), ..member() }
}

fn request(version: u64) -> Order {
    let request = FailoverRequest { candidate: Some("b".into()), ..FailoverRequest::default() };
    Order::NameCandidate { version, request }
}

fn handover() -> Order {
    Order::Begin { task: Task::Demote(Demote::Handover { to: "b".into(), upstream: None }), epoch: 3 }
}

fn next(member: &mut Member<&'static str>) -> Option<Deed<&'static str>> {
    member.next(&facts(view(20, "a")), lead(6000), NOW)
}

fn begun(deed: Option<Deed<&'static str>>) -> RunningTask {
    match deed {
        Some(Deed::Begin { task, .. }) => task,
        other => panic!("nothing begun: {other:?}"),
    }
}

#[test]
fn nothing_is_handed_over_unless_the_candidate_was_named() {
    for (named, goes_on, again) in [
        (Ok(TxnOutcome::Applied(5)), true, None),
        (Ok(TxnOutcome::Conflict), false, None),
        (Err(StoreError::OutcomeUnknown("slow".into())), false, Some(NOW + ms(500))),
        (Err(StoreError::Unavailable("cut".into())), false, Some(NOW + ms(500))),
    ] {
        let mut member = ordered(vec![Order::TakeLead, request(4), handover(), Order::WriteHistory]);
        member.again_at = NOW + ms(2000);
        assert!(matches!(next(&mut member), Some(Deed::TakeLead { .. })), "in the order they were given");
        let Some(Deed::NameCandidate { version: 4, text, .. }) = next(&mut member) else { panic!("not named") };
        assert!(text.contains("\"b\""), "{text}");
        member.candidate_named(named, NOW);
        assert_eq!(member.again_at(), again.unwrap_or(NOW + ms(2000)));
        if goes_on {
            assert_eq!(begun(next(&mut member)).epoch, 3);
            assert_eq!(next(&mut member), Some(Deed::Write(Order::WriteHistory)));
        }
        assert_eq!(next(&mut member), None);
        assert_eq!(member.task().is_some(), goes_on);
    }
}

#[test]
fn one_task_at_a_time_and_each_is_cancelled_once() {
    let cancel = |epoch| Order::Cancel { epoch, why: "x".into() };
    let mut member = ordered(vec![
        Order::Begin { task: Task::KillOrphans, epoch: 7 },
        Order::Begin { task: Task::Promote, epoch: 8 },
        cancel(6),
    ]);
    assert_eq!(begun(next(&mut member)).task, Task::KillOrphans);
    assert_eq!(next(&mut member), None, "neither a second one, nor the end of an older one");
    member.orders = [cancel(7), cancel(7)].into();
    assert_eq!(next(&mut member), Some(Deed::Cancel));
    assert_eq!(next(&mut member), None);
    assert_eq!(member.task().map(|t| t.epoch), Some(7));
}

#[test]
fn requests_are_answered_by_a_step_or_by_the_end_of_their_task() {
    // Refused by the step.
    let mut member = member();
    member.ask(Request::Restart, None, "op").unwrap();
    assert_eq!(member.ask(Request::Restart, None, "2nd"), Err(("2nd", "restart already in progress".into())));
    member.reply = Some(Err("no".into()));
    assert_eq!(next(&mut member), Some(Deed::Answer { whom: "op", said: Err("no".into()) }));
    // Answered when it is over.
    for (outcome, said) in [
        (Ok(TaskDone::Done), Ok("restarted successfully".to_owned())),
        (Ok(TaskDone::Undecided("still starting".into())), Err("still starting".to_owned())),
        (Err("broke".to_owned()), Err("restart failed: broke".to_owned())),
    ] {
        member.ask(Request::Restart, Some(ms(77)), "op").unwrap();
        member.orders = [Order::Begin { task: Task::Restart, epoch: 4 }].into();
        member.reply = Some(Ok("restarting".into()));
        let Some(Deed::Begin { start_timeout, .. }) = next(&mut member) else { panic!("not begun") };
        assert_eq!(start_timeout, ms(77));
        assert_eq!(next(&mut member), None);
        assert!(member.request().is_none() && member.ask(Request::Restart, None, "2nd").is_err());
        let ended = member.ended(outcome, NOW).unwrap();
        assert_eq!(ended.answer, Some(("op", said)));
    }
    // Anything else at once.
    member.begun = None;
    let ask = Request::Reinitialize { force: true, from_leader: false };
    member.ask(ask, None, "op").unwrap();
    assert!(member.ask(ask, None, "2nd").is_err());
    member.orders = [Order::Begin { task: Task::KillOrphans, epoch: 5 }].into();
    member.reply = Some(Ok("accepted".into()));
    begun(next(&mut member));
    assert_eq!(next(&mut member), Some(Deed::Answer { whom: "op", said: Ok("accepted".into()) }));
}

#[test]
fn the_end_of_a_task_is_shown_to_one_step() {
    let mut member = ordered(vec![Order::Begin { task: Task::KillOrphans, epoch: 1 }]);
    begun(next(&mut member));
    assert!(member.ended(Err("x".into()), NOW + ms(5)).is_some());
    assert!(member.ended(Err("x".into()), NOW).is_none(), "there is none any more");
    let finished = member.finished().cloned().unwrap();
    assert_eq!((finished.epoch, finished.at, member.task()), (1, NOW + ms(5), None));
    let report = member.decide(&facts(view(20, "b")), NOW);
    assert_ne!(report.rule, 0);
    assert_eq!(member.finished(), None);
    assert!(member.again_at() > NOW);
}

#[test]
fn a_lead_that_was_free_a_moment_ago_is_decided_on_at_once() {
    let mut member = ordered(vec![Order::Begin { task: Task::KillOrphans, epoch: 1 }]);
    begun(next(&mut member));
    let free = facts(ClusterView::default());
    let mut again = free.clone();
    assert!(!member.decide_again(&mut again, None, NOW), "not taken");
    assert_eq!(again, free);
    again.finished = Some(FinishedTask { task: Task::Promote, epoch: 0, at: NOW, outcome: Err("x".into()) });
    assert!(member.decide_again(&mut again, lead(6000), NOW + ms(9)));
    assert_eq!((again.lead, again.now, &again.finished), (lead(6000), NOW + ms(9), &None));
    assert_eq!(again.task.as_ref(), member.task(), "begun since");
    assert!(!member.decide_again(&mut again, lead(6000), NOW), "held before");
    member.end = Some(Ok(()));
    assert!(!member.decide_again(&mut free.clone(), lead(6000), NOW));
}

#[test]
fn what_a_view_says_about_my_lead() {
    let broken = Arc::new(Followed { broken_since: Some(NOW), ..(*followed(view(30, "b"))).clone() });
    let nobody = ClusterView { leader: None, ..view(30, "b") };
    for (seen, held, lost, inherited) in [
        (followed(view(30, "a")), lead(6000), None, true),
        (followed(view(30, "b")), lead(6000), Some((30, false)), false),
        (followed(view(10, "b")), lead(6000), Some((10, false)), false),
        // Older than my taking it.
        (followed(view(9, "b")), lead(6000), None, false),
        (followed(nobody), lead(6000), Some((30, true)), false),
        (followed(view(30, "b")), None, None, false),
        (broken, lead(6000), None, true),
        (Arc::default(), lead(6000), None, true),
    ] {
        let mut member = Member { inherited: Some(Inherited::Until(NOW + ms(1000))), ..member() };
        assert_eq!(member.take_in_view(seen.clone(), held), lost, "{seen:?}");
        assert_eq!(member.inherited().is_some(), inherited, "{seen:?}");
    }
}

#[test]
fn what_is_left_for_a_successor() {
    let until = |left: u64| Some(Inherited::Until(NOW + ms(left)));
    let noted = ClusterView { unguarded: Some(Versioned { value: "a".into(), version: 7 }), ..view(30, "a") };
    for (found, fence, seen, held, pause, leaves) in [
        (None, None, view(30, "a"), lead(6000), false, until(6000)),
        (until(1000), None, view(30, "a"), lead(6000), false, until(6000)),
        // Replaced again before it has its lead back.
        (until(1000), None, view(30, "a"), None, false, until(1000)),
        (until(1000), None, view(30, "b"), None, false, None),
        // The fence heard of renewals that the disk did not take, or of one that the disk did not take at all.
        (until(1000), Some(3000), view(30, "a"), None, false, until(3000)),
        (until(3000), Some(1000), view(30, "a"), None, false, until(3000)),
        (None, Some(3000), view(30, "a"), None, false, until(3000)),
        (None, None, view(30, "a"), None, false, None),
        (Some(Inherited::Unguarded), Some(3000), noted.clone(), None, true, Some(Inherited::Unguarded)),
        (Some(Inherited::Unguarded), None, view(30, "a"), None, true, None),
    ] {
        let what = format!("{found:?} {fence:?} {seen:?}");
        let mut member = Member { inherited: found, ..member() };
        member.inherit(fence.map(|left| NOW + ms(left)));
        member.take_in_view(followed(seen), held);
        assert_eq!(member.leaves(held, pause), leaves, "{what}");
    }
}

#[test]
fn waiting_ends_in_time_to_stop_a_primary() {
    let reserve = stop_reserve(&TIMING);
    let after = |left: u64| NOW + ms(left) - reserve;
    for (held, inherited, stop_at) in [
        (lead(6000), None, Some(after(6000))),
        (lead(6000), Some(NOW + ms(9000)), Some(after(6000))),
        (None, Some(NOW + ms(4000)), Some(after(4000))),
        (None, Some(NOW), None),
        (None, None, None),
    ] {
        let mut member = Member { inherited: inherited.map(Inherited::Until), ..member() };
        assert_eq!(member.stop_at(NOW, held, &TIMING), stop_at);
        let most = ms(60_000);
        let want = stop_at.map_or(most, |at| at.since(NOW));
        assert_eq!(member.spare(NOW, held, &TIMING, most), want);
        assert_eq!(member.spare(NOW, held, &TIMING, ms(300)), ms(300));
        // One step at that moment is enough.
        assert_eq!(member.wake_at(NOW, held, &TIMING), stop_at);
        member.stepped = stop_at.unwrap_or(NOW);
        assert_eq!(member.wake_at(NOW, held, &TIMING), None);
    }
    assert_eq!(member().spare(NOW, lead(0), &TIMING, ms(1000)), ms(100), "some answer has to be waited for");
    assert_eq!(member().spare(NOW, lead(0), &TIMING, ms(10)), ms(100));
}

#[test]
fn who_takes_the_lead_clears_what_others_were_asked_for() {
    let asked = |leader: &str| {
        let failover = Some(Versioned { value: FailoverRequest::default(), version: 4 });
        facts(ClusterView { failover, failover_version: Some(4), ..view(20, leader) })
    };
    for (taken, facts, clears) in [
        (Some(Ok(true)), asked("b"), true),
        (Some(Ok(true)), asked("a"), false),
        (Some(Ok(true)), facts(view(20, "b")), false),
        (Some(Ok(false)), asked("b"), false),
        (Some(Err(StoreError::LeaseGone)), asked("b"), false),
        (None, asked("b"), false),
    ] {
        let mut member = Member { again_at: NOW + ms(2000), ..ordered(vec![Order::TakeLead]) };
        assert!(matches!(next(&mut member), Some(Deed::TakeLead { .. })));
        let mine = taken == Some(Ok(true));
        member.lead_taken(taken, &facts, NOW);
        assert_eq!(next(&mut member), clears.then_some(Deed::ClearFailoverLater { version: 4, limit: WRITE }));
        assert_eq!(member.again_at() == NOW, mine);
        assert_eq!(next(&mut member), None);
    }
}

#[test]
fn the_lead_is_taken_on_the_configuration_that_was_read() {
    let config = |text: &str| RawKey { key: "config".into(), value: text.into(), version: 7, lease: None };
    for (keys, want) in [(vec![config("{}")], Some(7)), (vec![config("{")], None), (vec![], None)] {
        let facts = facts(ClusterView::read(20, &keys));
        let next = ordered(vec![Order::TakeLead]).next(&facts, None, NOW);
        let Some(Deed::TakeLead { beside, .. }) = next else { panic!() };
        assert_eq!(beside.config, want);
    }
}

#[test]
fn a_standby_says_which_timeline_it_begins_when_it_takes_the_lead() {
    let key = |text: &str| RawKey { key: "timeline".into(), value: text.into(), version: 4, lease: None };
    let spoilt = ClusterView::read(20, &[key("x")]);
    let by_b = ClusterView::read(20, &[key(r#"{"timeline":3,"leader":"b"}"#)]);
    for (view, in_recovery, timeline, order, want) in [
        (ClusterView::default(), true, Some(2), Order::TakeLead, Some((3, None))),
        (spoilt, true, Some(2), Order::TakeLead, Some((3, Some(4)))),
        (by_b.clone(), true, Some(2), Order::TakeLead, Some((4, Some(4)))),
        (by_b.clone(), true, Some(3), Order::TakeLead, Some((4, Some(4)))),
        // The promotion writes it itself if there is one.
        (by_b.clone(), true, None, Order::TakeLead, None),
        (by_b.clone(), false, Some(3), Order::TakeLead, None),
        (by_b, true, Some(2), Order::RetakeLead, None),
    ] {
        let mut facts = facts(view);
        facts.postgres.answer = observed(in_recovery);
        if let Answer::Known(observed) = &mut facts.postgres.answer {
            Arc::make_mut(observed).timeline = timeline.map(Timeline);
        }
        let Some(Deed::TakeLead { beside, .. }) = ordered(vec![order]).next(&facts, None, NOW) else { panic!() };
        assert_eq!(beside.announce.map(|a| (a.timeline.0, a.over)), want);
    }
}

#[test]
fn a_peer_is_asked_once_at_a_time_and_again_when_its_answer_got_lost() {
    let peer = |url: &str| Peer { api_url: Some(url.into()), ..Peer::unknown("b".into()) };
    let mut shown = view(20, "a");
    shown.members.insert("b".into(), peer("http://new"));
    let facts = facts(shown);
    let mut member = member();
    Arc::make_mut(&mut member.memory.known_members).insert("c".into(), peer("http://old"));
    let ask = |member: &mut Member<&'static str>, names: &[&str], now| {
        member.orders = [Order::Probe { members: names.iter().map(|n| (*n).into()).collect() }].into();
        match member.next(&facts, None, now) {
            Some(Deed::Probe { at, whom }) if at == now => {
                whom.into_iter().map(|(name, url)| (name.to_string(), url.unwrap_or_default())).collect()
            }
            None => vec![],
            other => panic!("{other:?}"),
        }
    };
    let pairs = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    let all = pairs(&[("b", "http://new"), ("c", "http://old"), ("d", "")]);
    assert_eq!(ask(&mut member, &["b", "c", "d"], NOW), all);
    let fact = || PeerFact { asked: NOW, answer: Err("x".into()) };
    assert!(!member.answered("b".into(), fact()), "others are still asked");
    assert_eq!(ask(&mut member, &["b", "c"], NOW + ms(10)), pairs(&[("b", "http://new")]));
    assert_eq!(ask(&mut member, &["c"], NOW + PROBE * 3 + ms(1)), pairs(&[("c", "http://old")]));
    for (name, last) in [("b", false), ("c", false), ("d", true)] {
        assert_eq!(member.answered(name.into(), fact()), last);
    }
    assert_eq!(member.peers().len(), 3);
    assert_eq!(ask(&mut member, &[], NOW + ms(5)), vec![]);
    assert_eq!(member.again_at(), NOW + ms(5), "nobody's answer will wake it");
}

#[test]
fn an_end_comes_after_all_else() {
    let mut member = ordered(vec![Order::Exit(Ok(())), Order::WriteHistory]);
    assert_eq!(next(&mut member), Some(Deed::Write(Order::WriteHistory)));
    assert_eq!(next(&mut member), None);
    assert_eq!((member.take_end(), member.take_end()), (Some(Ok(())), None));
    assert!(member.shut_down() && !member.shut_down() && member.shutdown());
}

#[test]
fn views_differ_in_what_decisions_turn_on() {
    let at = |position| Peer { xlog_location: Some(Lsn(position)), ..Peer::unknown("a".into()) };
    let mut a = ClusterView { revision: 7, ..ClusterView::default() };
    a.members.insert("a".into(), at(5));
    let changed = |change: &dyn Fn(&mut ClusterView)| {
        let mut b = a.clone();
        change(&mut b);
        let mut member = Member { seen: followed(a.clone()), ..member() };
        let matters = member.view_changed(followed(b.clone()));
        assert_eq!(member.seen().view.as_deref(), Some(&b));
        matters
    };
    assert!(!changed(&|v| v.revision = 8));
    assert!(!changed(&|v| v.status.optime = Lsn(9)));
    assert!(!changed(&|v| _ = v.members.insert("a".into(), at(6))));
    assert!(changed(&|v| v.leader = leader("a")));
    assert!(changed(&|v| v.members.values_mut().for_each(|m| m.role = MemberRole::Primary)));
    assert!(changed(&|v| _ = v.members.insert("b".into(), Peer::unknown("b".into()))));
    assert!(changed(&|v| {
        v.members.clear();
        v.members.insert("b".into(), Peer { name: "b".into(), ..at(5) });
    }));
    let mut member = Member { seen: followed(a.clone()), ..member() };
    let broken = Arc::new(Followed { broken_since: Some(NOW), ..(*followed(a.clone())).clone() });
    assert!(member.view_changed(broken.clone()) && !member.view_changed(broken) && member.view_changed(followed(a)));
}

#[test]
fn renewals_alone_are_no_reason_for_a_step() {
    let state = crate::lease::LeaseState { lead: lead(6000), session_number: 2, ..Default::default() };
    assert!(!state.matters(true, 2));
    assert!(state.matters(false, 2) && state.matters(true, 1));
}

fn observed(in_recovery: bool) -> Answer {
    Answer::Known(Arc::new(Observed {
        at: NOW,
        server_version: 150_000,
        postmaster_start_time: String::new(),
        in_recovery,
        timeline: None,
        flush_lsn: Lsn(1),
        flush_waiters: 0,
        receive_lsn: Lsn(1),
        replay_lsn: Lsn(1),
        replay_timestamp: None,
        replay_timeline: None,
        replay_paused: false,
        receiver: None,
        senders: vec![],
        slots: vec![],
        primary_conninfo: None,
        primary_slot_name: None,
        restore_command: None,
        synchronous_standby_names: String::new(),
        synchronous_commit: String::new(),
        pending_restart: BTreeMap::default(),
    }))
}

#[test]
fn the_fence_guards_whatever_may_accept_writes() {
    let running = |answer: Answer| {
        let mut facts = facts(view(20, "a"));
        (facts.postgres.process, facts.postgres.answer) = (ProcessState::Accepting, answer);
        facts
    };
    let (primary, standby) = (running(observed(false)), running(observed(true)));
    let silent = running(Answer::Unknown(NOW, "busy".into()));
    let with = |facts: &Facts, change: fn(&mut Facts)| {
        let mut facts = facts.clone();
        change(&mut facts);
        facts
    };
    let paused = |f: &mut Facts| f.settings.pause = true;
    let earlier_run = |f: &mut Facts| f.inherited = Some(NOW + ms(1000));
    for (what, facts, guard) in [
        ("a primary", primary.clone(), Some(true)),
        ("one that gives no answer", silent, Some(true)),
        ("a standby", standby.clone(), Some(false)),
        ("a standby that an earlier run may have ordered to be promoted", with(&standby, earlier_run), Some(true)),
        ("the same when that lead has ended", with(&standby, |f| f.inherited = Some(NOW)), Some(false)),
        ("paused, and the store does not know", with(&primary, paused), None),
        ("the same while it leads", with(&with(&primary, paused), |f| f.lead = lead(5000)), Some(true)),
        ("paused and left alone", with(&with(&primary, paused), |f| f.unguarded = true), Some(false)),
        ("the end of that", with(&primary, |f| f.unguarded = true), Some(true)),
        ("nobody", facts(view(20, "a")), Some(false)),
        ("backends without a postmaster", with(&facts(view(20, "a")), |f| f.postgres.orphans = true), None),
        ("while a task makes it what it is to be", with(&standby, |f| f.task = Some(promoting())), None),
    ] {
        assert_eq!(crate::fence::guard(&facts), guard, "{what}");
    }
}

fn promoting() -> RunningTask {
    RunningTask { task: Task::Promote, epoch: 1, since: NOW }
}
