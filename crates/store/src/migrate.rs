//! Moving a cluster from one store to another: what is written into which, and what each write is compared with. The order
//! is `surus_conduct::migrate`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::MemberName;
use surus_core::cluster::{ClusterView, Initialize, KeyVersion, MOVED_LEADER, Migration, MigrationPhase};
use tokio::time::Instant;

use crate::cluster::ClusterStore;
use crate::kv::{Compare, KeyValue, Op, Snapshot, StoreError, StoreResult, Txn, TxnOutcome};

const KEY: &str = "migrate";

/// What must be in the new store as it is in the old one when that one is left. The leader's `status` is written anew all the
/// time, by the new lead too, and members write their own `loss` again.
const COMPARED: [&str; 9] =
    ["initialize", "config", "history", "sync", "failover", "failsafe", "unguarded", "timeline", "vouching"];

/// Stores take no transactions of any size: of Consul's 64 operations each key written takes two.
const AT_ONCE: usize = 28;
/// More than any cluster has: it must all be done within what is left of a lead.
const MOST_KEYS: usize = 400;

/// A reading of the old store that can be copied.
#[derive(Clone, Debug)]
pub struct Copy {
    pub view: ClusterView,
    /// By their names below the prefix; the members' as well.
    keys: BTreeMap<String, KeyValue>,
    leader: KeyVersion,
    register: KeyVersion,
    attempt: Migration,
}

/// What there is of the cluster in the new store.
#[derive(Clone, Debug)]
pub struct Target {
    snapshot: Snapshot,
    mark: Option<Migration>,
}

impl ClusterStore {
    /// An operator begins a move, over what the register said as of that version.
    pub async fn prepare_migration(
        &self,
        migration: &Migration,
        over: Option<KeyVersion>,
        deadline: Duration,
    ) -> StoreResult<TxnOutcome> {
        self.compare_and_put(KEY, over, migration.to_text(), deadline).await
    }

    /// An operator gives a move up, only as long as nothing is decided.
    pub async fn abandon_migration(&self, version: KeyVersion, deadline: Duration) -> StoreResult<TxnOutcome> {
        self.compare_and_delete(KEY, version, deadline).await
    }

    /// The leader begins an attempt of this move: the register gets another version, so that no earlier attempt decides
    /// any more.
    pub async fn claim_migration(&self, id: &str, deadline: Duration) -> StoreResult<Result<KeyVersion, String>> {
        let view = self.read(deadline).await?;
        let (migration, version, leader) = match self.mine(&view, id) {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let migration =
            Migration { attempt: migration.attempt + 1, by: Some(self.name().clone()), ..migration.clone() };
        let compare = vec![
            Compare::Version { key: self.layout().key("leader"), version: leader },
            Compare::Version { key: self.layout().key(KEY), version },
        ];
        let then = vec![Op::Put { key: self.layout().key(KEY), value: migration.to_text().into(), lease: None }];
        Ok(match self.kv().txn(Txn { compare, then }, deadline).await? {
            TxnOutcome::Applied(version) => Ok(version),
            TxnOutcome::Conflict => Err("the lead or the register changed meanwhile".into()),
        })
    }

    /// The move of this id, if it is being prepared and I lead.
    fn mine<'a>(&self, view: &'a ClusterView, id: &str) -> Result<(&'a Migration, KeyVersion, KeyVersion), String> {
        let (migration, version) = match view.preparing() {
            Some(found) if found.0.id == id => found,
            _ => return Err(format!("the move {id} is not being prepared any more")),
        };
        match &view.leader {
            Some(leader) if leader.name == *self.name() => Ok((migration, version, leader.version)),
            Some(leader) => Err(format!("{} leads the cluster", leader.name)),
            None => Err("nobody leads the cluster".into()),
        }
    }

