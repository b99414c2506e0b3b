//! A primary and its replicas.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Instant;

use common::{LIMIT, Site, eventually, no_progress, one, upstream};
use surus_core::Timeline;
use surus_core::postgres::{DataDir, Progress};
use surus_core::slots::Action;
use surus_postgres::{Divergence, ErrorKind, FollowOutcome, Instance, StartAs, StopMode};
use tokio_util::sync::CancellationToken;

async fn streams(standby: &Instance) -> bool {
    standby.observe(LIMIT).await.is_ok_and(|o| o.is_streaming())
}

/// Not by a connection to somebody else that is about to end.
async fn streams_from(standby: &Instance, sender: &Instance) -> bool {
    let receiver = "SELECT max(sender_port)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    one(standby, receiver).await == sender.config().port.to_string()
}

/// Leaves the primary reachable from elsewhere by TLS only; the certificate it shows.
async fn encrypt(site: &Site, primary: &Instance) -> std::path::PathBuf {
    let data = primary.config().data_dir.clone();
    let (cert, key) = (data.join("server.crt"), data.join("server.key"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=primary"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl is missing; install it: apt-get install -y openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let copy = site.path().join("root.crt");
    fs::copy(&cert, &copy).unwrap();
    let owner = fs::metadata(&data).unwrap();
    for file in [&cert, &key] {
        chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut config = (*primary.config()).clone();
    config.parameters.insert("ssl".into(), "on".into());
    for line in config.pg_hba.as_mut().unwrap() {
        *line = line.replace("host ", "hostssl ");
    }
    primary.set_config(config);
    primary.reload().await.unwrap();
    eventually("TLS is on", || async { one(primary, "SHOW ssl").await == "on" }).await;
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clone_promote_follow_rewind() {
    let site = Site::new();
    let a = site.primary("a").await;
    one(&a, "CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1); SELECT 1").await;
    a.change_slots(vec![Action::CreatePhysical("b".into())]).await.unwrap();

    let (b, c) = (site.instance("b"), site.instance("c"));
    let began = Instant::now();
    let (progress, seen) = tokio::sync::watch::channel(None::<Progress>);
    let what = tokio::spawn({
        let mut seen = seen.clone();
        async move { seen.wait_for(Option::is_some).await.unwrap().clone().unwrap().what }
    });
    b.basebackup(&upstream(&a), &progress, &CancellationToken::new()).await.unwrap();
    eprintln!("basebackup {:?}", began.elapsed());
    assert_eq!(what.await.unwrap(), "copying from a");
    assert_eq!(*seen.borrow(), None);
    let began = Instant::now();
    b.start(&StartAs::standby_of(upstream(&a), Some("b".into())), LIMIT).await.unwrap();
    eprintln!("start standby {:?}", began.elapsed());
    eventually("b streams", || streams(&b)).await;
    let seen = b.observe(LIMIT).await.unwrap();
    let receiver = seen.receiver.clone().unwrap();
    assert_eq!((receiver.slot_name.as_deref(), receiver.sender_port), (Some("b"), Some(a.config().port)));
    assert_eq!((seen.timeline, seen.replication_state()), (Some(Timeline(1)), Some("streaming")));
    assert!(matches!(b.data_dir().await, DataDir::Present { standby_signal: true, .. }));
    let senders = a.observe(LIMIT).await.unwrap().senders;
    assert_eq!((senders.len(), senders[0].application_name.as_str()), (1, "b"));
    assert_eq!(b.divergence(&upstream(&a), LIMIT).await.unwrap(), Divergence::None);
    assert_eq!(a.divergence(&upstream(&b), LIMIT).await.unwrap_err().kind, ErrorKind::Refused);

    // A standby is started with what its primary has, not with less.
    c.basebackup(&upstream(&a), &no_progress(), &CancellationToken::new()).await.unwrap();
    let mut config = (*c.config()).clone();
    config.command_line[0].1 = "20".into();
    config.parameters.insert("max_connections".into(), "20".into());
    c.set_config(config);
    let started = c.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    assert_eq!(started.raised["max_connections"].old_value, "30");
    eventually("c streams", || streams(&c)).await;

    // The primary crashes with a transaction nobody else has.
    for standby in [&b, &c] {
        standby.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    }
    one(&a, "INSERT INTO public.t VALUES (2); SELECT 1").await;
    let lost = a.observe(LIMIT).await.unwrap().flush_lsn;
    a.kill_hard().await.unwrap();
    for standby in [&b, &c] {
        standby.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    }
    // Nothing to receive from, and the timeline is known all the same.
    assert_eq!(b.observe(LIMIT).await.unwrap().timeline, Some(Timeline(1)));

    let began = Instant::now();
    b.promote().await.unwrap();
    assert_eq!(b.wait_promoted(LIMIT).await.unwrap(), Timeline(2));
    eprintln!("promote {:?}", began.elapsed());
    let mut config = (*b.config()).clone();
    config.parameters.insert("work_mem".into(), "5MB".into());
    b.set_config(config);
    b.reload().await.unwrap();
    eventually("the reload is seen", || async { one(&b, "SHOW work_mem").await == "5MB" }).await;
    let complaints = "SELECT count(*) FROM pg_file_settings WHERE error IS NOT NULL";
    assert_eq!(one(&b, complaints).await, "0", "nothing that a promoted server cannot take over");
    assert_eq!(one(&b, "SELECT count(*) FROM pg_settings WHERE pending_restart").await, "0");
    assert_eq!(b.promote().await.unwrap_err().kind, ErrorKind::Refused);
    assert!(matches!(b.data_dir().await, DataDir::Present { standby_signal: false, .. }));
    let history = b.timeline_history(Timeline(2)).await.unwrap();
    assert_eq!((history.len(), history[0].timeline), (1, Timeline(1)));
    assert!(history[0].timestamp.is_some() && history[0].switch_lsn < lost);
    one(&b, "INSERT INTO public.t VALUES (3); SELECT 1").await;

    // c re-points without a restart.
    let pid = c.process().await.unwrap().pid;
    let began = Instant::now();
    assert_eq!(c.follow(Some(&upstream(&b)), None).await.unwrap(), FollowOutcome::Reloaded);
    assert_eq!(c.follow(Some(&upstream(&b)), None).await.unwrap(), FollowOutcome::Unchanged);
    eventually("c streams from b", || async {
        let seen = c.observe(LIMIT).await.unwrap();
        seen.is_streaming() && seen.timeline == Some(Timeline(2))
    })
    .await;
    eprintln!("re-point {:?}", began.elapsed());
    assert_eq!(c.process().await.unwrap().pid, pid);

    // a has forked; it says so, is rewound and follows.
    let crashed = a.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(crashed, Divergence::Forked { timeline: Timeline(1), .. }), "{crashed:?}");
    assert!(a.needs_recovery().await.unwrap());
    a.crash_recover_single_user(&CancellationToken::new()).await.unwrap();
    let divergence = a.divergence(&upstream(&b), LIMIT).await.unwrap();
    assert!(matches!(divergence, Divergence::Forked { timeline: Timeline(1), .. }), "{divergence:?}");
    a.can_rewind().await.unwrap();
    b.checkpoint(LIMIT).await.unwrap();
    let began = Instant::now();
    assert!(!a.needs_recovery().await.unwrap());
    a.rewind(&upstream(&b), LIMIT, &no_progress(), &CancellationToken::new()).await.unwrap();
    eprintln!("rewind {:?}", began.elapsed());
    a.start(&StartAs::standby_of(upstream(&b), None), LIMIT).await.unwrap();
    eventually("a streams from b", || streams(&a)).await;
    eventually("a has caught up", || async {
        one(&a, "SELECT string_agg(n::text, ',' ORDER BY n) FROM public.t").await == "1,3"
    })
    .await;
    assert_eq!(a.follow(Some(&upstream(&c)), None).await.unwrap(), FollowOutcome::Reloaded);
    eventually("a streams from c", || streams_from(&a, &c)).await;

    // A clean hand-over leaves nothing to rewind.
    a.follow(Some(&upstream(&b)), None).await.unwrap();
    eventually("a streams from b again", || streams_from(&a, &b)).await;
    b.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    let end = b.shutdown_position().await.unwrap().unwrap();
    eventually("a has the last record", || async { a.observe(LIMIT).await.unwrap().replay_lsn > end.checkpoint }).await;
    a.promote().await.unwrap();
    assert_eq!(a.wait_promoted(LIMIT).await.unwrap(), Timeline(3));
    assert_eq!(b.divergence(&upstream(&a), LIMIT).await.unwrap(), Divergence::None);
    assert_eq!(b.follow(Some(&upstream(&a)), None).await.unwrap(), FollowOutcome::RestartNeeded);
    b.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    eventually("b streams from a", || streams(&b)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_whole_or_not_there() {
    let site = Site::new();
    let a = site.primary("a").await;
    let root = encrypt(&site, &a).await;
    one(&a, "CREATE TABLE public.big AS SELECT repeat('x', 1000) FROM generate_series(1, 20000); SELECT 1").await;
    let b = site.instance("b");
    let mut config = (*b.config()).clone();
    config.basebackup_options = vec!["--max-rate=2M".into()];
    config.replication.options.insert("sslmode".into(), "require".into());
    let rewind = &mut config.rewind.as_mut().unwrap().options;
    rewind.insert("sslmode".into(), "verify-ca".into());
    rewind.insert("sslrootcert".into(), root.display().to_string());
    b.set_config(config.clone());
    let staged = site.path().join("b.surus.new");

    // On request.
    let cancel = CancellationToken::new();
    let (progress, mut seen) = tokio::sync::watch::channel(None);
    let copy = tokio::spawn({
        let (b, cancel, from) = (b.clone(), cancel.clone(), upstream(&a));
        async move { b.basebackup(&from, &progress, &cancel).await }
    });
    let percent = match seen.wait_for(|p| p.as_ref().is_some_and(|p| p.done_bytes > 0)).await {
        Ok(progress) => progress.as_ref().unwrap().percent(),
        Err(_) => panic!("the copy ended early: {:?}", copy.await),
    };
    assert!(percent.is_some());
    assert_eq!(b.data_dir().await, DataDir::Empty);
    cancel.cancel();
    assert_eq!(copy.await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
    assert!(!staged.exists());

    // By an end of the agent: the program goes on writing until the next agent ends it.
    let dir = staged.clone();
    fs::create_dir(&dir).unwrap();
    if common::is_root() {
        let meta = fs::metadata(site.path()).unwrap();
        chown(&dir, Some(meta.uid()), Some(meta.gid())).unwrap();
    }
    let source = format!("host=127.0.0.1 port={} user=replicator password=rep:pass", a.config().port);
    let script = format!(
        "{} --pgdata={} -X stream --max-rate=2M --dbname='{source}' >/dev/null 2>&1 &",
        common::bin_dir().join("pg_basebackup").display(),
        dir.display()
    );
    let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(status.success());
    eventually("the copy is under way", || async {
        dir.join("PG_VERSION").exists() || dir.join("backup_label").exists()
    })
    .await;
    assert!(!b.orphans().await.unwrap().is_empty());
    config.basebackup_options.clear();
    b.set_config(config);
    b.basebackup(&upstream(&a), &no_progress(), &CancellationToken::new()).await.unwrap();
    assert!(!staged.exists());
    b.start(&StartAs::standby_of(upstream(&a), None), LIMIT).await.unwrap();
    eventually("b streams", || streams(&b)).await;
    let encrypted = "SELECT bool_and(ssl)::text FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
    assert_eq!(one(&a, encrypted).await, "true");
    assert_eq!(b.divergence(&upstream(&a), LIMIT).await.unwrap(), Divergence::None);
    let mut config = (*b.config()).clone();
    config.rewind.as_mut().unwrap().options.insert("sslmode".into(), "disable".into());
    b.set_config(config);
    let error = b.divergence(&upstream(&a), LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("no encryption"), "{error}");

    // A wrong password, and nobody there.
    let c = site.instance("c");
    let mut config = (*c.config()).clone();
    config.replication.password = Some("wrong".into());
    c.set_config(config);
    let error = c.basebackup(&upstream(&a), &no_progress(), &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("password authentication failed"), "{error}");
    assert!(!error.to_string().contains("wrong"));
    assert_eq!(c.data_dir().await, DataDir::Empty);
}
