//! A journal as a whole: what is written is what was decided, whatever happens to the process and to the files.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test like the test itself")]

mod damage;
mod limits;
mod round_trip;
mod world;

use std::path::Path;
use std::time::Duration;

use surus_journal::{Decision, Header, Item, Options, Problem, Reader, Recorded, Recorder};

use world::{Happening, World};

fn header() -> Header {
    Header {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scope: "demo".to_owned(),
        member: "node1".into(),
        ..Header::now()
    }
}

fn recorder(dir: &Path, max_size: u64) -> Recorder {
    Recorder::start(Options { directory: dir.to_owned(), max_size }, header())
}

fn record(recorder: &mut Recorder, d: &Decision) {
    recorder.record(&d.memory, &d.facts, &d.step, Duration::from_micros(700), Duration::from_micros(20));
}

fn flush(recorder: &Recorder) {
    assert!(recorder.handle().unwrap().flush(Duration::from_secs(30)), "the journal is not written");
}

/// What a member decides while this happens.
fn decisions(happenings: &[Happening]) -> Vec<Decision> {
    let mut world = World::new();
    let mut decisions = vec![world.decide()];
    for what in happenings {
        world.happens(what);
        decisions.push(world.decide());
    }
    decisions
}

fn write(dir: &Path, decisions: &[Decision]) {
    let mut recorder = recorder(dir, 16 << 20);
    decisions.iter().for_each(|d| record(&mut recorder, d));
    flush(&recorder);
    assert_eq!(recorder.counters().dropped, 0);
}

fn read(path: &Path) -> (Vec<Recorded>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for item in Reader::open(path).unwrap() {
        match item {
            Ok(Item::Decision(recorded)) => found.push(*recorded),
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
    }
    (found, problems)
}

/// A member that leads, loses the lead, and follows: every decision is another one.
fn eventful() -> Vec<Decision> {
    let mut story = Vec::new();
    for round in 0_u8..12 {
        story.extend([
            Happening::Time(2000),
            Happening::Leader(None),
            Happening::Lead(false),
            Happening::Time(300),
            Happening::Process(false, round % 2 == 0),
            Happening::TaskEnds(true),
            Happening::Leader(Some(2)),
            Happening::Process(true, true),
            Happening::TaskEnds(true),
            Happening::Time(500),
        ]);
    }
    decisions(&story)
}
