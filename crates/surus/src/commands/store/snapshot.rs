//! `store snapshot` and `store restore`: what a cluster has in its store, as a file, for any store.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use surus_core::failsafe::{Of, Vouching};
use surus_store::{Compare, Op, Snapshot, Txn, TxnOutcome};

use super::recover::{with_pause, with_room};
use crate::cli::{StoreRestore, StoreSnapshot};
use crate::connect::STORE_DEADLINE;
use crate::context::Context;
use crate::failure::{OrFail, Outcome, failed};
use crate::terminal::{Terminal, say};

const FORMAT: &str = "surus store snapshot";
const VERSION: u32 = 1;

/// The file: JSON, one cluster.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: String,
    version: u32,
    /// When it was read, and at which revision of the store.
    taken: String,
    revision: u64,
    cluster: String,
    prefix: String,
    program: String,
    keys: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// Below the prefix.
    key: String,
    /// Text; what is no text is left out by `snapshot`, with a warning: nothing of ours is.
    value: String,
    /// It would have gone with the session of who wrote it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_session: bool,
}

pub async fn snapshot(context: &Context, terminal: &mut Terminal, args: &StoreSnapshot) -> Outcome {
    let cluster = context.cluster(None, args.group)?;
    let prefix = cluster.store.layout().prefix().to_owned();
    let read = cluster.store.kv().read(&prefix, STORE_DEADLINE).await.map_err(|e| cluster.store_failure(&e))?;
    if read.keys.is_empty() {
        return failed(format!(
            "the store holds nothing below {prefix}: there is nothing to write to {}",
            args.file.display()
        ));
    }
    let mut keys = Vec::new();
    for found in &read.keys {
        let key = found.key.strip_prefix(&prefix).unwrap_or(&found.key).to_owned();
        match String::from_utf8(found.value.clone()) {
            Ok(value) => keys.push(Entry { key, value, of_session: found.lease.is_some() }),
            Err(_) => say!(terminal, "Warning: {} is no text and was left out", found.key),
        }
    }
    let document = Document {
        format: FORMAT.to_owned(),
        version: VERSION,
        taken: jiff::Timestamp::now().to_string(),
        revision: read.revision,
        cluster: cluster.name.clone(),
        prefix,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        keys,
    };
    write(&args.file, &document, args.force)?;
    say!(
        terminal,
        "{} keys of cluster {} at revision {} are in {}",
        document.keys.len(),
        cluster.name,
        read.revision,
        args.file.display()
    );
    Ok(())
}

/// Whole or not at all, and readable by its owner only: the configuration in it may hold secrets.
fn write(path: &Path, document: &Document, force: bool) -> Outcome {
    if path.exists() && !force {
        return failed(format!("{} is there already; name another file, or --force to replace it", path.display()));
    }
    let problem = |e: std::io::Error| format!("{} cannot be written: {e}", path.display());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let draft = Path::new(&name);
    let text = serde_json::to_string_pretty(document).or_fail()?;
    let done = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(draft, path)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    })();
    if done.is_err() {
        // Half of it is of no use to anybody.
        let _ = fs::remove_file(draft);
    }
    done.map_err(problem).or_fail()
}

pub async fn restore(context: &Context, terminal: &mut Terminal, args: &StoreRestore) -> Outcome {
    let shown = args.file.display();
    let text = fs::read_to_string(&args.file).or_fail_with(&shown)?;
    let document = read(&text).or_fail_with(&shown)?;
    let cluster = context.cluster(None, args.group)?;
    if document.cluster != cluster.name && !args.force {
        return failed(format!(
            "{shown} was taken of cluster {}, and this is {}; --force if that is meant",
            document.cluster, cluster.name
        ));
    }
    let prefix = cluster.store.layout().prefix().to_owned();
    let kv = cluster.store.kv();
    let present = kv.read(&prefix, STORE_DEADLINE).await.map_err(|e| cluster.store_failure(&e))?;
    let plan = plan(&document.keys, &present, &prefix, args.force).or_fail()?;
    for line in &plan.told {
        say!(terminal, "{line}");
    }
    if plan.txn.then.is_empty() {
        say!(terminal, "Nothing to do: the store has all of it");
        return Ok(());
    }
    match kv.txn(plan.txn, STORE_DEADLINE).await.map_err(|e| cluster.store_failure(&e))? {
        TxnOutcome::Applied(revision) => {
            say!(
                terminal,
                "Restored what cluster {} had on {} (revision {} then, {revision} now)",
                cluster.name,
                document.taken,
                document.revision
            );
            Ok(())
        }
        TxnOutcome::Conflict => failed("the store changed meanwhile, and nothing was restored: try again"),
    }
}

