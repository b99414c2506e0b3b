//! Who votes: a pure choice over what the Raft leader knows of the members, one change at a time.
//!
//! At most [`MOST`] members vote, so that a write waits for three disks however large the herd is; the others follow
//! the log as learners and are the spares. An even number of voters survives no more than the odd one below it, and
//! leaves one spare less: four members are three voters and a spare. No change ever leaves the group able to bear fewer
//! failures at once than before it, unless every voter is there and one too many of them.

use std::collections::BTreeSet;
use std::time::Duration;

/// More voters make every write wait for more disks, and five bear two failures at once.
pub const MOST: usize = 5;

/// What the leader knows about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub id: u64,
    pub addr: String,
    pub voter: bool,
    /// Configured to vote. Of a member that does not answer it is not known, and means nothing.
    pub wants: bool,
    /// A voter without PostgreSQL, set up to give two sites a third opinion.
    pub witness: bool,
    /// Time since it was last heard; zero if it is there.
    pub away: Duration,
    /// Its log is close to the end of the leader's.
    pub current: bool,
}

impl Standing {
    fn here(&self) -> bool {
        self.away.is_zero()
    }

    fn spare(&self) -> bool {
        !self.voter && self.wants && self.here() && self.current
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub voters: BTreeSet<u64>,
    /// For the log: what is done and why.
    pub why: String,
}

/// The next change, or `None` while the voters are the right ones. `leader` is the one who asks.
pub fn choose(members: &[Standing], leader: u64, patience: Duration) -> Option<Change> {
    let voters: Vec<&Standing> = members.iter().filter(|m| m.voter).collect();
    // One that leads and has no vote is on its way out: the next leader decides.
    if !voters.iter().any(|m| m.id == leader) {
        return None;
    }
    let spares: Vec<&Standing> = members.iter().filter(|m| m.spare()).collect();
    let best = spares.iter().copied().min_by_key(|m| (!m.witness, &m.addr, m.id));
    // Who is least missed as a voter: never the leader, and no witness unless all the others are.
    let least = voters.iter().copied().filter(|m| m.id != leader).max_by_key(|m| (!m.witness, &m.addr, m.id));
    let gone = voters.iter().copied().filter(|m| m.away >= patience && m.id != leader).max_by_key(|m| m.away);
    let complete = voters.iter().all(|m| m.here());
    let change = |out: Option<&Standing>, into: Option<&Standing>, why: String| {
        let kept = voters.iter().map(|m| m.id).filter(|id| out.is_none_or(|o| o.id != *id));
        Some(Change { voters: kept.chain(into.map(|m| m.id)).collect(), why })
    };

    if let (Some(gone), Some(spare)) = (gone, best)
        && voters.len() <= MOST
    {
        let why = format!(
            "{} votes in place of {}, which was not heard for {} s; that one follows when it comes back",
            spare.addr,
            gone.addr,
            gone.away.as_secs()
        );
        return change(Some(gone), Some(spare), why);
    }
    if let Some(spare) = best
        && voters.len() < size(voters.len() + spares.len())
    {
        let why = format!("{} has the log and votes from now on ({} voters)", spare.addr, voters.len() + 1);
        return change(None, Some(spare), why);
    }
    if let (Some(spare), Some(least)) = (best.filter(|m| m.witness), least.filter(|m| !m.witness))
        && complete
    {
        let why = format!("{} is a witness and votes in place of {}, which follows", spare.addr, least.addr);
        return change(Some(least), Some(spare), why);
    }
    if voters.len() > size(voters.len()) {
        let out = gone.or(least.filter(|_| complete))?;
        let why = format!(
            "{} follows without a vote: {} voters bear as many failures at once as {}, and leave a spare",
            out.addr,
            voters.len() - 1,
            voters.len()
        );
        return change(Some(out), None, why);
    }
    None
}

/// How many of `n` members vote. Two of two do: a single voter would be the only one sure to have every write.
fn size(n: usize) -> usize {
    match n {
        0..=2 => n,
        _ => (n - 1 + n % 2).min(MOST),
    }
}

/// Who votes in a group that is being formed by nodes that are all there: witnesses before others. `founder` is one
/// of them in any case, because it is the first leader.
pub fn first<'a>(nodes: impl Iterator<Item = (u64, &'a str, bool)>, founder: u64) -> BTreeSet<u64> {
    let mut all: Vec<(u64, &str, bool)> = nodes.collect();
    all.sort_by_key(|(id, addr, witness)| (*id != founder, !witness, *addr));
    let many = size(all.len());
    all.into_iter().take(many).map(|(id, _, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Kind {
        Voter,
        /// Silent for a moment.
        Missed,
        Gone,
        VotingWitness,
        Spare,
        Behind,
        Off,
        Unwilling,
        Witness,
    }
    use Kind::*;
    const KINDS: [Kind; 9] = [Voter, Missed, Gone, VotingWitness, Spare, Behind, Off, Unwilling, Witness];

    fn standing(id: u64, kind: Kind) -> Standing {
        Standing {
            id,
            addr: format!("n{id}:1"),
            voter: matches!(kind, Voter | Missed | Gone | VotingWitness),
            wants: kind != Unwilling,
            witness: matches!(kind, VotingWitness | Witness),
            away: match kind {
                Missed => Duration::from_secs(5),
                Gone | Off => PATIENCE * 2,
                _ => Duration::ZERO,
            },
            current: kind != Behind,
        }
    }

    fn here(members: &[Standing], voters: &BTreeSet<u64>) -> usize {
        members.iter().filter(|m| voters.contains(&m.id) && m.here()).count()
    }

    /// How many more may fail at once; negative when the group stands.
    fn slack(members: &[Standing], voters: &BTreeSet<u64>) -> isize {
        here(members, voters) as isize - (voters.len() / 2 + 1) as isize
    }

    fn follow(members: &mut [Standing], change: &Change) {
        members.iter_mut().for_each(|m| m.voter = change.voters.contains(&m.id));
    }

    /// Every group of up to nine members that has a leader, by how many there are of each kind.
    fn each_group(mut look: impl FnMut(Vec<Standing>)) {
        fn fill(left: usize, from: usize, kinds: &mut Vec<Kind>, look: &mut impl FnMut(Vec<Standing>)) {
            look(kinds.iter().enumerate().map(|(i, k)| standing(i as u64 + 1, *k)).collect());
            if left == 0 {
                return;
            }
            for (at, kind) in KINDS.iter().enumerate().skip(from) {
                kinds.push(*kind);
                fill(left - 1, at, kinds, look);
                kinds.pop();
            }
        }
        // The first one leads.
        fill(8, 0, &mut vec![Voter], &mut look);
    }

    #[test]
    fn every_change_is_one_step_and_never_costs_safety() {
        let mut groups = 0;
        each_group(|members| {
            let before: BTreeSet<u64> = members.iter().filter(|m| m.voter).map(|m| m.id).collect();
            if slack(&members, &before) < 0 {
                return;
            }
            groups += 1;
            let Some(change) = choose(&members, 1, PATIENCE) else { return };
            let text = format!("{members:#?}\n{change:?}");
            let entered: Vec<u64> = change.voters.difference(&before).copied().collect();
            let left: Vec<u64> = before.difference(&change.voters).copied().collect();
            assert!(entered.len() <= 1 && left.len() <= 1 && !(entered.is_empty() && left.is_empty()), "{text}");
            assert!(change.voters.contains(&1), "the leader keeps its vote: {text}");
            let member = |id: u64| members.iter().find(|m| m.id == id).unwrap();
            assert!(entered.iter().all(|id| member(*id).spare()), "{text}");
            let others = members.iter().any(|m| m.voter && !m.witness && m.id != 1);
            let dear = |m: &Standing| m.witness && m.away < PATIENCE && others;
            assert!(!left.iter().any(|id| dear(member(*id))), "{text}");
            assert!(change.voters.len() <= MOST.max(before.len()), "{text}");
            let (was, is) = (slack(&members, &before), slack(&members, &change.voters));
            assert!(is >= 0, "{text}");
            let complete = here(&members, &before) == before.len();
            assert!(is >= was || (complete && before.len() > MOST), "{was} {is} {text}");
            // A voter that was not heard for a moment keeps its vote.
            assert!(left.iter().all(|id| member(*id).away >= PATIENCE || complete), "{text}");
        });
        assert!(groups > 5000, "{groups}");
    }

    #[test]
    fn it_comes_to_rest_with_the_right_voters() {
        each_group(|mut members| {
            let voters = |m: &[Standing]| m.iter().filter(|m| m.voter).map(|m| m.id).collect::<BTreeSet<u64>>();
            if slack(&members, &voters(&members)) < 0 {
                return;
            }
            let mut steps = 0;
            while let Some(change) = choose(&members, 1, PATIENCE) {
                follow(&mut members, &change);
                steps += 1;
                assert!(steps < 20, "{members:#?}");
            }
            let voting: Vec<&Standing> = members.iter().filter(|m| m.voter).collect();
            let spares = members.iter().filter(|m| m.spare()).count();
            let gone = voting.iter().any(|m| m.away >= PATIENCE);
            assert!(!(gone && spares > 0 && voting.len() <= MOST), "a spare waits beside a gone voter: {members:#?}");
            if voting.iter().all(|m| m.here()) {
                assert_eq!(voting.len(), size(voting.len() + spares), "{members:#?}");
                let left_out = members.iter().any(|m| m.witness && m.spare());
                let others = voting.iter().any(|m| !m.witness && m.id != 1);
                assert!(!(left_out && others), "a witness without a vote: {members:#?}");
            }
        });
    }

    #[test]
    fn a_leader_that_was_removed_changes_nothing() {
        let members: Vec<Standing> = (2..=5).map(|id| standing(id, Voter)).collect();
        assert_eq!(choose(&members, 1, PATIENCE), None);
        assert!(choose(&members, 2, PATIENCE).is_some());
    }

    #[test]
    fn how_many_vote() {
        let sizes: Vec<usize> = (0..9).map(size).collect();
        assert_eq!(sizes, [0, 1, 2, 3, 3, 5, 5, 5, 5]);
        assert_eq!(size(20), 5);
    }

    #[test]
    fn voters_die_one_after_the_other() {
        let mut members: Vec<Standing> = (1..=7).map(|id| standing(id, if id <= 5 { Voter } else { Spare })).collect();
        let mut alive = 7;
        while let Some(next) = members.iter_mut().find(|m| m.voter && m.here() && m.id != 1) {
            next.away = PATIENCE;
            let voters: BTreeSet<u64> = members.iter().filter(|m| m.voter).map(|m| m.id).collect();
            if slack(&members, &voters) < 0 {
                break;
            }
            alive -= 1;
            while let Some(change) = choose(&members, 1, PATIENCE) {
                follow(&mut members, &change);
            }
        }
        assert_eq!(alive, 3, "two were replaced, and two of the five that remained may be away");
    }

    #[test]
    fn a_group_of_twenty_is_formed_by_five_and_the_witness_is_one_of_them() {
        let addrs: Vec<String> = (1..=20).map(|id| format!("h{id:02}:1")).collect();
        let nodes = |many: usize| addrs.iter().take(many).enumerate().map(|(i, a)| (i as u64 + 1, a.as_str(), i == 18));
        assert_eq!(first(nodes(20), 1), [1, 2, 3, 4, 19].into());
        assert_eq!(first(nodes(18), 7), [1, 2, 3, 4, 7].into());
        assert_eq!(first(nodes(4), 1), [1, 2, 3].into());
        assert_eq!(first(nodes(2), 2), [1, 2].into());
    }
}
