//! A former primary with log that nobody else has: what is written down of it, and how it becomes a standby again.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod receipts;
mod timelines;
mod unclean;

use std::fs;
use std::path::{Path, PathBuf};

use common::{LIMIT, Site, eventually, no_progress, one, upstream};
use surus_core::Timeline;
use surus_core::loss::Receipt;
use surus_postgres::{Instance, StartAs, StopMode, loss};
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

fn rows_of(a: &Instance, receipt: &Receipt) -> Vec<serde_json::Value> {
    let dir = loss::directory(&a.config().data_dir);
    assert_eq!(only_receipt(a).rows.unwrap().kept as usize, loss::rows(&dir, &receipt.id).unwrap().len());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(dir.join(&receipt.id).join("rows.jsonl")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    loss::rows(&dir, &receipt.id).unwrap()
}

/// One that was started as a standby before anybody saw that it has more than its upstream: it has replayed all of it.
async fn stood_by(a: &Instance, b: &Instance) {
    a.start(&StartAs::standby_of(upstream(b), None), LIMIT).await.unwrap();
    eventually("a has replayed its log", || async { a.observe(LIMIT).await.is_ok_and(|o| o.in_recovery) }).await;
    a.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    assert!(a.shutdown_position().await.unwrap().is_none(), "it was no primary when it stopped");
}
