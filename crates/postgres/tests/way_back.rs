//! A former primary with log that nobody else has: what is written down of it, and how it becomes a standby again.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{LIMIT, Site, eventually, no_progress, one, processes_in, upstream};
use surus_core::Timeline;
use surus_core::loss::{Destroying, Receipt, Recorded};
use surus_postgres::{Divergence, ErrorKind, Instance, StartAs, StopMode, loss};
use tokio_util::sync::CancellationToken;

fn token() -> CancellationToken {
    CancellationToken::new()
}

fn archive(site: &Site) -> PathBuf {
    site.path().join("archive")
}

/// A primary with an archive that is closed until somebody opens it, and a standby of it that is promoted: they part.
async fn parted(site: &Site) -> (Instance, Instance) {
    parted_after(site, &[], async |_| ()).await
}

/// The same with more settings, and with something done before they part.
async fn parted_after(
    site: &Site,
    settings: &[(&str, &str)],
    before: impl AsyncFnOnce(&Instance),
) -> (Instance, Instance) {
    let a = site.instance("a");
    let mut config = (*a.config()).clone();
    let dir = archive(site);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    config.parameters.extend(
        [
            ("autovacuum", "off".to_owned()),
            ("archive_mode", "on".to_owned()),
            ("archive_command", format!("test -e {0}/open && cp %p {0}/%f", dir.display())),
            ("wal_keep_size", "0".to_owned()),
            ("max_wal_size", "32MB".to_owned()),
        ]
        .map(|(k, v)| (k.to_owned(), v)),
    );
    config.parameters.extend(settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    config.loss_keep_wal = 1 << 30;
    a.set_config(config.clone());
    a.initdb(&token()).await.unwrap();
    a.start(&StartAs::Primary, LIMIT).await.unwrap();
    a.create_roles().await.unwrap();
    one(&a, "CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1); SELECT 1").await;
    before(&a).await;
    let b = site.instance("b");
    b.basebackup(&upstream(&a), &no_progress(), &token()).await.unwrap();
    b.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    let flushed = a.observe(LIMIT).await.unwrap().flush_lsn;
    eventually("b has all", || async { b.observe(LIMIT).await.unwrap().replay_lsn >= flushed }).await;
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    b.checkpoint(LIMIT).await.unwrap();
    (a, b)
}

async fn insert(a: &Instance, n: u32) -> u32 {
    one(a, &format!("WITH w AS (INSERT INTO public.t VALUES ({n})) SELECT pg_current_xact_id()::text"))
        .await
        .parse()
        .unwrap()
}

fn only_receipt(a: &Instance) -> Receipt {
    let (all, odd) = loss::receipts(&loss::directory(&a.config().data_dir)).unwrap();
    assert!(all.len() == 1 && odd.is_empty(), "{all:?} {odd:?}");
    all.into_iter().next().unwrap()
}

fn kept(a: &Instance, receipt: &Receipt) -> PathBuf {
    loss::directory(&a.config().data_dir).join(&receipt.id).join("wal")
}

/// What `pg_waldump` finds in files that were kept.
fn commits_in(dir: &Path, receipt: &Receipt) -> Vec<u32> {
    let (first, last) = (&receipt.wal.segments[0], receipt.wal.segments.last().unwrap());
    let out = std::process::Command::new(common::bin_dir().join("pg_waldump"))
        .args(["-s", &receipt.from.unwrap().lsn.to_string()])
        .args([dir.join(first), dir.join(last)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let commits = text.lines().filter(|l| l.contains("desc: COMMIT"));
    commits.map(|l| l.split("tx:").nth(1).unwrap().split(',').next().unwrap().trim().parse().unwrap()).collect()
}

async fn follows(a: &Instance, b: &Instance) {
    a.start(&StartAs::standby_of(upstream(b), None), LIMIT).await.unwrap();
    eventually("a streams from b", || async { a.observe(LIMIT).await.is_ok_and(|o| o.is_streaming()) }).await;
}

/// Numbers that others may have given are left out: the new history names its real parent only, nothing of that reaches
/// the archive, and whoever was on the old timeline follows, also when it starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_leaves_numbers_out() {
    let site = Site::new();
    let (a, b) = parted(&site).await;
    fs::write(archive(&site).join("open"), "").unwrap();
    // One that goes on replaying, and one that is copied, stopped and does not see what follows.
    let (c, d) = (site.instance("c"), site.instance("d"));
    let mut config = (*c.config()).clone();
    let archives =
        [("archive_mode", "on".to_owned()), ("archive_command", format!("cp %p {}/%f", archive(&site).display()))];
    config.parameters.extend(archives.map(|(k, v)| (k.to_owned(), v)));
    c.set_config(config);
    for standby in [&c, &d] {
        standby.basebackup(&upstream(&b), &no_progress(), &token()).await.unwrap();
        follows(standby, &b).await;
    }
    d.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    let history = |of: &Instance, n: u32| of.config().data_dir.join(format!("pg_wal/{n:08X}.history"));

    assert_eq!(c.next_timeline().await.unwrap(), Timeline(3));
    c.skip_timelines(Timeline(3), Timeline(6)).await.unwrap();
    assert_eq!(c.next_timeline().await.unwrap(), Timeline(6));
    // It is not promoted after all: another one may begin just these.
    c.follow(Some(&upstream(&a)), None).await.unwrap();
    assert_eq!(c.next_timeline().await.unwrap(), Timeline(3));
    c.skip_timelines(Timeline(3), Timeline(6)).await.unwrap();
    c.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    c.start(&StartAs::standby_of(upstream(&b), None), LIMIT).await.unwrap();
    assert_eq!(c.next_timeline().await.unwrap(), Timeline(3), "a standby that starts with such files waits for ever");

    c.skip_timelines(Timeline(3), Timeline(6)).await.unwrap();
    c.promote().await.unwrap();
    assert_eq!(c.wait_promoted(LIMIT).await.unwrap(), Timeline(6));
    let parents =
        |text: &str| -> Vec<u32> { text.lines().filter_map(|l| l.split('\t').next()?.trim().parse().ok()).collect() };
    assert_eq!(parents(&fs::read_to_string(history(&c, 6)).unwrap()), [1, 2]);
    one(&c, "INSERT INTO public.t VALUES (2); SELECT pg_switch_wal()::text").await;
    eventually("the archive has the history", || async { archive(&site).join("00000006.history").exists() }).await;
    for n in 3..6 {
        assert!(!archive(&site).join(format!("{n:08X}.history")).exists(), "a placeholder was archived");
    }

    // What stopped before, and what wrote meanwhile on a timeline that was left out.
    let fork = |of: &Instance| {
        let of = of.clone();
        let to = upstream(&c);
        async move { of.divergence(&to, LIMIT).await.unwrap() }
    };
    assert_eq!(fork(&d).await, Divergence::None);
    follows(&d, &c).await;
    d.kill_hard().await.unwrap();
    follows(&d, &c).await;
    b.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(3));
    one(&b, "INSERT INTO public.t VALUES (3); SELECT pg_switch_wal()::text").await;
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    assert!(matches!(fork(&b).await, Divergence::Unrelated { .. }), "{:?}", fork(&b).await);
    let recorded = b.record_loss(&upstream(&c), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    assert!(matches!(&recorded, Recorded::Receipt(text) if text.contains("1 transaction")), "{recorded:?}");
    c.checkpoint(LIMIT).await.unwrap();
    b.rewind(&upstream(&c), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&b, &c).await;
    for of in [&b, &d] {
        eventually("all rows", || async {
            one(of, "SELECT string_agg(n::text, ',' ORDER BY n) FROM public.t").await == "1,2"
        })
        .await;
    }
    // Nothing is left out from here on, wherever the files came from.
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(7));
}

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

fn rows_of(a: &Instance, receipt: &Receipt) -> Vec<serde_json::Value> {
    let dir = loss::directory(&a.config().data_dir);
    assert_eq!(only_receipt(a).rows.unwrap().kept as usize, loss::rows(&dir, &receipt.id).unwrap().len());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(dir.join(&receipt.id).join("rows.jsonl")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    loss::rows(&dir, &receipt.id).unwrap()
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

/// One that was started as a standby before anybody saw that it has more than its upstream: it has replayed all of it.
async fn stood_by(a: &Instance, b: &Instance) {
    a.start(&StartAs::standby_of(upstream(b), None), LIMIT).await.unwrap();
    eventually("a has replayed its log", || async { a.observe(LIMIT).await.is_ok_and(|o| o.in_recovery) }).await;
    a.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    assert!(a.shutdown_position().await.unwrap().is_none(), "it was no primary when it stopped");
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

/// A server that is promoted writes the new timeline into the control file with its first checkpoint only, which is long
/// on a busy one. Killed before that, it starts as a standby of whoever was promoted beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_its_first_checkpoint_as_a_primary() {
    let site = Site::new();
    let a = site.primary("a").await;
    one(&a, "CREATE TABLE public.t (n int); SELECT 1").await;
    let (c, d) = (site.instance("c"), site.instance("d"));
    let mut config = (*c.config()).clone();
    config.loss_keep_wal = 1 << 30;
    c.set_config(config);
    for standby in [&c, &d] {
        standby.basebackup(&upstream(&a), &no_progress(), &token()).await.unwrap();
        follows(standby, &a).await;
    }
    // The checkpoint after a promotion takes its time between pages that are to be written.
    one(&a, "INSERT INTO public.t SELECT generate_series(1, 100000); SELECT 1").await;
    let flushed = a.observe(LIMIT).await.unwrap().flush_lsn;
    for standby in [&c, &d] {
        eventually("all is replayed", || async { standby.observe(LIMIT).await.unwrap().replay_lsn >= flushed }).await;
    }
    a.kill_hard().await.unwrap();
    c.promote().await.unwrap();
    assert_eq!(c.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    insert(&c, 200_000).await;
    c.kill_hard().await.unwrap();
    d.skip_timelines(Timeline(2), Timeline(3)).await.unwrap();
    d.promote().await.unwrap();
    assert_eq!(d.wait_promoted(LIMIT).await.unwrap(), Timeline(3));
    d.checkpoint(LIMIT).await.unwrap();

    stood_by(&c, &d).await;
    let control =
        std::process::Command::new(common::bin_dir().join("pg_controldata")).arg(&c.config().data_dir).output();
    let control = String::from_utf8(control.unwrap().stdout).unwrap();
    let says = |what: &str, value: &str| control.lines().any(|l| l.starts_with(what) && l.ends_with(value));
    assert!(
        says("Latest checkpoint's TimeLineID:", " 1") && says("Min recovery ending loc's timeline:", " 2"),
        "{control}"
    );
    assert!(!c.divergence(&upstream(&d), LIMIT).await.unwrap().can_follow());
    c.record_loss(&upstream(&d), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    if c.needs_recovery().await.unwrap() {
        c.crash_recover_single_user(&token()).await.unwrap();
    }
    c.keep_lost_rows(LIMIT, &token()).await.unwrap();
    let rows = rows_of(&c, &only_receipt(&c));
    assert_eq!(rows.iter().map(|r| r["row"]["n"].clone()).collect::<Vec<_>>(), [200_000], "{rows:?}");
    c.rewind(&upstream(&d), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&c, &d).await;
    eventually("c has what d has", || async { one(&c, "SELECT max(n)::text FROM public.t").await == "100000" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_is_gone_comes_from_the_archive() {
    let site = Site::new();
    let (a, b) = parted(&site).await;
    fs::write(archive(&site).join("open"), "").unwrap();
    let mut lost = vec![insert(&a, 2).await];
    let forked = one(&a, "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    for n in 3..8 {
        one(&a, "SELECT pg_switch_wal()::text").await;
        lost.push(insert(&a, n).await);
    }
    let wal = a.config().data_dir.join("pg_wal");
    eventually("the segments are archived and gone", || async {
        a.checkpoint(LIMIT).await.unwrap();
        !wal.join(&forked).exists()
    })
    .await;
    // The checkpoint at the end begins a segment, and removes the one before if that was archived by then: with the
    // archive closed, what is written from here on stays.
    fs::remove_file(archive(&site).join("open")).unwrap();
    one(&a, "SELECT pg_switch_wal()::text").await;
    lost.push(insert(&a, 8).await);
    a.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();

    let with = |command: String| {
        let mut config = (*a.config()).clone();
        config.recovery_conf.insert("restore_command".into(), command);
        a.set_config(config);
    };
    let patience = Duration::from_millis(700);
    // Neither a hang nor half a segment is taken for anything else.
    with("sleep 4711 & sleep 4711".into());
    let began = Instant::now();
    a.record_loss(&upstream(&b), Destroying::Rewind, patience, &token()).await.unwrap();
    let receipt = only_receipt(&a);
    assert!(
        receipt.notes[0].contains("not there any more") && receipt.notes[0].contains("did not finish"),
        "{receipt:?}"
    );
    assert!(receipt.xids.len() < lost.len() && receipt.xids.last() == lost.last(), "{receipt:?}");
    let error = a.rewind(&upstream(&b), patience, &no_progress(), &token()).await.unwrap_err();
    assert!(error.kind == ErrorKind::TimedOut && error.to_string().contains("fetching 0000000"), "{error}");
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    eventually("what hung was ended with what it started", || async {
        let sleeps = |pid: &_| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.starts_with(b"sleep"));
        !processes_in(site.path()).iter().any(sleeps)
    })
    .await;
    with("head -c 100 /dev/zero > %p".into());
    // Of a command that ends by itself the end counts, however long it takes on a busy machine.
    let error = a.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap_err().to_string();
    assert!(error.contains("left 100 bytes"), "{error}");
    assert!(!wal.join(&forked).exists());
    with("exit 3".into());
    let error = a.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap_err().to_string();
    assert!(error.contains("restore_command for 0000000") && error.contains('3'), "{error}");

    loss::acknowledge(&loss::directory(&a.config().data_dir), &receipt.id).unwrap();
    with(format!("cp {}/%f %p", archive(&site).display()));
    a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    let receipt = only_receipt(&a);
    assert_eq!((&receipt.xids, receipt.notes.len()), (&lost, 0), "{:?}", receipt.notes);
    assert_eq!(commits_in(&kept(&a, &receipt), &receipt), lost);
    a.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap();
    follows(&a, &b).await;
}

/// `pg_rewind` that does this instead.
fn with_rewind(site: &Site, of: &Instance, script: &str) {
    let dir = site.path().join(format!("bin-{}", script.len()));
    fs::create_dir(&dir).unwrap();
    for program in fs::read_dir(common::bin_dir()).unwrap().map(Result::unwrap) {
        std::os::unix::fs::symlink(program.path(), dir.join(program.file_name())).unwrap();
    }
    let rewind = dir.join("pg_rewind");
    fs::remove_file(&rewind).unwrap();
    fs::write(&rewind, format!("#!/bin/sh\n{script}\n")).unwrap();
    let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&rewind, mode).unwrap();
    let mut config = (*of.config()).clone();
    config.bin_dir = Some(dir);
    of.set_config(config);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rewind_left_that_broke_off_is_not_started() {
    let site = Site::new();
    let (a, b) = parted(&site).await;
    insert(&a, 2).await;
    // Leaves the history of a later than b did.
    let c = site.instance("c");
    c.basebackup(&upstream(&a), &no_progress(), &token()).await.unwrap();
    follows(&c, &a).await;
    insert(&a, 3).await;
    let flushed = a.observe(LIMIT).await.unwrap().flush_lsn;
    eventually("c has all", || async { c.observe(LIMIT).await.unwrap().replay_lsn >= flushed }).await;
    a.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    c.promote().await.unwrap();
    c.wait_promoted(LIMIT).await.unwrap();
    c.checkpoint(LIMIT).await.unwrap();

    let own = (*a.config()).clone();
    let rewind = async |from: &Instance| a.rewind(&upstream(from), LIMIT, &no_progress(), &token()).await;
    with_rewind(&site, &a, "exit 1");
    rewind(&b).await.unwrap_err();
    let found = a.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(found, Divergence::Forked { .. }), "nothing was changed: {found:?}");
    with_rewind(&site, &a, "echo 'pg_rewind: need to copy 12 MB (total source directory size is 40 MB)' >&2; exit 1");
    rewind(&b).await.unwrap_err();
    a.set_config(own);
    for of in [&b, &c] {
        let found = a.divergence(&upstream(of), LIMIT).await.unwrap();
        assert!(matches!(found, Divergence::HalfRewound { .. }), "{found:?}");
    }
    let refused = a.start(&StartAs::standby_of(upstream(&b), None), LIMIT).await.unwrap_err().to_string();
    assert!(refused.contains("broke off") && refused.contains("surus reinit"), "{refused}");
    let late = rewind(&c).await.unwrap_err().to_string();
    assert!(late.contains("too late"), "{late}");
    rewind(&b).await.unwrap();
    follows(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_primary_that_has_nothing_more_just_follows() {
    let site = Site::new();
    let a = site.primary("a").await;
    one(&a, "CREATE TABLE public.t (n int); SELECT 1").await;
    let b = site.instance("b");
    b.basebackup(&upstream(&a), &no_progress(), &token()).await.unwrap();
    b.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    eventually("b has all", || async {
        b.observe(LIMIT).await.unwrap().replay_lsn >= a.observe(LIMIT).await.unwrap().flush_lsn
    })
    .await;
    let end = a.observe(LIMIT).await.unwrap().flush_lsn;
    a.kill_hard().await.unwrap();
    b.promote().await.unwrap();
    b.wait_promoted(LIMIT).await.unwrap();
    let history = b.timeline_history(Timeline(2)).await.unwrap();
    // The server may have written by itself in its last moment.
    let want = if history[0].switch_lsn >= end { "follows" } else { "forked" };
    let divergence = a.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert_eq!(if divergence.can_follow() { "follows" } else { "forked" }, want, "{divergence:?} {end} {history:?}");
    let recorded = a.record_loss(&upstream(&b), Destroying::Rewind, LIMIT, &token()).await.unwrap();
    assert!(matches!(recorded, Recorded::Nothing(_)), "{recorded:?}");
    if divergence.can_follow() {
        follows(&a, &b).await;
    }
}

/// Each of two sites promotes a standby of its own, and both give the same number to the timeline that begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_number_for_two_timelines() {
    let site = Site::new();
    let a = site.primary("a").await;
    one(&a, "CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1); SELECT 1").await;
    let (b, c) = (site.instance("b"), site.instance("c"));
    for standby in [&b, &c] {
        standby.basebackup(&upstream(&a), &no_progress(), &token()).await.unwrap();
        standby.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    }
    let has_all = async |standby: &Instance| {
        let flushed = a.observe(LIMIT).await.unwrap().flush_lsn;
        eventually("it has all", || async { standby.observe(LIMIT).await.unwrap().replay_lsn >= flushed }).await;
    };
    has_all(&b).await;
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    b.checkpoint(LIMIT).await.unwrap();
    insert(&a, 2).await;
    has_all(&c).await;
    c.promote().await.unwrap();
    assert_eq!(c.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    insert(&c, 3).await;
    c.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    insert(&b, 4).await;

    let found = c.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(found, Divergence::SameNumber { timeline: Timeline(2), .. }), "{found:?}");
    let refused = c.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap_err();
    assert!(
        refused.kind == ErrorKind::Refused && refused.to_string().contains("number 2 to two timelines"),
        "{refused}"
    );

    // With another number there it can be told, and mended.
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    b.start(&StartAs::Standby { upstream: None, slot: None }, LIMIT).await.unwrap();
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(3));
    b.checkpoint(LIMIT).await.unwrap();
    let found = c.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(found, Divergence::Forked { timeline: Timeline(1), .. }), "{found:?}");
    c.rewind(&upstream(&b), LIMIT, &no_progress(), &token()).await.unwrap();
    c.start(&StartAs::standby_of(upstream(&b), None), LIMIT).await.unwrap();
    eventually("c follows b", || async { c.observe(LIMIT).await.is_ok_and(|o| o.is_streaming()) }).await;
    eventually("c has what b has", || async {
        one(&c, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM public.t").await == "1 4"
    })
    .await;
}
