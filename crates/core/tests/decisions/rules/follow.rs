//! Replicas, and clusters that follow another.

use surus_core::cluster::{Initialize, MemberRole};
use surus_core::postgres::{ControlState, DataDir};
use surus_core::slots::LogicalSlot;

use super::Row;
use crate::scenario::*;

fn slot() -> LogicalSlot {
    LogicalSlot { name: "changes".into(), database: "app".into(), plugin: "pgoutput".into() }
}

pub(super) fn replica() -> Vec<Row> {
    let demotable = || {
        Scenario::leader().with(|s| {
            s.facts.lead = None;
            s.view.leader = Scenario::standby().view.leader;
            s.view.members.insert("b".into(), member("b", MemberRole::Primary));
        })
    };
    let stuck = || {
        Scenario::standby().with(|s| {
            s.facts.postgres.answer =
                surus_core::facts::Answer::Known(std::sync::Arc::new(standby_at(1000, 1, "a", Some("b"), false)));
            s.memory.last_leader = Some("b".into());
            s.memory.not_streaming_since = Some(before(900));
        })
    };
    let chained = |from: &str, streams: bool| {
        let observed = standby_at(1000, 1, "a", Some(from), streams);
        Scenario::standby().member(member("c", MemberRole::Replica)).tag("replicatefrom", "c").with(|s| {
            s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
            s.memory.last_leader = Some("b".into());
        })
    };
    let away = |s: &mut Scenario| s.memory.away = Some("c".into());
    vec![
        (890, chained("c", true), &[]),
        (890, chained("c", false), &["ask c"]),
        (810, chained("c", false).with(away), &["follow b"]),
        (890, chained("b", true).with(away), &["ask c"]),
        (800, demotable(), &["demote, deposed"]),
        (805, demotable().paused(), &[]),
        (808, Scenario::standby().silent(), &[]),
        (810, Scenario::standby().member(member("c", MemberRole::Replica)).tag("replicatefrom", "c"), &["follow c"]),
        (820, stuck().forked(false).with(|s| s.facts.settings.use_pg_rewind = true), &["rewind from b"]),
        (
            820,
            stuck().forked(false).with(|s| {
                s.facts.settings.use_pg_rewind = true;
                s.view.members.get_mut(&"b".into()).expect("b").checkpoint_after_promote = Some(false);
            }),
            &[],
        ),
        (825, stuck().forked(false), &[]),
        (810, stuck().same_number("b", 5000), &["follow nobody"]),
        (822, stuck().same_number("b", 5000).with(follows_nobody), &["compare with b"]),
        (825, stuck().same_number("b", 3000).with(follows_nobody), &[]),
        (825, stuck().forked(true).with(|s| s.facts.settings.use_pg_rewind = true), &[]),
        (830, stuck(), &["compare with b"]),
        (840, Scenario::standby().with(|s| s.facts.missing_slots = vec![slot()]), &["copy 1 slot from b"]),
        (890, Scenario::standby(), &[]),
        (890, Scenario::standby().paused(), &[]),
    ]
}

fn follows_nobody(s: &mut Scenario) {
    let observed = standby_at(1000, 1, "a", None, false);
    s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
    s.memory.followed = Some((None, before(1000)));
}

