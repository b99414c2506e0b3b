use std::collections::BTreeSet;
use std::sync::Arc;

use surus_core::cluster::{ClusterView, Leader, Member, Versioned};
use surus_core::facts::{Answer, Lead, PostgresFact, StoreFact};
use surus_core::postgres::{DataDir, Observed, ProcessState};
use surus_core::settings::{ClusterSettings, Timing};
use surus_core::store::StoreError;

use super::asking::AGAIN;
use super::*;
use crate::lease::Vouched;

const NOW: BootTime = BootTime::from_millis(1_000_000);

fn set(all: &[&str]) -> BTreeSet<MemberName> {
    all.iter().map(|n| MemberName::from(*n)).collect()
}

fn primary() -> Observed {
    Observed {
        at: NOW,
        server_version: 150_000,
        postmaster_start_time: String::new(),
        in_recovery: false,
        timeline: None,
        flush_lsn: surus_core::Lsn(1),
        flush_waiters: 0,
        receive_lsn: surus_core::Lsn(0),
        replay_lsn: surus_core::Lsn(0),
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
        pending_restart: Default::default(),
    }
}

struct Rig {
    facts: Facts,
    view: ClusterView,
    lease: LeaseState,
    ledger: Ledger,
}

/// The leader of a, b and c.
fn rig() -> Rig {
    let lead = Some(Lead { until: NOW + Duration::from_secs(20), version: 5 });
    let member = |name: &str| Member {
        api_url: Some(format!("http://{name}:8008/patroni")),
        surus: Some("0.1.0".into()),
        ..Member::unknown(name.into())
    };
    let view = ClusterView {
        revision: 9,
        leader: Some(Leader { name: "a".into(), version: 5, lease: None }),
        config: Some(Versioned { value: serde_json::json!({"failsafe_mode": true}), version: 3 }),
        members: ["a", "b", "c"].map(|n| (n.into(), member(n))).into(),
        ..ClusterView::default()
    };
    let facts = Facts {
        now: NOW,
        unix_ms: 0,
        me: "a".into(),
        tags: Default::default(),
        settings: ClusterSettings { failsafe_mode: true, ..ClusterSettings::default() },
        may_bootstrap: true,
        store: StoreFact { view: None, broken: None, session: true },
        lead,
        inherited: None,
        unguarded: false,
        failsafe: Default::default(),
        fence: Default::default(),
        watchdog: Default::default(),
        stalls: Default::default(),
        synchronous: Default::default(),
        postgres: PostgresFact {
            data_dir: DataDir::Empty,
            process: ProcessState::Accepting,
            since: NOW,
            orphans: false,
            replay: None,
            stand_alone: false,
            answer: Answer::Known(Arc::new(primary())),
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
    };
    Rig { facts, view, lease: LeaseState { lead, ..LeaseState::default() }, ledger: Ledger::default() }
}

impl Rig {
    fn next(&mut self) -> Option<Write> {
        self.facts.store.view = Some(Arc::new(self.view.clone()));
        self.ledger.next(&self.facts, &self.lease)
    }

    /// The lease keeper learns whose word counts, and the write is made.
    fn write(&mut self) -> Write {
        assert_eq!(self.next(), None, "whoever asks has to know first");
        assert!(self.ledger.waits(&self.lease));
        self.lease.electors = self.ledger.epoch();
        self.next().expect("a write")
    }

    fn written(&mut self, written: StoreResult<TxnOutcome>) {
        self.ledger.written(written, self.facts.lead.map(|l| l.version), self.facts.now);
    }

    fn suffice(&self, by: &[&str]) -> bool {
        self.ledger.electors(&self.facts).is_some_and(|e| e.suffice(&set(by)))
    }

    fn pass(&mut self, seconds: u64) {
        self.facts.now = self.facts.now + Duration::from_secs(seconds);
    }
}

#[test]
fn a_leader_relies_on_nobody_before_the_store_knows_of_it() {
    let mut rig = rig();
    let write = rig.write();
    assert_eq!(write.vouching, r#"{"leader":"a","of":"majority"}"#);
    assert_eq!(
        write.failsafe.as_deref(),
        Some(r#"{"a":"http://a:8008/patroni","b":"http://b:8008/patroni","c":"http://c:8008/patroni"}"#)
    );
    assert!(!rig.suffice(&["a", "b", "c"]));
    rig.written(Ok(TxnOutcome::Applied(12)));
    assert!(rig.suffice(&["a", "b"]) && !rig.suffice(&["a"]));
    assert_eq!(rig.next(), None, "written once");
    // Under another lead it begins again: something of an earlier process may be on its way.
    rig.facts.lead = rig.facts.lead.map(|l| Lead { version: 9, ..l });
    rig.lease.lead = rig.facts.lead;
    assert_eq!(rig.write().over, None);
    assert!(!rig.suffice(&["a", "b", "c"]));
}

#[test]
fn under_its_next_lead_it_relies_on_what_nobody_has_written_since() {
    let led = |unsure: bool| {
        let mut rig = rig();
        let names = failsafe::wanted(&rig.facts, &rig.view).names;
        rig.write();
        rig.written(Ok(TxnOutcome::Applied(12)));
        if unsure {
            rig.facts.settings.failsafe_mode = false;
            rig.view.config = None;
            rig.write();
            rig.written(Err(StoreError::OutcomeUnknown("lost".into())));
            rig.facts.settings.failsafe_mode = true;
            rig.view.config = self::rig().view.config;
        }
        rig.view.failsafe = Some(names);
        rig.view.vouching = Some(Versioned { value: Vouching { leader: "a".into(), of: Of::Majority }, version: 12 });
        rig.view.vouching_version = Some(12);
        // The lead ended, and was taken again.
        rig.facts.lead = None;
        rig.lease.lead = None;
        assert_eq!(rig.next(), None);
        rig.facts.lead = Some(Lead { until: NOW + Duration::from_secs(20), version: 20 });
        rig.lease.lead = rig.facts.lead;
        rig.lease.failing = Some((NOW, "away".into()));
        assert_eq!(rig.next(), None);
        assert!(!rig.suffice(&["a", "b", "c"]), "a view of before");
        rig.view.revision = 21;
        rig.view.leader = Some(Leader { name: "a".into(), version: 20, lease: None });
        rig
    };
    let mut rig = led(false);
    let epoch = rig.ledger.epoch();
    assert_eq!(rig.next(), None);
    assert!(rig.suffice(&["a", "b"]) && !rig.suffice(&["a"]));
    assert!(rig.ledger.epoch() > epoch);
    rig.lease.failing = None;
    assert_eq!(rig.next(), None, "and need not write it");

    type Change = fn(&mut Rig);
    let changes: [Change; 3] = [
        |rig| rig.view.vouching_version = Some(15),
        |rig| rig.view.vouching_version = None,
        |rig| _ = rig.view.failsafe.as_mut().and_then(|names| names.remove(&MemberName::from("c"))),
    ];
    let others = changes.into_iter().map(|change| {
        let mut rig = led(false);
        change(&mut rig);
        rig
    });
    for mut rig in others.chain([led(true)]) {
        assert_eq!(rig.next(), None);
        assert!(!rig.suffice(&["a", "b", "c"]));
        rig.lease.failing = None;
        rig.write();
        rig.written(Ok(TxnOutcome::Applied(22)));
        assert!(rig.suffice(&["a", "b"]));
    }
}

#[test]
fn while_the_outcome_is_not_known_both_lists_count() {
    let mut rig = rig();
    rig.write();
    rig.written(Ok(TxnOutcome::Applied(12)));
    rig.view.members.remove(&MemberName::from("b"));
    rig.view.members.remove(&MemberName::from("c"));
    rig.view.failsafe = Some(failsafe::wanted(&rig.facts, &self::rig().view).names);
    assert_eq!(rig.next(), None, "gone for a moment only");
    rig.pass(60);
    let write = rig.write();
    assert_eq!((write.over, write.failsafe.as_deref()), (Some(12), Some(r#"{"a":"http://a:8008/patroni"}"#)));
    assert!(!rig.suffice(&["a"]), "on its way");
    rig.written(Err(StoreError::OutcomeUnknown("lost".into())));
    assert!(!rig.suffice(&["a"]) && rig.suffice(&["a", "b"]));
    rig.pass(60);
    rig.write();
    rig.written(Ok(TxnOutcome::Applied(15)));
    assert!(rig.suffice(&["a"]), "the later write is the only one that counts");
}

#[test]
fn nothing_is_written_while_the_lead_rests_on_what_was_written_before() {
    let mut rig = rig();
    rig.write();
    rig.written(Ok(TxnOutcome::Applied(12)));
    rig.facts.settings.failsafe_mode = false;
    let vouched = Vouched { sent: NOW, until: NOW + Duration::from_secs(9), by: set(&["a", "b"]) };
    rig.view.vouching = Some(Versioned { value: Vouching { leader: "a".into(), of: Of::Majority }, version: 12 });
    rig.view.vouching_version = Some(12);
    for lease in [
        LeaseState { vouched: Some(vouched), ..rig.lease.clone() },
        LeaseState { failing: Some((NOW, "away".into())), ..rig.lease.clone() },
        LeaseState { unbound: true, ..rig.lease.clone() },
    ] {
        let before = std::mem::replace(&mut rig.lease, lease);
        assert_eq!(rig.next(), None);
        rig.lease = before;
    }
    assert!(!rig.suffice(&["a", "b", "c"]), "switched off");
    let write = rig.write();
    assert_eq!((write.vouching.as_str(), write.failsafe), (r#"{"leader":"a","of":"none"}"#, None));
}

#[test]
fn a_member_that_patroni_drives_must_vouch_from_the_moment_it_is_seen() {
    let mut rig = rig();
    rig.write();
    rig.written(Ok(TxnOutcome::Applied(12)));
    assert!(rig.suffice(&["a", "b"]));
    let patroni = Member { api_url: Some("http://d:8008/patroni".into()), ..Member::unknown("d".into()) };
    rig.view.members.insert("d".into(), patroni);
    assert_eq!(rig.next(), None);
    assert!(!rig.suffice(&["a", "b"]) && !rig.suffice(&["a", "b", "d"]), "all of the list that is on its way");
    assert!(rig.suffice(&["a", "b", "c", "d"]));
    rig.lease.electors = rig.ledger.epoch();
    assert_eq!(rig.next().map(|w| w.vouching).as_deref(), Some(r#"{"leader":"a","of":"all"}"#));
}

#[test]
fn what_only_a_file_says_is_not_relied_on() {
    let mut rig = rig();
    rig.write();
    rig.written(Ok(TxnOutcome::Applied(12)));
    assert!(rig.suffice(&["a", "b"]));
    rig.view.vouching = Some(Versioned { value: Vouching { leader: "a".into(), of: Of::Majority }, version: 12 });
    rig.view.vouching_version = Some(12);
    // My settings stay as they were, and a Patroni member that is started now has the mode off.
    rig.view.config = None;
    assert_eq!(rig.next(), None);
    assert!(!rig.suffice(&["a", "b", "c"]));
    rig.lease.electors = rig.ledger.epoch();
    assert_eq!(rig.next().map(|w| w.vouching).as_deref(), Some(r#"{"leader":"a","of":"none"}"#));
}

#[test]
fn the_default_is_written_once_all_members_are_ours() {
    let config = |value| Some(Versioned { value, version: 3 });
    let due = |change: &dyn Fn(&mut Rig), seconds: u64| {
        let (mut rig, mut adoption) = (rig(), Adoption::default());
        rig.view.config = config(serde_json::json!({"ttl": 30}));
        let mut look = |rig: &mut Rig| {
            rig.facts.store.view = Some(Arc::new(rig.view.clone()));
            adoption.due(&rig.facts)
        };
        assert_eq!(look(&mut rig), None, "not at once");
        change(&mut rig);
        rig.pass(seconds);
        look(&mut rig)
    };
    let patroni = |rig: &mut Rig| {
        let patroni = Member { api_url: Some("http://d:8008/patroni".into()), ..Member::unknown("d".into()) };
        rig.view.members.insert("d".into(), patroni);
    };
    let written = Some((r#"{"ttl":30,"failsafe_mode":true}"#.to_owned(), 3));
    assert_eq!(due(&|_| {}, 60), written);
    assert_eq!(due(&|_| {}, 59), None);
    type Change<'a> = &'a dyn Fn(&mut Rig);
    let no: [(&str, Change<'_>); 8] = [
        ("Patroni drives one", &patroni),
        ("one that nobody can read", &|r| _ = r.view.members.insert("d".into(), Member::unknown("d".into()))),
        ("switched off", &|r| r.view.config = config(serde_json::json!({"failsafe_mode": false}))),
        ("switched on", &|r| r.view.config = config(serde_json::json!({"failsafe_mode": "on"}))),
        ("no configuration", &|r| r.view.config = None),
        ("not the leader", &|r| r.view.leader = None),
        ("paused", &|r| r.facts.settings.pause = true),
        ("an old reading", &|r| r.facts.store.broken = Some((NOW, "away".into()))),
    ];
    for (what, change) in no {
        assert_eq!(due(change, 600), None, "{what}");
    }
    // Whoever comes and goes begins the time anew.
    let (mut rig, mut adoption) = (self::rig(), Adoption::default());
    rig.view.config = config(serde_json::json!({}));
    let ours = rig.view.clone();
    patroni(&mut rig);
    let theirs = rig.view.clone();
    for (view, seconds, due) in [(&ours, 0, false), (&theirs, 50, false), (&ours, 50, false), (&ours, 60, true)] {
        rig.pass(seconds);
        rig.facts.store.view = Some(Arc::new(view.clone()));
        assert_eq!(adoption.due(&rig.facts).is_some(), due);
    }
}

#[test]
fn a_round_of_questions() {
    let list =
        List { names: rig().view.members.keys().map(|n| (n.clone(), n.to_string())).collect(), of: Of::Majority };
    let electors = Electors { epoch: 3, lists: vec![list], foreign: BTreeMap::new() };
    let me = MemberName::from("a");
    let timing = Timing::NEW_CLUSTER;
    let mut asking = Asking::default();
    assert_eq!(asking.begin(&me, electors.clone(), true, NOW).len(), 2);
    assert_eq!(asking.enough(&timing), None);
    asking.answered(NOW, "b".into(), Err("no".into()));
    asking.answered(BootTime::default(), "c".into(), Ok(()));
    assert_eq!(asking.enough(&timing), None, "an answer to an older question");
    assert_eq!(asking.due(), NOW + AGAIN, "asked again soon");
    asking.answered(NOW, "c".into(), Ok(()));
    assert_eq!(asking.enough(&timing), Some((NOW, set(&["a", "c"]), 3)));
    assert_eq!(asking.enough(&timing), None, "told once");
    let answers = asking.answers().expect("it asks");
    assert!(answers.enough);
    assert_eq!(answers.of[&"b".into()], Err("no".to_owned()));
    assert_eq!(answers.of.values().filter(|said| said.is_ok()).count(), 2);
    // A refusal that arrives after a newer answer says nothing any more.
    let later = NOW + AGAIN;
    asking.begin(&me, electors.clone(), true, later);
    asking.answered(later, "b".into(), Ok(()));
    asking.answered(NOW, "b".into(), Err("timeout".into()));
    assert_eq!(asking.answers().expect("it asks").of[&"b".into()], Ok(()));
    // Who does not answer at all is known from an earlier question.
    asking.answered(NOW, "c".into(), Err("timeout".into()));
    assert_eq!(asking.answers().expect("it asks").of[&"c".into()], Err("timeout".to_owned()));
    // Who has promised somebody else something does not count for itself.
    asking.begin(&me, electors, false, NOW);
    asking.answered(NOW, "b".into(), Ok(()));
    assert_eq!(asking.enough(&timing), None);
}
