//! Every interleaving of two members, two stores, late and lost messages, a crash and the passing of time, without and with
//! failsafe mode: at no moment are two servers allowed to accept writes, and from wherever it was interrupted the cluster
//! finds one leader again, in the store that counts, and can be moved then.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use super::*;

/// A store keeps a lease for so long after a renewal arrived; who sent it counts on less.
const TTL: u8 = 3;
const GOOD_FOR: u8 = 2;
const CRASHES: u8 = 1;
/// One where promises make the worlds many.
const ATTEMPTS: [u8; 2] = [2, 1];
/// How often the lead of one store changes hands.
const TAKES: u8 = 3;
/// Until whatever was begun has ended, or is over.
const ROUNDS: usize = 40;

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
    /// A member that goes over forgets whom it vouches for.
    PromiseForgotten,
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
    /// Whom members may vouch for: it is asked by whoever wants the lead instead.
    vouching: Option<usize>,
}

/// A write that its sender does not wait for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Late {
    Decide { register: u8, version: u8, vouching: Option<usize> },
    Copy { register: u8, version: u8, vouching: Option<usize> },
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
    /// The lead is good by what the other member says, and not by the lease.
    vouched: bool,
    /// Its key ended with a session, so that no renewal prolongs it.
    unbound: bool,
    /// For how long the other member was promised not to be taken the lead from.
    promised: u8,
    /// A process that was just started does not know what an earlier one promised.
    silent: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Attempt {
    /// The request to make, and what the earlier ones brought.
    at: Option<Request>,
    register: u8,
    version: u8,
    mark: u8,
    mark_version: u8,
    vouching: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    old: Store,
    new: Store,
    members: [Member; 2],
    crashes: u8,
    attempts: u8,
    failsafe: bool,
}

impl Member {
    /// What is left of it when its agent ends, and when it goes over.
    fn ended(&self, crashed: bool, bug: Bug) -> Member {
        let Member { in_new, writes_for, late, .. } = *self;
        let ended = Member { in_new, writes_for, late, ..Member::default() };
        match (crashed, bug) {
            (true, _) => Member { silent: TTL, ..ended },
            (false, Bug::PromiseForgotten) => ended,
            (false, _) => Member { promised: self.promised, silent: self.silent, ..ended },
        }
    }

    fn loses(&mut self) {
        (self.lead, self.vouched, self.unbound) = (None, false, false);
    }

    fn leads(&self) -> bool {
        self.lead.is_some_and(|left| left > 0)
    }
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
    fn begin(failsafe: bool) -> World {
        let mut world = World { failsafe, ..World::default() };
        world.old.lead(0);
        world.old.lease[1] = TTL;
        (world.members[0].lead, world.members[0].writes_for) = (Some(GOOD_FOR), GOOD_FOR);
        world
    }

