use std::fs;

use surus_journal::{Item, Reader};

use super::{eventful, flush, header, read, record, recorder, write};

#[test]
fn killed_at_any_byte_everything_before_is_readable() {
    let dir = tempfile::tempdir().unwrap();
    let decisions = &eventful()[..40];
    write(dir.path(), decisions);
    let file = dir.path().join("00000001.jsonl");
    let bytes = fs::read(&file).unwrap();
    let (whole, _) = read(dir.path());
    let lines: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    // Every byte of some records, and the neighbourhood of every end.
    for cut in (0..bytes.len()).filter(|i| *i < 9000 || i % 97 == 0 || lines.iter().any(|l| l.abs_diff(*i) < 3)) {
        fs::write(&file, &bytes[..cut]).unwrap();
        let (found, problems) = read(&file);
        assert_eq!(found[..], whole[..found.len()], "cut at {cut}");
        let ends = lines.iter().filter(|l| **l <= cut).count();
        assert_eq!(found.len(), ends.saturating_sub(1).min(whole.len()), "cut at {cut}");
        let torn = cut > 0 && !lines.contains(&cut);
        assert_eq!(problems.len(), usize::from(torn), "cut at {cut}: {problems:?}");
        assert!(problems.iter().all(|p| p.torn), "cut at {cut}: {problems:?}");
    }
}

#[test]
fn the_next_process_goes_on_behind_a_torn_record() {
    let dir = tempfile::tempdir().unwrap();
    let decisions = eventful();
    write(dir.path(), &decisions[..30]);
    let file = dir.path().join("00000001.jsonl");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    let before = read(&file).0.len();

    let mut second = recorder(dir.path(), 16 << 20);
    decisions[30..60].iter().for_each(|d| record(&mut second, d));
    flush(&second);
    let (found, problems) = read(dir.path());
    assert!(found.len() > before + 10, "{} after {before}", found.len());
    assert_eq!(found[before].n, 1, "it counts its own");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].torn && problems[0].to_string().contains("00000001.jsonl:"), "{}", problems[0]);
}

#[test]
fn garbage_is_named_by_file_and_line_and_takes_no_more_with_it_than_it_must() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &eventful());
    let file = dir.path().join("00000001.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (whole, _) = read(&file);
    let wholes = lines.iter().filter(|l| l.contains("\"full\":")).count();
    assert!(wholes >= 2 && lines.len() > 50, "{wholes} whole records of {}", lines.len());
    for (garbage, says) in [
        ("\u{0}\u{1}{{{", "is no record of a journal"),
        ("[1,2,3]", "is JSON but no record of a journal"),
        ("{\"n\":\"x\"}", "is no record of a decision"),
        ("", "is no record of a journal"),
    ] {
        let mut broken = lines.clone();
        broken[10] = garbage;
        fs::write(&file, broken.join("\n") + "\n").unwrap();
        let (found, problems) = read(&file);
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(shown[0].contains("00000001.jsonl:11: ") && shown[0].contains(says), "{shown:?}");
        assert!(!problems[0].torn);
        if says.contains("no record of a j") && !says.contains("JSON but") {
            assert!(shown[1].contains("00000001.jsonl:12: ") && shown[1].contains("they build on"), "{shown:?}");
        }
        assert!(problems.len() <= 2, "{shown:?}");
        let lost = whole.len() - found.len();
        assert!((1..33).contains(&lost), "{garbage:?} takes {lost} records with it");
        assert_eq!(found.last(), whole.last());
    }
    // Bytes that are no text, and a file that is something else altogether.
    let mut bytes = text.clone().into_bytes();
    bytes[text.len() / 2] = 0xff;
    fs::write(&file, bytes).unwrap();
    assert!(!read(&file).1.is_empty());
    fs::write(&file, vec![b'x'; 17 << 20]).unwrap();
    let (found, problems) = read(&file);
    assert!(found.is_empty() && problems[0].to_string().contains("a line does not end"), "{problems:?}");
}

#[test]
fn a_journal_of_another_format_or_build_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &eventful()[..5]);
    let file = dir.path().join("00000001.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let own = serde_json::to_string(&header()).unwrap();
    assert!(text.starts_with(&own));

    fs::write(&file, text.replacen("\"journal\":1,\"version\":\"0.1.0\"", "\"journal\":9,\"version\":\"7.0.0\"", 1))
        .unwrap();
    let (found, problems) = read(&file);
    assert!(found.is_empty() && problems.len() == 1, "{problems:?}");
    assert!(problems[0].to_string().contains("format 9 by Surus 7.0.0"), "{}", problems[0]);

    // A fact that did not exist then.
    let older =
        text.replacen("\"version\":\"0.1.0\"", "\"version\":\"0.0.9\"", 1).replacen("\"may_bootstrap\":true,", "", 1);
    fs::write(&file, older).unwrap();
    let (found, problems) = read(&file);
    assert!(found.is_empty(), "the others build on it");
    assert!(problems[0].to_string().contains("another build (Surus 0.0.9)"), "{}", problems[0]);
    assert!(problems[0].to_string().contains("may_bootstrap"), "{}", problems[0]);
    let headers = Reader::open(&file).unwrap().filter(|i| matches!(i, Ok(Item::Header(_)))).count();
    assert_eq!(headers, 1);
}
