//! What is told from the accounts of three members, whatever their clocks say.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test like the test itself")]

use surus_core::cluster::FailoverRequest;
use surus_core::order::{Demote, Order, Task};
use surus_core::report::Section;
use surus_core::{MemberName, Timeline};
use surus_journal::timeline::{Change, merge};
use surus_journal::{Account, Entry, Event, Finished, Header, Landmarks, Took};

/// One member as it goes through a story.
struct Teller {
    account: Account,
    seen: Landmarks,
    /// Of its clock against the others.
    ahead: i64,
}

impl Teller {
    fn new(name: &str, ahead: i64) -> Teller {
        let account = Account { scope: "demo".into(), member: name.into(), ..Account::default() };
        let mut seen = Landmarks { session: true, process: "accepting".into(), answers: true, ..Landmarks::default() };
        (seen.leader, seen.leader_version, seen.in_recovery) = (Some("a".into()), Some(10), Some(name != "a"));
        seen.timeline = Some(Timeline(1));
        seen.streams_from = (name != "a").then(|| "a".to_owned());
        seen.holds_lead = name == "a";
        let mut teller = Teller { account, seen, ahead };
        teller.decides(0, 790, "no action", vec![], |_| ());
        teller
    }

    fn decides(&mut self, at: i64, rule: u16, goal: &str, orders: Vec<Order>, change: impl FnOnce(&mut Landmarks)) {
        self.seen.finished = None;
        change(&mut self.seen);
        let entry = Entry {
            n: self.account.events.len() as u64 + 1,
            at: at + self.ahead,
            now: u64::try_from(at).unwrap(),
            times: 1,
            took: Took::default(),
            rule,
            section: if (600..700).contains(&rule) { Section::Race } else { Section::Replica },
            name: String::new(),
            goal: goal.to_owned(),
            why: "because".into(),
            candidates: vec![],
            waiting_for: vec![],
            orders,
            seen: self.seen.clone(),
            revision: None,
            position: None,
            lease_left: None,
        };
        self.account.events.push(Event::Decided(Box::new(entry)));
    }

    fn nobody_leads(&mut self, at: i64) {
        self.decides(at, 620, "nobody leads; asking", vec![], |s| (s.leader, s.leader_version) = (None, None));
    }

    fn sees_lead(&mut self, at: i64, leader: &str, version: u64) {
        let goal = format!("following {leader}");
        self.decides(at, 890, &goal, vec![], |s| (s.leader, s.leader_version) = (Some(leader.into()), Some(version)));
    }

    /// Reaches for the lead, gets it, and is promoted.
    fn takes_lead(&mut self, at: i64, version: u64) {
        let me = self.account.member.clone();
        self.decides(at, 610, "taking the lead", vec![Order::TakeLead], |_| ());
        let promote = vec![Order::Begin { task: Task::Promote, epoch: version }];
        self.decides(at + 10, 715, "promoted self to leader", promote, |s| s.holds_lead = true);
        self.decides(at + 20, 290, "updated leader lock", vec![], |s| {
            (s.leader, s.leader_version, s.task) = (Some(me), Some(version), Some("promote".into()));
        });
        self.decides(at + 120, 790, "no action", vec![], |s| {
            (s.task, s.in_recovery, s.streams_from, s.timeline) = (None, Some(false), None, Some(Timeline(2)));
            let at = u64::try_from(at + 110).unwrap();
            s.finished = Some(Finished { task: "promote".into(), well: true, how: "done".into(), at });
        });
    }

    fn streams(&mut self, at: i64, from: &str) {
        self.decides(at, 890, &format!("following {from}"), vec![], |s| s.streams_from = Some(from.into()));
    }
}