fn read(text: &str) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let other = |e: serde_json::Error| format!("this is no snapshot of a store, or a damaged one: {e}");
    let head: Head = serde_json::from_str(text).map_err(other)?;
    if head.format != FORMAT {
        return Err(format!("this is no snapshot of a store: its format is \"{}\"", head.format));
    }
    if head.version != VERSION {
        return Err(format!(
            "it has version {} of the format, this program reads version {VERSION}; use the program that wrote it",
            head.version
        ));
    }
    serde_json::from_str(text).map_err(other)
}

#[derive(Debug)]
struct Plan {
    txn: Txn,
    told: Vec<String>,
}

/// True only at its moment: who leads, who is there, who has every commit, what was asked for. From an old file it
/// would be a lie that a failover acts on.
fn of_the_moment(key: &str) -> bool {
    matches!(key, "leader" | "status" | "optime/leader" | "failover" | "sync" | "failsafe" | "vouching" | "unguarded")
        || key.starts_with("members/")
}

/// In the place of the leader whom members may vouch for: whoever it is now, nobody is taken for it.
const SOMEBODY: &str = "(before the restore)";

/// Who may vouch in failsafe mode, from a file: for somebody. A primary may live on that just now, since its store is gone;
/// whoever would lead in the restored one has to ask as many as ever, and the leader that the file names, too.
fn vouching_for_somebody(keys: &[Entry]) -> Option<String> {
    let text = &keys.iter().find(|entry| entry.key == "vouching")?.value;
    let of = Vouching::parse(text).ok()?.of;
    (of != Of::None).then(|| Vouching { leader: SOMEBODY.into(), of }.to_text())
}

