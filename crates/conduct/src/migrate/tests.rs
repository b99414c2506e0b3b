//! Every interleaving of two members, two stores, late and lost messages, a crash and the passing of time: at no moment
//! are two servers allowed to accept writes.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::*;

/// A store keeps a lease for so long after a renewal arrived; who sent it counts on less.
const TTL: u8 = 3;
const GOOD_FOR: u8 = 2;
const CRASHES: u8 = 1;
const ATTEMPTS: u8 = 2;
/// How often the lead of one store changes hands.
const TAKES: u8 = 3;

/// What is left out of the order, to see that the search would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    LeadNotFrozen,
    LeaderKeyNotHeld,
    LeaderByNameOnly,
    RegisterNotCompared,
    UnknownTakenForNo,
    CopyTakenForDecision,
    DeposedLeaderCopies,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Store {
    leader: Option<usize>,
    /// Of the leader key.
    version: u8,
    /// For how long each member's session lasts; zero: it has none.
    lease: [u8; 2],
    moved: bool,
    /// Of the register, or of the copy's mark.
    register: u8,
}

/// A write that its sender does not wait for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Late {
    Decide { register: u8, version: u8 },
    Copy { register: u8, version: u8 },
    Withdraw { register: u8 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Member {
    in_new: bool,
    /// For how long it counts on its lead; one that has passed comes back with a renewal, as the lease keeper's does.
    lead: Option<u8>,
    /// For how long the server here accepts writes: what its fence was told.
    writes_for: u8,
    frozen: bool,
    attempt: Option<Attempt>,
    late: Option<Late>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Attempt {
    /// The request to make, and what the earlier ones brought.
    at: Option<Request>,
    register: u8,
    version: u8,
    mark: u8,
    mark_version: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    old: Store,
    new: Store,
    members: [Member; 2],
    crashes: u8,
    attempts: u8,
}

impl Store {
    fn expire(&mut self) {
        for (member, _) in self.lease.iter().enumerate().filter(|(_, left)| **left == 0) {
            // What is bound to nothing stays.
            if self.leader == Some(member) && !self.moved {
                self.leader = None;
            }
        }
    }

    fn lead(&mut self, who: usize) {
        self.leader = Some(who);
        self.version += 1;
        self.lease[who] = TTL;
    }
}

impl World {
    fn begin() -> World {
        let mut world = World::default();
        world.old.lead(0);
        world.old.lease[1] = TTL;
        (world.members[0].lead, world.members[0].writes_for) = (Some(GOOD_FOR), GOOD_FOR);
        world
    }

    fn apply(&mut self, who: usize, late: Late, bug: Bug) -> bool {
        match late {
            Late::Decide { register, version } => {
                let same = bug == Bug::RegisterNotCompared || self.old.register == register;
                let mine =
                    self.old.leader == Some(who) && (bug == Bug::LeaderByNameOnly || self.old.version == version);
                let decided = same && mine && !self.old.moved;
                if decided {
                    self.old.moved = true;
                    self.old.register += 1;
                    if bug != Bug::LeaderKeyNotHeld {
                        self.old.leader = Some(usize::MAX);
                    }
                }
                decided
            }
            Late::Copy { register, version } => {
                let free = self.new.register == register && self.new.version == version && self.new.lease[who] > 0;
                if free {
                    self.new.register += 1;
                    self.new.leader = Some(who);
                    self.new.version += 1;
                }
                free
            }
            Late::Withdraw { register } => {
                let same = self.old.register == register && !self.old.moved;
                self.old.register += u8::from(same);
                same
            }
        }
    }

    fn holds(&mut self, who: usize) {
        let member = &mut self.members[who];
        (member.lead, member.writes_for) = (Some(GOOD_FOR), GOOD_FOR);
    }

    /// The worlds that one step of a member leads to.
    fn steps(&self, who: usize, bug: Bug, out: &mut Vec<World>) {
        let me = &self.members[who];
        let mut to = |change: &dyn Fn(&mut World)| {
            let mut next = self.clone();
            change(&mut next);
            out.push(next);
        };
        let place = if me.in_new { &self.new } else { &self.old };
        // Renew, or open a session.
        to(&|w| {
            let place = if w.members[who].in_new { &mut w.new } else { &mut w.old };
            let had = place.lease[who] > 0;
            place.lease[who] = TTL;
            if !had {
                w.members[who].lead = None;
            } else if w.members[who].lead.is_some() && (!w.members[who].frozen || bug == Bug::LeadNotFrozen) {
                w.holds(who);
            }
        });
        // Take the lead, or go on with one of an earlier process.
        let held = place.leader.is_some() && !(bug == Bug::LeaderKeyNotHeld && place.leader == Some(usize::MAX));
        if me.lead.is_none() && (!held || place.leader == Some(who)) && place.version < TAKES {
            to(&|w| {
                let place = if w.members[who].in_new { &mut w.new } else { &mut w.old };
                place.lead(who);
                w.holds(who);
            });
        }
        // See what the store says.
        if !me.in_new && (self.old.moved || (bug == Bug::CopyTakenForDecision && self.new.register > 0)) {
            to(&|w| {
                let Member { writes_for, late, .. } = w.members[who].clone();
                w.members[who] = Member { in_new: true, writes_for, late, ..Member::default() };
            });
        }
        if me.lead.is_some() && place.leader != Some(who) && (me.in_new || !place.moved) {
            to(&|w| w.members[who].lead = None);
        }
        if let Some(late) = me.late {
            to(&|w| {
                w.members[who].late = None;
                w.apply(who, late, bug);
            });
        }
        if self.crashes < CRASHES {
            to(&|w| {
                let Member { in_new, writes_for, late, .. } = w.members[who].clone();
                w.members[who] = Member { in_new, writes_for, late, ..Member::default() };
                w.crashes += 1;
            });
        }
        if !me.in_new && me.attempt.is_none() && me.lead.is_some_and(|left| left > 0) && self.attempts < ATTEMPTS {
            to(&|w| {
                w.members[who].attempt = Some(Attempt { at: Some(Request::Claim), ..Attempt::default() });
                w.attempts += 1;
            });
        }
        if let Some(attempt) = &me.attempt
            && let Some(request) = attempt.at
            && !me.in_new
        {
            self.ask(who, request, bug, out);
        }
    }

    /// A request, and all that may become of it.
    fn ask(&self, who: usize, request: Request, bug: Bug, out: &mut Vec<World>) {
        let mut done = self.clone();
        let attempt = self.members[who].attempt.clone().unwrap_or_default();
        let no = || Answer::Conflict("changed".into());
        let late = match request {
            Request::Claim => {
                let leads = self.old.leader == Some(who) && self.members[who].lead.is_some() && !self.old.moved;
                done.old.register += u8::from(leads);
                let (register, version) = (done.old.register, done.old.version);
                done.members[who].attempt = Some(Attempt { register, version, ..attempt });
                return done.goes_on(who, request, if leads { Answer::Done } else { no() }, out);
            }
            Request::Freeze => {
                done.members[who].frozen = true;
                let good = done.members[who].lead.is_some_and(|left| left > 0);
                return done.goes_on(who, request, if good { Answer::Done } else { no() }, out);
            }
            Request::Gather => {
                let same = self.old.register == attempt.register && self.old.version == attempt.version;
                let same = same || bug == Bug::DeposedLeaderCopies;
                return done.goes_on(who, request, if same { Answer::Done } else { no() }, out);
            }
            Request::Open => {
                done.new.lease[who] = TTL;
                let (mark, mark_version) = (done.new.register, done.new.version);
                done.members[who].attempt = Some(Attempt { mark, mark_version, ..attempt });
                return done.goes_on(who, request, Answer::Done, out);
            }
            Request::Look => {
                let answer = if self.old.moved { Answer::Moved } else { Answer::Done };
                return done.goes_on(who, request, answer, out);
            }
            Request::Close => {
                // Revoked, or not.
                done.clone().goes_on(who, request, Answer::Done, out);
                done.new.lease[who] = 0;
                done.new.expire();
                return done.goes_on(who, request, Answer::Done, out);
            }
            Request::Thaw => {
                done.members[who].frozen = false;
                return done.goes_on(who, request, Answer::Done, out);
            }
            Request::Copy => Late::Copy { register: attempt.mark, version: attempt.mark_version },
            Request::Decide => Late::Decide { register: attempt.register, version: attempt.version },
            Request::Withdraw => Late::Withdraw { register: attempt.register },
        };
        let unknown = || match (request, bug) {
            (Request::Decide, Bug::UnknownTakenForNo) => no(),
            _ => Answer::Unknown("no answer".into()),
        };
        // It never arrives, it arrives later, it arrived and the answer is lost, it is answered.
        done.clone().goes_on(who, request, unknown(), out);
        if self.members[who].late.is_none() {
            let mut later = done.clone();
            later.members[who].late = Some(late);
            later.goes_on(who, request, unknown(), out);
        }
        let applied = done.apply(who, late, bug);
        done.clone().goes_on(who, request, unknown(), out);
        done.goes_on(who, request, if applied { Answer::Done } else { no() }, out);
    }

    /// The mover is asked what follows.
    fn goes_on(mut self, who: usize, request: Request, answer: Answer, out: &mut Vec<World>) {
        let mut mover = Mover { next: Next::Ask(request), why: String::new() };
        mover.answered(answer);
        let Some(attempt) = &mut self.members[who].attempt else { return };
        match mover.next() {
            Next::Ask(next) | Next::Again(next) => attempt.at = Some(*next),
            // What it waits for now is to see it in the store.
            Next::Moved => attempt.at = None,
            Next::NotMoved(_) => self.members[who].attempt = None,
        }
        out.push(self);
    }

    fn later(&self) -> World {
        let mut later = self.clone();
        for store in [&mut later.old, &mut later.new] {
            store.lease = store.lease.map(|left| left.saturating_sub(1));
            store.expire();
        }
        for member in &mut later.members {
            member.lead = member.lead.map(|left| left.saturating_sub(1));
            member.writes_for = member.writes_for.saturating_sub(1);
        }
        later
    }

    fn writers(&self) -> usize {
        self.members.iter().filter(|member| member.writes_for > 0).count()
    }
}

struct Found {
    worlds: usize,
    two_writers: Option<World>,
    /// A member leads in the new store.
    arrived: bool,
    /// The decision was made, and by a member that did not get to know it.
    unaware: bool,
}

fn search(bug: Bug) -> Found {
    let mut found = Found { worlds: 0, two_writers: None, arrived: false, unaware: false };
    // Hashes alone: there are many, and the chance that two are alike is smaller than that of a broken machine.
    let (hasher, mut seen, mut open) = (RandomState::new(), HashSet::new(), vec![World::begin()]);
    while let Some(world) = open.pop() {
        if world.writers() > 1 {
            found.two_writers = Some(world);
            return found;
        }
        if !seen.insert(hasher.hash_one(&world)) {
            continue;
        }
        let member = |m: &Member| m.in_new && m.lead.is_some_and(|left| left > 0);
        found.arrived |= world.members.iter().any(member);
        found.unaware |= world.old.moved
            && world.members.iter().any(|m| m.attempt.as_ref().is_some_and(|a| a.at == Some(Request::Withdraw)));
        let mut next = Vec::new();
        for who in 0..2 {
            world.steps(who, bug, &mut next);
        }
        next.push(world.later());
        open.extend(next);
    }
    found.worlds = seen.len();
    found
}

#[test]
fn no_interleaving_has_two_writers() {
    let found = search(Bug::None);
    assert_eq!(found.two_writers, None);
    assert!(found.arrived && found.unaware && found.worlds > 10_000, "{} worlds", found.worlds);
}

#[test]
fn each_part_of_the_order_is_needed() {
    for bug in [
        Bug::LeadNotFrozen,
        Bug::LeaderKeyNotHeld,
        Bug::LeaderByNameOnly,
        Bug::RegisterNotCompared,
        Bug::UnknownTakenForNo,
        Bug::CopyTakenForDecision,
        Bug::DeposedLeaderCopies,
    ] {
        assert!(search(bug).two_writers.is_some(), "not found: {bug:?}");
    }
}