/// `a` dies at 1000; `b` takes over with version 20 and, at 20 s, `c` with version 30.
fn two_failovers(ahead: [i64; 3]) -> Vec<Account> {
    let [mut a, mut b, mut c] = [("a", ahead[0]), ("b", ahead[1]), ("c", ahead[2])].map(|(n, d)| Teller::new(n, d));
    a.account.events.push(Event::Same { at: 1000 + a.ahead, times: 5 });
    for teller in [&mut b, &mut c] {
        teller.nobody_leads(9000);
    }
    b.takes_lead(9200, 20);
    c.sees_lead(9230, "b", 20);
    c.streams(9600, "b");
    c.nobody_leads(20_000);
    b.decides(20_005, 330, "has lost the lead", vec![], |s| {
        (s.leader, s.leader_version, s.holds_lead, s.process) = (None, None, false, "stopped".into());
    });
    c.takes_lead(20_300, 30);
    b.sees_lead(20_330, "c", 30);
    let header =
        Header { at: 21_000 + a.ahead, member: "a".into(), version: "0.1.0".into(), pid: 7, ..Header::default() };
    a.account.events.push(Event::Started(header));
    a.sees_lead(21_100, "c", 30);
    a.streams(21_200, "c");
    vec![c.account, a.account, b.account]
}

fn names(change: &Change) -> Vec<(&'static str, i64)> {
    change.phases.iter().map(|p| (p.name, p.at)).collect()
}

const FIRST: [(&str, i64); 8] = [
    ("trigger", 1000),
    ("lead ends", 9000),
    ("race", 9000),
    ("reach", 9200),
    ("lead taken", 9210),
    ("promote", 9210),
    ("writes", 9320),
    ("follows", 9600),
];

#[test]
fn a_failover_has_its_phases_in_order() {
    let told = merge(&two_failovers([0, 0, 0]));
    assert_eq!(told.clocks, vec![]);
    assert_eq!(told.changes.len(), 2);
    let first = &told.changes[0];
    assert_eq!((first.kind, first.from.clone(), &first.to), ("failover", Some("a".into()), &MemberName::from("b")));
    assert_eq!(names(first), FIRST);
    assert_eq!((first.leaderless_ms, first.took_ms), (Some(210), Some(8320)));
    let second = &told.changes[1];
    assert_eq!((second.from.clone(), &second.to), (Some("b".into()), &MemberName::from("c")));
    assert_eq!(second.phases.last().map(|p| (p.name, p.at)), Some(("follows", 21_200)));
    assert!(told.lines.is_sorted_by_key(|l| l.at));
    let back = told.lines.iter().find(|l| l.what.contains("ended without a word")).unwrap();
    assert!(back.what.contains("20.000 s after its last"), "{}", back.what);
    let promoted = told.lines.iter().find(|l| l.what.starts_with("promote: done")).unwrap();
    assert!(promoted.what.ends_with("after 0.100 s"), "{}", promoted.what);
}

/// One clock in three is wrong: it is found, and the story is the same as without.
#[test]
fn a_clock_that_differs_is_noticed_and_corrected() {
    for (member, ahead, certain) in [
        // `b` sets out to take the lead; `c` cannot have seen it do so before.
        ("c", -5000, true),
        // `c` set out to take the lead after everybody had seen that it had.
        ("c", 5000, true),
        ("d", -5000, true),
        // Sees everything long after, and equally so: most likely a clock.
        ("d", 5000, false),
        ("b", -60_000, true),
        ("b", 3_600_000, true),
    ] {
        let shift = |name| if name == member { ahead } else { 0 };
        // `a` has no sighting of its own to compare, so two clocks remain: a third member decides who is wrong.
        let mut accounts = two_failovers(["a", "b", "c"].map(shift));
        accounts.push(onlooker(shift("d")));
        let told = merge(&accounts);
        assert_eq!(told.clocks.len(), 1, "{member} {ahead}: {:?}", told.clocks);
        let clock = &told.clocks[0];
        assert_eq!((clock.member.as_str(), clock.certain), (member, certain), "{ahead}: {clock:?}");
        assert!((clock.ahead_ms - ahead).abs() < 50, "{clock:?}");
        let first = &told.changes[0];
        let order: Vec<&str> = names(first).into_iter().map(|p| p.0).filter(|n| *n != "follows").collect();
        assert_eq!(order, FIRST.map(|p| p.0)[..7].to_vec(), "{member} {ahead}");
        assert!((first.took_ms.unwrap() - 8320).abs() < 50, "{first:?}");
    }
}

