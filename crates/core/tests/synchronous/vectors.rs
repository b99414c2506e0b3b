//! Sequences of steps, as members of other programs take them too where they can be told apart.

use surus_core::synchronous::{Key, Move, Names, Situation, next};

use crate::{set, situation, standbys};

fn told(step: &Move) -> String {
    match step {
        Move::Settled => "settled".into(),
        Move::Wait(_) => "wait".into(),
        Move::Write(k) => {
            format!("{}:{}{{{}}}", k.leader, k.quorum, k.voters.iter().cloned().collect::<Vec<_>>().join(","))
        }
        Move::Set(names) => format!("S:{}", names.text().unwrap_or_else(|| "-".into())),
    }
}

/// Takes steps until nothing is left to do or to be waited for.
fn steps(mut s: Situation) -> Vec<String> {
    let mut all = vec![];
    for _ in 0..12 {
        let step = next(&s);
        all.push(told(&step));
        match step {
            Move::Settled | Move::Wait(_) => return all,
            Move::Write(key) => s.key = Some(key),
            Move::Set(names) => (s.shown, s.names) = (names.clone(), Some(names)),
        }
    }
    panic!("no end of {all:?}");
}

fn quorum(key: (&str, usize, &[&str]), names: Names, active: &[&str], confirmed: &[&str], want: usize) -> Situation {
    let key = Key { leader: key.0.into(), quorum: key.1, voters: set(key.2) };
    Situation { active: standbys(active, confirmed), want, ..situation(Some(key), names) }
}

fn any(count: usize, names: &[&str]) -> Names {
    Names::any(count, set(names))
}

#[test]
fn quorum_mode() {
    let three = ["n1", "n2", "n3"];
    let same = |q: usize, n: usize, active: &[&str], confirmed: &[&str], want| {
        quorum(("p", q, &three), any(n, &three), active, confirmed, want)
    };
    for (what, s, expected) in [
        ("new", quorum(("p", 0, &[]), Names::Nobody, &three, &[], 1), &["S:ANY 1 (n1,n2,n3)", "wait"][..]),
        ("one has caught up", quorum(("p", 0, &[]), any(1, &three), &three, &["n2"], 1), &["p:2{n1,n2,n3}", "settled"]),
        ("two wanted", same(2, 1, &three, &["n1"], 2), &["S:ANY 2 (n1,n2,n3)", "wait"]),
        ("two have it", same(2, 2, &three, &["n1", "n3"], 2), &["p:1{n1,n2,n3}", "settled"]),
        ("one is enough", same(1, 2, &three, &three, 1), &["p:2{n1,n2,n3}", "S:ANY 1 (n1,n2,n3)", "settled"]),
        (
            "one more",
            same(2, 1, &["n1", "n2", "n3", "n4"], &["n1"], 1),
            &["p:3{n1,n2,n3,n4}", "S:ANY 1 (n1,n2,n3,n4)", "settled"],
        ),
        ("one less", same(2, 1, &["n1", "n2"], &["n1"], 1), &["S:ANY 1 (n1,n2)", "p:1{n1,n2}", "settled"]),
        ("one less, nobody caught up", same(2, 1, &["n1", "n2"], &[], 1), &["S:ANY 1 (n1,n2)", "wait"]),
        ("all gone", same(2, 1, &[], &[], 1), &["p:0{}", "S:-", "settled"]),
        (
            "another",
            quorum(("p", 0, &["n1"]), any(1, &["n1"]), &["n2"], &["n2"], 1),
            &["p:0{}", "S:ANY 1 (n2)", "p:0{n2}", "settled"],
        ),
        (
            "one of two",
            quorum(("p", 0, &["n1", "n2"]), any(2, &["n1", "n2"]), &["n1"], &["n1"], 2),
            &["p:0{n1}", "S:ANY 1 (n1)", "settled"],
        ),
        (
            "n1 was promoted",
            Situation { me: "n1".into(), ..quorum(("p", 2, &three), any(1, &["n2", "n3", "p"]), &["n2"], &["n2"], 1) },
            &["n1:2{n2,n3,p}", "S:ANY 1 (n2)", "n1:0{n2}", "settled"],
        ),
        (
            "n1 was promoted and nobody is there yet",
            Situation {
                me: "n1".into(),
                patient: true,
                ..quorum(("p", 2, &three), any(1, &["n2", "n3", "p"]), &[], &[], 1)
            },
            &["n1:2{n2,n3,p}", "wait"],
        ),
        (
            "an outsider was promoted",
            Situation {
                me: "n4".into(),
                ..quorum(("p", 1, &["n1", "n2"]), any(2, &["n1", "n2", "p"]), &["n1"], &["n1"], 1)
            },
            // Two of the three have what is acknowledged: asking two others finds one, waiting for n1 alone does not.
            &["n4:1{n1,n2,p}", "n4:2{n1,n2,p}", "S:ANY 1 (n1)", "n4:0{n1}", "settled"],
        ),
        ("strict and all gone", Situation { strict: true, ..same(2, 1, &[], &[], 1) }, &["wait"]),
        (
            "strict from the start",
            Situation { strict: true, ..quorum(("p", 0, &[]), Names::Nobody, &[], &[], 1) },
            &["S:ANY 1 (__patroni_strict_sync_replica_placeholder__)", "wait"],
        ),
        (
            "mode was on",
            quorum(("p", 0, &["n1", "n2"]), Names::all(set(&["n1", "n2"])), &["n1", "n2"], &["n1", "n2"], 1),
            &["p:1{n1,n2}", "S:ANY 1 (n1,n2)", "settled"],
        ),
        (
            "somebody changed the setting",
            quorum(("p", 0, &["n1"]), Names::Foreign("*".into()), &["n1"], &["n1"], 1),
            &["p:0{}", "S:ANY 1 (n1)", "p:0{n1}", "settled"],
        ),
    ] {
        assert_eq!(steps(s), expected, "{what}");
    }
}

