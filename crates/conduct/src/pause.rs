//! How a primary comes to be left alone while the cluster is paused, and how that ends.
//!
//! A primary that nothing ends goes on also when its lease does, which is what a pause is for. So it must be known
//! beforehand to everybody who could take over: the store names it under `unguarded`, and from then on nobody else
//! takes the lead. Only when that is seen to be written is its fence disarmed; only when the fence is armed again after
//! the pause is it withdrawn. Whatever happens to this member in between, the store knows.

use surus_core::cluster::{KeyVersion, Member, MemberRole};
use surus_core::facts::Facts;

/// What to write into the store about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// `ClusterStore::write_unguarded`
    Write { config: KeyVersion, before: Option<KeyVersion> },
    /// `ClusterStore::withdraw_unguarded`
    Withdraw { config: Option<KeyVersion>, version: KeyVersion },
}

/// The store says that this primary is left alone, and the pause is not over.
pub fn left_alone(facts: &Facts) -> bool {
    facts.unguarded && facts.settings.pause && facts.store.view.is_some()
}

/// `guarded`: the fence knows the end of my lead, or there is none by choice. `inherited`: a successor of this process
/// would still take its primary for one that is left alone.
pub fn note(facts: &Facts, guarded: bool, inherited: bool) -> Option<Note> {
    let view = facts.store.view.as_deref().filter(|_| facts.store.broken.is_none())?;
    let postgres = &facts.postgres;
    let leads = facts.lead.is_some() && view.leader_name() == Some(&facts.me);
    let config = view.config.as_ref().map(|c| c.version);
    if facts.task.is_some() {
        return None;
    }
    match (facts.settings.pause, &view.unguarded) {
        (true, _) if !facts.unguarded && leads && postgres.is_primary() => {
            Some(Note::Write { config: config?, before: view.unguarded.as_ref().map(|u| u.version) })
        }
        (false, Some(mine)) if mine.value == facts.me && !inherited => {
            let standby = postgres.observed().is_some_and(|o| o.in_recovery);
            let gone = !postgres.running() && !postgres.orphans;
            let guarded = postgres.is_primary() && leads && guarded;
            (standby || gone || guarded).then_some(Note::Withdraw { config, version: mine.version })
        }
        // Swapped while paused: Patroni drives that member now. It knows nothing of the note and would never withdraw
        // it, and then nobody of us would take over from it again. That it says no more that it is paused is all that a
        // Patroni member ever says; it has to be in order, too: a primary without the lead is not to be raced with.
        (false, Some(other)) if other.value != facts.me => {
            let leads = view.leader_name() == Some(&other.value);
            let in_order = |m: &&Member| m.is_foreign() && !m.pause && (leads || m.role == MemberRole::Replica);
            let swapped = view.members.get(&other.value).filter(in_order);
            swapped.map(|_| Note::Withdraw { config, version: other.version })
        }
        _ => None,
    }
}

/// It is to be withdrawn as soon as that may be.
pub fn ends(facts: &Facts) -> bool {
    facts.unguarded && !facts.settings.pause && facts.store.view.is_some() && facts.store.broken.is_none()
}

