//! May I take the lead that nobody has? (`spec/ha.md §9`)

use std::collections::BTreeMap;
use std::time::Duration;

use crate::candidate;
use crate::cluster::{ClusterView, FailoverRequest, Member};
use crate::facts::{Answer, Facts, PeerFact};
use crate::failsafe::{self, Clearance};
use crate::forked;
use crate::ids::MemberName;
use crate::memory::Memory;
use crate::postgres::DataDir;
use crate::report::Candidate;
use crate::settings::SynchronousMode;
use crate::time::BootTime;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Take {
        why: String,
    },
    /// These must be asked first.
    Ask(Vec<MemberName>),
    /// I may if these consent: a primary that has lost the store may be vouched for.
    Consent {
        whom: Vec<MemberName>,
        why: String,
    },
    Leave {
        why: String,
    },
}

/// The verdict, and what was found out about everybody else.
pub fn judge(facts: &Facts, memory: &Memory, view: &ClusterView) -> (Verdict, Vec<Candidate>) {
    let (verdict, candidates) = judge_alone(facts, memory, view);
    let becomes_primary = facts.postgres.observed().is_none_or(|o| o.in_recovery) && !facts.settings.standby_cluster;
    if becomes_primary && matches!(verdict, Verdict::Take { .. }) {
        match failsafe::clearance(facts, memory, view) {
            Clearance::Clear => {}
            Clearance::Ask { whom, why } => return (Verdict::Consent { whom, why }, candidates),
            Clearance::Wait { why } => return (Verdict::Leave { why }, candidates),
        }
    }
    (verdict, candidates)
}

/// As if no primary could go on without the store.
fn judge_alone(facts: &Facts, memory: &Memory, view: &ClusterView) -> (Verdict, Vec<Candidate>) {
    let leave = |why: String| (Verdict::Leave { why }, vec![]);
    let named = view.failover.as_ref().is_some_and(|f| f.value.candidate.as_ref() == Some(&facts.me));
    if memory.abstain_until.is_some_and(|t| facts.now < t) && !named {
        return leave("I gave the lead away and leave it to others for a moment".into());
    }
    let Some(observed) = facts.postgres.observed().filter(|_| facts.postgres.accepting()) else {
        let why = match &facts.postgres.answer {
            Answer::Unknown(_, why) if facts.postgres.running() => format!(" ({why})"),
            _ => String::new(),
        };
        return leave(format!("my PostgreSQL does not answer{why}"));
    };
    // While paused an operator decides which primary runs.
    if let Some(name) = view.left_alone_beside(&facts.me)
        && (observed.in_recovery || !facts.settings.pause)
    {
        return leave(format!(
            "{name} was left alone while the cluster was paused and has not confirmed the end of the pause, it may still \
             accept writes; start its agent, or, if its PostgreSQL certainly does not run any more: surus failover \
             --candidate {}",
            facts.me
        ));
    }
    if let Some(why) = facts.may_not_lead() {
        return leave(why);
    }
    if facts.stalls.disk_hangs(&facts.settings.timing) {
        return leave("my disk hangs".into());
    }
    if observed.in_recovery && facts.postgres.stand_alone && memory.last_leader.is_none() && !named {
        return leave(
            "this standby was never part of the cluster and has seen nobody lead it, so its primary may be running; start \
             the agent there, or fail over to this member by name"
                .into(),
        );
    }
    if !observed.in_recovery {
        // A running primary keeps its role before anything else is weighed, but never on an old timeline, and not once
        // another could acknowledge what is missing here.
        if let Some(sync) = candidate::active_sync(facts, view).filter(|s| !s.is_leader(&facts.me)) {
            return leave(format!(
                "{} was the last to lead in synchronous mode, a commit could be missing here",
                sync.leader
            ));
        }
        return match (observed.timeline, view.history_timeline()) {
            (Some(mine), Some(cluster)) if mine < cluster => {
                leave(format!("my timeline {mine} is behind last known cluster timeline {cluster}"))
            }
            _ => (Verdict::Take { why: "I run as the primary".into() }, vec![]),
        };
    }
    let request = view.failover.as_ref().map(|f| &f.value);
    // Only so does an operator send the lead to a member that may lack a commit.
    let by_name = |r: &FailoverRequest| r.leader.is_none() && r.candidate.as_ref() == Some(&facts.me);
    let called = |r: &FailoverRequest| r.candidate.as_ref() == Some(&facts.me) && r.scheduled_at.is_none();
    if facts.settings.pause && !request.is_some_and(called) {
        return leave("the cluster is paused".into());
    }
    if !matches!(facts.postgres.data_dir, DataDir::Present { .. }) {
        return leave("my data directory is not usable".into());
    }
    if facts.tags.nofailover() {
        return leave("I am not allowed to promote (tag nofailover)".into());
    }
    let forked = forked::told(facts, memory);
    // The leader of a standby cluster writes nothing, and can be mended as one.
    if let Some(what) = forked.as_ref().filter(|_| !facts.settings.standby_cluster && !request.is_some_and(by_name)) {
        return leave(format!(
            "my log lacks what was acknowledged since it left the cluster's ({what}); start a member that has it, or, if all \
             of them are gone for good, give that up: surus failover --candidate {}",
            facts.me
        ));
    }
    // In quorum mode votes decide, so that one who is not listed may win too, unless a switchover says who.
    let votes_decide = facts.settings.synchronous_mode == SynchronousMode::Quorum && request.is_none();
    if let Some(sync) = candidate::active_sync(facts, view)
        && !request.is_some_and(by_name)
        && !votes_decide
        && !sync.lists(&facts.me)
        && !sync.is_leader(&facts.me)
    {
        return leave("I am not in the list of synchronous standbys, a commit could be missing here".into());
    }
    if let Some(left) =
        backs_off(facts, memory, observed.is_streaming()).filter(|_| request.is_none_or(|r| r.candidate.is_none()))
    {
        return leave(format!(
            "My ({}) wal position moved since last heart beat loop, {} seconds until leader race",
            facts.me,
            left.as_secs()
        ));
    }
    match request {
        Some(request) => requested(facts, memory, view, request),
        None => healthiest(facts, memory, view, &|_| true, true),
    }
}

