//! The lease keeper: holds this member's session in the store, and with it the lead.
//!
//! A state machine with at most one request under way. Its driver asks [`Keeper::next`] what to do,
//! makes the request it is given, brings the answer back by [`Keeper::answered`], and asks again after
//! every input. The driver never waits for PostgreSQL, a disk or a decision.
//!
//! A deadline is counted from before a renewal was sent: the store starts the lease's time again at some
//! later moment, so the lead always ends here before it ends there.

mod message;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use surus_core::facts::Lead;
use surus_core::rules::stop_reserve;
use surus_core::settings::Timing;
use surus_core::store::{Beside, LeaseId, Revision, StoreError, StoreResult, TakeLead};
use surus_core::{BootTime, MemberName, Timeline};
use tracing::{info, warn};

pub use message::{Answer, Command, LeaseState, Moment, Next, Reply, Request, Ticket, Vouched};

/// Pause between attempts while the store does not answer.
const RETRY: Duration = Duration::from_millis(250);
/// For ending the session when the process ends.
const CLOSE: Duration = Duration::from_secs(2);

/// What the lead is good for less than the ttl, for clocks that run at different speeds.
pub fn margin(ttl: Duration) -> Duration {
    (ttl / 10).clamp(Duration::from_millis(400), Duration::from_secs(3))
}

/// From one renewal to the next: `loop_wait`, or less where a store that fails for `retry_timeout` would not be asked
/// again before a primary must begin to stop. `loop_wait + 2 * retry_timeout <= ttl` knows of no margin and no reserve:
/// with 5, 1 and 7 a primary stopped just before each renewal, though nothing was wrong.
pub fn every(timing: &Timing) -> Duration {
    let lasts = timing.ttl.saturating_sub(margin(timing.ttl) + stop_reserve(timing));
    timing.loop_wait.min(lasts.saturating_sub(timing.retry_timeout)).max(RETRY)
}

#[derive(Clone, Copy)]
struct Session {
    lease: LeaseId,
    /// What the lease was granted with; settings may have changed since.
    ttl: Duration,
    /// When the last confirmed grant or renewal was sent.
    sent: BootTime,
}

impl Session {
    /// Until then the store certainly keeps what is bound to the lease.
    fn until(&self) -> BootTime {
        self.sent + self.ttl.saturating_sub(margin(self.ttl))
    }
}

/// A take that was asked for.
#[derive(Clone, Copy)]
struct Taking {
    ticket: Ticket,
    /// Only if the key still carries my name.
    again: bool,
    beside: Beside,
}

/// A request and what it is for. `then` is the take that a session was needed for.
#[derive(Clone)]
enum Doing {
    Open {
        ttl: Duration,
        then: Option<Taking>,
    },
    Renew {
        then: Option<Taking>,
    },
    /// A lease with another ttl is another lease: the leader key is moved to it before the old one ends.
    Move {
        then: Option<Taking>,
    },
    Take(Taking),
    /// The outcome of a take is not known: look before deciding either way.
    Look {
        ticket: Ticket,
    },
    Release {
        ticket: Ticket,
        status: Option<String>,
    },
    Close {
        ticket: Ticket,
    },
}

enum Phase {
    Idle,
    /// To be made as the next step of what was begun.
    Follows(Doing),
    UnderWay {
        doing: Doing,
        sent: BootTime,
    },
    Ended,
}

pub struct Keeper {
    me: MemberName,
    timing: Timing,
    state: LeaseState,
    session: Option<Session>,
    /// The lease that the leader key hangs on: only its renewals prolong the lead.
    bound: Option<LeaseId>,
    /// Until then a server of mine may go on as the primary, by what its agent or its fence was told, also before this
    /// process. The leader key must not be bound to anything that ends before: a process that is frozen while the answer is
    /// on its way can tell nobody that there is less time.
    promised: Option<BootTime>,
    /// The lead with which it ends that somebody can be vouched for, by its version.
    unvouches: Option<Revision>,
    /// What the lead is worth is about to be decided in another place: nothing prolongs it. The session goes on.
    frozen: bool,
    /// When the session is renewed next.
    due: BootTime,
    commands: VecDeque<(Ticket, Command)>,
    replies: VecDeque<(Ticket, Reply)>,
    phase: Phase,
}

