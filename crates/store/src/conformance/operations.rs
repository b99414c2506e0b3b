//! The operations of a cluster, as members that compete use them.

use futures_util::future::join_all;
use surus_core::Timeline;
use surus_core::cluster::Initialize;

use super::{Bench, Case, DEADLINE, Failure, ensure};
use crate::cluster::{Announce, Beside, ClusterStore, TakeLead};
use crate::follow::Follower;
use crate::kv::{StoreError, TxnOutcome};
use crate::layout::Layout;

pub(super) const CASES: &[(&str, Case)] = &[
    ("one_of_many_takes_the_lead", |b| Box::pin(one_of_many_takes_the_lead(b))),
    ("a_lead_left_by_a_dead_session_is_taken_over", |b| Box::pin(a_lead_left_by_a_dead_session_is_taken_over(b))),
    ("release_names_the_position_in_the_same_step", |b| Box::pin(release_names_the_position_in_the_same_step(b))),
    ("only_the_leader_writes_as_leader", |b| Box::pin(only_the_leader_writes_as_leader(b))),
    ("a_lead_is_not_taken_on_old_keys", |b| Box::pin(a_lead_is_not_taken_on_old_keys(b))),
    ("a_timeline_is_announced_with_the_lead_or_the_lead_is_not_taken", |b| {
        Box::pin(a_timeline_is_announced_with_the_lead_or_the_lead_is_not_taken(b))
    }),
    ("compare_and_put_and_delete", |b| Box::pin(compare_and_put_and_delete(b))),
    ("one_of_many_initializes", |b| Box::pin(one_of_many_initializes(b))),
    ("a_session_carries_member_and_leader", |b| Box::pin(a_session_carries_member_and_leader(b))),
    ("a_follower_sees_own_writes", |b| Box::pin(a_follower_sees_own_writes(b))),
];

impl Bench<'_> {
    async fn member(&self, name: &str) -> ClusterStore {
        let layout = Layout::new(&self.prefix, "demo", None);
        ClusterStore::new(self.client().await, layout, name.into())
    }

    async fn with_session(&self, name: &str) -> Result<ClusterStore, Failure> {
        let member = self.member(name).await;
        member.open_session(self.harness.ttl() * 30, DEADLINE).await?;
        Ok(member)
    }
}

fn taken(outcome: &TakeLead) -> bool {
    matches!(outcome, TakeLead::Taken(_))
}

fn applied(outcome: TxnOutcome) -> bool {
    matches!(outcome, TxnOutcome::Applied(_))
}

async fn one_of_many_takes_the_lead(b: &Bench<'_>) -> Result<(), Failure> {
    let members = join_all((0..5).map(|i| async move { b.with_session(&format!("node{i}")).await })).await;
    let members = members.into_iter().collect::<Result<Vec<_>, _>>()?;
    for round in 0..3 {
        let outcomes = join_all(members.iter().map(|m| m.take_lead(DEADLINE))).await;
        let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
        let winners: Vec<usize> = (0..members.len()).filter(|i| taken(&outcomes[*i])).collect();
        ensure!(winners.len() == 1, "round {round}: {outcomes:?}");
        let view = members[0].read(DEADLINE).await?;
        let leader = view.leader.map(|l| (l.name.0, l.lease));
        let winner = &members[winners[0]];
        ensure!(
            leader == Some((format!("node{}", winners[0]), winner.lease())),
            "round {round}: the key says {leader:?}"
        );
        ensure!(applied(winner.release_lead(None, DEADLINE).await?), "round {round}: the winner could not release");
    }
    for member in members {
        member.close_session(DEADLINE).await?;
    }
    Ok(())
}

