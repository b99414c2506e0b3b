//! Watches: nothing missed, nothing twice, whole revisions.

use std::collections::BTreeMap;

use super::{Bench, Case, DEADLINE, Failure, Reader, Shows, ensure};
use crate::kv::{KeyValue, Op, WatchEvent};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_watch_begins_with_the_whole_prefix", |b| Box::pin(a_watch_begins_with_the_whole_prefix(b))),
    ("changes_come_in_order_by_whole_revisions", |b| Box::pin(changes_come_in_order_by_whole_revisions(b))),
    ("nothing_is_lost_between_snapshot_and_changes", |b| Box::pin(nothing_is_lost_between_snapshot_and_changes(b))),
    ("the_end_of_a_lease_is_seen_as_deletion", |b| Box::pin(the_end_of_a_lease_is_seen_as_deletion(b))),
    ("watches_do_not_see_other_prefixes", |b| Box::pin(watches_do_not_see_other_prefixes(b))),
    ("a_slow_reader_misses_nothing", |b| Box::pin(a_slow_reader_misses_nothing(b))),
];

async fn a_watch_begins_with_the_whole_prefix(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let (_, empty) = b.open(&kv, &b.prefix).await?;
    ensure!(empty.keys.is_empty(), "a fresh prefix began with {:?}", empty.keys);
    let lease = kv.grant(b.harness.ttl() * 30, DEADLINE).await?;
    let revision = b.write(&kv, vec![b.put("a", "1", None), b.put("b", "2", Some(lease))]).await?;
    let (_, snapshot) = b.open(&kv, &b.prefix).await?;
    let read = b.read(&kv).await?;
    ensure!(snapshot.keys == read.keys, "the watch began with {:?}, a read gives {:?}", snapshot.keys, read.keys);
    ensure!(snapshot.revision >= revision, "the snapshot at {} is older than {revision}", snapshot.revision);
    kv.revoke(lease, DEADLINE).await?;
    Ok(())
}

async fn changes_come_in_order_by_whole_revisions(b: &Bench<'_>) -> Result<(), Failure> {
    let (kv, writer) = (b.client().await, b.client().await);
    let mut readers = vec![b.open(&kv, &b.prefix).await?.0, b.open(&kv, &b.prefix).await?.0];
    readers.push(b.open(&writer, &b.prefix).await?.0);
    let writes = [
        vec![b.put("a", "1", None), b.put("b", "1", None)],
        vec![b.put("a", "2", None)],
        vec![Op::Delete { key: b.key("a") }, b.put("c", "1", None)],
        vec![Op::DeletePrefix { prefix: b.prefix.clone() }],
        vec![b.put("a", "3", None)],
    ];
    let mut revisions = Vec::new();
    for write in writes {
        // Read late, all must have been kept; but of what only shows states, each has to be looked at.
        if b.harness.shows() == Shows::States {
            seen_as(&mut readers, b, &revisions, revisions.len().checked_sub(1)).await?;
        }
        revisions.push(b.write(&writer, write).await?);
    }
    let from = if b.harness.shows() == Shows::States { revisions.len() - 1 } else { 0 };
    for index in from..revisions.len() {
        seen_as(&mut readers, b, &revisions, Some(index)).await?;
    }
    Ok(())
}

/// Each reader is told the changes of the write with that number, and of no other.
async fn seen_as(
    readers: &mut [Reader],
    b: &Bench<'_>,
    revisions: &[u64],
    index: Option<usize>,
) -> Result<(), Failure> {
    let Some(index) = index else { return Ok(()) };
    let at = revisions[index];
    let put = |name: &str, value: &str| {
        WatchEvent::Put(KeyValue { key: b.key(name), value: value.into(), version: at, lease: None })
    };
    let deleted = |name: &str| WatchEvent::Deleted { key: b.key(name), revision: at };
    let changes = match index {
        0 => vec![put("a", "1"), put("b", "1")],
        1 => vec![put("a", "2")],
        2 => vec![deleted("a"), put("c", "1")],
        3 => vec![deleted("b"), deleted("c")],
        _ => vec![put("a", "3")],
    };
    for (i, reader) in readers.iter_mut().enumerate() {
        let (revision, mut seen) = reader.revision().await?;
        // Inside a revision the order has no meaning.
        seen.sort_by_key(|event| match event {
            WatchEvent::Put(kv) => kv.key.clone(),
            WatchEvent::Deleted { key, .. } => key.clone(),
            _ => String::new(),
        });
        ensure!((revision, &seen) == (at, &changes), "watch {i} at {revision}: {seen:?}, expected {at}: {changes:?}");
    }
    Ok(())
}

/// What a reader knows after applying all it is told, until `name` has `value`.
async fn replay(
    b: &Bench<'_>,
    reader: &mut Reader,
    mut known: BTreeMap<String, KeyValue>,
    (name, value): (&str, &str),
) -> Result<BTreeMap<String, KeyValue>, Failure> {
    let key = b.key(name);
    let every = b.harness.shows() == Shows::Changes;
    while known.get(&key).is_none_or(|kv| kv.value != value.as_bytes()) {
        for change in reader.revision().await?.1 {
            match change {
                WatchEvent::Put(kv) => {
                    // Each counter goes up by one with each write: a step left out is a change lost.
                    let number = |kv: &KeyValue| String::from_utf8_lossy(&kv.value).parse::<u32>().unwrap_or(0);
                    let before = known.get(&kv.key).map_or(0, number);
                    let next = if every { number(&kv) == before + 1 } else { number(&kv) > before };
                    ensure!(next, "{} went from {before} to {}", kv.key, number(&kv));
                    known.insert(kv.key.clone(), kv);
                }
                WatchEvent::Deleted { key, .. } => {
                    known.remove(&key);
                }
                _ => {}
            }
        }
    }
    Ok(known)
}