impl Keeper {
    /// Its first request is for a session, at once.
    pub fn new(me: MemberName, timing: Timing) -> Keeper {
        Keeper {
            me,
            timing,
            state: LeaseState::default(),
            session: None,
            bound: None,
            promised: None,
            unvouches: None,
            frozen: false,
            due: BootTime::default(),
            commands: VecDeque::new(),
            replies: VecDeque::new(),
            phase: Phase::Idle,
        }
    }

    pub fn state(&self) -> &LeaseState {
        &self.state
    }

    /// Done in the order of asking, one at a time.
    pub fn command(&mut self, ticket: Ticket, command: Command) {
        self.commands.push_back((ticket, command));
    }

    /// Nobody waits for this one any more. A take that has not begun is not made, since what it was decided on is
    /// of yesterday; anything else is.
    pub fn withdraw(&mut self, ticket: Ticket) {
        self.commands.retain(|(t, command)| *t != ticket || !matches!(command, Command::Take { .. } | Command::Retake));
    }

    /// The store says, as of this revision, that somebody else leads, or nobody. Heeded also while a request is under
    /// way; said again for as long as the store shows it.
    pub fn lost(&mut self, now: BootTime, revision: Revision, nobody: bool) {
        if self.state.lead.is_none_or(|l| revision < l.version) {
            return;
        }
        if nobody && self.vouched_for(now) {
            // The session ended while the store was away. Nobody else may lead for as long as members vouch for me, and
            // I take the lead again meanwhile.
            self.unbound();
        } else {
            self.lead_gone("the store names another leader, or none");
        }
    }

    /// The leader key is gone, and with it what renewals could prolong.
    fn unbound(&mut self) {
        if self.bound.take().is_some() {
            warn!("the leader lock ended in the store; going on as the leader because members vouch for me");
        }
        self.state.unbound = true;
    }

    /// Enough members vouch for me, for this long from when they were asked, before `sent`. Only a lead that has not ended is
    /// prolonged by it: who leads after that is not known to them.
    pub fn vouched(&mut self, at: Moment, sent: BootTime, length: Duration, by: BTreeSet<MemberName>, epoch: u64) {
        if epoch != self.state.electors || self.frozen {
            return;
        }
        let until = sent + length.saturating_sub(margin(length));
        let Some(lead) = self.state.lead.as_mut().filter(|lead| at.now < lead.until && lead.until < until) else {
            return;
        };
        lead.until = until;
        self.state.vouched = Some(Vouched { sent, until, by });
        self.promised(until);
    }

    /// From here on only what these say counts.
    pub fn electors(&mut self, epoch: u64) {
        self.state.electors = epoch;
    }

    /// The lead is good by what members say, whatever became of the session.
    fn vouched_for(&self, now: BootTime) -> bool {
        let vouched = self.state.vouched.as_ref().is_some_and(|v| now < v.until);
        vouched && self.state.lead.is_some_and(|lead| now < lead.until)
    }

    /// What an earlier process may have let the server count on.
    pub fn promised(&mut self, until: BootTime) {
        self.promised = self.promised.max(Some(until));
    }

    /// Under this lead nobody but me can be vouched for: when it is given up, nobody is.
    pub fn unvouches(&mut self, lead: Option<Revision>) {
        self.unvouches = lead;
    }

