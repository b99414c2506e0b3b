use std::collections::HashSet;

use super::*;

const NOW: BootTime = BootTime::from_millis(1_000_000);
const TTL: Duration = Duration::from_secs(30);

fn name(text: &str) -> MemberName {
    text.into()
}

fn names(all: &[&str]) -> BTreeMap<MemberName, String> {
    all.iter().map(|n| (name(n), format!("http://{n}:8008/patroni"))).collect()
}

fn set(all: &[&str]) -> BTreeSet<MemberName> {
    all.iter().map(|n| name(n)).collect()
}

#[test]
fn any_vouchers_and_any_consenters_meet() {
    for n in 1..=9_usize {
        let all: Vec<String> = (0..n).map(|i| format!("n{i}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        for of in [Of::All, Of::Majority] {
            let list = List { names: names(&all), of };
            assert!(list.vouchers() + list.consents() > n, "{n} {of:?}");
            assert!(list.vouchers() * 2 > n, "two primaries cannot both be vouched for: {n} {of:?}");
            assert!((1..=n).contains(&list.consents()), "{n} {of:?}");
        }
        let none = List { names: names(&all), of: Of::None };
        assert!(none.vouchers() > n && none.consents() == 0);
    }
}

#[test]
fn numbers() {
    for (n, vouchers, consents) in [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 3, 2), (5, 3, 3), (7, 4, 4)] {
        let all: Vec<String> = (0..n).map(|i| format!("n{i}")).collect();
        let list = List { names: names(&all.iter().map(String::as_str).collect::<Vec<_>>()), of: Of::Majority };
        assert_eq!((list.vouchers(), list.consents()), (vouchers, consents), "{n}");
    }
}

#[test]
fn enough_by_each_list_that_may_count_and_every_member_that_asks_nobody() {
    let list = |all: &[&str], of| List { names: names(all), of };
    let electors = |lists: Vec<List>, foreign: &[&str]| Electors { epoch: 0, lists, foreign: names(foreign) };
    let three = list(&["a", "b", "c"], Of::Majority);
    for (what, electors, by, enough) in [
        ("a majority", electors(vec![three.clone()], &[]), set(&["a", "b"]), true),
        ("no majority", electors(vec![three.clone()], &[]), set(&["a"]), false),
        ("strangers do not count", electors(vec![three.clone()], &[]), set(&["a", "x"]), false),
        ("all of them", electors(vec![list(&["a", "b", "c"], Of::All)], &[]), set(&["a", "b"]), false),
        ("Patroni's", electors(vec![list(&["a", "b", "c"], Of::All)], &[]), set(&["a", "b", "c"]), true),
        ("one that has just come", electors(vec![three.clone()], &["d"]), set(&["a", "b"]), false),
        ("and vouches", electors(vec![three.clone()], &["d"]), set(&["a", "b", "d"]), true),
        (
            "two lists",
            electors(vec![three.clone(), list(&["a", "d", "e"], Of::Majority)], &[]),
            set(&["a", "b"]),
            false,
        ),
        ("both of two", electors(vec![three, list(&["a", "d", "e"], Of::Majority)], &[]), set(&["a", "b", "e"]), true),
        ("switched off", electors(vec![list(&["a"], Of::None)], &[]), set(&["a"]), false),
        ("no list", electors(vec![], &[]), set(&["a"]), false),
    ] {
        assert_eq!(electors.suffice(&by), enough, "{what}");
    }
    let both = electors(vec![list(&["a", "b"], Of::Majority), list(&["a", "c"], Of::Majority)], &["d"]);
    assert_eq!(both.to_ask(&name("a")), names(&["b", "c", "d"]));
}

#[test]
fn a_promise_binds_until_it_ends() {
    let (me, b, c) = (name("m"), name("b"), name("x"));
    let mut promises = Promises::default();
    promises.give(&me, &b, Kind::Vouch, TTL, NOW).unwrap();
    let why = promises.give(&me, &c, Kind::Vouch, TTL, NOW + Duration::from_secs(10)).unwrap_err();
    assert_eq!(why, "m vouches for b for another 20.0 s");
    assert!(promises.give(&me, &c, Kind::Consent, CONSENT, NOW + TTL - Duration::from_millis(1)).is_err());
    assert!(promises.give(&me, &me, Kind::Consent, CONSENT, NOW).is_err());
    // A shorter one to the same does not end it earlier.
    promises.give(&me, &b, Kind::Consent, CONSENT, NOW).unwrap();
    assert_eq!(promises.in_force(NOW), Some(&Promise { to: b, kind: Kind::Vouch, until: NOW + TTL }));
    promises.give(&me, &c, Kind::Consent, CONSENT, NOW + TTL).unwrap();
    let why = promises.give(&me, &me, Kind::Consent, CONSENT, NOW + TTL).unwrap_err();
    assert_eq!(why, "m has consented to x for another 5.0 s");
}

