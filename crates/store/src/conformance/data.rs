//! Reading, transactions, versions.

use futures_util::future::join_all;

use super::{Bench, Case, DEADLINE, Failure, ensure};
use crate::kv::{Compare, Op, Txn, TxnOutcome};

pub(super) const CASES: &[(&str, Case)] = &[
    ("read_is_the_prefix_in_order", |b| Box::pin(read_is_the_prefix_in_order(b))),
    ("any_bytes_are_kept", |b| Box::pin(any_bytes_are_kept(b))),
    ("a_write_is_seen_by_every_client", |b| Box::pin(a_write_is_seen_by_every_client(b))),
    ("versions_grow_with_each_write", |b| Box::pin(versions_grow_with_each_write(b))),
    ("comparisons_decide", |b| Box::pin(comparisons_decide(b))),
    ("transactions_are_all_or_nothing", |b| Box::pin(transactions_are_all_or_nothing(b))),
    ("delete_and_delete_prefix", |b| Box::pin(delete_and_delete_prefix(b))),
    ("one_of_many_compare_and_sets_wins", |b| Box::pin(one_of_many_compare_and_sets_wins(b))),
    ("increments_are_not_lost", |b| Box::pin(increments_are_not_lost(b))),
];

async fn read_is_the_prefix_in_order(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    ensure!(b.read(&kv).await?.keys.is_empty(), "a fresh prefix is not empty");
    for name in ["b", "a/2", "c", "a/10"] {
        b.write(&kv, vec![b.put(name, name, None)]).await?;
    }
    // A neighbour whose name begins alike must stay out.
    let neighbour = format!("{}x", b.prefix.trim_end_matches('/'));
    b.write(&kv, vec![Op::Put { key: neighbour.clone(), value: "n".into(), lease: None }]).await?;
    let names: Vec<String> = b.all(&kv).await?.into_iter().map(|(name, _)| name).collect();
    ensure!(names == ["a/10", "a/2", "b", "c"], "read {names:?}");
    let below = kv.read(&b.key("a/"), DEADLINE).await?;
    ensure!(below.keys.len() == 2, "a deeper prefix gave {:?}", below.keys);
    b.write(&kv, vec![Op::Delete { key: neighbour }]).await?;
    Ok(())
}

async fn any_bytes_are_kept(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let large = vec![0xa5; 256 * 1024];
    for value in [Vec::new(), vec![0, 0xff, 0xfe, b'\n'], "größe ✓".as_bytes().to_vec(), large] {
        b.write(&kv, vec![Op::Put { key: b.key("x"), value: value.clone(), lease: None }]).await?;
        let read = b.read(&kv).await?.keys;
        ensure!(read.len() == 1 && read[0].value == value, "a value of {} bytes came back changed", value.len());
        let same = Txn { compare: vec![Compare::Value { key: b.key("x"), value }], then: vec![] };
        ensure!(kv.txn(same, DEADLINE).await? != TxnOutcome::Conflict, "it does not compare equal to itself");
    }
    Ok(())
}

async fn a_write_is_seen_by_every_client(b: &Bench<'_>) -> Result<(), Failure> {
    let (one, other) = (b.client().await, b.client().await);
    for i in 0..20 {
        let (writer, reader) = if i % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let revision = b.write(writer, vec![b.put("x", &i.to_string(), None)]).await?;
        let seen = b.read(reader).await?;
        ensure!(seen.revision >= revision, "read revision {} after a write at {revision}", seen.revision);
        ensure!(seen.keys[0].value == i.to_string().as_bytes(), "write {i} was not seen by the other client");
    }
    Ok(())
}

async fn versions_grow_with_each_write(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let mut last = 0;
    for round in 0..3 {
        // The same value again is a write like any other.
        let revision = b.write(&kv, vec![b.put("x", "same", None), b.put("y", "same", None)]).await?;
        ensure!(revision > last, "round {round}: revision {revision} after {last}");
        let snapshot = b.read(&kv).await?;
        for key in &snapshot.keys {
            ensure!(key.version == revision, "{} has version {}, written at {revision}", key.key, key.version);
        }
        ensure!(snapshot.revision >= revision, "snapshot at {} is older than {revision}", snapshot.revision);
        last = revision;
    }
    b.write(&kv, vec![b.put("other", "z", None)]).await?;
    let x = b.read(&kv).await?.keys.into_iter().find(|k| k.key == b.key("x")).map(|k| k.version);
    ensure!(x == Some(last), "the version of x moved to {x:?} with a write of another key");
    Ok(())
}