async fn a_lead_left_by_a_dead_session_is_taken_over(b: &Bench<'_>) -> Result<(), Failure> {
    // The process died after taking the lead; its lease still runs when the next one starts.
    let before = b.member("a").await;
    before.open_session(b.harness.ttl(), DEADLINE).await?;
    ensure!(taken(&before.take_lead(DEADLINE).await?), "the first session could not take the lead");
    before.write_member("{}".into(), DEADLINE).await?;
    let after = b.with_session("a").await?;
    ensure!(taken(&after.take_lead(DEADLINE).await?), "the key carries the own name but was not taken over");
    let other = b.with_session("b").await?;
    ensure!(!taken(&other.take_lead(DEADLINE).await?), "another member took a lead that is held");
    // The old lease ends by itself, and takes along only what still hangs on it: the member key.
    b.until_gone(other.kv(), "demo/members/a").await?;
    let leader = other.read(DEADLINE).await?.leader.map(|l| (l.name.0, l.lease));
    ensure!(leader == Some(("a".into(), after.lease())), "after the old session's end the key says {leader:?}");
    after.close_session(DEADLINE).await?;
    other.close_session(DEADLINE).await?;
    Ok(())
}

async fn release_names_the_position_in_the_same_step(b: &Bench<'_>) -> Result<(), Failure> {
    let (a, other) = (b.with_session("a").await?, b.with_session("b").await?);
    a.take_lead(DEADLINE).await?;
    ensure!(!applied(other.release_lead(Some("7".into()), DEADLINE).await?), "another member released the lead");
    ensure!(other.read(DEADLINE).await?.status.optime.0 == 0, "a refused release wrote the status");
    let follower = Follower::start(&other);
    ensure!(applied(a.release_lead(Some("42".into()), DEADLINE).await?), "the leader could not release");
    let mut state = follower.subscribe();
    let vacant = state.wait_for(|f| f.is_current() && f.view.as_ref().is_some_and(|v| v.leader.is_none()));
    let seen = tokio::time::timeout(super::PATIENCE, vacant).await.map(|r| r.map(|f| f.view.clone()));
    let Ok(Ok(Some(view))) = seen else { return Err(Failure("the release was not seen".into())) };
    ensure!(view.status.optime.0 == 42, "the lead was vacant while the status said {}", view.status.optime.0);
    ensure!(!applied(a.release_lead(Some("43".into()), DEADLINE).await?), "a lead was released twice");
    ensure!(taken(&other.take_lead(DEADLINE).await?), "a vacant lead could not be taken");
    a.close_session(DEADLINE).await?;
    other.close_session(DEADLINE).await?;
    Ok(())
}

async fn a_lead_is_not_taken_on_old_keys(b: &Bench<'_>) -> Result<(), Failure> {
    let (a, other) = (b.with_session("a").await?, b.with_session("b").await?);
    a.take_lead(DEADLINE).await?;
    let mut versions = Vec::new();
    for key in ["sync", "config"] {
        let put = a.compare_and_put_as_leader(key, None, "{}".into(), DEADLINE).await?;
        let TxnOutcome::Applied(version) = put else {
            return Err(Failure(format!("the leader could not create `{key}`")));
        };
        versions.push(version);
    }
    ensure!(applied(a.release_lead(None, DEADLINE).await?), "the leader could not release");
    let (sync, config) = (versions[0], versions[1]);
    let on = |sync, config| Beside { sync: Some(sync), config: Some(config), ..Beside::default() };
    for old in [on(None, config), on(Some(sync + 100), config), on(Some(sync), config + 100)] {
        let outcome = other.take_lead_beside(old, DEADLINE).await?;
        ensure!(!taken(&outcome), "the lead was taken on {old:?}, and it is {sync} and {config}");
    }
    ensure!(
        taken(&other.take_lead_beside(on(Some(sync), config), DEADLINE).await?),
        "a vacant lead could not be taken"
    );
    a.close_session(DEADLINE).await?;
    other.close_session(DEADLINE).await?;
    Ok(())
}