/// What is left of `primary_race_backoff` (`spec/ha.md §9.1`): a primary that still sends may only have lost the store for
/// a moment, and takes the lead again when it is back.
fn backs_off(facts: &Facts, memory: &Memory, streams: bool) -> Option<Duration> {
    let (wait, beat) = (facts.settings.primary_race_backoff, facts.settings.timing.loop_wait);
    let (free, (_, moved)) = (leaderless(facts, memory), memory.received?);
    let left = wait.checked_sub(free).filter(|left| !left.is_zero() && !facts.settings.standby_cluster)?;
    (free < beat || streams && facts.now.since(moved) <= beat).then_some(left)
}

/// Answers count from here on.
fn round(facts: &Facts, memory: &Memory) -> BootTime {
    memory.race_round.or(memory.leaderless_since).unwrap_or(facts.now)
}

/// Who is still to be asked in this round. Whoever answered before no primary could be going on without the store any more is
/// asked again: until then it may have had commits acknowledged.
fn unasked(facts: &Facts, memory: &Memory, names: &[MemberName]) -> Vec<MemberName> {
    let (round, stopped) = (round(facts, memory), memory.clear_since.unwrap_or_default());
    let good = |p: &PeerFact| p.asked >= round && (p.answer.is_err() || p.asked >= stopped);
    names.iter().filter(|n| !facts.peers.get(*n).is_some_and(good)).cloned().collect()
}

fn leaderless(facts: &Facts, memory: &Memory) -> Duration {
    memory.leaderless_since.map(|t| facts.now.since(t)).unwrap_or_default()
}

