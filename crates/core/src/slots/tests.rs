use super::*;
use crate::cluster::{MemberState, Status};

/// Physical, and nobody reads from it.
pub fn slot(name: &str, restart: u64) -> Slot {
    Slot {
        name: name.into(),
        logical: false,
        active: false,
        restart_lsn: Some(Lsn(restart)),
        confirmed_flush_lsn: None,
        has_xmin: false,
        wal_status: None,
        plugin: None,
        database: None,
        failover: false,
        synced: false,
    }
}

fn cluster() -> ClusterView {
    let mut view = ClusterView {
        status: Status {
            optime: Lsn(9),
            slots: [("c".into(), Lsn(5)), ("changes".into(), Lsn(6))].into(),
            retain_slots: vec!["gone".into(), "b".into()],
        },
        ..ClusterView::default()
    };
    for (name, from, nostream) in [("a", None, false), ("b", None, false), ("c", Some("b"), false), ("d", None, true)] {
        let state = MemberState::Running;
        let mut m = Member { xlog_location: Some(Lsn(7)), state, ..Member::unknown(name.into()) };
        if let Some(from) = from {
            m.tags.0.insert("replicatefrom".into(), from.into());
        }
        m.tags.0.insert("nostream".into(), nostream.into());
        view.members.insert(name.into(), m);
    }
    view
}

fn changes(failover: Option<bool>) -> PermanentSlot {
    PermanentSlot::Logical { database: "app".into(), plugin: "pgoutput".into(), failover }
}

fn policy() -> BTreeMap<String, PermanentSlot> {
    let physical =
        |primary, standby| PermanentSlot::Physical { on_primary_cluster: primary, on_standby_cluster: standby };
    [
        ("audit".to_owned(), physical(true, true)),
        ("a".to_owned(), physical(true, true)),
        ("only_standby".to_owned(), physical(false, true)),
        ("changes".to_owned(), changes(None)),
    ]
    .into()
}

struct Case {
    view: ClusterView,
    settings: ClusterSettings,
    permanent: BTreeMap<String, PermanentSlot>,
    version: u32,
    synchronised: bool,
}

impl Case {
    fn new() -> Case {
        Case {
            view: cluster(),
            settings: ClusterSettings::default(),
            permanent: BTreeMap::new(),
            version: 150_000,
            synchronised: false,
        }
    }

    fn of(&self, me: &str, leads: bool) -> Wanted {
        let me: MemberName = me.into();
        wanted(&Node {
            view: &self.view,
            tags: &self.view.members[&me].tags,
            me: &me,
            settings: &self.settings,
            permanent: &self.permanent,
            leads,
            server_version: self.version,
            synchronised: self.synchronised,
        })
    }

    fn names(&self, me: &str, leads: bool) -> Vec<String> {
        self.of(me, leads).slots.into_keys().collect()
    }
}

fn physical(used_here: bool, at: Option<u64>) -> Want {
    Want::Physical { used_here, at: at.map(Lsn) }
}

#[test]
fn members_and_absentees() {
    let mut case = Case::new();
    let leader = case.of("a", true).slots;
    assert_eq!(leader.keys().collect::<Vec<_>>(), ["b", "c", "gone"]);
    assert_eq!(leader["b"], physical(true, None));
    assert_eq!(leader["c"], physical(false, Some(7)), "c streams from b: here it only advances");
    let replica = case.of("b", false).slots;
    assert_eq!(replica.keys().collect::<Vec<_>>(), ["a", "c", "gone"]);
    assert_eq!(replica["c"], physical(true, Some(7)));
    assert_eq!(case.names("d", false), ["a", "b", "c", "gone"]);
    case.settings.member_slots_ttl = Duration::ZERO;
    assert_eq!(case.names("b", false), ["b", "c", "gone"].map(str::to_owned)[1..]);
    assert_eq!(case.names("a", true), ["b", "gone"]);
    case.settings.use_slots = false;
    assert_eq!(case.of("a", true), Wanted::default());
}