fn plan(keys: &[Entry], present: &Snapshot, prefix: &str, force: bool) -> Result<Plan, String> {
    let now = |key: &str| present.keys.iter().find(|k| k.key.strip_prefix(prefix) == Some(key));
    let paused = now("config")
        .and_then(|c| serde_json::from_slice::<serde_json::Value>(&c.value).ok())
        .is_some_and(|c| c.get("pause") == Some(&serde_json::Value::Bool(true)));
    if let Some(leader) = now("leader") {
        let name = String::from_utf8_lossy(&leader.value).into_owned();
        if !(paused && force) {
            return Err(format!(
                "{name} leads this cluster and goes by what is in the store: pause it (`surus pause --wait`) and add --force to \
                 write below it, or stop its agents"
            ));
        }
    }
    if !present.keys.is_empty() && !force {
        return Err(format!(
            "the store holds {} keys below {prefix} already ({}); --force writes those of the file over them",
            present.keys.len(),
            present.keys.iter().map(|k| k.key.strip_prefix(prefix).unwrap_or(&k.key)).collect::<Vec<_>>().join(", ")
        ));
    }
    let mut plan = Plan { txn: Txn::default(), told: Vec::new() };
    // What was looked at is still so when it is written.
    for key in ["leader", "config"] {
        plan.txn.compare.push(unchanged(prefix, key, now(key).map(|k| k.version)));
    }
    let nobody_yet = now("vouching").is_none() && now("failsafe").is_none();
    let vouching = vouching_for_somebody(keys).filter(|_| nobody_yet);
    for entry in keys {
        let key = entry.key.as_str();
        let found = now(key);
        if let ("failsafe" | "vouching", Some(vouching)) = (key, &vouching) {
            plan.told.push(format!("{key}: written, for a primary that members may vouch for now"));
            plan.txn.compare.push(unchanged(prefix, key, None));
            let value = if key == "vouching" { vouching.clone() } else { entry.value.clone() };
            plan.txn.then.push(Op::Put { key: format!("{prefix}{key}"), value: value.into(), lease: None });
        } else if entry.of_session || of_the_moment(key) {
            plan.told.push(format!("{key}: left out, it was true at its time only"));
        } else if found.is_some_and(|f| f.value == entry.value.as_bytes()) {
            plan.told.push(format!("{key}: the same"));
        } else if key == "timeline" && found.is_some() {
            // A number that was given once is not given again.
            plan.told.push(format!("{key}: kept, the numbers of timelines only grow"));
        } else {
            // Who paused the cluster ends that: with its own command, not by the way.
            let value = entry.value.clone().into_bytes();
            let kept = match key {
                "config" if paused => with_pause(&value),
                // There may have been promotions since.
                "timeline" => with_room(&value),
                _ => None,
            };
            plan.told.push(match (found, &kept) {
                (None, Some(_)) => format!("{key}: written, with room for the timelines that were begun since"),
                (Some(_), Some(_)) => format!("{key}: replaced, and still paused"),
                (Some(_), None) => format!("{key}: replaced"),
                (None, None) => format!("{key}: written"),
            });
            if key != "config" {
                plan.txn.compare.push(unchanged(prefix, key, found.map(|f| f.version)));
            }
            let value = kept.unwrap_or(value);
            plan.txn.then.push(Op::Put { key: format!("{prefix}{key}"), value, lease: None });
        }
    }
    Ok(plan)
}

fn unchanged(prefix: &str, key: &str, version: Option<u64>) -> Compare {
    let key = format!("{prefix}{key}");
    match version {
        Some(version) => Compare::Version { key, version },
        None => Compare::Absent { key },
    }
}

#[cfg(test)]
mod tests {
    use surus_store::KeyValue;

    use super::*;

    const PREFIX: &str = "/service/demo/";

    fn entry(key: &str, value: &str) -> Entry {
        Entry { key: key.into(), value: value.into(), of_session: false }
    }

    fn file() -> Vec<Entry> {
        [
            "config",
            "history",
            "initialize",
            "leader",
            "members/n1",
            "status",
            "sync",
            "failover",
            "timeline",
            "unguarded",
        ]
        .map(|key| entry(key, "{}"))
        .into()
    }

    fn store(keys: &[(&str, &str)]) -> Snapshot {
        let key = |(at, (key, value)): (usize, &(&str, &str))| KeyValue {
            key: format!("{PREFIX}{key}"),
            value: (*value).into(),
            version: at as u64 + 1,
            lease: None,
        };
        Snapshot { revision: 9, keys: keys.iter().enumerate().map(key).collect() }
    }