/// A switchover or failover was asked for and the lead is free (`spec/ha.md §10.4`).
fn requested(
    facts: &Facts,
    memory: &Memory,
    view: &ClusterView,
    request: &FailoverRequest,
) -> (Verdict, Vec<Candidate>) {
    let action = request.action();
    match &request.candidate {
        Some(candidate) if *candidate == facts.me => {
            // While paused a primary without the lead goes on: it must not get a second one beside it.
            if facts.settings.pause {
                let mut others: BTreeMap<&MemberName, &Member> = memory.known_members.iter().collect();
                others.extend(view.members.iter());
                let ask: Vec<MemberName> = others
                    .values()
                    .filter(|m| m.name != facts.me && m.api_url.is_some())
                    .map(|m| m.name.clone())
                    .collect();
                let missing = unasked(facts, memory, &ask);
                if !missing.is_empty() {
                    return (Verdict::Ask(missing), vec![]);
                }
                let primary = |n: &&MemberName| {
                    facts.peers.get(n).and_then(|p| p.answer.as_ref().ok()).is_some_and(|a| !a.in_recovery)
                };
                if let Some(name) = ask.iter().find(primary) {
                    return (Verdict::Leave { why: format!("Primary ({name}) is still alive") }, vec![]);
                }
            }
            // Its leader may have died before it handed over, and being named brings no commit here.
            if request.leader.is_some()
                && candidate::active_sync(facts, view).is_some_and(|s| s.quorum > 0 && !s.is_leader(&facts.me))
            {
                return healthiest(facts, memory, view, &|_| true, false);
            }
            let given_up = forked::told(facts, memory).map(|what| {
                format!(", although my log left the cluster's ({what}): what was acknowledged since is given up")
            });
            let given_up = given_up.unwrap_or_default();
            return (Verdict::Take { why: format!("{action}: I am the requested candidate{given_up}") }, vec![]);
        }
        Some(candidate) => {
            match facts.peers.get(candidate).filter(|p| p.asked >= round(facts, memory)) {
                None if view.members.contains_key(candidate) => return (Verdict::Ask(vec![candidate.clone()]), vec![]),
                // One that answers and does not come may be cut off from the store: it is not waited for
                // for ever.
                Some(p)
                    if p.answer.as_ref().is_ok_and(|a| {
                        !a.tags.nofailover() && !a.watchdog_failed && (a.forked.is_none() || request.leader.is_none())
                    }) && leaderless(facts, memory) < facts.settings.timing.ttl =>
                {
                    return (Verdict::Leave { why: format!("{action}: to {candidate}, I am {}", facts.me) }, vec![]);
                }
                _ => {}
            }
        }
        None => {}
    }
    // The candidate is bad or was left open: the one that stepped down takes part only if nobody else could.
    let followed_by_another = candidate::active_sync(facts, view).is_some_and(|s| !s.is_leader(&facts.me));
    if request.leader.as_ref() == Some(&facts.me) && !followed_by_another {
        let ask = candidate::to_ask(view, &facts.me);
        let missing = unasked(facts, memory, &ask);
        if !missing.is_empty() {
            return (Verdict::Ask(missing), vec![]);
        }
        let others = candidate::weigh(facts, view, None);
        return if others.iter().any(|c| c.fit) && leaderless(facts, memory) < facts.settings.timing.ttl {
            (Verdict::Leave { why: format!("{action}: I stepped down and another member can take over") }, others)
        } else {
            (Verdict::Take { why: format!("{action}: nobody else can take over") }, others)
        };
    }
    let outgoing = request.leader.clone();
    healthiest(facts, memory, view, &move |m: &Member| Some(&m.name) != outgoing.as_ref(), false)
}

