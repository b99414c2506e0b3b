//! One server from nothing to its end.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{LIMIT, Site, bin_dir, eventually, is_root, kill, one, processes_in};
use rustix::process::Signal;
use surus_core::Timeline;
use surus_core::postgres::{ControlState, DataDir, ProcessState};
use surus_core::slots::{Action, LogicalSlot};
use surus_postgres::{DataDirLock, ErrorKind, Instance, Postmaster, StartAs, StopMode, Stopped};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_initdb_to_a_clean_stop() {
    let site = Site::new();
    let node = site.instance("a");
    assert_eq!(node.data_dir().await, DataDir::Empty);
    assert_eq!(node.accepting(LIMIT).await, ProcessState::NotRunning);
    assert_eq!(node.stop(StopMode::Fast, None).await.unwrap(), Stopped::NotRunning);
    let error = node.start(&StartAs::Primary, LIMIT).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);

    let began = Instant::now();
    node.initdb(&CancellationToken::new()).await.unwrap();
    eprintln!("initdb {:?}", began.elapsed());
    let DataDir::Present { standby_signal: false, control, .. } = node.data_dir().await else { panic!() };
    assert_eq!(control.state, ControlState::ShutDown);
    assert!(control.data_checksums);
    assert!(fs::read_dir(site.path()).unwrap().flatten().all(|e| !e.file_name().to_string_lossy().contains("surus")));
    let error = node.initdb(&CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);

    let started = node.start(&StartAs::Primary, LIMIT).await.unwrap();
    eprintln!("start {:?}", started.took);
    assert_eq!(node.accepting(LIMIT).await, ProcessState::Accepting);
    node.create_roles().await.unwrap();
    node.create_roles().await.unwrap();
    assert_eq!(node.start(&StartAs::Primary, LIMIT).await.unwrap_err().kind, ErrorKind::Running);

    let seen = node.observe(LIMIT).await.unwrap();
    assert_eq!((seen.in_recovery, seen.timeline), (false, Some(Timeline(1))));
    assert!(seen.flush_lsn.is_valid() && seen.server_version >= 130_000 && seen.pending_restart.is_empty());
    assert_eq!(seen.position(), seen.flush_lsn);
    assert_eq!(&seen.postmaster_start_time[4..5], "-");
    assert_eq!(seen.postmaster_start_time.len(), "2026-01-01 00:00:00.000000+00:00".len());
    let again = Instant::now();
    node.observe(LIMIT).await.unwrap();
    eprintln!("observe {:?}", again.elapsed());

    // Its own session, the right owner.
    let stat = fs::read_to_string(format!("/proc/{}/stat", started.postmaster.pid)).unwrap();
    let session: i32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(session, started.postmaster.pid);
    if is_root() {
        for path in ["postgresql.conf", "postgresql.base.conf", "pg_hba.conf"] {
            assert_ne!(fs::metadata(node.config().data_dir.join(path)).unwrap().uid(), 0, "{path}");
        }
    }

    // A setting that needs a restart.
    let mut config = (*node.config()).clone();
    config.parameters.insert("max_worker_processes".into(), "9".into());
    config.parameters.insert("work_mem".into(), "5MB".into());
    node.set_config(config);
    node.reload().await.unwrap();
    eventually("the reload", || async { one(&node, "SHOW work_mem").await == "5MB" }).await;
    eventually("the pending restart", || async { !node.observe(LIMIT).await.unwrap().pending_restart.is_empty() })
        .await;
    let pending = node.observe(LIMIT).await.unwrap().pending_restart;
    assert_eq!(pending["max_worker_processes"].old_value, "8");
    assert_eq!(pending["max_worker_processes"].new_value, "9");
    assert!(node.settings(LIMIT).await.unwrap()["max_worker_processes"].pending_restart);

    // Slots. One that cannot be had does not keep the others from being there.
    let create = |name: &str| Action::CreatePhysical(name.to_owned());
    let logical = LogicalSlot { name: "l".into(), database: "postgres".into(), plugin: "no_such_plugin".into() };
    let actions = vec![create("b"), Action::CreateLogical { slot: logical, failover: false }, create("c"), create("b")];
    let changed = node.change_slots(actions).await.unwrap();
    assert_eq!(changed.iter().map(|c| c.outcome.is_ok()).collect::<Vec<_>>(), [true, false, true, true]);
    let drop = |name: &str| Action::Drop { name: name.to_owned(), why: "test" };
    assert!(node.change_slots(vec![drop("c")]).await.unwrap()[0].outcome.is_ok());
    assert_eq!(node.observe(LIMIT).await.unwrap().slots.len(), 1);

    node.checkpoint(LIMIT).await.unwrap();
    let stopped = node.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    eprintln!("stop {stopped:?}");
    assert!(matches!(stopped, Stopped::Exited { .. }));
    assert!(!started.postmaster.is_alive());
    assert!(node.wait_shut_down(LIMIT).await.unwrap());
    let end = node.shutdown_position().await.unwrap().unwrap();
    assert_eq!((end.timeline, end.checkpoint), (Timeline(1), end.publish));
    assert!(end.checkpoint > seen.flush_lsn);
    of_another_version(&node).await;
}