    fn written(plan: &Plan) -> Vec<&str> {
        let put = |op: &'_ Op| match op {
            Op::Put { key, .. } => key.clone(),
            other => panic!("{other:?}"),
        };
        let keys: Vec<String> = plan.txn.then.iter().map(put).collect();
        keys.into_iter().map(|k| &*k.strip_prefix(PREFIX).unwrap().to_owned().leak()).collect()
    }

    #[test]
    fn an_empty_prefix_gets_what_lasts_and_nothing_of_the_moment() {
        let plan = plan(&file(), &store(&[]), PREFIX, false).unwrap();
        assert_eq!(written(&plan), ["config", "history", "initialize", "timeline"]);
        let timeline = [entry("timeline", r#"{"timeline":7,"leader":"n1"}"#)];
        let plan_of_it = super::plan(&timeline, &store(&[]), PREFIX, false).unwrap();
        let put = |op: &Op| matches!(op, Op::Put { value, .. } if value == br#"{"timeline":107,"leader":"n1"}"#);
        assert!(plan_of_it.txn.then.iter().any(put), "{plan_of_it:?}");
        assert!(plan.txn.compare.contains(&Compare::Absent { key: "/service/demo/leader".into() }));
        assert!(plan.told.iter().any(|t| t.starts_with("sync: left out")));
    }

    #[test]
    fn who_may_vouch_is_restored_for_somebody() {
        let list = r#"{"n1":"http://n1:8008/patroni"}"#;
        let file = |of: &str| {
            let vouching = format!(r#"{{"leader":"n1","of":"{of}"}}"#);
            vec![entry("failsafe", list), entry("vouching", &vouching)]
        };
        let restored = plan(&file("majority"), &store(&[]), PREFIX, false).unwrap();
        assert_eq!(written(&restored), ["failsafe", "vouching"]);
        let put = |op: &Op| matches!(op, Op::Put { value, .. } if value.starts_with(br#"{"leader":"(before the restore)","of":"majority"}"#));
        assert!(restored.txn.then.iter().any(put), "{restored:?}");
        // Nobody was vouched for, or somebody is now, under what the store says.
        let there = store(&[("vouching", r#"{"leader":"n2","of":"majority"}"#)]);
        for (file, there) in [(file("none"), store(&[])), (file("broken"), store(&[])), (file("majority"), there)] {
            assert!(written(&plan(&file, &there, PREFIX, true).unwrap()).is_empty());
        }
        assert!(written(&plan(&file("majority")[..1], &store(&[]), PREFIX, false).unwrap()).is_empty());
    }

    #[test]
    fn what_is_there_is_written_over_by_force_only() {
        let there = store(&[("config", "{\"a\":1}"), ("history", "{}"), ("timeline", "7")]);
        let refused = plan(&file(), &there, PREFIX, false).unwrap_err();
        assert!(refused.contains("3 keys below /service/demo/ already (config, history, timeline)"), "{refused}");
        let forced = plan(&file(), &there, PREFIX, true).unwrap();
        assert_eq!(written(&forced), ["config", "initialize"]);
        assert!(forced.txn.compare.contains(&Compare::Version { key: "/service/demo/config".into(), version: 1 }));
        assert!(forced.txn.compare.contains(&Compare::Absent { key: "/service/demo/initialize".into() }));
        let keys: Vec<String> = forced.txn.compare.iter().map(|c| format!("{c:?}")).collect();
        let distinct: std::collections::BTreeSet<&String> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "etcd takes a key once: {keys:?}");
    }

    #[test]
    fn a_leader_is_written_below_in_a_pause_and_by_force_only() {
        for (config, force, allowed) in [
            ("{}", false, false),
            ("{}", true, false),
            (r#"{"pause":true}"#, false, false),
            (r#"{"pause":true}"#, true, true),
            (r#"{"pause":false}"#, true, false),
            ("broken", true, false),
        ] {
            let there = store(&[("leader", "n2"), ("config", config)]);
            match plan(&file(), &there, PREFIX, force) {
                Ok(plan) => {
                    assert!(allowed, "{config} {force}");
                    // The pause and the leader that were seen are still the ones.
                    assert!(
                        plan.txn.compare.contains(&Compare::Version { key: "/service/demo/leader".into(), version: 1 })
                    );
                    assert!(
                        plan.txn.compare.contains(&Compare::Version { key: "/service/demo/config".into(), version: 2 })
                    );
                }
                Err(why) => assert!(!allowed && why.contains("n2 leads"), "{config} {force}: {why}"),
            }
        }
    }

    #[test]
    fn other_files_are_refused_by_name() {
        for (text, part) in [
            ("", "no snapshot"),
            ("[]", "no snapshot"),
            ("{}", "no snapshot"),
            (r#"{"format":"x","version":1}"#, "its format is \"x\""),
            (r#"{"format":"surus store snapshot","version":2,"keys":7}"#, "it has version 2 of the format"),
            (r#"{"format":"surus store snapshot","version":1}"#, "damaged"),
        ] {
            let why = read(text).map(|_| ()).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