#[test]
fn who_only_wishes_to_lead_gives_way() {
    let (me, before, after) = (name("m"), name("b"), name("x"));
    let wishing = || {
        let mut promises = Promises::default();
        promises.give(&me, &me, Kind::Consent, CONSENT, NOW).unwrap();
        promises
    };
    assert!(wishing().give(&me, &before, Kind::Consent, CONSENT, NOW).is_ok(), "of two, the first by name");
    assert!(wishing().give(&me, &after, Kind::Consent, CONSENT, NOW).is_err());
    assert!(wishing().give(&me, &after, Kind::Vouch, TTL, NOW).is_ok(), "to a primary always");
    let mut firm = wishing();
    firm.give(&me, &me, Kind::Vouch, CONSENT, NOW).unwrap();
    assert!(firm.give(&me, &before, Kind::Consent, CONSENT, NOW).is_err());
    assert!(firm.give(&me, &before, Kind::Vouch, TTL, NOW).is_err());
}

#[test]
fn nothing_is_promised_before_those_of_an_earlier_process_are_over() {
    let (me, b) = (name("m"), name("b"));
    let mut promises = Promises::new(Some(NOW + TTL));
    for to in [&me, &b] {
        let why = promises.give(&me, to, Kind::Consent, CONSENT, NOW).unwrap_err();
        assert!(why.starts_with("m was just started and may have promised something before"), "{why}");
    }
    assert!(promises.give(&me, &b, Kind::Vouch, TTL, NOW + TTL).is_ok());
}