    /// What is to be copied, if the attempt of this register still is the latest and mine.
    pub async fn gather_copy(
        &self,
        id: &str,
        register: KeyVersion,
        deadline: Duration,
    ) -> StoreResult<Result<Copy, String>> {
        let snapshot = self.kv().read(self.layout().prefix(), deadline).await?;
        let view = self.view(&snapshot);
        let (attempt, version, leader) = match self.mine(&view, id) {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if version != register {
            return Ok(Err("another attempt was begun meanwhile".into()));
        }
        let attempt = attempt.clone();
        let named = snapshot.keys.into_iter().filter_map(|kv| Some((self.layout().relative(&kv.key)?.to_owned(), kv)));
        let keys: BTreeMap<_, _> = named.filter(|(name, _)| name != "leader" && name != KEY).collect();
        if keys.len() > MOST_KEYS {
            return Ok(Err(format!("the cluster has {} keys, and no more than {MOST_KEYS} can be moved", keys.len())));
        }
        Ok(Ok(Copy { view, keys, leader, register, attempt }))
    }

    /// What the new store has of the cluster: nothing, or what an earlier attempt of this move left.
    pub async fn look_at_target(&self, id: &str, deadline: Duration) -> StoreResult<Result<Target, String>> {
        let snapshot = self.kv().read(self.layout().prefix(), deadline).await?;
        let ClusterView { migration, initialize, .. } = self.view(&snapshot);
        let mark = migration.map(|m| m.value);
        // Once it has arrived nothing is copied any more: the old store does not wait for the move.
        let earlier = mark
            .as_ref()
            .is_some_and(|m| m.id == id && matches!(m.phase, MigrationPhase::Copied | MigrationPhase::Arrived));
        if !snapshot.keys.is_empty() && !earlier {
            return Ok(Err(match mark {
                Some(mark) if mark.phase == MigrationPhase::Moved => format!(
                    "a cluster has moved away from {} there, and its keys are still there: remove them with `surus store \
                     migrate --clean` and the configuration of that store",
                    self.layout().prefix()
                ),
                _ => format!(
                    "the new store already holds {} keys under {}, which are not of this move: {} uses this scope there, or \
                     did. Take another store, or, if that cluster is gone for good, remove its keys there (`surus remove` with \
                     the configuration of that store)",
                    snapshot.keys.len(),
                    self.layout().prefix(),
                    match initialize {
                        Initialize::Done(system) => format!("a cluster with the system identifier {system}"),
                        _ => "another cluster".to_owned(),
                    }
                ),
            }));
        }
        Ok(Ok(Target { snapshot, mark }))
    }

    /// The copy, and my lead, bound to this store's session; everybody's member key for as long as that session lasts, so
    /// that nobody is taken for gone before he arrives. Refused if anybody else has copied since the target was looked at.
    /// `deadline` is for each of the requests, of which a large cluster takes several, and `whole` for all.
    pub async fn receive_copy(
        &self,
        copy: &Copy,
        target: &Target,
        deadline: Duration,
        whole: Duration,
    ) -> StoreResult<TxnOutcome> {
        let begun = Instant::now();
        let left = || match whole.saturating_sub(begun.elapsed()) {
            Duration::ZERO => Err(StoreError::Unavailable("it took too long to copy the cluster's keys".into())),
            left => Ok(left.min(deadline)),
        };
        let session = self.lease();
        let (leader, mark) = (self.layout().key("leader"), self.layout().key(KEY));
        let there = |key: &str| target.snapshot.keys.iter().find(|kv| kv.key == key).map(|kv| kv.version);
        let as_seen = |key: &String| match there(key) {
            Some(version) => Compare::Version { key: key.clone(), version },
            None => Compare::Absent { key: key.clone() },
        };
        let copied = Migration { phase: MigrationPhase::Copied, ..copy.attempt.clone() };
        let put = |(name, kv): (&String, &KeyValue)| {
            let lease = session.filter(|_| name.starts_with("members/"));
            Op::Put { key: self.layout().key(name), value: kv.value.clone(), lease }
        };
        // What belongs to single members, of whom there may be many, follows.
        let (each, whole): (Vec<_>, Vec<_>) = copy.keys.iter().partition(|(name, _)| name.contains('/'));
        let mut then = vec![
            Op::Put { key: leader.clone(), value: self.name().as_str().into(), lease: session },
            Op::Put { key: mark.clone(), value: copied.to_text().into(), lease: None },
        ];
        then.extend(whole.into_iter().map(put));
        let compare = vec![as_seen(&leader), as_seen(&mark)];
        let TxnOutcome::Applied(version) = self.kv().txn(Txn { compare, then }, left()?).await? else {
            return Ok(TxnOutcome::Conflict);
        };
        let others = target.snapshot.keys.iter().filter(|kv| kv.key != leader && kv.key != mark);
        let others =
            others.filter(|kv| self.layout().relative(&kv.key).is_none_or(|name| !copy.keys.contains_key(name)));
        let mut rest: Vec<Op> = each.into_iter().map(put).collect();
        rest.extend(others.map(|kv| Op::Delete { key: kv.key.clone() }));
        let mut outcome = TxnOutcome::Applied(version);
        for then in rest.chunks(AT_ONCE) {
            let compare = vec![Compare::Version { key: mark.clone(), version }];
            outcome = self.kv().txn(Txn { compare, then: then.to_vec() }, left()?).await?;
            if outcome == TxnOutcome::Conflict {
                break;
            }
        }
        Ok(outcome)
    }

    /// The decision: from here on the new store counts, and nobody can take the lead in this one. Only if I lead by the very
    /// key that was seen, the attempt is the latest, and what was copied is as it was.
    pub async fn decide_move(&self, copy: &Copy, deadline: Duration) -> StoreResult<TxnOutcome> {
        let (leader, register) = (self.layout().key("leader"), self.layout().key(KEY));
        let mut compare = vec![
            Compare::Version { key: leader.clone(), version: copy.leader },
            Compare::Version { key: register.clone(), version: copy.register },
        ];
        compare.extend(COMPARED.iter().map(|name| match copy.keys.get(*name) {
            Some(kv) => Compare::Version { key: kv.key.clone(), version: kv.version },
            None => Compare::Absent { key: self.layout().key(name) },
        }));
        let moved = Migration { phase: MigrationPhase::Moved, ..copy.attempt.clone() };
        let then = vec![
            Op::Put { key: register, value: moved.to_text().into(), lease: None },
            Op::Put { key: leader, value: MOVED_LEADER.into(), lease: None },
        ];
        self.kv().txn(Txn { compare, then }, deadline).await
    }

    /// The attempt of this register decides nothing any more.
    pub async fn withdraw_attempt(&self, copy: &Copy, deadline: Duration) -> StoreResult<TxnOutcome> {
        let withdrawn = Migration { attempt: copy.attempt.attempt + 1, ..copy.attempt.clone() };
        self.compare_and_put(KEY, Some(copy.register), withdrawn.to_text(), deadline).await
    }

    /// Removes what is left of a cluster that has moved away.
    pub async fn clean_moved(&self, version: KeyVersion, deadline: Duration) -> StoreResult<TxnOutcome> {
        let compare = vec![Compare::Version { key: self.layout().key(KEY), version }];
        let then = vec![Op::DeletePrefix { prefix: self.layout().prefix().to_owned() }];
        self.kv().txn(Txn { compare, then }, deadline).await
    }

    /// Removes what an attempt that came to nothing copied here.
    pub async fn clean_copy(&self, id: &str, deadline: Duration) -> StoreResult<()> {
        let view = self.read(deadline).await?;
        let Some(mark) = view.migration.filter(|m| m.value.id == id && m.value.phase == MigrationPhase::Copied) else {
            return Ok(());
        };
        self.clean_moved(mark.version, deadline).await.map(drop)
    }
}

impl Copy {
    pub fn attempt(&self) -> u64 {
        self.attempt.attempt
    }
}

impl Target {
    /// The latest attempt of this move that came so far.
    pub fn mark(&self) -> Option<&Migration> {
        self.mark.as_ref()
    }
}

/// Whether the cluster has moved by this attempt.
pub fn moved_by(view: &ClusterView, id: &str, attempt: u64, by: &MemberName) -> bool {
    view.moved().is_some_and(|m| m.id == id && m.attempt == attempt && m.by.as_ref() == Some(by))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use surus_core::store::TakeLead;

    use super::*;
    use crate::layout::Layout;
    use crate::memory::MemoryStore;

    const LIMIT: Duration = Duration::from_secs(5);

    fn on(memory: &MemoryStore, name: &str) -> ClusterStore {
        ClusterStore::new(Arc::new(memory.clone()), Layout::new("service", "demo", None), name.into())
    }

    fn migration() -> Migration {
        Migration {
            id: "m1".into(),
            phase: MigrationPhase::Preparing,
            to: "etcd3".into(),
            attempt: 0,
            by: None,
            members: BTreeMap::new(),
        }
    }

    struct Rig {
        from: MemoryStore,
        to: MemoryStore,
        old: ClusterStore,
        new: ClusterStore,
    }

    /// `a` leads in the old store, where a move is prepared.
    async fn rig() -> Rig {
        let (from, to) = (MemoryStore::auto(), MemoryStore::auto());
        let (old, new) = (on(&from, "a"), on(&to, "a"));
        old.open_session(Duration::from_secs(60), LIMIT).await.unwrap();
        new.open_session(Duration::from_secs(60), LIMIT).await.unwrap();
        assert!(matches!(old.take_lead(LIMIT).await, Ok(TakeLead::Taken(_))));
        for (key, value) in [("initialize", "7"), ("config", r#"{"ttl":8}"#), ("members/b", "{}"), ("status", "{}")] {
            old.put(key, value.into(), LIMIT).await.unwrap();
        }
        old.prepare_migration(&migration(), None, LIMIT).await.unwrap();
        Rig { from, to, old, new }
    }

    impl Rig {
        async fn copied(&self) -> Copy {
            let register = self.old.claim_migration("m1", LIMIT).await.unwrap().unwrap();
            let target = self.new.look_at_target("m1", LIMIT).await.unwrap().unwrap();
            let copy = self.old.gather_copy("m1", register, LIMIT).await.unwrap().unwrap();
            let copied = self.new.receive_copy(&copy, &target, LIMIT, LIMIT).await.unwrap();
            assert!(matches!(copied, TxnOutcome::Applied(_)));
            copy
        }
    }

    #[tokio::test]
    async fn everything_arrives_and_nobody_leads_in_the_old_store_again() {
        let rig = rig().await;
        let copy = rig.copied().await;
        assert!(matches!(rig.old.decide_move(&copy, LIMIT).await.unwrap(), TxnOutcome::Applied(_)));
        let view = rig.new.read(LIMIT).await.unwrap();
        assert_eq!(view.leader_name(), Some(&"a".into()));
        assert_eq!(view.config.unwrap().value, serde_json::json!({"ttl": 8}));
        assert!(view.members.contains_key(&MemberName::from("b")));
        let view = rig.old.read(LIMIT).await.unwrap();
        assert!(moved_by(&view, "m1", 1, &"a".into()) && !moved_by(&view, "m1", 2, &"a".into()));
        // The session that the lead hung on ends, and the key stays.
        rig.old.close_session(LIMIT).await.unwrap();
        let b = on(&rig.from, "b");
        b.open_session(Duration::from_secs(60), LIMIT).await.unwrap();
        assert_eq!(b.take_lead(LIMIT).await.unwrap(), TakeLead::Lost);
        assert_eq!(rig.old.read(LIMIT).await.unwrap().leader_name(), Some(&MOVED_LEADER.into()));
        assert!(b.claim_migration("m1", LIMIT).await.unwrap().is_err());
        // And nothing can be moved there before it is clean.
        assert!(b.look_at_target("m2", LIMIT).await.unwrap().unwrap_err().contains("--clean"));
        let version = rig.old.read(LIMIT).await.unwrap().migration_version.unwrap();
        rig.old.clean_moved(version, LIMIT).await.unwrap();
        assert!(b.look_at_target("m2", LIMIT).await.unwrap().is_ok());
    }

    /// Whatever changes in the old store after the copy was gathered keeps it from counting.
    #[tokio::test]
    async fn a_copy_that_is_old_is_not_decided_for() {
        for (key, value) in [("config", "{}"), ("sync", "{}"), ("failover", "{}"), ("leader", "a"), ("leader", "b")] {
            let rig = rig().await;
            let copy = rig.copied().await;
            rig.old.put(key, value.into(), LIMIT).await.unwrap();
            assert_eq!(rig.old.decide_move(&copy, LIMIT).await.unwrap(), TxnOutcome::Conflict, "{key}");
        }
        let rig = rig().await;
        let copy = rig.copied().await;
        rig.old.put("status", "{}".into(), LIMIT).await.unwrap();
        assert!(matches!(rig.old.withdraw_attempt(&copy, LIMIT).await.unwrap(), TxnOutcome::Applied(_)));
        assert_eq!(rig.old.withdraw_attempt(&copy, LIMIT).await.unwrap(), TxnOutcome::Conflict);
        assert_eq!(rig.old.decide_move(&copy, LIMIT).await.unwrap(), TxnOutcome::Conflict, "withdrawn");
        let again = rig.copied().await;
        assert_eq!(rig.old.decide_move(&copy, LIMIT).await.unwrap(), TxnOutcome::Conflict, "an earlier attempt");
        assert!(matches!(rig.old.decide_move(&again, LIMIT).await.unwrap(), TxnOutcome::Applied(_)));
    }

    /// More than a store takes in one transaction; and what is left of an earlier attempt and not copied again goes.
    #[tokio::test]
    async fn many_members_are_copied_in_parts() {
        let rig = rig().await;
        for n in 0..100 {
            rig.old.put(&format!("members/m{n}"), "{}".into(), LIMIT).await.unwrap();
            rig.old.put(&format!("loss/m{n}"), "[]".into(), LIMIT).await.unwrap();
        }
        rig.copied().await;
        rig.old.delete("loss/m7", LIMIT).await.unwrap();
        let copy = rig.copied().await;
        assert!(matches!(rig.old.decide_move(&copy, LIMIT).await.unwrap(), TxnOutcome::Applied(_)));
        let snapshot = rig.new.kv().read(rig.new.layout().prefix(), LIMIT).await.unwrap();
        let bound = snapshot.keys.iter().filter(|kv| kv.lease.is_some()).count();
        let free = snapshot.keys.iter().filter(|kv| kv.key.contains("/loss/")).count();
        assert_eq!((bound, free), (100 + 2, 99), "the members, b and the leader hang on the session");
        rig.new.close_session(LIMIT).await.unwrap();
        let view = rig.new.read(LIMIT).await.unwrap();
        assert!(view.members.is_empty() && view.leader.is_none() && view.config.is_some());
    }

    /// Each request is in time, and all of them are not: the lead does not wait for them to its end.
    #[tokio::test(start_paused = true)]
    async fn a_copy_that_takes_too_long_as_a_whole_is_given_up() {
        let rig = rig().await;
        for n in 0..200 {
            rig.old.put(&format!("members/m{n}"), "{}".into(), LIMIT).await.unwrap();
        }
        let register = rig.old.claim_migration("m1", LIMIT).await.unwrap().unwrap();
        let target = rig.new.look_at_target("m1", LIMIT).await.unwrap().unwrap();
        let copy = rig.old.gather_copy("m1", register, LIMIT).await.unwrap().unwrap();
        rig.to.faults().slow(Duration::from_millis(900));
        let (begun, whole) = (Instant::now(), Duration::from_secs(3));
        let copied = rig.new.receive_copy(&copy, &target, Duration::from_secs(1), whole).await;
        assert!(copied.is_err(), "{copied:?}");
        assert_eq!(begun.elapsed(), whole);
        rig.to.faults().heal();
        // The next attempt begins on what this one left.
        let copy = rig.copied().await;
        assert!(matches!(rig.old.decide_move(&copy, LIMIT).await.unwrap(), TxnOutcome::Applied(_)));
    }

    #[tokio::test]
    async fn a_late_copy_does_not_overwrite_a_newer_one() {
        let rig = rig().await;
        let register = rig.old.claim_migration("m1", LIMIT).await.unwrap().unwrap();
        let target = rig.new.look_at_target("m1", LIMIT).await.unwrap().unwrap();
        let copy = rig.old.gather_copy("m1", register, LIMIT).await.unwrap().unwrap();
        rig.copied().await;
        assert_eq!(rig.new.receive_copy(&copy, &target, LIMIT, LIMIT).await.unwrap(), TxnOutcome::Conflict);
        assert!(rig.old.gather_copy("m1", register, LIMIT).await.unwrap().is_err(), "another attempt is the latest");
        // Nor does anything that is not of this move count as an earlier attempt.
        assert!(rig.new.look_at_target("m2", LIMIT).await.unwrap().unwrap_err().contains("not of this move"));
        rig.new.clean_copy("m2", LIMIT).await.unwrap();
        assert!(!on(&rig.to, "a").read(LIMIT).await.unwrap().members.is_empty());
        rig.new.clean_copy("m1", LIMIT).await.unwrap();
        assert!(on(&rig.to, "a").read(LIMIT).await.unwrap().members.is_empty());
    }
}