/// Parameters that would keep this server from starting, and one that no later start may lack.
async fn of_another_version(node: &Instance) {
    let mut config = (*node.config()).clone();
    for (name, value) in [
        ("stats_temp_directory", "pg_stat_tmp"),
        ("wal_keep_segments", "8"),
        ("work_mem", "a lot"),
        ("wal_level", "huge"),
        ("my.own", "1"),
        // They come before the others and say where faults are told.
        ("log_destination", "syslog"),
        ("log_min_messages", "panic"),
        ("zero_damaged_pages", "off"),
        ("maintenance_work_mem", "6MB"),
        ("max_prepared_transactions", "300000"),
        // Within its own range, and with the other limits too much.
        ("max_connections", "300000"),
    ] {
        config.parameters.insert(name.into(), value.into());
    }
    config.command_line.push(("max_prepared_transactions".into(), "300000".into()));
    config.command_line.push(("wal_level".into(), "huge".into()));
    config.command_line.push(("max_connections".into(), "300000".into()));
    node.set_config(config.clone());
    assert!(
        node.command_line().await.contains(&("max_prepared_transactions".into(), "300000".into())),
        "not asked yet"
    );
    node.write_config(&StartAs::Primary).await.unwrap();
    assert!(node.command_line().await.contains(&("max_prepared_transactions".into(), "262143".into())));
    assert!(!node.command_line().await.iter().any(|(name, _)| name == "wal_level" || name == "max_connections"));

    // A server for so many wants more memory than a machine for tests has.
    config.parameters.insert("max_prepared_transactions".into(), "1".into());
    config.command_line = vec![("max_prepared_transactions".into(), "1".into())];
    node.set_config(config.clone());
    node.start(&StartAs::Primary, LIMIT).await.unwrap();
    for (name, value) in [("my.own", "1"), ("maintenance_work_mem", "6MB"), ("max_prepared_transactions", "1")] {
        assert_eq!(one(node, &format!("SHOW {name}")).await, value, "{name}");
    }
    let written = fs::read_to_string(config.data_dir.join("postgresql.conf")).unwrap();
    for name in ["stats_temp_directory", "wal_keep_segments", "work_mem = ", "wal_level", "max_connections"] {
        assert!(!written.lines().any(|line| line.starts_with(name)), "{written}");
    }
    assert!(written.contains("zero_damaged_pages"), "it is in no sample, and known: {written}");

    // A reload of what another start would not take.
    config.parameters.insert("autovacuum_naptime".into(), "soon".into());
    config.parameters.insert("work_mem".into(), "7MB".into());
    node.set_config(config);
    node.reload().await.unwrap();
    eventually("the reload", || async { one(node, "SHOW work_mem").await == "7MB" }).await;
    let errors = "SELECT count(*)::text FROM pg_file_settings WHERE error IS NOT NULL";
    assert_eq!(one(node, errors).await, "0");
    node.stop(StopMode::Fast, Some(LIMIT)).await.unwrap();
    assert!(!fs::exists(node.config().data_dir.join("postgresql.conf.surus.check")).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postmaster_leaves_orphans_that_are_ended() {
    let site = Site::new();
    let node = site.primary("a").await;
    let busy = node.clone();
    let work = tokio::spawn(async move { busy.query("SELECT pg_sleep(600)", Duration::from_secs(600)).await });
    eventually("the busy backend", || async {
        one(
            &node,
            "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active'",
        )
        .await
            != "1"
    })
    .await;
    assert_eq!(node.orphans().await.unwrap(), Vec::<i32>::new());
    // Frozen backends neither notice that the postmaster is gone nor end by themselves.
    let postmaster = node.process().await.unwrap();
    let all = processes_in(&node.config().data_dir);
    for pid in all.iter().filter(|p| **p != postmaster.pid) {
        kill(*pid, Signal::STOP);
    }
    let (woken, exited) = (Instant::now(), postmaster.clone());
    let waiting = tokio::spawn(async move {
        exited.exited().await;
        Instant::now()
    });
    postmaster.signal(Signal::KILL).unwrap();
    let noticed = waiting.await.unwrap();
    assert!(noticed - woken < Duration::from_secs(2));
    assert!(node.process().await.is_none());
    assert!(node.observe(LIMIT).await.is_err());
    let orphans = node.orphans().await.unwrap();
    assert!(orphans.len() > 3, "{orphans:?}");
    let ended = node.kill_orphans().await.unwrap();
    assert!(ended >= orphans.len());
    assert_eq!(node.orphans().await.unwrap(), Vec::<i32>::new());
    assert!(work.await.unwrap().is_err());
    let DataDir::Present { control, .. } = node.data_dir().await else { panic!() };
    assert_eq!(control.state, ControlState::InProduction);
    node.start(&StartAs::Primary, LIMIT).await.unwrap();

    // Whatever state it is in: frozen this time.
    let postmaster = node.process().await.unwrap();
    postmaster.signal(Signal::STOP).unwrap();
    assert_eq!(node.accepting(Duration::from_millis(300)).await, ProcessState::NotAccepting);
    let error = node.query("SELECT 1", Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(node.stop(StopMode::Fast, Some(Duration::from_millis(100))).await.unwrap(), Stopped::TimedOut);
    node.kill_hard().await.unwrap();
    assert_eq!(processes_in(&node.config().data_dir), Vec::<i32>::new());
    node.crash_recover_single_user(&CancellationToken::new()).await.unwrap();
    let DataDir::Present { control, .. } = node.data_dir().await else { panic!() };
    assert_eq!(control.state, ControlState::ShutDown);
    // And a plain start once more, with the orphans ended on the way.
    node.start(&StartAs::Primary, LIMIT).await.unwrap();
    let postmaster = node.process().await.unwrap();
    // One that was forked just now still looks like a postmaster, and frozen would do so for ever.
    let backend =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|title| title.starts_with(b"postgres: "));
    for pid in processes_in(&node.config().data_dir).into_iter().filter(backend) {
        kill(pid, Signal::STOP);
    }
    postmaster.signal(Signal::KILL).unwrap();
    postmaster.exited().await;
    node.start(&StartAs::Primary, LIMIT).await.unwrap();

    // What it leaves when it is killed goes with its directory, and not while it lives.
    let postmaster = node.process().await.unwrap();
    let data = node.config().data_dir.clone();
    let (posix, inode) = (posix_segments(postmaster.pid), fs::metadata(&data).unwrap().ino());
    assert!(!posix.is_empty() && system_v_segments(inode) == 1);
    assert_eq!(surus_postgres::release_shared_memory(&data), 0);
    assert_eq!(system_v_segments(inode), 1);
    node.kill_hard().await.unwrap();
    assert_eq!(system_v_segments(inode), 1);
    node.move_data_dir_aside().await.unwrap();
    assert_eq!(system_v_segments(inode), 0);
    assert!(posix.iter().all(|path| !path.exists()), "{posix:?}");
}

fn posix_segments(pid: i32) -> Vec<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let paths = maps.lines().filter_map(|line| line.find("/dev/shm/").map(|at| PathBuf::from(&line[at..])));
    paths.filter(|path| path.exists()).collect()
}

fn system_v_segments(key: u64) -> usize {
    let list = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    list.lines().filter(|line| line.split_whitespace().next() == Some(&key.to_string())).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_handle_adopts_what_runs() {
    let site = Site::new();
    let first = site.primary("a").await;
    let pid = first.process().await.unwrap().pid;
    let config = (*first.config()).clone();
    commands_run_once_after_bootstrap(&site, &first).await;
    drop(first);
    let second = Instance::new(config.clone());
    assert_eq!(second.process().await.unwrap().pid, pid);
    assert!(!second.observe(LIMIT).await.unwrap().in_recovery);
    let before = fs::read_to_string(config.data_dir.join("postgresql.conf")).unwrap();
    second.reload().await.unwrap();
    assert_eq!(fs::read_to_string(config.data_dir.join("postgresql.conf")).unwrap(), before);
    assert_eq!(second.process().await.unwrap().pid, pid);
    let error = second.basebackup(&common::upstream(&second), &common::no_progress(), &CancellationToken::new()).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::Running);
    assert_eq!(second.remove_data_dir().await.unwrap_err().kind, ErrorKind::Running);

    // Somebody removed the file that names it.
    let pid_file = config.data_dir.join("postmaster.pid");
    let content = fs::read(&pid_file).unwrap();
    fs::remove_file(&pid_file).unwrap();
    let third = Instance::new(config.clone());
    assert!(third.process().await.is_none());
    assert_eq!(third.orphans().await.unwrap(), Vec::<i32>::new());
    let error = third.start(&StartAs::Primary, LIMIT).await.unwrap_err();
    assert!(error.kind == ErrorKind::Running && error.to_string().contains(&pid.to_string()), "{error}");
    fs::write(&pid_file, content).unwrap();
    let postmaster = third.process().await.unwrap();
    assert_eq!(Postmaster::open(pid, postmaster.start_ticks), Some(postmaster.clone()));
    assert_eq!(Postmaster::open(pid, postmaster.start_ticks + 1), None);

    // Only TCP is left to it when the socket is gone.
    let socket = site.path().join(format!(".s.PGSQL.{}", config.port));
    fs::remove_file(&socket).unwrap();
    second.query("SELECT 1", LIMIT).await.unwrap();
    second.stop(StopMode::Immediate, Some(LIMIT)).await.unwrap();
    assert_eq!(second.shutdown_position().await.unwrap(), None);
    let aside = second.move_data_dir_aside().await.unwrap();
    assert!(aside.join("PG_VERSION").exists() && !config.data_dir.exists());
    assert_eq!(second.data_dir().await, DataDir::Empty);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said() {
    let site = Site::new();
    let node = site.instance("a");
    let dir = node.config().data_dir.clone();

    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("holiday.jpg"), "").unwrap();
    assert!(matches!(node.data_dir().await, DataDir::Foreign(why) if why.contains("holiday.jpg")));
    assert_eq!(node.initdb(&CancellationToken::new()).await.unwrap_err().kind, ErrorKind::Refused);
    assert!(dir.join("holiday.jpg").exists());
    fs::remove_dir_all(&dir).unwrap();

    let _lock = DataDirLock::acquire(&dir).unwrap();
    assert_eq!(DataDirLock::acquire(&dir).unwrap_err().kind, ErrorKind::Locked);

    let mut config = (*node.config()).clone();
    config.bin_dir = Some("/nonexistent".into());
    let error = Instance::new(config.clone()).binaries_version().await.unwrap_err();
    assert!(error.to_string().contains("bin_dir"), "{error}");
    config.bin_dir = Some(bin_dir());
    config.initdb_options.push("--no-such-option".into());
    let error = Instance::new(config.clone()).initdb(&CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("no-such-option"), "{error}");
    assert_eq!(node.data_dir().await, DataDir::Empty);

    let cancel = CancellationToken::new();
    cancel.cancel();
    assert_eq!(node.initdb(&cancel).await.unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(node.data_dir().await, DataDir::Empty);

    node.initdb(&CancellationToken::new()).await.unwrap();
    let mut config = (*node.config()).clone();
    config.parameters.insert("shared_preload_libraries".into(), "no_such_library".into());
    node.set_config(config.clone());
    let error = node.start(&StartAs::Primary, LIMIT).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StartFailed);
    assert!(error.to_string().contains("no_such_library"), "{error}");
    assert!(node.process().await.is_none());

    config.parameters.remove("shared_preload_libraries");
    config.parameters.insert("unix_socket_directories".into(), format!("/tmp/{}", "x".repeat(110)));
    node.set_config(config.clone());
    let error = node.start(&StartAs::Primary, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("107"), "{error}");

    fs::write(dir.join("PG_VERSION"), "99\n").unwrap();
    let DataDir::Foreign(why) = node.data_dir().await else { panic!() };
    assert!(why.contains("99") && why.contains("pg_upgrade"), "{why}");
}

async fn commands_run_once_after_bootstrap(site: &Site, node: &Instance) {
    let out = site.path().join("out");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let psql = bin_dir().join("psql");
    let script = format!("sh -c '{} -At -d \"$1\" -c \"SELECT current_user\" > {}' sh", psql.display(), out.display());
    node.post_bootstrap(&script, &CancellationToken::new()).await.unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), "postgres\n");
    let error = node.post_bootstrap("sh -c 'echo alas >&2; exit 3'", &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("alas"), "{error}");
    assert_eq!(node.post_bootstrap("'", &CancellationToken::new()).await.unwrap_err().kind, ErrorKind::Refused);
    // Nothing that was said contains a password.
    let log = fs::read_to_string(node.config().server_log.as_ref().unwrap()).unwrap();
    for secret in ["it's super", "rep:pass", "back\\slash"] {
        assert!(!log.contains(secret));
    }
}

/// Settings are reloaded while the names are changed: each on its own would be right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_the_files_do_not_undo_each_other() {
    let site = Site::new();
    let node = site.instance("a");
    node.initdb(&CancellationToken::new()).await.unwrap();
    node.choose_names(Some("s".into()));
    let other = node.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..200 {
            other.write_config(&StartAs::Primary).await.unwrap();
        }
    });
    for round in 0..200 {
        node.choose_names(Some(format!("s{round}")));
        node.write_config(&StartAs::Primary).await.unwrap();
        let text = fs::read_to_string(site.path().join("a/postgresql.conf")).unwrap();
        assert!(text.contains(&format!("'s{round}'")), "s{round}: {text}");
    }
    writer.await.unwrap();
}