#[test]
fn the_key() {
    let vouching = Vouching { leader: name("a"), of: Of::Majority };
    assert_eq!(vouching.to_text(), r#"{"leader":"a","of":"majority"}"#);
    for of in [Of::None, Of::All, Of::Majority] {
        let vouching = Vouching { leader: name("ü\""), of };
        assert_eq!(Vouching::parse(&vouching.to_text()), Ok(vouching));
    }
    for text in ["", "{}", "[]", r#"{"leader":"a","of":"some"}"#] {
        assert!(Vouching::parse(text).is_err(), "{text}");
    }
}

/// Three names, a primary that has lost the store, a candidate that has not, and one more: every order of questions,
/// answers, losses of them, restarts, the end of the lease, the taking of the lead, and of time going by.
///
/// Time goes in ticks. A vouch lasts 3, of which 2 are relied on; a consent 2, of which 1 is; the lease has 2 left. A message
/// that is never delivered is lost.
mod exhaustive {
    use super::*;

    const VOUCH: u8 = 3;
    const CONSENTS: u8 = 2;
    const END: u8 = 6;

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Bug {
        None,
        /// What members vouch for counts from their answers.
        FromTheAnswer,
        /// A restarted member promises at once.
        Forgotten,
        /// A right that has ended is prolonged all the same.
        Revived,
        /// One voucher less.
        TooFew,
        /// The mode is on by default, and the configuration says nothing about it.
        NotWritten,
        /// Patroni is started on a member of the list, whose agent was Surus: no bug of ours, and what nobody can keep it
        /// from.
        Exchanged,
    }

    /// A question or its answer on the way.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    enum Message {
        Ask { of: u8, kind: bool, sent: u8 },
        Accepted { of: u8, kind: bool, sent: u8 },
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        now: u8,
        /// The last moment that the primary relies on, and until when its lease lasts in the store.
        right: u8,
        lease: u8,
        /// Each member's promise: to the primary (0) or the candidate (1), firm, until.
        promised: [Option<(u8, bool, u8)>; 3],
        silent: [u8; 3],
        round: u8,
        rounds: u8,
        vouched: [bool; 3],
        /// When the candidate asked those that have consented.
        consents: [Option<u8>; 3],
        taken: bool,
        writes: bool,
        /// A member that Patroni drives was started when the primary could not see it any more, and was promoted.
        patroni: bool,
        restarts: u8,
        asked: u8,
        messages: Vec<Message>,
    }

    fn promises(world: &World, of: usize) -> Promises {
        let at = |tick: u8| NOW + Duration::from_secs(u64::from(tick));
        let given = world.promised[of].map(|(to, firm, until)| Promise {
            to: MEMBERS[usize::from(to)].into(),
            kind: if firm { Kind::Vouch } else { Kind::Consent },
            until: at(until),
        });
        Promises { given, silent_until: Some(at(world.silent[of])) }
    }

    const MEMBERS: [&str; 3] = ["p", "c", "v"];

    /// As the member decides, in the shipped state machine.
    fn give(world: &mut World, of: usize, to: usize, kind: Kind, ticks: u8) -> bool {
        let at = NOW + Duration::from_secs(u64::from(world.now));
        let mut promises = promises(world, of);
        // Whoever runs as the primary, or holds the lead, promises nobody else anything.
        if of == 0 && to != 0 && world.right >= world.now || of == 1 && to != 1 && world.taken {
            return false;
        }
        let (me, whom) = (name(MEMBERS[of]), name(MEMBERS[to]));
        let given = promises.give(&me, &whom, kind, Duration::from_secs(u64::from(ticks)), at);
        if given.is_ok() {
            let until = promises.given.as_ref().map_or(0, |p| p.until.since(NOW).as_secs());
            let firm = promises.given.as_ref().is_some_and(|p| p.kind == Kind::Vouch);
            world.promised[of] = Some((to as u8, firm, u8::try_from(until).unwrap()));
        }
        given.is_ok()
    }

    fn list() -> List {
        List { names: names(&MEMBERS), of: Of::Majority }
    }

    /// May one that Patroni drives take a lead that is free? It asks nobody who has promised anything. As far as the store
    /// is concerned: the mode is on in the configuration, and it is not in the list. That it reaches the primary, which then
    /// keeps it from leading, cannot be relied on.
    fn patroni_races(config: &serde_json::Value, name: &str) -> bool {
        config.get(SETTING) != Some(&true.into()) || list().names.contains_key(&MemberName::from(name))
    }

    impl World {
        fn new() -> World {
            World {
                now: 0,
                right: 1,
                lease: 2,
                promised: [None; 3],
                silent: [0; 3],
                round: 0,
                rounds: 0,
                vouched: [false; 3],
                consents: [None; 3],
                taken: false,
                writes: false,
                patroni: false,
                restarts: 0,
                asked: 0,
                messages: vec![],
            }
        }

        /// What makes no difference any more is the same in all.
        fn tidy(&mut self) {
            let (now, round) = (self.now, self.round);
            self.messages.retain(|m| match m {
                Message::Ask { kind: true, sent, .. } | Message::Accepted { kind: true, sent, .. } => *sent == round,
                Message::Accepted { sent, .. } => now <= sent + 1,
                Message::Ask { .. } => true,
            });
            self.messages.sort_unstable();
            self.promised.iter_mut().for_each(|p| *p = p.filter(|(.., until)| now < *until));
            self.silent.iter_mut().for_each(|s| *s = if *s <= now { 0 } else { *s });
            self.consents.iter_mut().for_each(|c| *c = c.filter(|at| now <= at + 1));
        }

        fn primary_runs(&self) -> bool {
            self.now <= self.right
        }

        /// Those whose consent counts now.
        fn consenting(&self) -> usize {
            let own = self.promised[1].is_some_and(|(to, _, until)| to == 1 && self.now < until);
            // Asked at `at`, good for one tick of the two.
            let of = |i: usize| self.consents[i].is_some_and(|at| self.now <= at + 1);
            usize::from(own) + [0, 2].into_iter().filter(|i| of(*i)).count()
        }

        /// More vouch: as [`Electors::suffice`] and the lease keeper decide.
        fn heard(&mut self, bug: Bug) {
            let by: BTreeSet<MemberName> = (0..3).filter(|i| self.vouched[*i]).map(|i| name(MEMBERS[i])).collect();
            let electors = Electors { epoch: 0, lists: vec![list()], foreign: BTreeMap::new() };
            let enough = electors.suffice(&by) || bug == Bug::TooFew && !by.is_empty();
            let from = if bug == Bug::FromTheAnswer { self.now } else { self.round };
            if enough && (self.primary_runs() || bug == Bug::Revived) {
                self.right = self.right.max(from + VOUCH - 1);
            }
        }

        fn next(&self, bug: Bug) -> Vec<World> {
            let mut all = vec![];
            let mut add = |change: &mut dyn FnMut(&mut World)| {
                let mut world = self.clone();
                change(&mut world);
                world.tidy();
                all.push(world);
            };
            if self.now < END {
                add(&mut |w| w.now += 1);
            }
            // The primary asks.
            if (self.primary_runs() || bug == Bug::Revived) && self.rounds < 2 && !self.writes {
                add(&mut |w| {
                    w.rounds += 1;
                    w.round = w.now;
                    w.vouched = [false; 3];
                    w.vouched[0] = give(w, 0, 0, Kind::Vouch, VOUCH);
                    let sent = w.now;
                    w.messages.retain(|m| {
                        !matches!(m, Message::Ask { kind: true, .. } | Message::Accepted { kind: true, .. })
                    });
                    w.messages.extend([1, 2].map(|of| Message::Ask { of, kind: true, sent }));
                    w.heard(bug);
                });
            }
            // The candidate asks, once the lease has ended in the store or while it holds the lead itself.
            if (self.now >= self.lease || self.taken) && self.asked < 1 && !self.writes {
                add(&mut |w| {
                    w.asked += 1;
                    let kind = if w.taken { Kind::Vouch } else { Kind::Consent };
                    if give(w, 1, 1, kind, CONSENTS) {
                        let sent = w.now;
                        w.messages.extend([0, 2].map(|of| Message::Ask { of, kind: false, sent }));
                    }
                });
            }
            // What stands in the configuration before anybody relies on it, and who comes.
            let founded = serde_json::json!({"ttl": 30});
            let config = if bug == Bug::NotWritten { founded } else { switched_on(&founded).unwrap() };
            let comes = if bug == Bug::Exchanged { "v" } else { "d" };
            if self.now >= self.lease && !self.taken && !self.patroni && patroni_races(&config, comes) {
                add(&mut |w| w.patroni = true);
            }
            if self.now >= self.lease && !self.taken && !self.patroni && self.consenting() >= list().consents() {
                // Taking it makes the promise firm; the store may apply it whenever it likes.
                add(&mut |w| w.taken = give(w, 1, 1, Kind::Vouch, CONSENTS));
            }
            let clear = self.consenting() >= list().consents();
            if self.taken && !self.writes && clear {
                add(&mut |w| w.writes = true);
            }
            for (i, message) in self.messages.iter().enumerate() {
                add(&mut |w| {
                    w.messages.remove(i);
                    match *message {
                        Message::Ask { of, kind, sent } => {
                            let (to, length, what) =
                                if kind { (0, VOUCH, Kind::Vouch) } else { (1, CONSENTS, Kind::Consent) };
                            if give(w, usize::from(of), to, what, length) {
                                w.messages.push(Message::Accepted { of, kind, sent });
                            }
                        }
                        Message::Accepted { of, kind: true, sent } if sent == w.round => {
                            w.vouched[usize::from(of)] = true;
                            w.heard(bug);
                        }
                        Message::Accepted { of, kind: false, sent } => w.consents[usize::from(of)] = Some(sent),
                        Message::Accepted { .. } => {}
                    }
                });
            }
            if self.restarts == 0 {
                // The agent of the member in between.
                add(&mut |w| {
                    w.restarts = 1;
                    w.promised[2] = None;
                    w.silent[2] = if bug == Bug::Forgotten { 0 } else { w.now + VOUCH };
                });
            }
            all
        }
    }

    /// The number of states, and whether one of them has two that write.
    pub fn explore(bug: Bug) -> (usize, bool) {
        let (mut seen, mut open) = (HashSet::new(), vec![World::new()]);
        let (mut wrong, mut led, mut vouched) = (false, false, false);
        while let Some(world) = open.pop() {
            if !seen.insert(world.clone()) {
                continue;
            }
            assert!(seen.len() < 3_000_000, "too many states to go through");
            wrong |= (world.writes || world.patroni) && world.primary_runs();
            led |= world.writes;
            vouched |= world.right > world.lease + 1;
            if wrong {
                break;
            }
            open.extend(world.next(bug));
        }
        assert!(wrong || led && vouched, "both ways are gone");
        (seen.len(), wrong)
    }
}

#[test]
fn in_every_order_there_is_one_writer() {
    let (states, wrong) = exhaustive::explore(exhaustive::Bug::None);
    assert!(!wrong);
    assert!(states > 10_000, "{states} states are too few to mean anything");
}

/// What the documentation asks operators not to do.
#[test]
fn patroni_in_the_place_of_a_member_that_is_counted_on() {
    assert!(exhaustive::explore(exhaustive::Bug::Exchanged).1);
}

#[test]
fn every_part_of_it_is_needed() {
    use exhaustive::Bug;
    for (what, bug) in [
        ("counted from the question", Bug::FromTheAnswer),
        ("silent after a start", Bug::Forgotten),
        ("only what has not ended is prolonged", Bug::Revived),
        ("a majority", Bug::TooFew),
        ("written where Patroni reads it", Bug::NotWritten),
    ] {
        assert!(exhaustive::explore(bug).1, "{what}");
    }
}