/// Am I at least as good as everybody who answers? (`spec/ha.md §9.3`)
fn healthiest(
    facts: &Facts,
    memory: &Memory,
    view: &ClusterView,
    counts: &dyn Fn(&Member) -> bool,
    check_lag: bool,
) -> (Verdict, Vec<Candidate>) {
    let leave = |why: String| (Verdict::Leave { why }, vec![]);
    let Some(observed) = facts.postgres.observed() else { return leave("my PostgreSQL does not answer".into()) };
    let mine = observed.position();
    if check_lag {
        let lag = mine.behind(view.status.optime);
        if lag > facts.settings.maximum_lag_on_failover {
            return leave(format!(
                "my wal position exceeds maximum replication lag ({lag} bytes behind the last leader)"
            ));
        }
        if facts.settings.check_timeline && !facts.settings.standby_cluster {
            match (observed.timeline, view.history_timeline()) {
                (None, _) => return leave("can not figure out my timeline".into()),
                (Some(t), Some(cluster)) if t < cluster => {
                    return leave(format!("my timeline {t} is behind last known cluster timeline {cluster}"));
                }
                _ => {}
            }
        }
    }

    // Whoever was a member when somebody last led is asked too: its key may have ended with its lease
    // while the server still runs.
    let mut others: BTreeMap<&MemberName, &Member> = memory.known_members.iter().collect();
    others.extend(view.members.iter());
    let sync = candidate::active_sync(facts, view);
    let electorate: Vec<&Member> = others
        .values()
        .copied()
        .filter(|m| m.name != facts.me && counts(m))
        .filter(|m| sync.is_none_or(|s| s.lists(&m.name) || s.is_leader(&m.name)))
        .collect();
    // Written by a leader in quorum mode, the key says so also to those who know that the mode has changed since.
    let quorum = sync.filter(|s| s.quorum > 0 || facts.settings.synchronous_mode == SynchronousMode::Quorum);
    // A voter vouches for what was acknowledged also when it may not lead itself.
    let votes = |m: &Member| quorum.is_some_and(|s| s.lists(&m.name) || s.is_leader(&m.name));
    let ask: Vec<MemberName> = electorate
        .iter()
        .filter(|m| m.api_url.is_some() && (!m.tags.nofailover() || votes(m)))
        .map(|m| m.name.clone())
        .collect();
    let missing = unasked(facts, memory, &ask);
    if !missing.is_empty() {
        return (Verdict::Ask(missing), vec![]);
    }
    // Whoever is ahead and can lead does so within moments. One that still has not is not able to, and
    // waiting for it would leave the cluster without a leader for good.
    let ahead_counts = leaderless(facts, memory) < facts.settings.timing.ttl * 3 / 4;
    let forked = forked::told(facts, memory);

    let mut verdicts = vec![];
    let mut stands_against_me = None;
    let mut found: i64 = 0;
    let my_priority = facts.tags.failover_priority();
    for member in electorate {
        let name = &member.name;
        let row = |fit: bool, why: String| Candidate { name: name.clone(), fit, why };
        let answer = match facts.peers.get(name).map(|p| &p.answer) {
            _ if member.tags.nofailover() && !votes(member) => {
                verdicts.push(row(false, "not allowed to promote (tag nofailover)".into()));
                continue;
            }
            None => {
                verdicts.push(row(false, "publishes no api_url, so it cannot be asked".into()));
                continue;
            }
            Some(Err(why)) => {
                verdicts.push(row(false, format!("not reachable ({why})")));
                continue;
            }
            Some(Ok(answer)) => answer,
        };
        // A longer log on an older timeline is a fork, not a lead: what was written after the switch is missing there.
        let ahead = match (answer.timeline, observed.timeline) {
            (Some(theirs), Some(ours)) if theirs != ours => theirs > ours,
            _ => answer.position > mine,
        };
        if votes(member) && answer.in_recovery && answer.position.is_valid() && !ahead {
            found += 1;
        }
        if member.tags.nofailover() || answer.tags.nofailover() || answer.watchdog_failed {
            verdicts.push(row(false, "not allowed to promote".into()));
            continue;
        }
        // Its log is none to be compared with, unless mine is of that kind too.
        if let Some(what) = answer.forked.as_ref().filter(|_| answer.in_recovery && forked.is_none()) {
            verdicts.push(row(false, what.clone()));
            continue;
        }
        let was_leader = match sync {
            Some(sync) => sync.is_leader(name),
            None => memory.last_leader.as_ref() == Some(name),
        };
        let against = if !answer.in_recovery {
            Some(format!("Primary ({name}) is still alive"))
        } else if let Some(what) = forked.as_ref().filter(|_| answer.forked.is_none()) {
            // It leads within moments, or not at all.
            ahead_counts.then(|| format!("{name} can lead, and {what}"))
        } else if ahead && (!ahead_counts || sync.is_some() && was_leader) {
            None
        } else if ahead {
            Some(format!("Wal position of {name} is ahead of my wal position"))
        } else if answer.position == mine
            && mine.is_valid()
            && !was_leader
            && my_priority < member.tags.failover_priority()
        {
            Some(format!(
                "{name} has equally tolerable WAL position and priority {}, while this node has priority {my_priority}",
                member.tags.failover_priority()
            ))
        } else if answer.position == mine
            && !was_leader
            && my_priority == member.tags.failover_priority()
            && answer.unready_slots.is_empty()
            // Whoever is ready takes the lead at once or not at all.
            && leaderless(facts, memory) < facts.settings.timing.loop_wait
            && let Some(told) = candidate::unready(&facts.unready_slots)
        {
            Some(format!("{name} is as far as I am, and its logical slots are ready; mine are not yet ({told})"))
        } else {
            None
        };
        let slots = candidate::unready(&answer.unready_slots).map(|told| format!("; {told}")).unwrap_or_default();
        verdicts.push(row(answer.in_recovery, format!("at {}{slots}", answer.position)));
        stands_against_me = stands_against_me.or(against);
    }
    if let Some(sync) = quorum.filter(|s| !s.is_leader(&facts.me)) {
        // The quorum is counted over the others when I am a voter myself.
        let found = if sync.lists(&facts.me) { found } else { found - 1 };
        if found < i64::from(sync.quorum) {
            stands_against_me = stands_against_me
                .or_else(|| Some(format!("only {found} of {} votes that the quorum asks for", sync.quorum)));
        }
    }
    match stands_against_me {
        Some(why) => (Verdict::Leave { why }, verdicts),
        None => (Verdict::Take { why: format!("nobody who answers is ahead of my wal position {mine}") }, verdicts),
    }
}
