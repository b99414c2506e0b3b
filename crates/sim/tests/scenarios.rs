//! Every scenario file of the repository ends as it says, on many seeds.

use std::path::Path;

use surus_scenario::{Trouble, parse};
use surus_sim::play::play;

const SEEDS: u64 = 25;

#[test]
fn every_file_ends_as_it_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&dir).expect("scenarios/").map(|f| f.expect("a file").path()).collect();
    files.sort();
    let (mut failed, mut played) = (vec![], 0);
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scenario = parse(&std::fs::read_to_string(file).expect("readable")).expect("a scenario");
        for seed in 1..=SEEDS {
            match play(&scenario, seed, false).0 {
                Ok(()) => played += 1,
                Err(end) if matches!(end.trouble, Trouble::NotAvailable(_)) => {
                    println!("{name}: {end}");
                    break;
                }
                Err(end) => {
                    failed.push(format!("{name}, seed {seed}: {end}"));
                    break;
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(played > 10 * SEEDS, "only {played} runs");
}