async fn a_timeline_is_announced_with_the_lead_or_the_lead_is_not_taken(b: &Bench<'_>) -> Result<(), Failure> {
    let (a, other) = (b.with_session("a").await?, b.with_session("b").await?);
    let says = |timeline, over| {
        let announce = Some(Announce { timeline: Timeline(timeline), over });
        Beside { announce, ..Beside::default() }
    };
    let said = async || -> Result<_, Failure> {
        let view = other.read(DEADLINE).await?;
        Ok(view.announced.map(|a| (a.value.timeline.0, a.value.leader.0, a.version)))
    };
    ensure!(!taken(&a.take_lead_beside(says(2, Some(1)), DEADLINE).await?), "taken over an announcement nobody made");
    ensure!(said().await?.is_none(), "a lead that was not taken announced something");
    ensure!(taken(&a.take_lead_beside(says(2, None), DEADLINE).await?), "a vacant lead could not be taken");
    let Some((2, _, first)) = said().await? else { return Err(Failure("the announcement is not there".into())) };
    // The answer was lost and the whole is asked for again.
    ensure!(taken(&a.take_lead_beside(says(2, None), DEADLINE).await?), "what was announced was not recognised");
    ensure!(!taken(&a.take_lead_beside(says(3, None), DEADLINE).await?), "confirmed with another announcement");
    ensure!(!taken(&other.take_lead_beside(says(3, Some(first)), DEADLINE).await?), "a held lead was taken");
    let third = Announce { timeline: Timeline(3), over: Some(first) };
    ensure!(!applied(other.announce(third, DEADLINE).await?), "announced without the lead");
    ensure!(applied(a.announce(third, DEADLINE).await?), "the leader could not announce");
    ensure!(!applied(a.announce(third, DEADLINE).await?), "announced over what was not there any more");
    a.close_session(DEADLINE).await?;
    let Some((3, _, second)) = said().await? else { return Err(Failure("it did not outlive the leader".into())) };
    ensure!(!taken(&other.take_lead_beside(says(4, Some(first)), DEADLINE).await?), "taken over an old announcement");
    ensure!(taken(&other.take_lead_beside(says(4, Some(second)), DEADLINE).await?), "a vacant lead could not be taken");
    ensure!(said().await?.is_some_and(|(t, who, _)| (t, who.as_str()) == (4, "b")), "the announcement is not there");
    other.close_session(DEADLINE).await?;
    Ok(())
}

async fn only_the_leader_writes_as_leader(b: &Bench<'_>) -> Result<(), Failure> {
    let (a, other) = (b.with_session("a").await?, b.with_session("b").await?);
    ensure!(!applied(a.write_as_leader("status", "1".into(), DEADLINE).await?), "written without any leader");
    a.take_lead(DEADLINE).await?;
    ensure!(applied(a.write_as_leader("status", "2".into(), DEADLINE).await?), "the leader was refused");
    ensure!(!applied(other.write_as_leader("status", "3".into(), DEADLINE).await?), "another member wrote");
    let sync = a.compare_and_put_as_leader("sync", None, "{}".into(), DEADLINE).await?;
    let TxnOutcome::Applied(version) = sync else { return Err(Failure("the leader could not create `sync`".into())) };
    a.close_session(DEADLINE).await?;
    ensure!(!applied(a.write_as_leader("status", "4".into(), DEADLINE).await?), "a former leader wrote");
    let late = a.compare_and_put_as_leader("sync", Some(version), "{ }".into(), DEADLINE).await?;
    ensure!(!applied(late), "a former leader wrote with a version it knew");
    ensure!(!applied(a.compare_and_delete_as_leader("sync", version, DEADLINE).await?), "a former leader deleted");
    ensure!(other.read(DEADLINE).await?.status.optime.0 == 2, "the refused writes left something");
    other.close_session(DEADLINE).await?;
    Ok(())
}

