//! The number of a new timeline is in the store before the promotion is ordered.

use surus_core::Timeline;
use surus_core::cluster::RawKey;
use surus_core::store::{StoreError, StoreResult, TxnOutcome};

use super::fake::{Event, Fake, context, leader, ms};
use super::*;

const PROMOTED: [&str; 3] = ["arm", "promote", "promoted"];

/// The server would choose 2, and nothing is known to be announced.
fn unsaid(views: &[Option<&str>], announcing: Vec<StoreResult<TxnOutcome>>) -> Fake {
    let view = |text: &Option<&str>| {
        let key = |text: &str| RawKey { key: "timeline".into(), value: text.into(), version: 4, lease: None };
        Ok(ClusterView::read(9, &text.map(key).into_iter().collect::<Vec<_>>()))
    };
    leader().with(|s| {
        (s.announced, s.announcing) = (None, announcing.into());
        s.views = views.iter().map(view).collect();
    })
}

#[test]
fn a_number_is_written_down_before_it_is_given() {
    let (said, conflict) = (|| Ok(TxnOutcome::Applied(10)), || Ok(TxnOutcome::Conflict));
    let cut = || Err(StoreError::OutcomeUnknown("cut".into()));
    let by = |who: &str, n: u32| format!(r#"{{"leader":"{who}","timeline":{n}}}"#);
    let (a2, a3, b2, b3) = (by("a", 2), by("a", 3), by("b", 2), by("b", 3));
    for (fake, before) in [
        (leader(), vec![]),
        (leader().with(|s| s.announced = Some(Timeline(4))), vec!["skip 2 4"]),
        (unsaid(&[None], vec![said()]), vec!["read", "announce 2 None"]),
        (unsaid(&[Some("spoilt")], vec![said()]), vec!["read", "announce 2 Some(4)"]),
        (unsaid(&[Some(&b2)], vec![said()]), vec!["read", "announce 3 Some(4)", "skip 2 3"]),
        // It was said, and perhaps to this process' predecessor only.
        (unsaid(&[Some(&a2)], vec![]), vec!["read"]),
        (unsaid(&[Some(&a3)], vec![]), vec!["read", "skip 2 3"]),
        // More is known here than when the lead was taken.
        (
            unsaid(&[Some(&a2)], vec![said()]).with(|s| (s.announced, s.next_timeline) = (Some(Timeline(2)), 3)),
            vec!["read", "announce 3 Some(4)"],
        ),
        // Whatever came of the first try is looked at.
        (
            unsaid(&[Some(&b2), Some(&b3)], vec![conflict(), said()]),
            vec!["read", "announce 3 Some(4)", "read", "announce 4 Some(4)", "skip 2 4"],
        ),
        (unsaid(&[None, Some(&a2)], vec![cut()]), vec!["read", "announce 2 None", "read"]),
    ] {
        assert_eq!(fake.run(Task::Promote, context()), Ok(TaskDone::Done));
        assert_eq!(fake.done(), [before, PROMOTED.to_vec()].concat());
    }
}

#[test]
fn nothing_is_promoted_to_a_number_that_is_not_written_down() {
    let fake = unsaid(&[None; 100], (0..100).map(|_| Err(StoreError::Unavailable("cut".into()))).collect())
        .at(ms(1000), Event::Lead(Some(ms(1500))));
    assert!(failed(&fake.run(Task::Promote, context())).contains("before it was written down which timeline begins"));
    assert!(!fake.done().contains(&"promote".to_owned()) && fake.state().running, "{:?}", fake.done());

    let fake = unsaid(&[None; 100], (0..100).map(|_| Ok(TxnOutcome::Conflict)).collect()).at(ms(350), Event::Cancel);
    assert_eq!(failed(&fake.run(Task::Promote, context())), "given up on request");
    assert!(fake.passed() <= ms(500), "{:?}", fake.passed());

    let later = |s: &mut super::fake::State| s.announced = Some(Timeline(4));
    for (fake, why, done) in [
        (leader().fails("next"), "next broke", vec![]),
        (leader().with(later).fails("skip"), "skip broke", vec!["skip 2 4"]),
    ] {
        assert_eq!(failed(&fake.run(Task::Promote, context())), why);
        assert_eq!(fake.done(), done, "nothing has begun that would have to be stopped");
    }
}