/// For the `pause` field of the member key: whether this member is one of a paused cluster, in deed. A leader has taken
/// the pause in when it is left alone, and its end when it is not any more.
pub fn taken_in(facts: &Facts) -> bool {
    let leads = facts.lead.is_some() && facts.postgres.is_primary();
    facts.unguarded || facts.settings.pause && !leads
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use surus_core::BootTime;
    use surus_core::cluster::{ClusterView, Leader, Tags, Versioned};
    use surus_core::facts::{Answer, Lead, PostgresFact, StoreFact};
    use surus_core::postgres::{DataDir, ProcessState};
    use surus_core::settings::ClusterSettings;

    use super::*;

    /// Running without an answer, which counts as a primary, or not at all.
    fn facts(pause: bool, leader: &str, unguarded: Option<&str>, runs: bool) -> Facts {
        let now = BootTime::from_millis(1000);
        let view = ClusterView {
            leader: Some(Leader { name: leader.into(), version: 1, lease: None }),
            config: Some(Versioned { value: Default::default(), version: 5 }),
            unguarded: unguarded.map(|name| Versioned { value: name.into(), version: 7 }),
            failsafe: Default::default(),
            ..ClusterView::default()
        };
        let process = if runs { ProcessState::Accepting } else { ProcessState::NotRunning };
        Facts {
            now,
            unix_ms: 0,
            me: "a".into(),
            tags: Tags::default(),
            settings: ClusterSettings { pause, ..ClusterSettings::default() },
            may_bootstrap: true,
            unguarded: unguarded == Some("a"),
            failsafe: Default::default(),
            store: StoreFact { view: Some(Arc::new(view)), broken: None, session: true },
            lead: (leader == "a").then_some(Lead { until: now, version: 1 }),
            inherited: None,
            fence: Default::default(),
            watchdog: Default::default(),
            stalls: Default::default(),
            postgres: PostgresFact {
                data_dir: DataDir::Empty,
                process,
                since: now,
                orphans: false,
                replay: None,
                stand_alone: false,
                answer: Answer::Unknown(now, String::new()),
            },
            task: None,
            finished: None,
            peers: BTreeMap::new(),
            request: None,
            room: None,
            missing_slots: Default::default(),
            unready_slots: vec![],
            synchronous: Default::default(),
            shutdown: false,
            failover_due: None,
        }
    }

    #[test]
    fn written_by_the_leader_of_a_paused_cluster_and_withdrawn_under_guard() {
        let write = |before| Some(Note::Write { config: 5, before });
        let withdraw = Some(Note::Withdraw { config: Some(5), version: 7 });
        for (pause, leader, unguarded, runs, guarded, want) in [
            (true, "a", None, true, true, write(None)),
            (true, "a", Some("b"), true, true, write(Some(7))),
            (true, "a", Some("a"), true, true, None),
            (true, "b", None, true, true, None),
            (true, "a", None, false, true, None),
            (true, "a", Some("a"), false, true, None),
            (false, "a", Some("a"), true, true, withdraw),
            (false, "a", Some("a"), true, false, None),
            (false, "b", Some("a"), true, true, None),
            (false, "b", Some("a"), false, false, withdraw),
            (false, "b", Some("b"), false, true, None),
            (false, "a", None, true, true, None),
        ] {
            let facts = facts(pause, leader, unguarded, runs);
            assert_eq!(note(&facts, guarded, false), want, "{pause} {leader} {unguarded:?} {runs} {guarded}");
        }
        let mut facts = facts(false, "a", Some("a"), true);
        assert_eq!(note(&facts, true, true), None, "a successor would leave it alone");
        facts.store.broken = Some((facts.now, String::new()));
        assert_eq!(note(&facts, true, false), None);
    }

    #[test]
    fn that_of_a_member_that_patroni_drives_now_is_withdrawn_after_the_pause() {
        let withdraw = Some(Note::Withdraw { config: Some(5), version: 7 });
        let ours = r#"{"api_url":"u","role":"replica","surus":"0.1.0"}"#;
        let replica = r#"{"api_url":"u","role":"replica"}"#;
        let primary = r#"{"api_url":"u","role":"primary"}"#;
        let waits = r#"{"api_url":"u","role":"replica","pause":true}"#;
        for (pause, leader, key, want) in [
            (false, "a", Some(replica), withdraw),
            (false, "c", Some(replica), withdraw),
            (false, "b", Some(primary), withdraw),
            (false, "c", Some(primary), None),
            (false, "b", Some(waits), None),
            (false, "c", Some(waits), None),
            (true, "b", Some(primary), None),
            (true, "c", Some(replica), None),
            (false, "b", Some(ours), None),
            (false, "c", Some("{}"), None),
            (false, "c", None, None),
            // The leader of a paused cluster writes its own over it.
            (true, "a", Some(replica), Some(Note::Write { config: 5, before: Some(7) })),
        ] {
            let mut facts = facts(pause, leader, Some("b"), true);
            let mut view = facts.store.view.as_deref().cloned().unwrap_or_default();
            let member = key.map(|text| Member::parse("b".into(), text).unwrap());
            view.members.extend(member.map(|m| (m.name.clone(), m)));
            facts.store.view = Some(Arc::new(view));
            assert_eq!(note(&facts, true, false), want, "{pause} {leader} {key:?}");
        }
    }

    #[test]
    fn the_member_key_says_what_is_so() {
        for (pause, leader, unguarded, want) in [
            (true, "a", None, false),
            (true, "a", Some("a"), true),
            (true, "b", None, true),
            (false, "a", Some("a"), true),
            (false, "a", None, false),
        ] {
            assert_eq!(taken_in(&facts(pause, leader, unguarded, true)), want, "{pause} {leader} {unguarded:?}");
        }
    }
}
