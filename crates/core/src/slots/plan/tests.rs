use super::super::tests::slot;
use super::*;

fn logical_slot(name: &str, confirmed: u64) -> Slot {
    Slot {
        logical: true,
        confirmed_flush_lsn: Some(Lsn(confirmed)),
        has_xmin: true,
        plugin: Some("pgoutput".into()),
        database: Some("app".into()),
        ..slot(name, confirmed)
    }
}

const NONE: &BTreeSet<String> = &BTreeSet::new();

const PRIMARY: Here<'_> = Here {
    primary: true,
    replayed: Lsn(0),
    paused: false,
    spared: NONE,
    ignored: &[],
    synchronised: false,
    leader_has: None,
};
const STANDBY: Here<'_> = Here { primary: false, replayed: Lsn(8), ..PRIMARY };

fn physical(used_here: bool, at: u64) -> Want {
    Want::Physical { used_here, at: (at > 0).then_some(Lsn(at)) }
}

fn changes(at: u64) -> BTreeMap<String, Want> {
    wanted(at, false)
}

fn wanted(at: u64, native: bool) -> BTreeMap<String, Want> {
    let (database, plugin) = ("app".into(), "pgoutput".into());
    let want = Want::Logical { database, plugin, at: (at > 0).then_some(Lsn(at)), native };
    [("changes".to_owned(), want)].into()
}

/// What was decided, in short.
fn told(plan: &Plan) -> Vec<String> {
    let actions = plan.actions.iter().map(|action| match action {
        Action::Drop { name, .. } => format!("drop {name}"),
        Action::GiveWay(name) => format!("{name} gives way"),
        Action::CreatePhysical(name) => format!("create {name}"),
        Action::CreateLogical { slot, failover: false } => format!("create logical {}", slot.name),
        Action::CreateLogical { slot, failover: true } => format!("create failover {}", slot.name),
        Action::SetFailover { slot, on } => format!("failover of {} {on}", slot.name),
        Action::AdvancePhysical(name, to) => format!("advance {name} {}", to.0),
        Action::AdvanceLogical { slot, to } => format!("advance logical {} {}", slot.name, to.0),
    });
    let copies = plan.to_copy.iter().map(|slot| format!("copy {}", slot.name));
    let in_use = plan.in_use.iter().map(|name| format!("in use {name}"));
    let open = plan.unprotected.iter().map(|name| format!("unprotected {name}"));
    let bound = plan.bound.iter().map(|name| format!("bound {name}"));
    actions.chain(copies).chain(in_use).chain(open).chain(bound).collect()
}

#[test]
fn physical_slots() {
    let found = [
        slot("stray", 5),
        Slot { active: true, ..slot("busy", 5) },
        slot("spared", 5),
        slot("ignored", 5),
        Slot { active: true, has_xmin: true, ..slot("used", 5) },
        slot("behind", 5),
        slot("there", 9),
        Slot { has_xmin: true, ..slot("xmin", 5) },
        Slot { restart_lsn: None, ..slot("unreserved", 5) },
        Slot { wal_status: Some("lost".into()), ..slot("lost", 5) },
        logical_slot("other_kind", 5),
    ];
    let wanted: BTreeMap<String, Want> = [
        ("used", physical(true, 0)),
        ("behind", physical(false, 9)),
        ("there", physical(false, 9)),
        ("xmin", physical(false, 0)),
        ("unreserved", physical(false, 9)),
        ("lost", physical(true, 9)),
        ("new", physical(true, 0)),
        ("other_kind", physical(true, 0)),
    ]
    .map(|(name, want)| (name.to_owned(), want))
    .into();
    let spared = ["spared".to_owned()].into();
    let ignored = [IgnoreSlot { name: Some("ignored".into()), ..IgnoreSlot::default() }];
    let here = Here { spared: &spared, ignored: &ignored, ..PRIMARY };
    let told = told(&plan(&found, &wanted, &here));
    assert_eq!(
        told.join(", "),
        "drop stray, advance behind 9, drop lost, create lost, create new, drop other_kind, create other_kind, \
         drop unreserved, create unreserved, drop xmin, create xmin, in use busy"
    );
}

#[test]
fn nothing_is_dropped_in_a_pause() {
    let found = [slot("stray", 5), Slot { has_xmin: true, ..slot("xmin", 5) }, slot("behind", 5)];
    let wanted = [("xmin".to_owned(), physical(false, 0)), ("behind".to_owned(), physical(false, 7))].into();
    let paused = Here { paused: true, ..PRIMARY };
    assert_eq!(told(&plan(&found, &wanted, &paused)), ["advance behind 7"]);
}

