//! What is written down of log that goes.

use std::fs;
use std::path::Path;

use surus_core::Timeline;
use surus_core::loss::{Destroying, Recorded};
use surus_postgres::{Divergence, Instance, StopMode, loss};

use crate::common::{LIMIT, Site, no_progress, one, upstream};
use crate::{archive, commits_in, follows, insert, kept, only_receipt, parted, parted_after, rows_of, stood_by, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_written_down_and_archived() {
    let site = Site::new();
    let (a, b) = parted(&site).await;
    one(&a, "CREATE TABLE public.later (n int); SELECT 1").await;
    let mut lost: Vec<u32> = (10..20).map(|_| 0).collect();
    for (n, xid) in lost.iter_mut().enumerate() {
        *xid = insert(&a, n as u32).await;
    }
    one(&a, "BEGIN; INSERT INTO public.t VALUES (99); ROLLBACK; SELECT pg_switch_wal()::text").await;
    let last = one(&a, "WITH w AS (INSERT INTO public.later VALUES (1)) SELECT pg_current_xact_id()::text").await;
    a.kill_hard().await.unwrap();

    let divergence = a.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(divergence, Divergence::Forked { timeline: Timeline(1), .. }), "{divergence:?}");
    let recorded = a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    assert!(matches!(&recorded, Recorded::Receipt(text) if text.contains("12 transactions")), "{recorded:?}");
    let receipt = only_receipt(&a);
    assert_eq!(receipt.xids[1..11], lost, "between the creation of a table and its first row");
    assert_eq!(receipt.xids.last().unwrap().to_string(), last);
    assert_eq!((receipt.committed, receipt.unfinished, receipt.notes.len()), (12, 0, 0), "{:?}", receipt.notes);
    let rows: Vec<_> = receipt.tables.iter().map(|t| (t.table.as_deref(), t.inserted)).collect();
    assert_eq!(rows, [(Some("public.t"), 10), (None, 1)]);
    assert!(receipt.catalog_rows > 0 && receipt.tables[0].database.as_deref() == Some("postgres"));
    let Divergence::Forked { switchpoint, .. } = divergence else { unreachable!() };
    assert_eq!(receipt.fork.unwrap().lsn, switchpoint);
    assert_eq!(commits_in(&kept(&a, &receipt), &receipt), receipt.xids);
    let owner = |p: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(p).unwrap());
    assert_eq!(owner(&kept(&a, &receipt)), owner(&a.config().data_dir));

    // Once more, as after a rewind that failed: the same receipt.
    a.record_loss(&upstream(&b), Destroying::Removal, LIMIT, &token()).await.unwrap();
    assert_eq!(only_receipt(&a), receipt);

    // The archive did not work while it ran.
    let error = a.archive_pending(LIMIT, &token()).await.unwrap_err().to_string();
    assert!(error.contains("of") && error.contains("archive lacks them"), "{error}");
    let mut config = (*a.config()).clone();
    fs::write(archive(&site).join("open"), "").unwrap();
    assert!(a.archive_pending(LIMIT, &token()).await.unwrap() >= 1);
    assert!(
        archive(&site).join("000000010000000000000001").exists() || fs::read_dir(archive(&site)).unwrap().count() > 1
    );

    assert!(a.needs_recovery().await.unwrap());
    a.crash_recover_single_user(&token()).await.unwrap();
    a.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&a, &b).await;
    // What the server did with its files since then does not touch what was kept.
    assert_eq!(commits_in(&kept(&a, &receipt), &receipt), receipt.xids);
    a.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    for destroying in [Destroying::Rewind, Destroying::Removal] {
        let nothing = a.record_loss(&upstream(&b), destroying, LIMIT, &token()).await.unwrap();
        assert!(matches!(nothing, Recorded::Nothing(_)), "{nothing:?}");
    }

    // A receipt that cannot be written stops whatever would follow.
    config.loss_dir = Some("/proc/nowhere".into());
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    a.set_config(config.clone());
    let error = a.record_loss(&upstream(&b), Destroying::Removal, LIMIT, &token()).await.unwrap_err().to_string();
    assert!(error.contains("nothing of it is destroyed") && error.contains("loss.directory"), "{error}");
    let later = a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    assert!(matches!(later, Recorded::Undecided(_)), "{later:?}");
}