    fn apply(&mut self, who: usize, late: Late, bug: Bug) -> bool {
        match late {
            Late::Decide { register, version, vouching } => {
                let same = bug == Bug::RegisterNotCompared || self.old.register == register;
                let mine =
                    self.old.leader == Some(who) && (bug == Bug::LeaderByNameOnly || self.old.version == version);
                let decided = same && mine && !self.old.moved && self.old.vouching == vouching;
                if decided {
                    self.old.moved = true;
                    self.old.register += 1;
                    if bug != Bug::LeaderKeyNotHeld {
                        self.old.leader = Some(usize::MAX);
                    }
                }
                decided
            }
            Late::Copy { register, version, vouching } => {
                let free = self.new.register == register && self.new.version == version && self.new.lease[who] > 0;
                if free {
                    self.new.register += 1;
                    self.new.leader = Some(who);
                    self.new.version += 1;
                    self.new.vouching = vouching;
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
        (member.lead, member.writes_for, member.vouched) = (Some(GOOD_FOR), GOOD_FOR, false);
    }

    /// Nobody else can be going on without the store this member is in, as far as it promised or has to ask.
    fn may_lead(&self, who: usize) -> bool {
        let (me, place) = (&self.members[who], self.place(who));
        me.promised == 0 && (place.vouching.is_none_or(|of| of == who) || me.silent == 0)
    }

    fn place(&self, who: usize) -> &Store {
        if self.members[who].in_new { &self.new } else { &self.old }
    }

    fn place_mut(&mut self, who: usize) -> &mut Store {
        if self.members[who].in_new { &mut self.new } else { &mut self.old }
    }

    fn renew(&mut self, who: usize, bug: Bug) {
        let place = self.place_mut(who);
        let had = place.lease[who] > 0;
        place.lease[who] = TTL;
        let member = &mut self.members[who];
        if !had && !member.vouched {
            member.loses();
        } else if !had {
            member.unbound = true;
        } else if member.lead.is_some() && !member.unbound && (!member.frozen || bug == Bug::LeadNotFrozen) {
            self.holds(who);
        }
    }

    fn may_take(&self, who: usize, bug: Bug) -> bool {
        let (me, place) = (&self.members[who], self.place(who));
        let held = place.leader.is_some() && !(bug == Bug::LeaderKeyNotHeld && place.leader == Some(usize::MAX));
        let mine = place.leader == Some(who);
        // Whoever is vouched for takes it again when its key has ended.
        let wanted = me.lead.is_none() || (me.unbound && !held);
        wanted && (!held || mine) && self.may_lead(who)
    }

    fn take(&mut self, who: usize) {
        self.place_mut(who).lead(who);
        self.members[who].unbound = false;
        self.holds(who);
    }

    fn go_over(&mut self, who: usize, bug: Bug) {
        self.members[who] = Member { in_new: true, ..self.members[who].ended(false, bug) };
    }

    /// The other member vouches for a leader that may be vouched for.
    fn may_be_vouched_for(&self, who: usize) -> bool {
        let (me, other) = (&self.members[who], &self.members[1 - who]);
        me.leads()
            && !me.frozen
            && self.place(who).vouching == Some(who)
            && me.silent == 0
            && me.promised == 0
            && other.silent == 0
            && !other.leads()
    }

    /// The worlds that one step of a member leads to.
    fn steps(&self, who: usize, bug: Bug, out: &mut Vec<World>) {
        let me = &self.members[who];
        let mut to = |change: &dyn Fn(&mut World)| {
            let mut next = self.clone();
            change(&mut next);
            out.push(next);
        };
        let place = self.place(who);
        // Renew, or open a session.
        to(&|w| w.renew(who, bug));
        // Take the lead, or go on with one of an earlier process.
        if self.may_take(who, bug) && place.version < TAKES {
            to(&|w| w.take(who));
        }
        // See what the store says.
        if !me.in_new && (self.old.moved || (bug == Bug::CopyTakenForDecision && self.new.register > 0)) {
            to(&|w| w.go_over(who, bug));
        }
        let lost = place.leader != Some(who) && (place.leader.is_some() || !me.vouched);
        if me.lead.is_some() && lost && (me.in_new || !place.moved) {
            to(&|w| w.members[who].loses());
        }
        if self.failsafe {
            if place.leader == Some(who) && me.leads() && place.vouching != Some(who) {
                to(&|w| w.place_mut(who).vouching = Some(who));
            }
            if self.may_be_vouched_for(who) {
                to(&|w| {
                    w.members[1 - who].promised = TTL;
                    w.holds(who);
                    w.members[who].vouched = true;
                });
            }
        }
        if let Some(late) = me.late {
            to(&|w| {
                w.members[who].late = None;
                w.apply(who, late, bug);
            });
        }
        if self.crashes < CRASHES {
            to(&|w| {
                w.members[who] = w.members[who].ended(true, bug);
                // Without failsafe mode nobody is asked.
                w.members[who].silent *= u8::from(w.failsafe);
                w.crashes += 1;
            });
        }
        if !me.in_new && me.attempt.is_none() && me.leads() && self.attempts < ATTEMPTS[usize::from(self.failsafe)] {
            to(&|w| w.begin_attempt(who));
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
                let good = done.members[who].leads() && !done.members[who].vouched;
                return done.goes_on(who, request, if good { Answer::Done } else { no() }, out);
            }
            Request::Gather => {
                let same = self.old.register == attempt.register && self.old.version == attempt.version;
                let same = same || bug == Bug::DeposedLeaderCopies;
                done.members[who].attempt = Some(Attempt { vouching: done.old.vouching, ..attempt });
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
            Request::Copy => {
                Late::Copy { register: attempt.mark, version: attempt.mark_version, vouching: attempt.vouching }
            }
            Request::Decide => {
                Late::Decide { register: attempt.register, version: attempt.version, vouching: attempt.vouching }
            }
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
            member.promised = member.promised.saturating_sub(1);
            member.silent = member.silent.saturating_sub(1);
        }
        later
    }

    fn begin_attempt(&mut self, who: usize) {
        self.members[who].attempt = Some(Attempt { at: Some(Request::Claim), ..Attempt::default() });
        self.attempts += 1;
    }

    /// From here on every message arrives and is answered, nobody crashes, and everybody looks at his store.
    fn settles(mut self) -> World {
        for _ in 0..ROUNDS {
            for who in 0..2 {
                self.looks_around(who);
            }
            if self.is_well() {
                break;
            }
            self = self.later();
        }
        self
    }

    fn looks_around(&mut self, who: usize) {
        if let Some(late) = self.members[who].late.take() {
            self.apply(who, late, Bug::None);
        }
        let mut answered = Vec::new();
        while let Some(request) = self.members[who].attempt.as_ref().and_then(|attempt| attempt.at)
            && answered.len() < 100
        {
            self.ask(who, request, Bug::None, &mut answered);
            if let Some(prompt) = answered.last() {
                self.clone_from(prompt);
            }
        }
        if !self.members[who].in_new && self.old.moved {
            self.go_over(who, Bug::None);
        }
        let me = &self.members[who];
        if me.lead.is_some() && self.place(who).leader != Some(who) && !me.vouched {
            self.members[who].loses();
        }
        self.renew(who, Bug::None);
        if self.may_take(who, Bug::None) {
            self.take(who);
        }
    }

    /// One leads, in the store that counts, and nothing of an attempt is left.
    fn is_well(&self) -> bool {
        let leaders = self.members.iter().filter(|member| member.leads()).count();
        let place = |member: &Member| member.in_new == self.old.moved;
        leaders == 1 && self.members.iter().all(|m| place(m) && !m.frozen && m.attempt.is_none() && m.late.is_none())
    }

    /// It finds its way, and can be moved then.
    fn recovers(&self, known: &mut HashSet<World>) -> bool {
        let mut settled = self.clone().settles();
        (settled.attempts, settled.crashes) = (0, 0);
        if !settled.is_well() {
            return false;
        }
        if settled.old.moved || known.contains(&settled) {
            return true;
        }
        known.insert(settled.clone());
        let Some(leader) = settled.members.iter().position(Member::leads) else { return false };
        settled.begin_attempt(leader);
        let moved = settled.settles();
        moved.old.moved && moved.is_well()
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
    /// A primary goes on in the new store by what the other says.
    vouched: bool,
    /// What does not find its way.
    lost: Option<World>,
}

fn search(bug: Bug, failsafe: bool) -> Found {
    let mut found = Found { worlds: 0, two_writers: None, arrived: false, unaware: false, vouched: false, lost: None };
    let mut known = HashSet::new();
    // Hashes alone: there are many, and the chance that two are alike is smaller than that of a broken machine.
    let (hasher, mut seen, mut open) = (RandomState::new(), HashSet::new(), vec![World::begin(failsafe)]);
    while let Some(world) = open.pop() {
        if world.writers() > 1 {
            found.two_writers = Some(world);
            return found;
        }
        if !seen.insert(hasher.hash_one(&world)) {
            continue;
        }
        found.arrived |= world.members.iter().any(|m| m.in_new && m.leads());
        found.vouched |= world.members.iter().any(|m| m.in_new && m.leads() && m.vouched);
        if bug == Bug::None && found.lost.is_none() && !world.recovers(&mut known) {
            found.lost = Some(world.clone());
        }
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
fn no_interleaving_has_two_writers_and_all_find_their_way() {
    for failsafe in [false, true] {
        let found = search(Bug::None, failsafe);
        assert_eq!((found.two_writers, found.lost), (None, None), "failsafe {failsafe}");
        assert!(found.arrived && found.unaware && found.worlds > 10_000, "{} worlds", found.worlds);
        assert_eq!(found.vouched, failsafe);
        eprintln!("failsafe {failsafe}: {} worlds", found.worlds);
    }
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
        assert!(search(bug, false).two_writers.is_some(), "not found: {bug:?}");
    }
    assert!(search(Bug::PromiseForgotten, true).two_writers.is_some(), "not found: a promise that is forgotten");
}