#[test]
fn logical_slots() {
    let here = [logical_slot("changes", 5)];
    let other = [Slot { plugin: Some("wal2json".into()), ..logical_slot("changes", 5) }];
    let gone = [Slot { wal_status: Some("lost".into()), ..logical_slot("changes", 5) }];
    let busy = [Slot { active: true, ..logical_slot("changes", 5) }];
    let nothing = BTreeMap::new();
    type Case<'a> = (&'a [Slot], &'a BTreeMap<String, Want>, Here<'a>, &'a [&'a str]);
    let cases: [Case<'_>; 11] = [
        (&[], &changes(0), PRIMARY, &["create logical changes"]),
        (&[], &changes(0), STANDBY, &[]),
        (&[], &changes(6), STANDBY, &["copy changes"]),
        (&here, &changes(7), PRIMARY, &[]),
        (&here, &changes(7), STANDBY, &["advance logical changes 7"]),
        // The standby has not applied that yet.
        (&here, &changes(20), STANDBY, &["advance logical changes 8"]),
        (&busy, &changes(7), STANDBY, &[]),
        (&other, &changes(7), PRIMARY, &["drop changes", "create logical changes"]),
        (&gone, &changes(7), STANDBY, &["drop changes"]),
        // A subscriber's slot on a primary is not ours to drop; on a standby it only holds back WAL.
        (&here, &nothing, PRIMARY, &["unprotected changes"]),
        (&here, &nothing, STANDBY, &["drop changes"]),
    ];
    for (i, (found, wanted, server, expected)) in cases.into_iter().enumerate() {
        assert_eq!(told(&plan(found, wanted, &server)), expected, "case {i}");
    }
}

#[test]
fn failover_slots() {
    let copy = [logical_slot("changes", 5)];
    let made = [Slot { failover: true, ..logical_slot("changes", 5) }];
    let synced = [Slot { synced: true, ..made[0].clone() }];
    let busy = |of: &[Slot]| [Slot { active: true, ..of[0].clone() }];
    let lost = [Slot { wal_status: Some("lost".into()), ..synced[0].clone() }];
    let (copy_busy, made_busy) = (busy(&copy), busy(&made));
    let (native, copied, nothing) = (&wanted(9, true), &wanted(9, false), &BTreeMap::new());
    let leaders = |failover: bool| -> BTreeMap<String, bool> { [("changes".to_owned(), failover)].into() };
    let (theirs, ordinary, none) = (leaders(true), leaders(false), BTreeMap::new());
    let primary = Here { synchronised: true, ..PRIMARY };
    let standby = Here { synchronised: true, ..STANDBY };
    let leader_has = Here { leader_has: Some(&theirs), ..standby };
    let leader_lacks = Here { leader_has: Some(&none), ..standby };
    let leader_other = Here { leader_has: Some(&ordinary), ..standby };
    let paused = Here { paused: true, ..leader_has };
    let off = Here { synchronised: false, ..PRIMARY };
    type Case<'a> = (&'a [Slot], &'a BTreeMap<String, Want>, Here<'a>, &'a [&'a str]);
    let cases: [Case<'_>; 31] = [
        (&[], native, primary, &["create failover changes"]),
        // The server brings it: no copy, no restart.
        (&[], native, leader_has, &[]),
        (&[], native, standby, &[]),
        (&[], native, leader_lacks, &[]),
        // A leader that has it as an ordinary one: a copy is better than nothing.
        (&[], native, leader_other, &["copy changes"]),
        (&[], &wanted(0, true), leader_other, &[]),
        (&copy, native, leader_other, &["advance logical changes 8"]),
        (&made, nothing, leader_other, &[]),
        (&made, native, primary, &[]),
        // A promoted standby's.
        (&synced, native, primary, &[]),
        (&copy, native, primary, &["failover of changes true"]),
        (&copy_busy, native, primary, &["bound changes"]),
        (&made, copied, primary, &["failover of changes false"]),
        (&made, copied, off, &[]),
        // The server moves it, and replaces it when its WAL is gone.
        (&synced, native, leader_has, &[]),
        (&lost, native, leader_has, &[]),
        (&lost, native, primary, &["drop changes", "create failover changes"]),
        // A former primary's, or a copy from before: in the way, once the leader is known to have one.
        (&made, native, leader_has, &["changes gives way"]),
        (&copy, native, leader_has, &["changes gives way"]),
        (&made_busy, native, leader_has, &["in use changes"]),
        (&made, native, paused, &[]),
        // Until then a copy goes on as one.
        (&made, native, standby, &["advance logical changes 8"]),
        (&copy, native, leader_lacks, &["advance logical changes 8"]),
        // No longer synchronised: a copy takes the place of what the server left.
        (&synced, copied, STANDBY, &["copy changes"]),
        (&synced, &wanted(0, false), STANDBY, &[]),
        // Of somebody who uses failover slots without a setting of ours: never dropped as unknown.
        (&made, nothing, primary, &[]),
        (&made, nothing, off, &["unprotected changes"]),
        (&synced, nothing, leader_has, &[]),
        (&made, nothing, standby, &[]),
        (&made, nothing, leader_lacks, &[]),
        (&made, nothing, leader_has, &["changes gives way"]),
    ];
    for (i, (found, wanted, server, expected)) in cases.into_iter().enumerate() {
        assert_eq!(told(&plan(found, wanted, &server)), expected, "case {i}");
    }
}

#[test]
fn what_is_ignored() {
    let entry = |text: [&str; 4]| {
        let [name, kind, database, plugin] = text.map(|t| (!t.is_empty()).then(|| t.to_owned()));
        IgnoreSlot { name, kind, database, plugin }
    };
    for (fields, matches) in [
        (["", "", "", ""], true),
        (["changes", "", "", ""], true),
        (["changes", "physical", "", ""], false),
        (["", "logical", "app", "pgoutput"], true),
        (["", "logical", "other", "pgoutput"], false),
        (["", "", "app", "wal2json"], false),
    ] {
        assert_eq!(entry(fields).matches(&logical_slot("changes", 5)), matches, "{fields:?}");
    }
}
