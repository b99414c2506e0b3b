//! Nobody becomes a primary beside one that goes on without the store.

use surus_core::cluster::Versioned;
use surus_core::failsafe::{CONSENT, Kind, Of, Promise, Vouching};
use surus_core::race::{Verdict, judge};

use crate::scenario::{NOW, Scenario, after, before, briefs};

/// `b` led and may be vouched for by so many of a, b and c.
fn vouched(of: Of, leader: &str) -> Scenario {
    told(Scenario::leaderless().with_standby("c", 1000), of, leader)
}

/// The same of a member that holds the lead and is not a primary yet, or is down after a crash.
pub fn holding(of: Of) -> Scenario {
    let mut s = vouched(of, "b").lead_until(after(20_000));
    s.view.leader = Scenario::leader().view.leader;
    s
}

pub fn crashed(of: Of) -> Scenario {
    told(Scenario::crashed_leader().with_standby("c", 1000), of, "b")
}

pub fn leaderless(of: Of) -> Scenario {
    vouched(of, "b")
}

fn told(mut s: Scenario, of: Of, leader: &str) -> Scenario {
    for member in s.view.members.values_mut() {
        member.surus = Some("0.1.0".into());
    }
    s.view.failsafe = Some(["a", "b", "c"].map(|n| (n.into(), format!("http://{n}:8008/patroni"))).into());
    s.view.vouching = Some(Versioned { value: Vouching { leader: leader.into(), of }, version: 4 });
    s.view.vouching_version = Some(4);
    s
}

fn promised(to: &str, kind: Kind) -> Option<Promise> {
    Some(Promise { to: to.into(), kind, until: after(4000) })
}

#[test]
fn who_is_asked_before_a_lead_is_taken() {
    for (what, s, orders) in [
        ("two of three must consent", vouched(Of::Majority, "b"), "consent of b c"),
        ("by Patroni's protocol only I", vouched(Of::All, "b"), "consent of "),
        ("it gave the lead up", vouched(Of::None, "b"), "take"),
        ("only I can be vouched for", vouched(Of::Majority, "a"), "take"),
        ("nobody ever said so", Scenario::leaderless().with_standby("c", 1000), "take"),
    ] {
        assert_eq!(briefs(&s.step()), [orders], "{what}");
    }
}

#[test]
fn consents_count_while_they_last_and_answers_from_then_on() {
    let mut s = vouched(Of::Majority, "b");
    s.facts.failsafe.given = promised("a", Kind::Consent);
    let asked = s.step();
    assert_eq!(briefs(&asked), ["consent of b c"], "my own is one of two");
    s.facts.failsafe.consents.insert("c".into(), Ok(after(3000)));
    let step = s.step();
    assert_eq!(briefs(&step), ["ask c"], "it may have had commits acknowledged since c answered");
    s.memory = step.memory;
    s.facts.peers.get_mut(&"c".into()).expect("it is there").asked = NOW;
    assert_eq!(briefs(&s.step()), ["take"]);
    s.facts.failsafe.consents.insert("c".into(), Ok(before(1)));
    assert_eq!(briefs(&s.step()), ["consent of b c"]);
    s.facts.failsafe.consents.insert("c".into(), Err("it vouches for b".into()));
    let told = s.step();
    assert!(told.report.goal.contains("2 of 3 members must consent") && told.report.goal.contains("it vouches for b"));
    assert!(
        told.report.waiting_for[0].contains("surus failover --candidate a --force"),
        "{:?}",
        told.report.waiting_for
    );
}

#[test]
fn whoever_vouches_does_not_race() {
    for (to, kind, of, waits) in [
        ("b", Kind::Vouch, Of::Majority, true),
        ("b", Kind::Vouch, Of::All, true),
        ("c", Kind::Consent, Of::Majority, true),
        ("b", Kind::Vouch, Of::None, false),
        ("c", Kind::Vouch, Of::None, true),
    ] {
        let mut s = vouched(of, "b");
        s.facts.failsafe.given = promised(to, kind);
        let (verdict, _) = judge(&s.facts(), &s.memory, &s.view);
        assert_eq!(matches!(verdict, Verdict::Leave { .. }), waits, "{to} {kind:?} {of:?}: {verdict:?}");
    }
    let mut s = vouched(Of::Majority, "b");
    s.facts.failsafe.silent_until = Some(after(2000));
    assert!(s.step().report.goal.contains("just started"), "{}", s.step().report.goal);
}

#[test]
fn a_lead_alone_makes_no_primary() {
    assert_eq!(briefs(&holding(Of::None).step()), ["promote"]);
    let mut s = holding(Of::Majority);
    assert_eq!(briefs(&s.step()), ["consent of b c"]);
    s.facts.failsafe.given = promised("a", Kind::Vouch);
    s.facts.failsafe.consents.insert("c".into(), Ok(after(3000)));
    // What the store showed before I took the lead may be another list.
    s.view.revision = 4;
    assert!(!briefs(&s.step()).contains(&"promote".to_owned()));
    s.facts.failsafe.list_from = Some(4);
    assert_eq!(briefs(&s.step()), ["promote"], "unless the store has compared it");
    s.view.revision = 10;
    let step = s.step();
    assert_eq!(briefs(&step), ["promote"]);
    // Once it is certain it stays so, as long as it is the same lead.
    s.memory = step.memory;
    s.facts.failsafe = Default::default();
    assert_eq!(briefs(&s.step()), ["promote"]);
    s.facts.lead = s.facts.lead.map(|lead| surus_core::facts::Lead { version: 6, ..lead });
    assert!(!briefs(&s.step()).contains(&"promote".to_owned()));

    // It is given back when nothing comes of it.
    let mut s = holding(Of::Majority);
    let long = u64::try_from((CONSENT * 2).as_millis()).expect("small");
    s.memory.uncleared_since = Some(before(long));
    assert_eq!(briefs(&s.step()), ["release"]);
}

#[test]
fn a_crashed_primary_is_not_started_beside_one_that_members_vouch_for() {
    assert_eq!(briefs(&Scenario::crashed_leader().step()), ["start primary"]);
    let mut s = crashed(Of::Majority);
    assert_eq!(briefs(&s.step()), ["consent of b c"]);
    // It ran as the primary under this lead.
    s.memory.cleared = Some(5);
    assert_eq!(briefs(&s.step()), ["start primary"]);
}

#[test]
fn after_patroni_led_only_my_own_word_counts_until_one_of_ours_has_led() {
    let mut s = vouched(Of::Majority, "b");
    s.facts.settings.failsafe_mode = true;
    s.memory.foreign_led_over = Some(4);
    assert_eq!(briefs(&s.step()), ["consent of "]);
    s.view.vouching_version = Some(7);
    assert_eq!(briefs(&s.step()), ["consent of b c"]);
    // What Patroni leaves behind after the mode was switched off.
    s.memory.foreign_led_over = Some(7);
    s.facts.settings.failsafe_mode = false;
    assert_eq!(briefs(&s.step()), ["take"]);
}

#[test]
fn a_primary_whose_key_ended_takes_it_again() {
    let mut s = Scenario::leader();
    s.facts.failsafe.unbound = true;
    assert_eq!(briefs(&s.clone().led_by_nobody().step()), ["take"]);
    assert_eq!(briefs(&s.step()), ["retake"]);
}