#[test]
fn old_servers_keep_what_is_read_from_them() {
    let mut case = Case::new();
    case.version = 100_000;
    case.permanent = policy();
    assert_eq!(case.names("b", false), ["c", "gone"]);
    assert_eq!(case.names("a", true), ["audit", "b", "changes", "gone"]);
}

#[test]
fn a_member_that_must_not_lead_keeps_only_what_is_read_from_it() {
    let mut case = Case::new();
    case.permanent = policy();
    case.view.members.get_mut(&MemberName::from("b")).unwrap().tags.0.insert("nofailover".into(), true.into());
    assert_eq!(case.names("b", false), ["c"]);
}

#[test]
fn permanent_slots() {
    let mut case = Case::new();
    case.permanent = policy();
    let leader = case.of("a", true);
    let logical = |at: Option<u64>| Want::Logical {
        database: "app".into(),
        plugin: "pgoutput".into(),
        at: at.map(Lsn),
        native: false,
    };
    assert_eq!(leader.slots.keys().collect::<Vec<_>>(), ["audit", "b", "c", "changes", "gone"]);
    assert_eq!((&leader.slots["audit"], &leader.slots["changes"]), (&physical(true, None), &logical(Some(6))));
    let replica = case.of("b", false);
    assert_eq!(replica.slots["audit"], physical(false, None));
    assert!(replica.slots.contains_key("a") && replica.slots.contains_key("changes"));
    // Without streaming nobody can tell the primary what a logical slot needs; the same through a cascade.
    assert!(!case.names("d", false).contains(&"changes".to_owned()));
    let c = case.view.members.get_mut(&MemberName::from("c")).unwrap();
    c.tags.0.insert("replicatefrom".into(), "d".into());
    assert!(!case.names("c", false).contains(&"changes".to_owned()));
    case.settings.standby_cluster = true;
    assert_eq!(case.names("a", true), ["audit", "b", "c", "gone", "only_standby"]);
}

#[test]
fn who_brings_a_logical_slot_to_standbys() {
    let mut case = Case::new();
    let native = |case: &Case, me: &str, leads: bool| match &case.of(me, leads).slots["changes"] {
        Want::Logical { native, .. } => *native,
        other => panic!("{other:?}"),
    };
    // The version, `sync_replication_slots`, the slot's own word; on the leader, on a standby of it, on another's.
    for (version, synchronised, failover, expected) in [
        (170_000, true, None, [true, true, false]),
        (170_000, true, Some(true), [true, true, false]),
        (170_000, true, Some(false), [false; 3]),
        (170_000, false, None, [false; 3]),
        (170_000, false, Some(true), [false; 3]),
        (160_000, true, None, [false; 3]),
        (160_000, true, Some(true), [false; 3]),
    ] {
        (case.version, case.synchronised) = (version, synchronised);
        case.permanent = [("changes".to_owned(), changes(failover))].into();
        let found = [native(&case, "a", true), native(&case, "b", false), native(&case, "c", false)];
        assert_eq!(found, expected, "{version} {synchronised} {failover:?}");
        let told = case.of("a", true).faults.iter().any(|f| f.contains("changes asks for `failover`"));
        assert_eq!(told, failover == Some(true) && !expected[0], "{version} {synchronised} {failover:?}");
    }
}

#[test]
fn names_that_collide_are_told() {
    let mut case = Case::new();
    case.view.members.insert("B".into(), Member::unknown("B".into()));
    case.permanent.insert("c".into(), changes(None));
    let faults: Vec<String> = case.of("a", true).faults.into_iter().collect();
    assert_eq!(faults.len(), 2);
    assert!(faults[0].contains("share a replication slot name: B, b"), "{faults:?}");
    assert!(faults[1].contains("'c' is conflicting"), "{faults:?}");
}
