//! What a standby cluster can live on besides one host: an archive alone, or several hosts of which some are away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use surus_testbed::{Cluster, PASSWORD, Port, StoreKind, wait_for};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::{LONG, SURUS, flows, port, standby_leader};

/// Open to PostgreSQL's user.
fn shared(dir: &Path) -> Result<()> {
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?)
}

fn scripts() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("surus-standby-").tempdir()?;
    shared(dir.path())?;
    Ok(dir)
}

/// A replica creation method; `$data` and `$source` are its arguments.
fn method(dir: &TempDir, body: &str) -> Result<PathBuf> {
    let path = dir.path().join("method");
    let text = format!(
        "#!/bin/sh\nfor arg in \"$@\"; do\n  case $arg in\n    --datadir=*) data=${{arg#--datadir=}} ;;\n    \
         --connstring=*) source=${{arg#--connstring=}} ;;\n  esac\ndone\n{body}\n"
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A row written at one end by its leader is read by everybody at the other, which has nothing but finished segments.
async fn arrives(from: (&Cluster, usize), to: &Cluster, value: u32) -> Result<()> {
    from.0.sql(from.1, &format!("insert into t values ({value})")).await?;
    from.0.sql(from.1, "select pg_switch_wal()").await?;
    read_by_all(to, value).await
}

async fn read_by_all(cluster: &Cluster, value: u32) -> Result<()> {
    wait_for(&format!("row {value} at the other site"), LONG, async || {
        for node in 0..cluster.nodes.len() {
            let found = cluster.sql(node, &format!("select count(*) from t where n = {value}")).await?;
            ensure!(found == "1", "{} does not have it", cluster.nodes[node].name);
        }
        Ok(())
    })
    .await
}

/// One of them lives on the archive, and the others stream from it.
async fn on_the_archive(site: &Cluster) -> Result<usize> {
    wait_for("a standby cluster on an archive", LONG, async || {
        let leader = standby_leader(site).await?;
        for node in 0..site.nodes.len() {
            let status = site.status(node).await?;
            let from = site.sql(node, "select coalesce(max(sender_port), 0) from pg_stat_wal_receiver").await?;
            let expected = if node == leader { "0".to_owned() } else { port(site, leader).to_string() };
            ensure!(status["state"] == "running" && from == expected, "{} streams from {from}: {status}", node + 1);
        }
        Ok(leader)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_archive_alone() -> Result<()> {
    let dir = scripts()?;
    let wal = dir.path().join("wal");
    fs::create_dir(&wal)?;
    shared(&wal)?;
    let wal = wal.display();
    let archiving = json!({"postgresql": {"parameters": {
        "archive_mode": "on",
        "archive_command": format!("cp %p '{wal}/%f.part' && mv '{wal}/%f.part' '{wal}/%f'"),
    }}});
    let fetch = format!("cp '{wal}/%f' %p");
    let main = Cluster::builder(SURUS).nodes(1).settings(archiving.clone()).healthy().await?;
    main.sql(0, "create table t (n int)").await?;

    // The backup has no log with it, and comes from where only the method knows.
    let backup = method(
        &dir,
        &format!(
            "[ -z \"$source\" ] || exit 3\nPGPASSWORD='{PASSWORD}' exec '{}' -h 127.0.0.1 -p {} -U replicator -c fast -X none \
             -D \"$data\"",
            main.machine.bin_dir.join("pg_basebackup").display(),
            port(&main, 0)
        ),
    )?;
    let section = json!({"standby_cluster": {
        "restore_command": fetch,
        "create_replica_methods": ["tape"],
        "recovery_min_apply_delay": "1h",
    }});
    let methods = json!({"postgresql": {"tape": {"command": backup, "no_leader": true}}});
    let site = Cluster::builder(SURUS).nodes(2).store(StoreKind::Etcd);
    let site = site.dynamic(section).settings(methods).settings(archiving).start().await?;
    let old = on_the_archive(&site).await?;
    let other = site.others(old)[0];
    assert!(site.node(old).log().contains("with tape in") && site.node(other).log().contains("with basebackup in"));
    let delays = async || -> Result<[String; 2]> {
        let delay = "show recovery_min_apply_delay";
        Ok([site.sql(old, delay).await?, site.sql(other, delay).await?])
    };
    assert_eq!(delays().await?, ["1h", "0"], "it would add up along the cascade");
    assert_eq!(site.status(old).await?["replication_state"], "in archive recovery");
    let list = String::from_utf8_lossy(&site.surus(old, &["list"]).await?.stdout).into_owned();
    assert!(list.contains("Standby Leader") && list.contains("in archive recovery"), "{list}");
    let no_delay = json!({"standby_cluster": {"recovery_min_apply_delay": null}});
    assert_eq!(site.send(other, "PATCH", "/config", &no_delay).await?.status, 200);
    arrives((&main, 0), &site, 1).await?;
    assert_eq!(delays().await?, ["0", "0"]);

    let asked = json!({"leader": site.nodes[old].name, "candidate": site.nodes[other].name});
    let answer = site.send(old, "POST", "/switchover", &asked).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(on_the_archive(&site).await?, other);
    arrives((&main, 0), &site, 2).await?;

    // Nothing of what the main site wrote is missing when it has gone down to the archive as well.
    main.sql(0, "insert into t values (3)").await?;
    let demoted = main.surus(0, &["demote-cluster", "--force", "--restore-command", &fetch]).await?;
    assert!(demoted.status.success(), "{}", String::from_utf8_lossy(&demoted.stderr));
    assert!(main.node(0).log().contains("which has the shutdown checkpoint"), "{}", main.node(0).log());
    read_by_all(&site, 3).await?;
    let end = main.sql(0, "select pg_last_wal_replay_lsn()").await?;
    wait_for("the site has replayed the shutdown", LONG, async || {
        let there = site.sql(other, &format!("select pg_last_wal_replay_lsn() >= '{end}'")).await?;
        ensure!(there == "t", "not up to {end}");
        Ok(())
    })
    .await?;
    let promoted = site.surus(other, &["promote-cluster", "--force"]).await?;
    assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    assert_eq!(site.wait_healthy().await?, other);
    arrives((&site, other), &main, 4).await?;
    assert_eq!(main.sql(0, "select string_agg(n::text, ' ' order by n) from t").await?, "1 2 3 4");
    assert_eq!(on_the_archive(&main).await?, 0);
    assert!(!main.node(0).log().contains("running pg_rewind"), "nothing was to be rewound");
    site.passed();
    main.passed();
    Ok(())
}

/// What is at `listen` while somebody listens at `to`.
async fn relay(listen: (&'static str, u16), to: u16) {
    loop {
        while TcpStream::connect(("127.0.0.1", to)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let Ok(listener) = TcpListener::bind(listen).await else { continue };
        while let Ok((mut near, _)) = listener.accept().await {
            let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await else { break };
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_hosts() -> Result<()> {
    let dir = scripts()?;
    let slots = json!({"slots": {"site_2": {"type": "physical"}}});
    // Of two members one can be lost: their store is elsewhere.
    let mut main = Cluster::builder(SURUS).nodes(2).store(StoreKind::Etcd).dynamic(slots).healthy().await?;
    let first = main.leader().await?;
    let second = main.others(first)[0];
    main.sql(first, "create table t (n int)").await?;
    // Servers at different addresses have the same port, as libpq and the setting want it.
    let shared = Port::free()?;
    tokio::spawn(relay(("127.0.0.2", shared.number), port(&main, second)));
    tokio::spawn(relay(("127.0.0.3", shared.number), port(&main, first)));
    let copy = method(
        &dir,
        &format!(
            "echo \"$source\" > '{}/source'\nexec '{}' --no-password -c fast -X stream -D \"$data\" -d \"$source\"",
            dir.path().display(),
            main.machine.bin_dir.join("pg_basebackup").display(),
        ),
    )?;
    let section = json!({"standby_cluster": {
        "host": "127.0.0.4,127.0.0.2,127.0.0.3",
        "port": shared.number,
        "primary_slot_name": "site_2",
        "create_replica_methods": ["copy", "basebackup"],
    }});
    let methods = json!({"postgresql": {"copy": {"command": copy}}});
    let site = Cluster::builder(SURUS).nodes(1).dynamic(section).settings(methods).start().await?;
    let streams_from = async |host: &str, value: u32, leader: (&Cluster, usize)| -> Result<()> {
        wait_for(&format!("the standby leader streams from {host}"), LONG, async || {
            ensure!(standby_leader(&site).await? == 0, "nobody leads");
            let status = site.status(0).await?;
            let from = site.sql(0, "select sender_host from pg_stat_wal_receiver where status = 'streaming'").await?;
            ensure!(from == host && status["replication_state"] == "streaming", "from {from:?}: {status}");
            Ok(())
        })
        .await?;
        flows(leader, &site, value).await
    };
    streams_from("127.0.0.3", 1, (&main, first)).await?;
    let source = fs::read_to_string(dir.path().join("source")).context("the method of the section was not used")?;
    assert!(source.contains("host=127.0.0.4,127.0.0.2,127.0.0.3"), "{source}");

    // The other site's leader changes by plan, and then by a loss.
    let asked = json!({"leader": main.nodes[first].name, "candidate": main.nodes[second].name});
    let answer = main.send(first, "POST", "/switchover", &asked).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    main.wait_healthy().await?;
    streams_from("127.0.0.2", 2, (&main, second)).await?;
    main.kill_node(second)?;
    assert_eq!(main.wait_leader().await?, first);
    streams_from("127.0.0.3", 3, (&main, first)).await?;
    assert!(!site.node(0).log().contains("running pg_rewind"), "{}", site.node(0).log());
    site.passed();
    main.passed();
    Ok(())
}