    /// Comes into force with a renewal, at once.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
        self.due = BootTime::default();
    }

    /// Somebody needs a confirmation that is not old.
    pub fn renew(&mut self) {
        self.due = BootTime::default();
    }

    /// What to do now. Asked again after every input, and after every [`Next::Reply`].
    pub fn next(&mut self, at: Moment) -> Next {
        if let Some((ticket, reply)) = self.replies.pop_front() {
            return Next::Reply { ticket, reply };
        }
        let doing = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Ended => {
                self.phase = Phase::Ended;
                return Next::Ended;
            }
            busy @ Phase::UnderWay { .. } => {
                self.phase = busy;
                return Next::Busy;
            }
            Phase::Follows(doing) => doing,
            // Nothing is worth more than the session.
            Phase::Idle if self.due <= at.now => self.renewal(at, None),
            Phase::Idle => match self.commands.pop_front() {
                None => return Next::Wait { until: self.due },
                Some((ticket, command @ (Command::Take { .. } | Command::Retake))) => {
                    let taking = match command {
                        Command::Take { beside } => Taking { ticket, again: false, beside },
                        _ => Taking { ticket, again: true, beside: Beside::default() },
                    };
                    if self.session.is_some_and(|s| at.session == Some(s.lease)) {
                        Doing::Take(taking)
                    } else {
                        self.renewal(at, Some(taking))
                    }
                }
                Some((ticket, Command::Release { status })) => Doing::Release { ticket, status },
                Some((ticket, Command::Close)) => Doing::Close { ticket },
                Some((ticket, Command::Freeze)) => {
                    self.frozen = true;
                    // One that members vouch for may last longer than any store would keep it.
                    let bound = self.state.vouched.is_none() && !self.state.unbound;
                    let until = self.state.lead.filter(|_| bound).map(|lead| lead.until);
                    self.replies.push_back((ticket, Reply::Frozen(until)));
                    return self.next(at);
                }
                Some((ticket, Command::Thaw)) => {
                    // With a renewal, at once: what was held back is wanted.
                    (self.frozen, self.due) = (false, BootTime::default());
                    self.replies.push_back((ticket, Reply::Thawed));
                    return self.next(at);
                }
            },
        };
        match doing {
            // Nothing that it could hang on.
            Doing::Take(Taking { ticket, .. }) if self.session.is_none() && self.state.failing.is_some() => {
                self.not_taken(ticket, at)
            }
            Doing::Take(Taking { ticket, .. }) if !self.lasts() => self.not_taken(ticket, at),
            doing => self.ask(doing, at.now),
        }
    }

    fn not_taken(&mut self, ticket: Ticket, at: Moment) -> Next {
        let why = match &self.state.failing {
            Some((_, why)) if self.session.is_none() => format!("this member has no session there: {why}"),
            // Members vouch for more than what is left of the session, and the store does not renew that.
            Some((_, why)) => format!("this member's session there is not renewed: {why}"),
            None => format!(
                "a lease with the ttl of now would end before the lead that this member's server was promised, which is \
                 good for another {:.1} s",
                self.promised.map_or(Duration::ZERO, |until| until.since(at.now)).as_secs_f64()
            ),
        };
        self.replies.push_back((ticket, Reply::Taken(Err(StoreError::Unavailable(why)))));
        self.next(at)
    }

    /// What the session is good for covers everything that was promised.
    fn lasts(&self) -> bool {
        self.session.is_none_or(|s| Some(s.until()) >= self.promised)
    }

    /// The first request of a renewal.
    fn renewal(&mut self, at: Moment, then: Option<Taking>) -> Doing {
        // A new session must not prolong a lead that went with the old one.
        if self.session.is_some_and(|s| at.session != Some(s.lease)) {
            self.session_gone("the store ended the session", at.now);
        }
        if self.session.is_none_or(|s| s.ttl != self.timing.ttl) {
            Doing::Open { ttl: self.timing.ttl, then }
        } else {
            Doing::Renew { then }
        }
    }

    fn ask(&mut self, doing: Doing, now: BootTime) -> Next {
        let (request, limit) = match &doing {
            Doing::Open { ttl, .. } => (Request::Open { ttl: *ttl }, self.limit()),
            Doing::Renew { .. } => (Request::Renew, self.limit()),
            // A key that is gone may have been somebody else's meanwhile: what is mine is moved, not taken anew.
            Doing::Move { .. } | Doing::Take(Taking { again: true, .. }) => (Request::Retake, self.limit()),
            Doing::Take(Taking { beside, .. }) => (Request::Take { beside: *beside }, self.limit()),
            Doing::Look { .. } => (Request::Look, self.limit()),
            Doing::Release { status, .. } => {
                // Only of my own lead do I know that it is over.
                let unvouch = self.unvouches.is_some() && self.unvouches == self.state.lead.map(|l| l.version);
                // Whatever the store makes of it, and whenever it does: nobody acts on this lead any more. The store
                // may give it to another member long before its answer is here.
                (self.bound, self.state.announced, self.promised) = (None, None, None);
                (self.state.lead, self.state.vouched, self.state.unbound) = (None, None, false);
                (Request::Release { status: status.clone(), unvouch }, self.limit())
            }
            Doing::Close { .. } => {
                (self.bound, self.state.announced) = (None, None);
                (self.state.lead, self.state.vouched, self.state.unbound) = (None, None, false);
                (Request::Close, CLOSE)
            }
        };
        self.phase = Phase::UnderWay { doing, sent: now };
        Next::Ask { request, limit }
    }

    /// Time limit of one request: short enough for another attempt before the lead is in danger.
    fn limit(&self) -> Duration {
        let ttl = self.session.map_or(self.timing.ttl, |s| s.ttl.min(self.timing.ttl));
        (ttl / 5).clamp(Duration::from_millis(500), self.timing.retry_timeout.max(Duration::from_secs(1)))
    }

    /// The answer to the request under way; one that does not fit it is ignored.
    pub fn answered(&mut self, at: Moment, answer: Answer) {
        let (doing, sent) = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::UnderWay { doing, sent } => (doing, sent),
            other => {
                self.phase = other;
                return;
            }
        };
        match (doing, answer) {
            (Doing::Open { ttl, then }, Answer::Opened(opened)) => {
                // With the ttl that was asked for: the setting may have changed meanwhile.
                let opened = opened.map(|lease| Session { lease, ttl, sent });
                self.opened(at, opened, then);
            }
            (Doing::Renew { then }, Answer::Renewed(renewed)) => self.renewed(at, renewed, sent, then),
            (Doing::Move { then }, Answer::Taken(taken)) => {
                self.moved(taken, at);
                self.renewal_ends(self.pause(at.now), at.now, then);
            }
            (Doing::Take(Taking { ticket, .. }), Answer::Taken(Err(StoreError::OutcomeUnknown(_)))) => {
                self.phase = Phase::Follows(Doing::Look { ticket });
            }
            (Doing::Take(Taking { ticket, beside, .. }), Answer::Taken(taken)) => {
                self.taken(ticket, taken, beside.announce.map(|a| a.timeline), at);
            }
            (Doing::Look { ticket }, Answer::Looked(looked)) => match looked {
                Ok(leader) => {
                    let mine = leader.filter(|l| l.name == self.me && (l.lease.is_none() || l.lease == at.session));
                    self.taken(ticket, Ok(mine.map_or(TakeLead::Lost, |l| TakeLead::Taken(l.version))), None, at);
                }
                Err(e) => self.replies.push_back((ticket, Reply::Taken(Err(e)))),
            },
            (Doing::Release { ticket, .. }, Answer::Released(released)) => {
                self.replies.push_back((ticket, Reply::Released(released)));
            }
            (Doing::Close { ticket }, Answer::Closed) => {
                self.session = None;
                self.state.session = false;
                self.replies.push_back((ticket, Reply::Closed));
                self.phase = Phase::Ended;
            }
            (doing, _) => self.phase = Phase::UnderWay { doing, sent },
        }
    }

    fn opened(&mut self, at: Moment, opened: StoreResult<Session>, then: Option<Taking>) {
        match opened {
            Ok(session) => {
                if self.session.is_some() {
                    info!("the session in the store now has a ttl of {} s", session.ttl.as_secs_f64());
                }
                self.session = Some(session);
                self.state.session_number += 1;
                self.confirmed(at, then);
            }
            Err(e) if self.session.is_none() => {
                self.failed(at.now, &e);
                self.renewal_ends(RETRY, at.now, then);
            }
            Err(e) => {
                warn!("a lease with the new ttl could not be opened, the old one stays in use: {e}");
                self.phase = Phase::Follows(Doing::Renew { then });
            }
        }
    }

    fn renewed(&mut self, at: Moment, renewed: StoreResult<()>, sent: BootTime, then: Option<Taking>) {
        match renewed {
            Ok(()) => {
                self.session = self.session.map(|s| Session { sent, ..s });
                self.confirmed(at, then);
            }
            Err(StoreError::LeaseGone) => {
                self.session_gone("the store ended the session", at.now);
                self.renewal_ends(Duration::ZERO, at.now, then);
            }
            Err(e) => {
                self.failed(at.now, &e);
                self.renewal_ends(RETRY, at.now, then);
            }
        }
    }

    /// The store has just granted or renewed the lease.
    fn confirmed(&mut self, at: Moment, then: Option<Taking>) {
        let Some(session) = self.session else { return };
        let mine = self.bound == Some(session.lease);
        self.state.session = true;
        self.state.renewals += 1;
        self.state.renewed = Some((session.sent, at.now.since(session.sent)));
        if let Some((since, _)) = self.state.failing.take() {
            info!("the session in the store is renewed again after {:.1} s", at.now.since(since).as_secs_f64());
        }
        if let Some(lead) = self.state.lead.as_mut().filter(|_| mine && !self.frozen) {
            // Renewed by the store, and perhaps less far than members vouch.
            if self.state.vouched.as_ref().is_none_or(|v| v.until <= session.until()) {
                self.state.vouched = None;
                lead.until = session.until();
            }
            self.promised(session.until());
        }
        // A lead whose key ended in the store is taken again by whoever decides, who looks at what else is there.
        if self.state.lead.is_some() && !mine && !self.state.unbound && self.lasts() {
            self.phase = Phase::Follows(Doing::Move { then });
        } else {
            self.renewal_ends(self.pause(at.now), at.now, then);
        }
    }

    fn moved(&mut self, taken: StoreResult<TakeLead>, at: Moment) {
        match taken {
            Ok(TakeLead::Taken(version)) => self.hold(version),
            Ok(TakeLead::Lost) => {
                self.lead_gone("somebody else took it while it was moved to a lease with the new ttl");
            }
            Err(StoreError::LeaseGone) => self.session_gone("the store ended the session", at.now),
            // It hangs on the old lease or on the new one, which lasts no less.
            Err(e) => warn!("the leader lock could not be moved to a lease with the new ttl yet: {e}"),
        }
    }

    fn renewal_ends(&mut self, pause: Duration, now: BootTime, then: Option<Taking>) {
        // Nothing prolongs it any more; what the store shows meanwhile is for a new lead to go by.
        if self.state.unbound && self.state.lead.is_some_and(|lead| lead.until <= now) {
            self.lead_gone("its key ended in the store, and too few members vouch for me");
        }
        self.due = now + pause;
        if let Some(taking) = then {
            self.phase = Phase::Follows(Doing::Take(taking));
        }
    }

    fn pause(&self, now: BootTime) -> Duration {
        let Some(session) = self.session else { return Duration::ZERO };
        let settled =
            session.ttl == self.timing.ttl && (self.state.lead.is_none() || self.bound == Some(session.lease));
        let pause = match self.promised {
            _ if settled => every(&self.timing),
            // The lead goes on with the old lease until the new one lasts as long.
            Some(promised) if !self.lasts() => {
                let possible = session.ttl.saturating_sub(margin(session.ttl));
                promised.since(session.sent).saturating_sub(possible).min(every(&self.timing))
            }
            _ => RETRY,
        };
        pause.saturating_sub(now.since(session.sent)).max(Duration::from_millis(20))
    }

    fn failed(&mut self, now: BootTime, e: &StoreError) {
        self.state.failures += 1;
        if self.state.failing.is_none() {
            warn!("the session in the store could not be renewed: {e}");
        }
        let since = self.state.failing.as_ref().map_or(now, |f| f.0);
        self.state.failing = Some((since, e.to_string()));
    }

    fn session_gone(&mut self, why: &str, now: BootTime) {
        self.session = None;
        if self.vouched_for(now) {
            self.unbound()
        } else {
            self.lead_gone(why)
        }
        self.state.session = false;
    }

    fn lead_gone(&mut self, why: &str) {
        (self.bound, self.state.announced) = (None, None);
        (self.state.vouched, self.state.unbound) = (None, false);
        if self.state.lead.take().is_some() {
            warn!("the leader lock is lost: {why}");
        }
    }

    fn taken(&mut self, ticket: Ticket, taken: StoreResult<TakeLead>, announced: Option<Timeline>, at: Moment) {
        let reply = match taken {
            Ok(TakeLead::Taken(version)) => {
                self.hold(version);
                self.state.announced = announced;
                // The lead is good for as long as the last renewal says, which may be nearly over.
                self.due = BootTime::default();
                Ok(true)
            }
            Ok(TakeLead::Lost) => Ok(false),
            Err(StoreError::LeaseGone) => {
                self.session_gone("the store ended the session", at.now);
                Err(StoreError::LeaseGone)
            }
            Err(e) => Err(e),
        };
        self.replies.push_back((ticket, Reply::Taken(reply)));
    }

    fn hold(&mut self, version: Revision) {
        let Some(session) = self.session else { return };
        self.bound = Some(session.lease);
        (self.state.vouched, self.state.unbound) = (None, false);
        // A lead that is frozen may be bound to another lease of mine, and is worth no more for that.
        let frozen = self.state.lead.filter(|_| self.frozen).map(|lead| lead.until);
        let until = frozen.map_or(session.until(), |until| until.min(session.until()));
        self.promised(until);
        self.state.lead = Some(Lead { until, version });
    }
}

#[cfg(test)]
mod tests;