pub(super) fn standby_cluster() -> Vec<Row> {
    let leads = |streams: bool| {
        let remote = surus_core::cluster::Upstream::remote("far", 5432);
        let observed = surus_core::postgres::Observed {
            primary_slot_name: None,
            ..standby_at(1000, 1, "a", Some("far"), streams)
        };
        Scenario::leader().remote().with(|s| {
            s.facts.postgres.data_dir = data(ControlState::InArchiveRecovery, true);
            s.facts.postgres.answer = surus_core::facts::Answer::Known(std::sync::Arc::new(observed));
            s.memory.followed = Some((Some(remote), before(90_000)));
        })
    };
    let stuck = || {
        leads(false).with(|s| {
            s.memory.last_leader = Some("a".into());
            s.memory.not_streaming_since = Some(before(900));
        })
    };
    let forked = |s: &mut Scenario| {
        *s = s.clone().forked(false);
        s.memory.last_leader = Some("a".into());
        s.memory.divergence =
            surus_core::memory::Divergence::Found { against: "far:5432".into(), what: "300 bytes".into() };
    };
    let same_number = |s: &mut Scenario| {
        *s = s.clone().same_number("far:5432", 3000);
        s.memory.last_leader = Some("a".into());
    };
    let long_ago = |s: &mut Scenario| s.memory.divergence_checked = Some(before(5000));
    let nobody_leads = |s: &mut Scenario| {
        s.facts.lead = None;
        s.view.leader = None;
    };
    let rewinds = |s: &mut Scenario| s.facts.settings.use_pg_rewind = true;
    let gives_up = |s: &mut Scenario| s.facts.settings.remove_data_directory_on_diverged_timelines = true;
    let archive_only = |s: &mut Scenario| s.facts.settings.remote = None;
    let unclaimed = |s: &mut Scenario| {
        s.view.initialize = Initialize::Absent;
        s.memory.last_leader = None;
    };
    let empty = || Scenario::standby().remote().with(|s| s.facts.postgres = stopped(DataDir::Empty));
    let asked = || leads(true).with_standby("b", 990).with_standby("c", 1000).failover(Some("a"), None).asked();
    vec![
        (437, Scenario::nothing().remote(), &["bootstrap"]),
        (439, Scenario::nothing().remote().unfenced(), &[]),
        (445, Scenario::nothing().remote().tag("nofailover", true), &[]),
        (435, empty(), &["clone b"]),
        (418, Scenario::leaderless().remote().with(unclaimed), &["write system id"]),
        // What would start as a primary follows the remote node, once the histories were compared.
        (530, Scenario::crashed_leader().remote(), &["compare with far:5432"]),
        (532, Scenario::crashed_leader().remote().with(forked).with(rewinds), &["rewind from far:5432"]),
        (545, Scenario::crashed_leader().remote().with(forked).with(gives_up), &["start standby of far:5432"]),
        (535, Scenario::crashed_leader().remote().with(same_number), &[]),
        (535, Scenario::crashed_leader().remote().with(same_number).with(nobody_leads), &[]),
        (
            545,
            Scenario::crashed_leader().down(ControlState::ShutDownInRecovery, true).remote(),
            &["start standby of far:5432"],
        ),
        (
            545,
            Scenario::crashed_leader().down(ControlState::ShutDownInRecovery, true).remote().with(archive_only),
            &["start standby of nobody"],
        ),
        (
            545,
            Scenario::leaderless().down(ControlState::ShutDownInRecovery, true).remote(),
            &["start standby of far:5432"],
        ),
        (530, Scenario::standby().down(ControlState::ShutDown, false).remote(), &["compare with far:5432"]),
        (553, leads(true).with(|s| s.memory.followed = None).starting(before(9000)), &["follow far:5432"]),
        (610, Scenario::leaderless().remote().with_standby("b", 1000), &["take"]),
        (640, Scenario::leaderless().remote().with_standby("b", 1001), &[]),
        // It takes the lead as it is, and steps down under it.
        (610, Scenario::leader().remote().with(|s| (s.facts.lead, s.view.leader) = (None, None)), &["take"]),
        (
            800,
            Scenario::leader()
                .remote()
                .with(|s| (s.facts.lead, s.view.leader) = (None, Scenario::standby().view.leader)),
            &["demote, deposed"],
        ),
        (738, asked(), &["name c", "release"]),
        (738, asked().failover(None, Some("b")), &["release"]),
        (738, asked().starting(before(9000)), &["name c", "release"]),
        (735, asked().failover(None, Some("d")), &["clear request"]),
        (788, leads(true), &[]),
        (788, leads(true).paused(), &[]),
        (788, leads(true).lead_until(after(100)), &[]),
        (708, leads(true).silent(), &[]),
        (890, Scenario::standby().remote(), &[]),
        (900, Scenario::leader().remote(), &["demote the cluster"]),
        (902, Scenario::leader().remote().paused(), &[]),
        (910, stuck().with(|s| s.facts.settings.remote_slot = Some("site".into())), &["follow far:5432"]),
        (910, stuck().with(archive_only), &["follow nobody"]),
        (920, stuck().with(forked).with(rewinds), &["rewind from far:5432"]),
        (925, stuck().with(forked), &[]),
        (910, stuck().with(same_number), &["follow nobody"]),
        (925, stuck().with(same_number).with(follows_nobody), &[]),
        (922, stuck().with(same_number).with(follows_nobody).with(long_ago), &["compare with far:5432"]),
        (925, stuck().with(forked).with(gives_up), &[]),
        (930, stuck(), &["compare with far:5432"]),
        (788, stuck().paused(), &[]),
    ]
}
