use proptest::prelude::*;
use surus_journal::{Encoder, Item, Reader, Took, redact, replay};

use super::world::{Happening, SECRET, World, happenings};
use super::{decisions, eventful, read, write};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_decided_is_what_is_read_and_replays_without_a_difference(story in happenings()) {
        let decisions = decisions(&story);
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &decisions);
        let (recorded, problems) = read(dir.path());
        prop_assert_eq!(problems, vec![]);
        let mut seen = 0;
        for r in &recorded {
            // A repetition stands for those between it and the record before.
            prop_assert!(if r.times == 1 { r.n == seen + 1 } else { r.n > seen }, "{} after {seen}", r.n);
            seen = r.n;
            prop_assert_eq!(&r.decision, &redact(decisions[usize::try_from(r.n).unwrap() - 1].clone()));
            prop_assert_eq!(replay(&r.decision), vec![]);
        }
        prop_assert_eq!(seen, decisions.len() as u64, "the last decision is there");
        let bytes = std::fs::read(dir.path().join("00000001.jsonl")).unwrap();
        prop_assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "a secret is in the journal");
    }
}

/// Otherwise the property above would not look at what it is about.
#[test]
fn there_are_secrets_to_be_left_out() {
    let decision = eventful().into_iter().find(|d| d.facts.postgres.is_standby()).unwrap();
    let text = serde_json::to_string(&decision).unwrap();
    assert!(text.matches(SECRET).count() > 10, "{text}");
}

#[test]
fn a_decision_that_repeats_itself_is_counted() {
    let mut world = World::new();
    let mut encoder = Encoder::default();
    let mut bytes = serde_json::to_vec(&super::header()).unwrap();
    bytes.push(b'\n');
    for n in 1..=1801 {
        let decision = Box::new(world.decide());
        let taken = encoder.decision(n, Took::default(), decision, |encoder, line| {
            bytes.extend(&line.bytes);
            encoder.reuse(line.bytes);
            Ok::<_, ()>(())
        });
        taken.unwrap();
        world.happens(&Happening::Time(2000));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("00000001.jsonl");
    std::fs::write(&file, &bytes).unwrap();
    let last = Reader::open(&file).unwrap().last().unwrap().unwrap();
    assert!(matches!(last, Item::Same { times: 1790.., .. }), "{last:?}");
    assert!(read(&file).0.len() <= 2, "{} records of an idle hour", read(&file).0.len());
    assert!(bytes.len() < 16_000, "{} bytes for an idle hour", bytes.len());
    eprintln!("an idle hour: {} bytes", bytes.len());
    // Then something happens: what was known just before is written as well.
    encoder
        .end_run(|_, line| {
            bytes.extend(&line.bytes);
            Ok::<_, ()>(())
        })
        .unwrap();
    std::fs::write(&file, &bytes).unwrap();
    let (recorded, _) = read(&file);
    let last = recorded.last().unwrap();
    assert_eq!(last.n, 1801);
    assert!(last.times >= 1800, "{} times", last.times);
}

#[test]
fn another_core_is_noticed() {
    let mut decision = eventful().pop().unwrap();
    decision.step.report.rule += 1;
    decision.step.orders.clear();
    decision.step.memory.epoch += 7;
    let found: Vec<String> = replay(&decision).into_iter().map(|d| d.what).collect();
    assert!(found.contains(&"report.rule".to_owned()) && found.contains(&"memory.epoch".to_owned()), "{found:?}");
}
