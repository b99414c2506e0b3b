//! Raw data: one file for each measurement and store, one JSON line for each run.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use surus_testbed::StoreKind;

pub struct Recorder {
    file: File,
    run: usize,
}

impl Recorder {
    /// Replaces what was measured before under that name.
    pub fn create(out: &Path, name: &str, store: StoreKind) -> Result<Recorder> {
        let path = out.join(format!("{name}.{}.jsonl", store_name(store)));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Recorder { file, run: 0 })
    }

    pub fn run(&mut self, values: &[(&str, f64)]) -> Result<()> {
        self.run += 1;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut line = Map::from_iter([("run".to_owned(), json!(self.run)), ("at".to_owned(), json!(at))]);
        for (name, value) in values {
            line.insert((*name).to_owned(), json!((value * 100.0).round() / 100.0));
        }
        let text = Value::Object(line).to_string();
        println!("  {text}");
        // At once: what was measured before a failure is kept.
        writeln!(self.file, "{text}")?;
        Ok(())
    }
}

/// The values of one field over all runs; empty when it was never measured.
pub fn values(out: &Path, name: &str, store: StoreKind, field: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(out.join(format!("{name}.{}.jsonl", store_name(store)))).unwrap_or_default();
    let line = |line: &str| serde_json::from_str::<Value>(line).ok()?.get(field)?.as_f64();
    text.lines().filter_map(line).collect()
}

pub const STORES: [StoreKind; 4] = [StoreKind::Etcd, StoreKind::Embedded, StoreKind::ZooKeeper, StoreKind::Consul];

pub fn store_name(store: StoreKind) -> &'static str {
    match store {
        StoreKind::Etcd => "etcd",
        StoreKind::Embedded => "embedded",
        StoreKind::Consul => "consul",
        StoreKind::ZooKeeper => "zookeeper",
    }
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