async fn comparisons_decide(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let version = b.write(&kv, vec![b.put("x", "one", None)]).await?;
    let absent = |name: &str| Compare::Absent { key: b.key(name) };
    let at = |name: &str, version| Compare::Version { key: b.key(name), version };
    let is = |name: &str, value: &str| Compare::Value { key: b.key(name), value: value.into() };
    for (what, compare, holds) in [
        ("absent of an absent key", vec![absent("none")], true),
        ("absent of a present key", vec![absent("x")], false),
        ("the right version", vec![at("x", version)], true),
        ("a newer version", vec![at("x", version + 1)], false),
        ("an older version", vec![at("x", version.saturating_sub(1))], false),
        ("a version of an absent key", vec![at("none", version)], false),
        ("the right value", vec![is("x", "one")], true),
        ("a longer value", vec![is("x", "one!")], false),
        ("a value of an absent key", vec![is("none", "one")], false),
        ("the empty value of an absent key", vec![is("none", "")], false),
        ("all of several", vec![is("x", "one"), at("x", version), absent("none")], true),
        ("all but one of several", vec![is("x", "one"), absent("x"), absent("none")], false),
    ] {
        let outcome = kv.txn(Txn { compare, then: vec![b.put("mark", what, None)] }, DEADLINE).await?;
        ensure!(matches!(outcome, TxnOutcome::Applied(_)) == holds, "{what}: {outcome:?}");
        let written = b.value(&kv, "mark").await?.as_deref() == Some(what);
        ensure!(written == holds, "{what}: the write was{} carried out", if written { "" } else { " not" });
    }
    Ok(())
}

async fn transactions_are_all_or_nothing(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    b.write(&kv, vec![b.put("gone", "1", None), b.put("dir/a", "1", None)]).await?;
    let ops = || {
        vec![
            b.put("new", "2", None),
            Op::Delete { key: b.key("gone") },
            Op::DeletePrefix { prefix: b.key("dir/") },
            b.put("also", "2", None),
        ]
    };
    let no = Txn { compare: vec![Compare::Absent { key: b.key("gone") }], then: ops() };
    ensure!(kv.txn(no, DEADLINE).await? == TxnOutcome::Conflict, "a comparison that does not hold was passed");
    let before: Vec<String> = b.all(&kv).await?.into_iter().map(|(name, _)| name).collect();
    ensure!(before == ["dir/a", "gone"], "a refused transaction left {before:?}");
    let yes = Txn { compare: vec![Compare::Value { key: b.key("gone"), value: "1".into() }], then: ops() };
    let TxnOutcome::Applied(revision) = kv.txn(yes, DEADLINE).await? else {
        return Err(Failure("a comparison that holds was refused".into()));
    };
    let after = b.read(&kv).await?;
    let names: Vec<String> = b.named(&after).into_iter().map(|(name, _)| name).collect();
    ensure!(names == ["also", "new"], "the transaction left {names:?}");
    ensure!(after.keys.iter().all(|k| k.version == revision), "keys of one transaction have different versions");
    Ok(())
}

async fn delete_and_delete_prefix(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    b.write(
        &kv,
        vec![b.put("a", "1", None), b.put("d/1", "1", None), b.put("d/2/3", "1", None), b.put("dx", "1", None)],
    )
    .await?;
    b.write(&kv, vec![Op::Delete { key: b.key("a") }, Op::Delete { key: b.key("never-was") }]).await?;
    b.write(&kv, vec![Op::DeletePrefix { prefix: b.key("d/") }]).await?;
    let names: Vec<String> = b.all(&kv).await?.into_iter().map(|(name, _)| name).collect();
    ensure!(names == ["dx"], "left {names:?}");
    // A key that comes back is a new one, with a version of its own.
    let version = b.write(&kv, vec![b.put("a", "2", None)]).await?;
    ensure!(b.read(&kv).await?.keys[0].version == version, "a key that came back has an old version");
    Ok(())
}

async fn one_of_many_compare_and_sets_wins(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let version = b.write(&kv, vec![b.put("x", "start", None)]).await?;
    let tries = (0..8).map(|i| async move {
        let kv = b.client().await;
        let compare = vec![Compare::Version { key: b.key("x"), version }];
        kv.txn(Txn { compare, then: vec![b.put("x", &i.to_string(), None)] }, DEADLINE).await
    });
    let outcomes = join_all(tries).await;
    let winners: Vec<usize> =
        outcomes.iter().enumerate().filter(|(_, o)| matches!(o, Ok(TxnOutcome::Applied(_)))).map(|(i, _)| i).collect();
    ensure!(winners.len() == 1, "{} of 8 succeeded: {outcomes:?}", winners.len());
    ensure!(outcomes.iter().all(Result::is_ok), "somebody got no answer: {outcomes:?}");
    let value = b.value(&kv, "x").await?;
    ensure!(value == Some(winners[0].to_string()), "number {} won, but the value is {value:?}", winners[0]);
    Ok(())
}

async fn increments_are_not_lost(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    b.write(&kv, vec![b.put("n", "0", None)]).await?;
    let adders = (0..4).map(|_| async move {
        let kv = b.client().await;
        for _ in 0..5 {
            loop {
                let snapshot = b.read(&kv).await?;
                let key = &snapshot.keys[0];
                let n: u32 = String::from_utf8_lossy(&key.value).parse().unwrap_or(0);
                let compare = vec![Compare::Version { key: b.key("n"), version: key.version }];
                let add = Txn { compare, then: vec![b.put("n", &(n + 1).to_string(), None)] };
                if kv.txn(add, DEADLINE).await? != TxnOutcome::Conflict {
                    break;
                }
            }
        }
        Ok::<(), Failure>(())
    });
    for result in join_all(adders).await {
        result?;
    }
    let n = b.value(&kv, "n").await?;
    ensure!(n.as_deref() == Some("20"), "20 increments gave {n:?}");
    Ok(())
}