#[test]
fn mode_on() {
    let all = |names: &[&str]| Names::all(set(names));
    let on = |key: (&str, usize, &[&str]), names: Names, active: &[&str], confirmed: &[&str]| Situation {
        quorum_mode: false,
        ..quorum(key, names, active, confirmed, 1)
    };
    for (what, s, expected) in [
        ("no standby", on(("p", 0, &[]), Names::Nobody, &[], &[]), &["settled"][..]),
        ("the key is another's", on(("q", 0, &["p", "a"]), Names::Nobody, &[], &[]), &["p:0{}", "settled"]),
        ("a standby", on(("p", 0, &[]), Names::Nobody, &["a"], &[]), &["S:a", "wait"]),
        ("it caught up", on(("p", 0, &[]), all(&["a"]), &["a"], &["a"]), &["p:0{a}", "settled"]),
        ("two", on(("p", 0, &["a"]), all(&["a"]), &["a", "b"], &["a"]), &["S:2 (a,b)", "wait"]),
        ("one left of two", on(("p", 0, &["a", "b"]), all(&["a", "b"]), &["b"], &["b"]), &["p:0{b}", "S:b", "settled"]),
        ("another instead", on(("p", 0, &["a"]), all(&["a"]), &["b"], &[]), &["p:0{}", "S:b", "wait"]),
        ("none left", on(("p", 0, &["a"]), all(&["a"]), &[], &[]), &["p:0{}", "S:-", "settled"]),
        ("none left, strict", Situation { strict: true, ..on(("p", 0, &["a"]), all(&["a"]), &[], &[]) }, &["wait"]),
        (
            "none at all, strict",
            Situation { strict: true, ..on(("p", 0, &[]), Names::Nobody, &[], &[]) },
            &["S:__patroni_strict_sync_replica_placeholder__", "wait"],
        ),
        (
            "listed and not waited for",
            on(("p", 0, &["a", "b"]), all(&["a"]), &["a", "b"], &["a"]),
            &["p:0{a}", "S:2 (a,b)", "wait"],
        ),
        (
            "mode was quorum",
            on(("p", 1, &["a", "b"]), any(1, &["a", "b"]), &["a"], &["a"]),
            &["p:0{}", "S:a", "p:0{a}", "settled"],
        ),
    ] {
        assert_eq!(steps(s), expected, "{what}");
    }
    let unknown = Situation { names: None, ..on(("p", 0, &["a"]), all(&["a"]), &[], &[]) };
    assert_eq!(told(&next(&unknown)), "S:a", "what is in force is made certain before anything else");
}