async fn compare_and_put_and_delete(b: &Bench<'_>) -> Result<(), Failure> {
    let a = b.member("a").await;
    let put = async |version, text: &str| a.compare_and_put("config", version, text.into(), DEADLINE).await;
    let TxnOutcome::Applied(first) = put(None, r#"{"ttl":1}"#).await? else {
        return Err(Failure("an absent key could not be created".into()));
    };
    ensure!(!applied(put(None, r#"{"ttl":2}"#).await?), "a present key was created again");
    let TxnOutcome::Applied(second) = put(Some(first), r#"{"ttl":3}"#).await? else {
        return Err(Failure("the right version was refused".into()));
    };
    ensure!(!applied(put(Some(first), r#"{"ttl":4}"#).await?), "an old version was accepted");
    let config = a.read(DEADLINE).await?.config.map(|c| (c.value.to_string(), c.version));
    ensure!(config == Some((r#"{"ttl":3}"#.into(), second)), "the key is {config:?}");
    ensure!(!applied(a.compare_and_delete("config", first, DEADLINE).await?), "an old version was deleted");
    ensure!(applied(a.compare_and_delete("config", second, DEADLINE).await?), "the right version was not deleted");
    ensure!(!applied(put(Some(second), "{}").await?), "a deleted key was changed");
    a.put("failover", "{}".into(), DEADLINE).await?;
    a.put("history", "[]".into(), DEADLINE).await?;
    a.delete("failover", DEADLINE).await?;
    let view = a.read(DEADLINE).await?;
    ensure!(view.failover_version.is_none() && view.history.is_some(), "delete removed the wrong key");
    a.delete_all(DEADLINE).await?;
    let left = b.all(a.kv()).await?;
    ensure!(left.is_empty(), "delete_all left {left:?}");
    Ok(())
}

async fn one_of_many_initializes(b: &Bench<'_>) -> Result<(), Failure> {
    let members = join_all((0..4).map(|i| async move { b.member(&format!("node{i}")).await })).await;
    let outcomes = join_all(members.iter().map(|m| m.create_initialize(String::new(), DEADLINE))).await;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(outcomes.iter().filter(|o| applied(**o)).count() == 1, "{outcomes:?}");
    let view = members[0].read(DEADLINE).await?;
    ensure!(view.initialize == Initialize::InProgress, "the key is {:?}", view.initialize);
    Ok(())
}

async fn a_session_carries_member_and_leader(b: &Bench<'_>) -> Result<(), Failure> {
    let (a, other) = (b.with_session("a").await?, b.with_session("b").await?);
    let text = r#"{"conn_url":"postgres://h:1/postgres","api_url":"http://h:2/patroni","state":"running","role":"primary","version":"4.1.4"}"#;
    a.write_member(text.into(), DEADLINE).await?;
    other.write_member(text.into(), DEADLINE).await?;
    a.take_lead(DEADLINE).await?;
    a.write_as_leader("status", "5".into(), DEADLINE).await?;
    let view = other.read(DEADLINE).await?;
    ensure!(view.members.len() == 2 && view.garbage.is_empty(), "the view is {view:?}");
    a.renew_session(DEADLINE).await?;
    a.close_session(DEADLINE).await?;
    let view = other.read(DEADLINE).await?;
    let members: Vec<&str> = view.members.keys().map(|n| n.as_str()).collect();
    ensure!(members == ["b"] && view.leader.is_none(), "after the session's end: {members:?}, {:?}", view.leader);
    ensure!(view.status.optime.0 == 5, "a permanent key went along with the session");
    ensure!(a.lease().is_none(), "a closed session is still known");
    ensure!(a.renew_session(DEADLINE).await == Err(StoreError::LeaseGone), "a closed session was renewed");
    other.close_session(DEADLINE).await?;
    Ok(())
}

async fn a_follower_sees_own_writes(b: &Bench<'_>) -> Result<(), Failure> {
    let a = b.with_session("a").await?;
    let follower = Follower::start(&a);
    for round in 0..10 {
        let TakeLead::Taken(version) = a.take_lead(DEADLINE).await? else {
            return Err(Failure(format!("round {round}: the lead was lost to nobody")));
        };
        ensure!(follower.wait_revision(version, super::PATIENCE).await, "round {round}: {version} was not reached");
        let leader = follower.current().view.as_ref().and_then(|v| v.leader.clone()).map(|l| l.version);
        ensure!(leader == Some(version), "round {round}: the view has the leader key at {leader:?}, not {version}");
        let TxnOutcome::Applied(released) = a.release_lead(Some(round.to_string()), DEADLINE).await? else {
            return Err(Failure(format!("round {round}: the lead could not be released")));
        };
        ensure!(follower.wait_revision(released, super::PATIENCE).await, "round {round}: {released} was not reached");
        ensure!(follower.current().view.as_ref().is_some_and(|v| v.leader.is_none()), "round {round}: not released");
    }
    a.close_session(DEADLINE).await?;
    Ok(())
}
