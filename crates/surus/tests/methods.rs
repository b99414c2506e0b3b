//! Replicas and clusters made by commands of the user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use surus_testbed::{Builder, Cluster, PASSWORD, StoreKind, wait_for};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

/// A place for scripts and what they leave, open to PostgreSQL's user.
fn scripts() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("surus-methods-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// `$data` and `$source` are the arguments of those names.
fn script(dir: &TempDir, name: &str, body: &str) -> Result<PathBuf> {
    let path = dir.path().join(name);
    let text = format!(
        "#!/bin/sh\nhere='{}'\nfor arg in \"$@\"; do\n  case $arg in\n    --datadir=*) data=${{arg#--datadir=}} ;;\n    \
         --connstring=*) source=${{arg#--connstring=}} ;;\n  esac\ndone\n{body}\n",
        dir.path().display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn runs(pid: &str) -> bool {
    let stat = read(Path::new(&format!("/proc/{}/stat", pid.trim())));
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_method_after_the_other() -> Result<()> {
    let dir = scripts()?;
    let half = script(&dir, "half", "echo 15 > \"$data/PG_VERSION\"; echo 'tape broke' >&2; exit 5")?;
    let elsewhere = script(&dir, "elsewhere", "exit 0")?;
    // Whatever is left of the first ones would keep pg_basebackup from working.
    let copy = script(
        &dir,
        "copy",
        "echo \"$@\" > \"$here/arguments\"\nexec \"$PG_BIN/pg_basebackup\" --no-password -X stream -c fast -D \"$data\" -d \"$source\"",
    )?;
    let bin = surus_testbed::Machine::look()?.bin_dir;
    let methods = json!({"postgresql": {
        "create_replica_methods": ["half", "missing", "elsewhere", "copy", "basebackup"],
        "half": {"command": half},
        "missing": {"command": "/no/such/program --now", "keep_data": true},
        "elsewhere": {"command": elsewhere, "no_params": true},
        "copy": {"command": format!("env 'PG_BIN={}' '{}'", bin.display(), copy.display()), "threads": 4, "no_leader": "no"},
    }});
    let cluster = cluster().nodes(2).settings(methods).healthy().await?;
    let replica = cluster.others(cluster.leader().await?)[0];
    let log = cluster.node(replica).log();
    for words in ["tape broke", "postgresql.missing.command (", "has no PG_VERSION", "with copy in"] {
        assert!(log.contains(words), "no {words:?} in:\n{log}");
    }
    let arguments = read(&dir.path().join("arguments"));
    let data = cluster.node(replica).data_dir();
    let expected = format!("--threads=4 --no_leader=no --scope=testbed --role=replica --datadir={} ", data.display());
    let (found, source) = arguments.split_at(arguments.find("--connstring=").unwrap_or_default());
    assert_eq!(found, expected);
    assert!(source.contains("user=replicator") && !source.contains("only for tests"), "{source}");
    cluster.passed();
    Ok(())
}

/// The agent dies in the middle, and the next one in the middle is told to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_does_not_come_to_its_end() -> Result<()> {
    let dir = scripts()?;
    let hang = script(
        &dir,
        "hang",
        "[ -e \"$here/go\" ] && exit 1\necho $$ >> \"$here/pids\"\necho 15 > \"$data/PG_VERSION\"\nmkdir \"$data/global\"\n\
         echo x > \"$data/global/pg_control\"\necho 'as far as I get' >&2\nsleep 3600",
    )?;
    let methods = json!({"postgresql": {"create_replica_methods": ["hang", "basebackup"], "hang": {"command": hang}}});
    let mut cluster = cluster().nodes(2).store(StoreKind::Etcd).settings(methods).prepare().await?;
    cluster.start(0)?;
    wait_for("the first member leads", SOON, async || {
        ensure!(cluster.writable().await == [0], "not yet");
        Ok(())
    })
    .await?;
    cluster.start(1)?;
    let pids = || read(&dir.path().join("pids")).lines().map(str::to_owned).collect::<Vec<_>>();
    let runs_as = async |number: usize| {
        wait_for("the method runs", SOON, async || {
            let pids = pids();
            ensure!(pids.len() == number && runs(&pids[number - 1]), "{pids:?}");
            Ok(pids[number - 1].clone())
        })
        .await
    };
    let first = runs_as(1).await?;
    wait_for("what it is at is shown", SOON, async || {
        let progress = cluster.status(1).await?["progress"].to_string();
        ensure!(progress.contains("as far as I get"), "{progress}");
        Ok(())
    })
    .await?;
    cluster.kill_agent(1)?;
    assert!(runs(&first), "a program goes on by itself");
    cluster.start(1)?;
    let second = runs_as(2).await?;
    assert!(!runs(&first), "two would write into one directory");

    let asked = Instant::now();
    assert!(cluster.stop(1).await?.success());
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert!(!runs(&second));
    assert!(!cluster.node(1).data_dir().join("PG_VERSION").exists(), "nothing half made stays");

    fs::write(dir.path().join("go"), "")?;
    cluster.start(1)?;
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

/// The whole cluster is gone but for a backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader() -> Result<()> {
    let dir = scripts()?;
    let restore = script(&dir, "restore", "[ -z \"$source\" ] || exit 1\ncp -a \"$here/backup/.\" \"$data/\"")?;
    let methods = json!({"postgresql": {
        "create_replica_methods": ["restore"],
        "restore": {"command": restore, "no_leader": true},
    }});
    let mut cluster = cluster().nodes(1).store(StoreKind::Etcd).settings(methods).healthy().await?;
    cluster.sql(0, "create table t as select 7 as n").await?;
    assert!(cluster.stop(0).await?.success());
    let copied = std::process::Command::new("cp")
        .args(["-a".as_ref(), cluster.node(0).data_dir().as_os_str(), dir.path().join("backup").as_os_str()])
        .status()?;
    assert!(copied.success());
    cluster.wipe(0)?;
    cluster.start(0)?;
    cluster.wait_healthy().await?;
    assert!(cluster.node(0).log().contains("trying to bootstrap (without leader)"));
    assert_eq!(cluster.sql(0, "select n from t").await?, "7");
    cluster.passed();
    Ok(())
}

/// First the command is missing, then it breaks half-way, then it works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_up_to_a_restore_point() -> Result<()> {
    let dir = scripts()?;
    fs::create_dir(dir.path().join("wal"))?;
    fs::set_permissions(dir.path().join("wal"), fs::Permissions::from_mode(0o777))?;
    let wal = dir.path().join("wal").display().to_string();
    let archive = json!({"postgresql": {"parameters": {
        "archive_mode": "on", "archive_command": format!("cp %p '{wal}/%f'"),
    }}});
    let old = cluster().nodes(1).settings(archive).healthy().await?;
    old.sql(0, "create table t as select 1 as n").await?;
    let node = old.node(0);
    let backup = dir.path().join("backup");
    let made = std::process::Command::new(old.machine.bin_dir.join("pg_basebackup"))
        .args(["-h", "127.0.0.1", "-p", &node.postgres.number.to_string(), "-U", "replicator"])
        .env("PGPASSWORD", PASSWORD)
        .args(["-c", "fast", "-X", "none", "-D", &backup.display().to_string()])
        .output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    old.sql(0, "insert into t values (2)").await?;
    old.sql(0, "select pg_create_restore_point('here')").await?;
    old.sql(0, "insert into t values (3)").await?;
    let last = old.sql(0, "select pg_walfile_name(pg_switch_wal())").await?;
    wait_for("the archive has it", SOON, async || {
        ensure!(dir.path().join("wal").join(&last).exists(), "{last}");
        Ok(())
    })
    .await?;

    // Runs as PostgreSQL's user, to whom the copy has to belong.
    let restore = script(
        &dir,
        "restore",
        "echo \"$@\" >> \"$here/arguments\"\n[ -e \"$here/half\" ] && { echo 15 > \"$data/PG_VERSION\"; echo 'no tape' >&2; exit 4; }\n\
         cp -R \"$here/backup/.\" \"$data/\" && chmod -R go-rwx \"$data\"",
    )?;
    for path in walk(&backup)? {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let method = |command: &str| {
        json!({"bootstrap": {
            "method": "tape",
            "tape": {
                "command": command,
                "label": "monday",
                "recovery_conf": {
                    "restore_command": format!("cp '{wal}/%f' %p"),
                    "recovery_target_name": "here",
                    "recovery_target_action": "promote",
                },
            },
            "post_bootstrap": format!("sh -c 'echo \"$1\" > \"{}/post\"' x", dir.path().display()),
        }})
    };
    let mut new = cluster().nodes(1).settings(method("/no/such/program")).prepare().await?;
    let missing = new.nodes[0].config.clone();
    new.start(0)?;
    let logged = async |new: &Cluster, words: &str| {
        wait_for(&format!("the log says {words:?}"), SOON, async || {
            ensure!(new.node(0).log().contains(words), "not yet");
            Ok(())
        })
        .await
    };
    logged(&new, "or correct bootstrap.tape.command (").await?;
    logged(&new, "removing initialize key after failed attempt to bootstrap the cluster").await?;
    fs::write(dir.path().join("half"), "")?;
    let mut config = missing;
    config["bootstrap"]["tape"]["command"] = json!(restore);
    new.nodes[0].config = config;
    new.nodes[0].write_config()?;
    new.hangup(0)?;
    logged(&new, "no tape").await?;
    logged(&new, "the unfinished data directory was moved to").await?;
    fs::remove_file(dir.path().join("half"))?;
    new.wait_healthy().await?;
    assert_eq!(new.sql(0, "select string_agg(n::text, ',' order by n) from t").await?, "1,2");
    assert_eq!(new.sql(0, "show restore_command").await?, "");
    let data = new.node(0).data_dir();
    assert_eq!(
        read(&dir.path().join("arguments")).lines().last(),
        Some(format!("--scope=testbed --datadir={} --label=monday", data.display()).as_str())
    );
    assert!(read(&dir.path().join("post")).contains("dbname=postgres"));
    assert_eq!(new.writable().await, [0]);
    old.passed();
    new.passed();
    Ok(())
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() {
        if found[next].is_dir() {
            for entry in fs::read_dir(&found[next])? {
                found.push(entry?.path());
            }
        }
        next += 1;
    }
    Ok(found)
}
