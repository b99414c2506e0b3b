//! Ways back of a server that ended badly, or whose way back did.

use std::fs;
use std::time::{Duration, Instant};

use surus_core::Timeline;
use surus_core::loss::{Destroying, Recorded};
use surus_postgres::{Divergence, ErrorKind, Instance, StartAs, StopMode, loss};

use crate::common::{LIMIT, Site, bin_dir, eventually, no_progress, one, processes_in, upstream};
use crate::{archive, commits_in, follows, insert, kept, only_receipt, parted, rows_of, stood_by, token};

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
    let control = std::process::Command::new(bin_dir().join("pg_controldata")).arg(&c.config().data_dir).output();
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
    for program in fs::read_dir(bin_dir()).unwrap().map(Result::unwrap) {
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