async fn nothing_is_lost_between_snapshot_and_changes(b: &Bench<'_>) -> Result<(), Failure> {
    const WRITES: u32 = 120;
    let (kv, writer) = (b.client().await, b.client().await);
    let write = async {
        for i in 1..=WRITES {
            b.write(&writer, vec![b.put("x", &i.to_string(), None), b.put("y", &i.to_string(), None)]).await?;
        }
        Ok::<(), Failure>(())
    };
    // Opened one after the other while the writer runs, so that they begin at many different points.
    let watch = async {
        let mut opened = Vec::new();
        for _ in 0..8 {
            opened.push(b.open(&kv, &b.prefix).await?);
        }
        Ok::<_, Failure>(opened)
    };
    let (written, opened) = tokio::join!(write, watch);
    written?;
    let read: BTreeMap<_, _> = b.read(&kv).await?.keys.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    for (mut reader, snapshot) in opened? {
        let known = snapshot.keys.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        let known = replay(b, &mut reader, known, ("x", &WRITES.to_string())).await?;
        ensure!(known == read, "a watch ended with {known:?}, a read gives {read:?}");
    }
    Ok(())
}

async fn the_end_of_a_lease_is_seen_as_deletion(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let began = b.harness.now();
    let lease = kv.grant(b.harness.ttl(), DEADLINE).await?;
    let bound = b.write(&kv, vec![b.put("x", "1", Some(lease)), b.put("y", "1", Some(lease))]).await?;
    let (mut reader, _) = b.open(&kv, &b.prefix).await?;
    let ttl = b.harness.ttl();
    // No call of ours may be what makes the store notice, so only the clock is moved.
    let passing = async {
        while b.harness.now().since(began) < ttl {
            b.harness.pass(ttl / 10).await;
        }
    };
    let ((), ended) = tokio::join!(passing, reader.revision());
    let (revision, changes) = ended?;
    ensure!(revision > bound, "the deletion has revision {revision}, the write {bound}");
    let mut keys: Vec<&str> = Vec::new();
    for change in &changes {
        match change {
            WatchEvent::Deleted { key, .. } => keys.push(key),
            other => return Err(Failure(format!("unexpected {other:?}"))),
        }
    }
    keys.sort_unstable();
    ensure!(keys == [b.key("x"), b.key("y")], "deleted {keys:?}");
    Ok(())
}

async fn watches_do_not_see_other_prefixes(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let (mut one, _) = b.open(&kv, &b.key("one/")).await?;
    let (mut two, _) = b.open(&kv, &b.key("two/")).await?;
    b.write(&kv, vec![b.put("one/x", "1", None), b.put("onex", "1", None)]).await?;
    b.write(&kv, vec![b.put("two/x", "1", None)]).await?;
    b.write(&kv, vec![b.put("one/last", "1", None), b.put("two/last", "1", None)]).await?;
    for (name, reader) in [("one", &mut one), ("two", &mut two)] {
        let mut told = Vec::new();
        while told.len() < 2 {
            let changes = reader.revision().await?.1;
            told.extend(changes.into_iter().map(|change| match change {
                WatchEvent::Put(kv) => kv.key,
                other => format!("{other:?}"),
            }));
        }
        // A store that shows states may show both at once.
        if b.harness.shows() == Shows::States {
            told.sort_by_key(|key| !key.ends_with("/x"));
        }
        let want = ["x", "last"].map(|key| b.key(&format!("{name}/{key}")));
        ensure!(told == want, "the watch on {name}/ saw {told:?} instead of {want:?}");
    }
    Ok(())
}

async fn a_slow_reader_misses_nothing(b: &Bench<'_>) -> Result<(), Failure> {
    const WRITES: u32 = 600;
    let kv = b.client().await;
    let (mut reader, _) = b.open(&kv, &b.prefix).await?;
    for i in 1..=WRITES {
        b.write(&kv, vec![b.put("x", &i.to_string(), None)]).await?;
    }
    // Nothing was taken from the watch so far: more is waiting than any buffer holds. The adapter may
    // hold it back or start over, but the reader must end up with the newest state.
    let key = b.key("x");
    loop {
        let newest = match reader.next().await? {
            WatchEvent::Put(kv) => kv,
            WatchEvent::Restarted(snapshot) => match snapshot.keys.into_iter().next() {
                Some(kv) => kv,
                None => continue,
            },
            WatchEvent::Deleted { key, .. } => return Err(Failure(format!("{key} was reported as deleted"))),
            WatchEvent::Progress(_) | WatchEvent::Broken(_) => continue,
        };
        if newest.key == key && newest.value == WRITES.to_string().as_bytes() {
            return Ok(());
        }
    }
}