/// Rows written behind a fork: of a table that is older, and of one that nobody else knows.
async fn write_rows(a: &Instance) {
    for sql in [
        "UPDATE public.t SET n = 11 WHERE n = 1",
        "INSERT INTO public.t VALUES (2); DELETE FROM public.t WHERE n = 2",
        "INSERT INTO public.t VALUES (3); UPDATE public.t SET n = 33 WHERE n = 3",
        "BEGIN; SAVEPOINT s; INSERT INTO public.t VALUES (4); RELEASE s; COMMIT",
        "BEGIN; INSERT INTO public.t VALUES (5); ROLLBACK",
        "DELETE FROM public.t WHERE n = 100",
        r#"CREATE TABLE public.later (t text, b json); INSERT INTO public.later VALUES (E'<a href="x">\n&amp;\\', E'["ü",\r\n1]')"#,
        "INSERT INTO public.later VALUES (repeat('long', 5000), '0')",
    ] {
        one(a, &format!("{sql}; SELECT 1")).await;
    }
}

/// Without a slot, and of a server that shut down or that did not, rows are found where the log says they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_that_are_lost_are_kept() {
    let site = Site::new();
    let (a, b) = parted_after(&site, &[], async |a| {
        one(a, "INSERT INTO public.t VALUES (100); SELECT 1").await;
    })
    .await;
    write_rows(&a).await;
    a.kill_hard().await.unwrap();
    stood_by(&a, &b).await;
    a.record_loss(&upstream(&b), Destroying::Removal, LIMIT, &token()).await.unwrap();
    let receipt = only_receipt(&a);
    assert_eq!(receipt.rows, None);
    let transactions: Vec<_> = receipt.tables.iter().map(|t| (t.table.as_deref(), t.transactions)).collect();
    assert!(transactions.contains(&(Some("public.t"), 5)), "{receipt:?}");
    let first = &receipt.first_transactions[0];
    assert_eq!((first.xid, first.inserted, first.updated, first.deleted), (receipt.xids[0], 0, 1, 0));
    assert_eq!(receipt.first_transactions.len() as u64, receipt.committed);

    let said = a.keep_lost_rows(LIMIT, &token()).await.unwrap().unwrap();
    let kept = only_receipt(&a).rows.unwrap();
    assert_eq!((kept.sources.len(), kept.sources[0].slot.as_deref(), kept.notes.len()), (1, None, 0), "{said}");
    let rows = rows_of(&a, &receipt);
    let told: Vec<_> = rows
        .iter()
        .map(|r| {
            assert!(r["at"].as_str().is_some_and(|at| at.ends_with("UTC")), "{r}");
            assert!(receipt.xids.contains(&(r["xid"].as_u64().unwrap() as u32)), "of the transaction: {r}");
            (r["table"].as_str().unwrap(), r["what"].as_str().unwrap(), r["row"].clone())
        })
        .collect();
    let (t, later) = ("public.t", "public.later");
    for want in [
        (t, "update", serde_json::json!({"n": 11})),
        (t, "insert", serde_json::json!({"n": 33})),
        (t, "insert", serde_json::json!({"n": 4})),
        (t, "delete", serde_json::Value::Null),
        (later, "insert", serde_json::json!({"t": "<a href=\"x\">\n&amp;\\", "b": ["ü", 1]})),
        (later, "insert", serde_json::Value::Null),
    ] {
        assert_eq!(told.iter().filter(|t| **t == want).count(), 1, "{want:?} {told:?}");
    }
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(rows.iter().any(|r| r["note"].as_str().is_some_and(|n| n.contains("longer than"))), "{rows:?}");
    assert_eq!(a.keep_lost_rows(LIMIT, &token()).await.unwrap(), None, "once is enough");
    a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    assert_eq!(a.keep_lost_rows(LIMIT, &token()).await.unwrap(), None, "after another attempt too");

    // What is kept leaves the budget only by being acknowledged, and rows count.
    let dir = loss::directory(&a.config().data_dir);
    loss::acknowledge(&dir, &receipt.id).unwrap();
    let record = async |budget: u64| {
        let mut config = (*a.config()).clone();
        config.loss_keep_wal = budget;
        a.set_config(config);
        a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
        loss::receipts(&dir).unwrap().0.into_iter().find(|r| r.id != "older").unwrap()
    };
    let whole = record(1 << 30).await;
    loss::acknowledge(&dir, &whole.id).unwrap();
    let just = record(whole.wal.bytes + 300).await;
    assert_eq!((just.wal.bytes, just.wal.why), (whole.wal.bytes, None));
    a.keep_lost_rows(LIMIT, &token()).await.unwrap();
    let rows = only_receipt(&a).rows.unwrap();
    assert!(rows.kept < 6 && rows.notes[0].contains("loss.keep_wal"), "{rows:?}");
    fs::rename(dir.join(&just.id), dir.join("older")).unwrap();
    let mut older = receipt.clone();
    older.committed = 77;
    fs::write(dir.join("older/receipt.json"), serde_json::to_string(&older).unwrap()).unwrap();
    let none = record(older.wal.bytes).await;
    assert!(none.wal.bytes == 0 && none.wal.why.as_ref().unwrap().contains("loss.keep_wal"), "{none:?}");
    for id in ["older", &none.id] {
        loss::acknowledge(&dir, id).unwrap();
    }
    let some = record(older.wal.bytes).await;
    assert!(some.wal.bytes > 0 && some.wal.bytes <= older.wal.bytes, "{some:?}");

    // It got no worse by being looked at.
    a.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&a, &b).await;
}

