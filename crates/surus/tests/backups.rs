//! pgBackRest with a local repository, with the configuration of `docs/backups.md` as it is written there.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, wait_for};
use tempfile::TempDir;

const PAGE: &str = include_str!("../../../docs/backups.md");
const LONG: Duration = Duration::from_secs(120);

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

/// The repository, and one configuration for each member: they have their data directories side by side here.
struct Backup {
    dir: TempDir,
}

impl Backup {
    fn new() -> Result<Backup> {
        let dir = tempfile::Builder::new().prefix("surus-backup-").tempdir()?;
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Backup { dir })
    }

    fn file(&self, member: &str) -> PathBuf {
        self.dir.path().join(format!("{member}.conf"))
    }

    /// The page's file with this machine's paths.
    fn configure(&self, cluster: &Cluster, node: usize, member: &str) -> Result<()> {
        let node = cluster.node(node);
        let below = |name: &str| self.dir.path().join(name).display().to_string();
        let repository =
            format!("{}\nlog-path={}\nlock-path={}", below("repo"), below("log"), below(&format!("lock-{member}")));
        let server = format!(
            "{}\npg1-port={}\npg1-socket-path={}",
            node.data_dir().display(),
            node.postgres.number,
            node.dir.display()
        );
        let text = block("ini", 0).replace("/mnt/backup", &repository).replace("/var/lib/postgresql/15/main", &server);
        fs::write(self.file(member), text)?;
        Ok(())
    }

    /// A section of the page, with the member's own file in each command.
    fn section(&self, number: usize, member: &str) -> Result<Value> {
        let command = format!("pgbackrest --config={} --stanza", self.file(member).display());
        Ok(serde_saphyr::from_str(&block("yaml", number).replace("pgbackrest --stanza", &command))?)
    }

    fn run(&self, cluster: &Cluster, member: &str, args: &[&str]) -> Result<()> {
        let mut command = Command::new("pgbackrest");
        command.arg(format!("--config={}", self.file(member).display())).arg("--stanza=orders").args(args);
        command.current_dir("/").stdin(Stdio::null());
        if let Some((uid, gid)) = cluster.machine.postgres {
            command.uid(uid).gid(gid);
        }
        let output = command.output().context("pgbackrest is not installed; `cargo xtask install` installs it")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "pgbackrest {args:?}: {}", String::from_utf8_lossy(&said));
        Ok(())
    }
}

/// The fenced blocks of the page, in order.
fn block(language: &str, number: usize) -> &'static str {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).nth(number).expect("a block of the page")
}

async fn archived(cluster: &Cluster, leader: usize) -> Result<()> {
    let wal = cluster.sql(leader, "select pg_walfile_name(pg_switch_wal())").await?;
    wait_for(&format!("{wal} is archived"), LONG, async || {
        let last = cluster.sql(leader, "select coalesce(last_archived_wal, '') from pg_stat_archiver").await?;
        ensure!(last >= wal, "the last one is {last:?}");
        Ok(())
    })
    .await
}

fn uses(path: &Path, what: &str) -> bool {
    fs::read_to_string(path).unwrap_or_default().contains(what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_and_a_new_cluster_from_a_backup() -> Result<()> {
    let backup = Backup::new()?;
    let mut builder = cluster().nodes(2);
    for node in 0..2 {
        builder = builder.settings_of(node, backup.section(0, &format!("a{node}"))?);
    }
    let mut old = builder.prepare().await?;
    for node in 0..2 {
        backup.configure(&old, node, &format!("a{node}"))?;
        old.start(node)?;
    }
    let leader = old.wait_healthy().await?;
    let member = format!("a{leader}");
    backup.run(&old, &member, &["stanza-create"])?;
    old.sql(leader, "create table t as select 1 as n").await?;
    backup.run(&old, &member, &["backup"])?;
    old.sql(leader, "insert into t values (2)").await?;
    archived(&old, leader).await?;

    let replica = old.others(leader)[0];
    assert!(old.stop(replica).await?.success());
    old.wipe(replica)?;
    old.start(replica)?;
    old.wait_streaming(replica).await?;
    let log = old.node(replica).log();
    assert!(log.contains("with pgbackrest in"), "not made by pgBackRest:\n{log}");
    assert_eq!(old.wait_healthy().await?, leader);
    assert_eq!(old.sql(replica, "select count(*) from t").await?, "2");

    // Up to here, and not further.
    let time = old.sql(leader, "select clock_timestamp()").await?;
    old.sql(leader, "insert into t values (3)").await?;
    old.sql(leader, "insert into t values (4)").await?;
    archived(&old, leader).await?;
    let page = backup.section(1, "b0")?.to_string().replace("2026-03-01 14:05:00+01", &time);
    assert!(page.contains(&time), "the page names another time now: {page}");
    let section: Value = serde_json::from_str(&page)?;
    let mut new = cluster().nodes(1).settings(section).settings(json!({"scope": "orders2"})).prepare().await?;
    backup.configure(&new, 0, "b0")?;
    new.start(0)?;
    new.wait_healthy().await?;
    assert_eq!(new.sql(0, "select string_agg(n::text, ',' order by n) from t").await?, "1,2");
    let id = "database_system_identifier";
    assert_eq!(new.status(0).await?[id], old.status(leader).await?[id]);
    assert_eq!(new.sql(0, "select timeline_id from pg_control_checkpoint()").await?, "2");
    for setting in ["restore_command", "recovery_target_time"] {
        assert_eq!(new.sql(0, &format!("show {setting}")).await?, "", "{setting}");
    }
    let data = new.node(0).data_dir();
    assert!(!data.join("recovery.signal").exists());
    assert!(!uses(&data.join("postgresql.auto.conf"), "pgbackrest"));
    assert!(uses(&data.join("pg_hba.conf"), "scram-sha-256") && !uses(&data.join("pg_hba.conf"), "::1/128 trust"));
    // As any other cluster from here on.
    new.sql(0, "insert into t values (5)").await?;
    let answer = new.send(0, "POST", "/restart", &json!({})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    new.wait_healthy().await?;
    assert_eq!(new.sql(0, "select count(*) from t").await?, "3");
    assert!(new.stop(0).await?.success());
    old.passed();
    new.passed();
    Ok(())
}