/// A fourth member that follows whoever leads.
fn onlooker(ahead: i64) -> Account {
    let mut d = Teller::new("d", ahead);
    d.nobody_leads(9001);
    d.sees_lead(9231, "b", 20);
    d.nobody_leads(20_001);
    d.sees_lead(20_331, "c", 30);
    d.account
}

#[test]
fn what_is_no_clock_is_not_taken_for_one() {
    // A second is within what a busy member takes to look.
    let mut accounts = two_failovers([0, 0, 1000]);
    accounts.push(onlooker(0));
    assert_eq!(merge(&accounts).clocks.iter().filter(|c| !c.certain).count(), 0);
    // Looked late once, and in time once.
    let mut slow = Teller::new("d", 0);
    slow.nobody_leads(9001);
    slow.sees_lead(15_000, "b", 20);
    slow.nobody_leads(20_001);
    slow.sees_lead(20_331, "c", 30);
    let mut accounts = two_failovers([0, 0, 0]);
    accounts.push(slow.account);
    assert_eq!(merge(&accounts).clocks, vec![]);
    // Cut off from the store meanwhile, each time.
    let mut cut = Teller::new("d", 0);
    for (at, leader, version) in [(15_000, "b", 20), (30_000, "c", 30)] {
        cut.decides(at - 8000, 330, "DCS is not accessible", vec![], |s| s.store_trouble = Some("cut".into()));
        cut.decides(at, 890, "following", vec![], |s| {
            (s.store_trouble, s.leader, s.leader_version) = (None, Some(leader.into()), Some(version));
        });
    }
    let mut accounts = two_failovers([0, 0, 0]);
    accounts.push(cut.account);
    assert_eq!(merge(&accounts).clocks, vec![]);
}

#[test]
fn a_switchover_begins_with_its_request() {
    let [mut a, mut b] = ["a", "b"].map(|n| Teller::new(n, 0));
    let request = FailoverRequest { leader: Some("a".into()), candidate: Some("b".into()), scheduled_at: None };
    let demote = Task::Demote(Demote::Handover { to: "b".into(), upstream: None });
    for (teller, at) in [(&mut a, 1000), (&mut b, 1003)] {
        let request = request.clone();
        teller.decides(at, 740, "switchover", vec![], |s| (s.request, s.request_version) = (Some(request), Some(15)));
    }
    a.decides(1020, 740, "handing over", vec![Order::Begin { task: demote, epoch: 1 }], |_| ());
    a.decides(1200, 290, "demoting", vec![], |s| s.process = "stopped".into());
    a.decides(1210, 540, "waiting", vec![], |s| {
        (s.leader, s.leader_version, s.holds_lead, s.request, s.request_version) = (None, None, false, None, None);
    });
    b.nobody_leads(1215);
    b.takes_lead(1300, 20);
    a.sees_lead(1330, "b", 20);
    a.streams(1700, "b");
    let told = merge(&[a.account, b.account]);
    let change = &told.changes[0];
    assert_eq!(change.kind, "switchover");
    let order: Vec<&str> = names(change).into_iter().map(|p| p.0).collect();
    let expected =
        ["trigger", "stop", "stopped", "lead ends", "race", "reach", "lead taken", "promote", "writes", "follows"];
    assert_eq!(order, expected);
    let asked = told.lines.iter().filter(|l| l.what == "switchover from a to b is asked for (first seen by a)").count();
    assert_eq!(asked, 1, "said once: {:#?}", told.lines);
}

/// Half of an account, an account without decisions, none at all.
#[test]
fn whatever_is_missing_the_rest_is_told() {
    assert_eq!(merge(&[]).changes, vec![]);
    assert_eq!(merge(&[Account::default()]).lines, vec![]);
    let accounts = two_failovers([0, 0, 0]);
    for left_out in 0..3 {
        for cut in 0..12 {
            let mut some = accounts.clone();
            some.remove(left_out);
            for account in &mut some {
                account.events.drain(..cut.min(account.events.len()));
            }
            let told = merge(&some);
            assert!(told.lines.is_sorted_by_key(|l| l.at));
            assert!(told.changes.iter().all(|c| c.phases.is_sorted_by_key(|p| p.at)));
        }
    }
}