/// A logical slot that lies before the fork tells each change, and is where it was afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logical_slot_decodes_what_is_lost() {
    let site = Site::new();
    let (a, b) = parted_after(&site, &[("wal_level", "logical")], async |a| {
        one(a, "INSERT INTO public.t VALUES (100); SELECT 1").await;
        one(a, "ALTER TABLE public.t REPLICA IDENTITY FULL; SELECT 1").await;
        one(a, "SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')::text").await;
        one(a, "INSERT INTO public.t VALUES (200); SELECT 1").await;
    })
    .await;
    write_rows(&a).await;
    a.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    let said = a.keep_lost_rows(LIMIT, &token()).await.unwrap().unwrap();
    let receipt = only_receipt(&a);
    let kept = receipt.rows.clone().unwrap();
    assert_eq!((kept.sources[0].slot.as_deref(), kept.notes.len()), (Some("cdc"), 0), "{said}");
    let rows = rows_of(&a, &receipt);
    let told: Vec<&str> = rows.iter().map(|r| r["change"].as_str().unwrap()).collect();
    let t = "table public.t: ";
    assert!(told[0].starts_with(&format!("{t}UPDATE: old-key: n[integer]:1 new-tuple: n[integer]:11")), "{told:?}");
    for want in ["INSERT: n[integer]:2", "DELETE: n[integer]:2", "INSERT: n[integer]:4", "DELETE: n[integer]:100"] {
        assert_eq!(told.iter().filter(|c| **c == format!("{t}{want}")).count(), 1, "{want} {told:?}");
    }
    assert!(told.iter().any(|c| c.starts_with("table public.later: INSERT")), "{told:?}");
    assert!(!told.iter().any(|c| c.contains(":200") || c.contains(":5 ")), "only what is lost: {told:?}");
    assert!(rows.iter().all(|r| receipt.xids.contains(&(r["xid"].as_u64().unwrap() as u32))), "{rows:?}");
    let slots: Vec<_> = fs::read_dir(a.config().data_dir.join("pg_replslot")).unwrap().flatten().collect();
    assert_eq!(slots.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(), ["cdc"]);
    a.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&a, &b).await;
}
