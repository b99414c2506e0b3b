use surus_core::cluster::Leader;
use surus_core::store::Announce;

use super::*;

const TTL: Duration = Duration::from_secs(20);
const LOOP: Duration = Duration::from_secs(10);
const NOW: BootTime = BootTime::from_millis(1_000_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn timing(ttl: Duration) -> Timing {
    Timing { ttl, loop_wait: LOOP, retry_timeout: Duration::from_secs(3) }
}

/// A keeper, its clock, and the lease the store's client works with.
struct Rig {
    keeper: Keeper,
    at: Moment,
    leases: LeaseId,
}

/// What a store may answer.
#[derive(Clone, Copy)]
enum Say {
    Good,
    Cut,
    Unknown,
    Gone,
    /// A take: somebody else has it.
    Lost,
    /// A reading: the leader key carries my name and hangs on my lease, or on another, or on none that is told.
    Mine,
    MineOld,
    MineUntold,
    Nobody,
}

fn error(say: Say) -> StoreError {
    match say {
        Say::Unknown => StoreError::OutcomeUnknown("slow".into()),
        Say::Gone => StoreError::LeaseGone,
        _ => StoreError::Unavailable("cut".into()),
    }
}

fn new() -> Rig {
    Rig { keeper: Keeper::new("a".into(), timing(TTL)), at: Moment { now: NOW, session: None }, leases: 0 }
}

/// With a session that was opened at [`NOW`].
fn open() -> Rig {
    let mut rig = new();
    rig.serve("open", Say::Good);
    assert!(rig.keeper.state().session);
    rig
}

/// Leads as of version 5, and has renewed after that.
fn leading() -> Rig {
    let mut rig = open();
    rig.take("take", Say::Good);
    assert_eq!(rig.reply(), Reply::Taken(Ok(true)));
    rig.serve("renew", Say::Good);
    rig
}

impl Rig {
    fn next(&mut self) -> Next {
        self.keeper.next(self.at)
    }

    fn wait(&mut self) -> BootTime {
        match self.next() {
            Next::Wait { until } => until,
            other => panic!("not waiting: {other:?}"),
        }
    }

    fn reply(&mut self) -> Reply {
        match self.next() {
            Next::Reply { reply, .. } => reply,
            other => panic!("no reply: {other:?}"),
        }
    }

    /// The next request, which must be this one.
    fn asked(&mut self, want: &str) -> (Request, Duration) {
        let Next::Ask { request, limit } = self.next() else { panic!("no request, expected {want}") };
        let name = match &request {
            Request::Open { .. } => "open",
            Request::Renew => "renew",
            Request::Take { .. } => "take",
            Request::Retake => "retake",
            Request::Look => "look",
            Request::Release { .. } => "release",
            Request::Close => "close",
        };
        assert_eq!(name, want);
        assert_eq!(self.next(), Next::Busy, "one at a time");
        (request, limit)
    }

    fn answer(&mut self, request: &Request, say: Say) {
        let good = matches!(say, Say::Good);
        let done = || if good { Ok(()) } else { Err(error(say)) };
        if matches!(say, Say::Gone) {
            self.at.session = None;
        }
        let leader = |lease| Some(Leader { name: "a".into(), version: 6, lease });
        let answer = match request {
            Request::Open { .. } => Answer::Opened(done().map(|()| {
                self.leases += 1;
                self.at.session = Some(self.leases);
                self.leases
            })),
            Request::Renew => Answer::Renewed(done()),
            Request::Take { .. } | Request::Retake => Answer::Taken(match say {
                Say::Good => Ok(TakeLead::Taken(5)),
                Say::Lost => Ok(TakeLead::Lost),
                _ => Err(error(say)),
            }),
            Request::Look => Answer::Looked(match say {
                Say::Mine => Ok(leader(self.at.session)),
                Say::MineOld => Ok(leader(Some(77))),
                Say::MineUntold => Ok(leader(None)),
                Say::Nobody => Ok(None),
                Say::Lost => Ok(Some(Leader { name: "b".into(), version: 6, lease: None })),
                _ => Err(error(say)),
            }),
            Request::Release { .. } => Answer::Released(done()),
            Request::Close => Answer::Closed,
        };
        self.keeper.answered(self.at, answer);
    }

    fn serve(&mut self, want: &str, say: Say) {
        let (request, _) = self.asked(want);
        self.answer(&request, say);
    }

    fn take(&mut self, want: &str, say: Say) {
        self.keeper.command(1, Command::Take { beside: Beside::default() });
        self.serve(want, say);
    }

    fn pass(&mut self, time: Duration) {
        self.at.now = self.at.now + time;
    }

    fn until(&self) -> Option<BootTime> {
        self.keeper.state().lead.map(|l| l.until)
    }
}

#[test]
fn the_lead_is_counted_from_before_the_request() {
    let mut rig = new();
    let (request, _) = rig.asked("open");
    rig.pass(ms(700));
    rig.answer(&request, Say::Good);
    rig.take("take", Say::Good);
    assert_eq!(rig.reply(), Reply::Taken(Ok(true)));
    assert_eq!(rig.until(), Some(NOW + (TTL - margin(TTL))), "as good as the last renewal, not longer");
    let (request, _) = rig.asked("renew");
    let sent = rig.at.now;
    rig.pass(ms(300));
    rig.answer(&request, Say::Good);
    assert_eq!(rig.until(), Some(sent + (TTL - margin(TTL))));
    assert_eq!(rig.keeper.state().renewed, Some((sent, ms(300))));
    assert_eq!(rig.wait(), sent + LOOP);
}

#[test]
fn a_frozen_lead_ends_when_it_would_have_ended() {
    let mut rig = leading();
    let until = rig.until();
    rig.keeper.command(2, Command::Freeze);
    assert_eq!(rig.reply(), Reply::Frozen(until));
    rig.pass(LOOP);
    rig.serve("renew", Say::Good);
    assert_eq!((rig.until(), rig.keeper.state().session), (until, true), "the session goes on");
    rig.keeper.vouched(rig.at, rig.at.now, TTL, by(), 0);
    assert_eq!(rig.until(), until, "members may have gone over to where somebody else leads");
    // Bound to another lease for the sake of another ttl.
    rig.keeper.set_timing(timing(TTL * 2));
    rig.serve("open", Say::Good);
    rig.serve("retake", Say::Good);
    assert_eq!(rig.until(), until);
    rig.keeper.command(3, Command::Thaw);
    assert_eq!(rig.reply(), Reply::Thawed);
    rig.serve("renew", Say::Good);
    assert!(rig.until() > until);

    // What members vouch for may last longer than a store would keep it.
    let mut rig = leading();
    rig.pass(LOOP);
    rig.keeper.vouched(rig.at, rig.at.now, TTL, by(), 0);
    rig.serve("renew", Say::Cut);
    rig.keeper.command(2, Command::Freeze);
    assert_eq!(rig.reply(), Reply::Frozen(None));

    let mut rig = open();
    rig.keeper.command(2, Command::Freeze);
    assert_eq!(rig.reply(), Reply::Frozen(None));
    rig.keeper.command(3, Command::Thaw);
    assert_eq!(rig.reply(), Reply::Thawed);
}

#[test]
fn a_renewal_that_fails_prolongs_nothing_and_comes_again() {
    let mut rig = leading();
    let until = rig.until();
    rig.pass(LOOP);
    for n in 1..4 {
        rig.serve("renew", if n == 2 { Say::Unknown } else { Say::Cut });
        assert_eq!((rig.until(), rig.keeper.state().failures), (until, n));
        assert_eq!(rig.wait(), rig.at.now + RETRY);
        rig.pass(RETRY);
    }
    assert_eq!(rig.keeper.state().failing.as_ref().unwrap().0, NOW + LOOP, "since the first");
    rig.serve("renew", Say::Good);
    assert!(rig.until() > until && rig.keeper.state().failing.is_none());
}

#[test]
fn a_session_that_ends_takes_the_lead_along_and_is_opened_again() {
    let mut rig = leading();
    rig.pass(LOOP);
    rig.serve("renew", Say::Gone);
    assert_eq!((rig.until(), rig.keeper.state().session), (None, false));
    rig.serve("open", Say::Good);
    assert_eq!((rig.until(), rig.keeper.state().session_number), (None, 2));
    // Found dead by whoever writes the other keys.
    let mut rig = leading();
    rig.at.session = None;
    rig.pass(LOOP);
    let (request, _) = rig.asked("open");
    assert_eq!(rig.until(), None);
    rig.answer(&request, Say::Good);
    assert_eq!(rig.until(), None, "the new one prolongs nothing");
}

#[test]
fn how_a_take_can_end() {
    let cut = || Err(StoreError::Unavailable("cut".into()));
    for (answers, reply, leads) in [
        (vec![("take", Say::Good)], Ok(true), Some(5)),
        (vec![("take", Say::Lost)], Ok(false), None),
        (vec![("take", Say::Cut)], cut(), None),
        (vec![("take", Say::Gone)], Err(StoreError::LeaseGone), None),
        (vec![("take", Say::Unknown), ("look", Say::Mine)], Ok(true), Some(6)),
        (vec![("take", Say::Unknown), ("look", Say::MineUntold)], Ok(true), Some(6)),
        // It would vanish with the lease it still hangs on.
        (vec![("take", Say::Unknown), ("look", Say::MineOld)], Ok(false), None),
        (vec![("take", Say::Unknown), ("look", Say::Lost)], Ok(false), None),
        (vec![("take", Say::Unknown), ("look", Say::Nobody)], Ok(false), None),
        (vec![("take", Say::Unknown), ("look", Say::Cut)], cut(), None),
    ] {
        let mut rig = open();
        rig.keeper.command(9, Command::Take { beside: Beside::default() });
        for (want, say) in &answers {
            rig.serve(want, *say);
        }
        assert_eq!(rig.next(), Next::Reply { ticket: 9, reply: Reply::Taken(reply.clone()) });
        assert_eq!(rig.keeper.state().lead.map(|l| l.version), leads, "{reply:?}");
        match reply {
            // What the last renewal says may be nearly over.
            Ok(true) => rig.serve("renew", Say::Good),
            Err(StoreError::LeaseGone) => assert!(!rig.keeper.state().session),
            _ => assert_eq!(rig.wait(), NOW + LOOP),
        }
    }
}

#[test]
fn a_take_without_a_session_opens_one_first() {
    let without = || {
        let mut rig = open();
        rig.at.session = None;
        rig.keeper.command(1, Command::Take { beside: Beside::default() });
        rig
    };
    let mut rig = without();
    rig.serve("open", Say::Good);
    rig.serve("take", Say::Good);
    assert_eq!(rig.reply(), Reply::Taken(Ok(true)));
    // There is nothing to ask for without one, and why there is none is what matters.
    let mut rig = without();
    rig.serve("open", Say::Cut);
    let Reply::Taken(Err(StoreError::Unavailable(why))) = rig.reply() else { panic!("taken") };
    assert!(why.contains("has no session there") && why.ends_with("cut"), "{why}");
}

#[test]
fn the_lead_of_an_earlier_run_is_never_taken_anew() {
    for (say, reply) in [(Say::Good, Ok(true)), (Say::Lost, Ok(false))] {
        let mut rig = open();
        rig.keeper.command(1, Command::Retake);
        rig.serve("retake", say);
        assert_eq!(rig.reply(), Reply::Taken(reply));
    }
    let mut rig = open();
    rig.at.session = None;
    rig.keeper.command(1, Command::Retake);
    rig.serve("open", Say::Good);
    rig.serve("retake", Say::Good);
    assert_eq!(rig.reply(), Reply::Taken(Ok(true)));
    let mut rig = open();
    rig.keeper.command(1, Command::Retake);
    rig.keeper.withdraw(1);
    assert!(matches!(rig.next(), Next::Wait { .. }), "what it was decided on is of yesterday");
}

#[test]
fn nobody_acts_on_a_lead_from_the_moment_its_release_is_sent() {
    for say in [Say::Good, Say::Cut, Say::Unknown] {
        let mut rig = leading();
        rig.keeper.command(2, Command::Release { status: Some("s".into()) });
        let (request, _) = rig.asked("release");
        assert_eq!(request, Request::Release { status: Some("s".into()), unvouch: false });
        assert_eq!(rig.until(), None, "the store may give it to somebody else before it answers");
        rig.answer(&request, say);
        assert!(matches!(rig.reply(), Reply::Released(r) if r.is_ok() == matches!(say, Say::Good)));
        rig.pass(LOOP);
        rig.serve("renew", Say::Good);
        assert_eq!(rig.until(), None, "a renewal does not bring it back");
    }
}

#[test]
fn the_store_is_the_judge_of_who_leads() {
    let mut rig = leading();
    rig.keeper.lost(rig.at.now, 4, false);
    assert!(rig.until().is_some(), "a reading older than the taking says nothing");
    rig.keeper.lost(rig.at.now, 5, false);
    assert_eq!(rig.until(), None);
    // Also while a renewal is under way, which then prolongs nothing.
    let mut rig = leading();
    rig.pass(LOOP);
    let (request, _) = rig.asked("renew");
    rig.keeper.lost(rig.at.now, 8, false);
    assert_eq!(rig.until(), None);
    rig.answer(&request, Say::Good);
    assert_eq!((rig.until(), rig.keeper.state().session), (None, true));
    assert_eq!(rig.wait(), rig.at.now + LOOP, "there is nothing to move");
}

#[test]
fn a_longer_ttl_moves_the_lead_to_a_new_lease() {
    let ttl = TTL * 3;
    for say in [Say::Good, Say::Cut, Say::Unknown] {
        let mut rig = leading();
        let before = rig.until().unwrap();
        rig.keeper.set_timing(timing(ttl));
        rig.pass(ms(1000));
        let sent = rig.at.now;
        rig.serve("open", Say::Good);
        assert_eq!(rig.until(), Some(before), "it still hangs on the old lease");
        rig.serve("retake", say);
        let new = sent + (ttl - margin(ttl));
        if matches!(say, Say::Good) {
            assert_eq!(rig.until(), Some(new));
            assert!(rig.wait() > sent + RETRY);
        } else {
            assert_eq!(rig.until(), Some(before), "on the one or on the other");
            assert_eq!(rig.wait(), sent + RETRY);
            rig.pass(RETRY);
            let sent = rig.at.now;
            rig.serve("renew", Say::Good);
            assert_eq!(rig.until(), Some(before), "renewing the new lease prolongs nothing yet");
            rig.serve("retake", Say::Good);
            assert_eq!(rig.until(), Some(sent + (ttl - margin(ttl))));
        }
    }
    for (say, session) in [(Say::Lost, true), (Say::Gone, false)] {
        let mut rig = leading();
        rig.keeper.set_timing(timing(TTL * 3));
        rig.serve("open", Say::Good);
        rig.serve("retake", say);
        assert_eq!((rig.until(), rig.keeper.state().session), (None, session));
    }
}

/// A process that is frozen between the request and the answer leaves a fence behind that waits for the old end.
#[test]
fn a_lead_is_not_moved_to_a_lease_that_ends_before_the_old_one() {
    let ttl = TTL / 2;
    let mut rig = leading();
    let before = rig.until().unwrap();
    rig.keeper.set_timing(timing(ttl));
    rig.pass(ms(1000));
    rig.serve("open", Say::Good);
    let lasts = ttl - margin(ttl);
    loop {
        assert_eq!(rig.until(), Some(before), "the old one serves on");
        let at = rig.wait();
        assert!(at > rig.at.now && at <= rig.at.now + LOOP, "renewed as always");
        rig.pass(at.since(rig.at.now));
        rig.serve("renew", Say::Good);
        if rig.at.now + lasts >= before {
            break;
        }
    }
    assert!(before.since(rig.at.now) > stop_reserve(&timing(ttl)), "long before a primary must stop");
    let sent = rig.at.now;
    rig.serve("retake", Say::Good);
    assert_eq!(rig.until(), Some(sent + lasts));
}

#[test]
fn a_lead_of_an_earlier_process_is_not_retaken_with_a_lease_that_ends_before_it() {
    let lasts = TTL - margin(TTL);
    for (promised, sooner) in [(ms(1000), false), (lasts, false), (lasts + ms(1), true)] {
        for command in [Command::Retake, Command::Take { beside: Beside::default() }] {
            let mut rig = open();
            rig.keeper.promised(NOW + promised);
            let take = if command == Command::Retake { "retake" } else { "take" };
            rig.keeper.command(1, command);
            if !sooner {
                rig.serve(take, Say::Good);
                assert_eq!(rig.reply(), Reply::Taken(Ok(true)));
                continue;
            }
            let Reply::Taken(Err(StoreError::Unavailable(why))) = rig.reply() else { panic!("taken") };
            assert!(why.contains("would end before"), "{why}");
            let at = rig.wait();
            rig.pass(at.since(rig.at.now));
            rig.serve("renew", Say::Good);
            rig.keeper.command(2, Command::Retake);
            rig.serve("retake", Say::Good);
        }
    }
    // A lead that is given up was the last thing that a server counted on.
    let mut rig = leading();
    rig.keeper.set_timing(timing(TTL / 2));
    rig.keeper.command(1, Command::Release { status: None });
    rig.serve("open", Say::Good);
    rig.serve("release", Say::Good);
    assert_eq!(rig.reply(), Reply::Released(Ok(())));
    rig.take("take", Say::Good);
}

#[test]
fn a_take_without_a_session_that_is_renewed_says_so() {
    let mut rig = leading();
    rig.pass(TTL / 2);
    rig.serve("renew", Say::Cut);
    rig.keeper.promised(rig.at.now + TTL);
    rig.keeper.command(1, Command::Take { beside: Beside::default() });
    let Reply::Taken(Err(StoreError::Unavailable(why))) = rig.reply() else { panic!("taken") };
    assert!(why.contains("session there is not renewed") && why.ends_with("cut"), "{why}");
}

#[test]
fn the_old_lease_serves_on_while_no_new_one_can_be_had() {
    let mut rig = leading();
    rig.keeper.set_timing(timing(TTL * 3));
    rig.pass(ms(1000));
    rig.serve("open", Say::Cut);
    rig.serve("renew", Say::Good);
    assert_eq!(rig.until(), Some(rig.at.now + (TTL - margin(TTL))), "by its own ttl");
    assert_eq!(rig.wait(), rig.at.now + RETRY);
}

#[test]
fn a_lease_is_as_long_as_was_asked_for() {
    // The setting changes while the lease is being granted.
    let mut rig = new();
    let (request, _) = rig.asked("open");
    rig.keeper.set_timing(timing(TTL * 3));
    rig.answer(&request, Say::Good);
    rig.take("take", Say::Good);
    assert_eq!(rig.until(), Some(NOW + (TTL - margin(TTL))));
}

#[test]
fn a_take_nobody_waits_for_is_not_made_and_a_release_is() {
    let mut rig = leading();
    rig.pass(LOOP);
    let (request, _) = rig.asked("renew");
    rig.keeper.command(1, Command::Take { beside: Beside::default() });
    rig.keeper.command(2, Command::Release { status: None });
    rig.keeper.withdraw(1);
    rig.keeper.withdraw(2);
    rig.answer(&request, Say::Good);
    rig.serve("release", Say::Good);
    assert_eq!(rig.reply(), Reply::Released(Ok(())));
    // One that has begun goes on.
    rig.keeper.command(3, Command::Take { beside: Beside::default() });
    let (request, _) = rig.asked("take");
    rig.keeper.withdraw(3);
    rig.answer(&request, Say::Good);
    assert!(rig.until().is_some());
}

#[test]
fn an_announcement_counts_with_the_lead_it_was_made_with() {
    let beside = |n| Beside { announce: Some(Announce { timeline: Timeline(n), over: None }), ..Beside::default() };
    let taking = |rig: &mut Rig, n: u32, say| {
        rig.keeper.command(1, Command::Take { beside: beside(n) });
        rig.serve("take", say);
    };
    let said = |rig: &Rig| rig.keeper.state().announced.map(|t| t.0);
    let mut rig = open();
    taking(&mut rig, 2, Say::Lost);
    assert_eq!((rig.reply(), said(&rig)), (Reply::Taken(Ok(false)), None));
    taking(&mut rig, 2, Say::Cut);
    rig.reply();
    assert_eq!(said(&rig), None);
    taking(&mut rig, 2, Say::Good);
    rig.reply();
    rig.serve("renew", Say::Good);
    assert_eq!(said(&rig), Some(2), "as long as the lead");
    rig.keeper.lost(rig.at.now, 5, false);
    assert_eq!(said(&rig), None);
    // That the key is mine does not tell with which request it became that.
    taking(&mut rig, 3, Say::Unknown);
    rig.serve("look", Say::Mine);
    assert_eq!((rig.reply(), said(&rig)), (Reply::Taken(Ok(true)), None));
    for command in [Command::Release { status: None }, Command::Close] {
        let mut rig = open();
        taking(&mut rig, 4, Say::Good);
        rig.reply();
        rig.serve("renew", Say::Good);
        assert_eq!(said(&rig), Some(4));
        rig.keeper.command(2, command);
        rig.next();
        assert_eq!(said(&rig), None, "from the moment it is sent");
    }
}

#[test]
fn requests_leave_time_for_another() {
    for (ttl, limit) in [(5, 1000), (8, 1600), (30, 3000)] {
        let mut rig = new();
        rig.keeper.set_timing(timing(Duration::from_secs(ttl)));
        assert_eq!(rig.asked("open").1, ms(limit), "{ttl} s");
    }
}

#[test]
fn closing_is_the_last_thing() {
    let mut rig = leading();
    rig.keeper.command(1, Command::Close);
    rig.keeper.command(2, Command::Take { beside: Beside::default() });
    let (request, limit) = rig.asked("close");
    assert_eq!((rig.until(), limit), (None, CLOSE));
    rig.answer(&request, Say::Good);
    assert_eq!(rig.next(), Next::Reply { ticket: 1, reply: Reply::Closed });
    rig.pass(LOOP);
    assert_eq!(rig.next(), Next::Ended);
    assert!(!rig.keeper.state().session);
}

#[test]
fn whatever_the_timing_a_renewal_is_due_before_a_primary_must_begin_to_stop() {
    let secs = Duration::from_secs;
    for ttl in 5..=60 {
        for retry_timeout in 1..=(ttl - 1) / 2 {
            for loop_wait in 1..=ttl - 2 * retry_timeout {
                let timing = Timing { ttl: secs(ttl), loop_wait: secs(loop_wait), retry_timeout: secs(retry_timeout) };
                let mut rig = Rig { keeper: Keeper::new("a".into(), timing), ..new() };
                rig.serve("open", Say::Good);
                rig.take("take", Say::Good);
                assert_eq!(rig.reply(), Reply::Taken(Ok(true)));
                rig.serve("renew", Say::Good);
                let (Next::Wait { until }, Some(lead)) = (rig.next(), rig.until()) else { panic!("{timing:?}") };
                let stops = lead - stop_reserve(&timing);
                assert!(until > rig.at.now && until + timing.retry_timeout <= stops, "{timing:?}");
                assert!(until <= rig.at.now + timing.loop_wait, "{timing:?}");
            }
        }
    }
}

fn by() -> BTreeSet<MemberName> {
    [MemberName::from("a"), MemberName::from("b")].into()
}

#[test]
fn members_prolong_a_lead_that_has_not_ended() {
    let mut rig = leading();
    let (until, sent) = (rig.until().unwrap(), rig.at.now);
    rig.keeper.vouched(rig.at, sent, TTL, by(), 1);
    assert_eq!(rig.until(), Some(until), "by whom the store does not know");
    rig.pass(Duration::from_secs(1));
    rig.keeper.vouched(rig.at, rig.at.now, TTL, by(), 0);
    let vouched = rig.until().unwrap();
    assert_eq!(vouched, rig.at.now + TTL - margin(TTL), "counted from the question");
    rig.keeper.vouched(rig.at, sent, TTL, by(), 0);
    assert_eq!(rig.until(), Some(vouched), "never shortened");
    let late = Moment { now: vouched, ..rig.at };
    rig.keeper.vouched(late, late.now, TTL, by(), 0);
    assert_eq!(rig.until(), Some(vouched), "what has ended stays ended");
}

#[test]
fn the_key_may_end_while_members_vouch() {
    let mut rig = leading();
    rig.pass(LOOP);
    rig.keeper.vouched(rig.at, rig.at.now, TTL, by(), 0);
    let until = rig.until();
    rig.serve("renew", Say::Gone);
    assert_eq!((rig.until(), rig.keeper.state().unbound), (until, true), "it goes on");
    rig.serve("open", Say::Good);
    // The store names nobody: the lead is taken again by whoever decides.
    rig.keeper.lost(rig.at.now, 7, true);
    assert_eq!(rig.until(), until);
    rig.keeper.lost(rig.at.now, 8, false);
    assert_eq!(rig.until(), None, "somebody else leads");
}

#[test]
fn without_their_word_the_end_of_the_key_is_the_end() {
    let mut rig = leading();
    rig.keeper.lost(rig.at.now, 7, true);
    assert_eq!(rig.until(), None);
    let mut rig = leading();
    rig.pass(LOOP);
    rig.serve("renew", Say::Gone);
    assert_eq!(rig.until(), None);
}

#[test]
fn giving_the_lead_up_ends_that_anybody_is_vouched_for() {
    for (cleared, unvouch) in [(Some(5), true), (Some(4), false), (None, false)] {
        let mut rig = leading();
        rig.keeper.unvouches(cleared);
        rig.keeper.command(1, Command::Release { status: None });
        assert_eq!(rig.asked("release").0, Request::Release { status: None, unvouch }, "{cleared:?}");
    }
}
