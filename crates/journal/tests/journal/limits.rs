use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use surus_journal::{MIN_SIZE, replay};

use super::{eventful, flush, header, read, record, recorder};

fn size(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn it_never_takes_more_room_than_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let decisions = eventful();
    let mut written = 0;
    // Several processes, one after the other, each with what the last one left.
    for _ in 0..3 {
        let mut recorder = recorder(dir.path(), MIN_SIZE);
        for _ in 0..12 {
            decisions.iter().for_each(|d| record(&mut recorder, d));
            flush(&recorder);
            written += decisions.len();
            let size = size(dir.path());
            assert!(size <= MIN_SIZE, "{size} bytes after {written} decisions");
            assert_eq!(recorder.counters().size, size);
        }
        assert_eq!(recorder.counters().dropped, 0);
    }
    assert!(size(dir.path()) > MIN_SIZE / 2, "it uses what it has");
    let (found, problems) = read(dir.path());
    assert_eq!(problems, vec![]);
    assert!(found.len() < written, "the oldest are gone");
    assert!(found.iter().all(|r| replay(&r.decision).is_empty()));
    // Who asks for what is new is not told what is old.
    let files = fs::read_dir(dir.path()).unwrap().count();
    let opened = |since| surus_journal::Reader::open_since(dir.path(), since).unwrap().count();
    assert!(files > 4 && opened(i64::MAX) < opened(0) / 3, "{} of {} in {files} files", opened(i64::MAX), opened(0));
    eprintln!("{} decisions in {} bytes", found.len(), size(dir.path()));
}

/// A pipe that nobody reads is as good as a disk that hangs.
#[test]
fn nobody_waits_for_a_disk_that_hangs_and_what_is_dropped_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("00000001.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let decisions = eventful();
    let mut recorder = recorder(dir.path(), 64 << 20);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        for d in &decisions {
            let before = Instant::now();
            record(&mut recorder, d);
            slowest = slowest.max(before.elapsed());
        }
    }
    assert!(slowest < Duration::from_secs(1), "a decision waited {slowest:?}, all {:?}", began.elapsed());
    let dropped = recorder.counters().dropped;
    assert!(dropped > 1000, "{dropped} of {}", decisions.len() * 40);

    // The disk is back.
    let told = Arc::new(AtomicU64::new(0));
    let sum = told.clone();
    let lines = BufReader::new(fs::File::open(&pipe).unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            sum.fetch_add(line.get("lost").and_then(serde_json::Value::as_u64).unwrap_or(0), Ordering::SeqCst);
        }
    });
    let limit = Instant::now() + Duration::from_secs(30);
    while told.load(Ordering::SeqCst) != recorder.counters().dropped {
        assert!(Instant::now() < limit, "told {told:?} of {:?}", recorder.counters());
        record(&mut recorder, &decisions[0]);
        record(&mut recorder, &decisions[3]);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_place_that_cannot_be_written_is_told_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("journal");
    fs::write(&blocked, "a file").unwrap();
    let mut recorder = recorder(&blocked, MIN_SIZE);
    eventful().iter().take(20).for_each(|d| record(&mut recorder, d));
    flush(&recorder);
    let counters = recorder.counters();
    assert!(counters.failing && counters.recorded == 0, "{counters:?}");
    assert_eq!(counters.dropped, 20);
    assert_eq!(fs::read_to_string(&blocked).unwrap(), "a file");
    assert!(surus_journal::Reader::open(&dir.path().join("nothing")).is_err());
    assert!(surus_journal::Reader::open(dir.path()).is_err(), "a directory without a journal");
    let _ = header();
}

/// Not a test of speed: it says what a decision costs, and fails only when that is out of all proportion.
#[test]
fn what_a_decision_costs() {
    let dir = tempfile::tempdir().unwrap();
    let decisions = eventful();
    let mut recorder = recorder(dir.path(), 64 << 20);
    let (mut handing_over, mut all) = (Duration::ZERO, Duration::ZERO);
    let rounds = 20_u32;
    for _ in 0..rounds {
        let began = Instant::now();
        decisions.iter().for_each(|d| record(&mut recorder, d));
        handing_over += began.elapsed();
        flush(&recorder);
        all += began.elapsed();
    }
    assert_eq!(recorder.counters().dropped, 0);
    let per = |d: Duration| d.as_secs_f64() * 1e6 / (f64::from(rounds) * decisions.len() as f64);
    let bytes = size(dir.path()) / recorder.counters().recorded;
    eprintln!("{:.1} µs in the loop, {:.1} µs in all, {bytes} bytes a decision", per(handing_over), per(all));
    assert!(per(handing_over) < 2000.0);
}
