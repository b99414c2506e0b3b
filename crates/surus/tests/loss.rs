//! What only a lost primary had is written down before it goes, and told everywhere until somebody acknowledges it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, StoreKind, wait_for};

const LONG: Duration = Duration::from_secs(90);

fn cluster() -> Builder {
    // Nobody but the test commits anything.
    Cluster::builder(env!("CARGO_BIN_EXE_surus")).dynamic(json!({"postgresql": {"parameters": {"autovacuum": "off"}}}))
}

/// Commits rows on a primary that nobody receives from any more, then kills it with everything on its machine. The ids of
/// the transactions, and who leads now.
async fn lose(cluster: &mut Cluster, rows: usize) -> Result<(usize, usize, Vec<u32>)> {
    let old = cluster.leader().await?;
    cluster.sql(old, "create table t (n int)").await?;
    cluster.wait_healthy().await?;
    cluster.freeze_walsenders(old)?;
    let mut xids = vec![];
    for n in 0..rows {
        let insert = format!("with w as (insert into t values ({n})) select pg_current_xact_id()::text");
        xids.push(cluster.sql(old, &insert).await?.parse()?);
    }
    cluster.kill_node(old)?;
    let new = cluster.wait_leader_other_than(old).await?;
    Ok((old, new, xids))
}

async fn surus(cluster: &Cluster, node: usize, args: &[&str]) -> Result<String> {
    let output = cluster.surus(node, args).await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "surus {args:?}: {out}{err}");
    Ok(out.into_owned())
}

fn beside(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".surus.loss");
    name.into()
}

async fn metric(cluster: &Cluster, node: usize, name: &str) -> Result<String> {
    let page = cluster.get(node, "/metrics").await?.body;
    let line = page.lines().find(|l| l.starts_with(name) && !l.starts_with('#')).context("no such metric")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewound_primary_leaves_a_receipt() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let (old, new, lost) = lose(&mut cluster, 7).await?;
    cluster.sql(new, "insert into t values (100)").await?;
    cluster.start(old)?;
    assert_eq!(cluster.wait_healthy().await?, new);
    assert_eq!(cluster.sql(old, "select string_agg(n::text, ',') from t").await?, "100");
    let log = cluster.node(old).log();
    for step in ["loss receipt 2", "crash recovery before pg_rewind took", "pg_rewind from"] {
        assert!(log.contains(step), "{step}\n{log}");
    }

    let (was, asked) = (cluster.node(old).name.clone(), new);
    let all: Value = serde_json::from_str(&surus(&cluster, asked, &["loss", "list", "-f", "json"]).await?)?;
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    let receipt = all[0].clone();
    assert_eq!((&receipt["xids"], &receipt["member"]), (&json!(lost), &json!(was)), "{receipt}");
    let table = json!({"database": "postgres", "table": "public.t", "file": receipt["tables"][0]["file"],
                       "inserted": 7, "updated": 0, "deleted": 0, "transactions": 7});
    assert_eq!((&receipt["tables"], &receipt["notes"]), (&json!([table]), &json!([])), "{receipt}");
    let id = receipt["id"].as_str().context("an id")?.to_owned();

    // Everywhere a person looks.
    let tells = [&["list"][..], &["explain"], &["loss", "list"], &["loss", "show", &id]];
    wait_for("everybody tells", LONG, async || {
        for args in tells {
            let text = surus(&cluster, asked, args).await?;
            ensure!(text.contains(if args == ["list"] { &was } else { &id }), "{args:?}: {text}");
            ensure!(text.contains("7 transactions") || args == ["loss", "list"], "{args:?}: {text}");
        }
        Ok(())
    })
    .await?;
    assert_eq!(metric(&cluster, old, "surus_loss_receipts").await?, "1");
    assert_eq!(metric(&cluster, old, "surus_loss_transactions").await?, "7");

    // The log that was kept, by the command that is shown.
    let shown = surus(&cluster, asked, &["loss", "show", &id]).await?;
    let command = shown
        .lines()
        .find_map(|l| l.trim().strip_prefix("pg_waldump "))
        .with_context(|| format!("no command in {shown}"))?
        .to_owned();
    let program = cluster.machine.bin_dir.join("pg_waldump");
    let dump = Command::new(program).args(command.split_whitespace()).output()?;
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    for xid in &lost {
        assert!(dump.lines().any(|l| l.contains("COMMIT") && l.contains(&format!("tx: {xid:>10},"))), "{xid}\n{dump}");
    }

    let dir = beside(&cluster.node(old).data_dir());
    let offline = surus(&cluster, asked, &["loss", "list", "-f", "json", "--dir", &dir.display().to_string()]).await?;
    assert_eq!(serde_json::from_str::<Value>(&offline)?, all);
    // The rows, on the machine they are on.
    let rows =
        surus(&cluster, asked, &["loss", "show", &id, "-f", "json", "--dir", &dir.display().to_string()]).await?;
    let rows = serde_json::from_str::<Value>(&rows)?["rows"]["lines"].clone();
    let told: Vec<(&Value, &Value)> =
        rows.as_array().context("rows")?.iter().map(|r| (&r["xid"], &r["row"]["n"])).collect();
    for (n, xid) in lost.iter().enumerate() {
        assert!(told.contains(&(&json!(xid), &json!(n))), "{rows}");
    }
    assert_eq!(told.len(), 7, "{rows}");
    assert!(shown.contains("7 of them") && !shown.contains("\"row\""), "{shown}");
    assert!(
        cluster.get(old, "/loss").await?.body.contains("\"kept\": 7"),
        "{:?}",
        cluster.get(old, "/loss").await?.body
    );
    let unknown = cluster.surus(asked, &["loss", "ack", "x"]).await?;
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no member that answers"));
    let said = surus(&cluster, asked, &["loss", "ack", &id]).await?;
    assert!(said.contains(&id) && said.contains("7 transactions"), "{said}");
    assert!(!dir.join(&id).exists());
    assert_eq!(surus(&cluster, asked, &["loss", "list", "-f", "json"]).await?.trim(), "[]");
    wait_for("nobody tells any more", LONG, async || {
        ensure!(metric(&cluster, old, "surus_loss_receipts").await? == "0", "metrics");
        let text = surus(&cluster, asked, &["list"]).await?;
        ensure!(!text.contains("acknowledged"), "{text}");
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forked_member_that_is_copied_anew_leaves_a_receipt_and_a_healthy_one_none() -> Result<()> {
    let mut cluster = cluster().dynamic(json!({"postgresql": {"use_pg_rewind": false}})).healthy().await?;
    let (old, new, lost) = lose(&mut cluster, 3).await?;
    cluster.start(old)?;
    let name = cluster.node(old).name.clone();
    wait_for("it says what keeps it out", LONG, async || {
        let text = surus(&cluster, new, &["explain"]).await?;
        ensure!(text.contains("settings do not allow mending it"), "{text}");
        Ok(())
    })
    .await?;
    let healthy = cluster.others(new).into_iter().find(|n| *n != old).context("a third")?;
    for node in [old, healthy] {
        let member = cluster.node(node).name.clone();
        let scope = cluster.scope.clone();
        surus(&cluster, new, &["reinit", &scope, &member, "--force", "--wait"]).await?;
    }
    assert_eq!(cluster.wait_healthy().await?, new);
    let all: Value = serde_json::from_str(&surus(&cluster, new, &["loss", "list", "-f", "json"]).await?)?;
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(
        (&all[0]["xids"], &all[0]["member"], &all[0]["destroying"]),
        (&json!(lost), &json!(name), &json!("removal"))
    );
    assert_eq!(all[0]["rows"]["kept"], 3, "{all}");
    let id = all[0]["id"].as_str().context("an id")?.to_owned();

    // The store remembers it when its machine is gone, and when another one has its name.
    wait_for("all know", LONG, async || {
        let count = metric(&cluster, new, "surus_cluster_loss_receipts").await?;
        ensure!(count == "1", "{count}");
        Ok(())
    })
    .await?;
    cluster.kill_node(old)?;
    let data = cluster.node(old).data_dir();
    for dir in [data.clone(), beside(&data)] {
        std::fs::remove_dir_all(dir)?;
    }
    let tells = async |args: &[&str], what: &str| -> Result<()> {
        let text = surus(&cluster, new, args).await?;
        ensure!(text.contains(what), "{args:?}: {text}");
        Ok(())
    };
    tells(&["loss", "list"], &id).await?;
    wait_for("its machine is given up", LONG, async || {
        tells(&["loss", "show", &id], "which is gone").await?;
        tells(&["list"], "1 receipt, not on its disk").await
    })
    .await?;
    cluster.start(old)?;
    assert_eq!(cluster.wait_healthy().await?, new);
    let text = surus(&cluster, new, &["loss", "show", &id]).await?;
    assert!(text.contains("its disk was replaced") && text.contains("3 transactions"), "{text}");
    let all: Value = serde_json::from_str(&surus(&cluster, new, &["loss", "list", "-f", "json"]).await?)?;
    assert_eq!((&all[0]["transactions"], all[0]["gone"].is_string()), (&json!(3), true), "{all}");
    let said = surus(&cluster, new, &["loss", "ack", &id]).await?;
    assert!(said.contains("from the store"), "{said}");
    assert_eq!(surus(&cluster, new, &["loss", "list", "-f", "json"]).await?.trim(), "[]");
    wait_for("nobody remembers", LONG, async || {
        let count = metric(&cluster, new, "surus_cluster_loss_receipts").await?;
        ensure!(count == "0", "{count}");
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}

/// A primary is promoted and writes while nobody receives its timeline. If its successor gave its own the same number,
/// neither PostgreSQL nor `pg_rewind` could tell the two apart: the first one would be taken for a healthy standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_forks_get_two_numbers() -> Result<()> {
    // The store outlives two of three members.
    let mut cluster = cluster().store(StoreKind::Etcd).healthy().await?;
    let first = cluster.leader().await?;
    cluster.sql(first, "create table t (n int)").await?;
    cluster.wait_healthy().await?;
    let last = cluster.others(first)[1];
    cluster.kill_node(last)?;
    cluster.kill_node(first)?;
    let lost = cluster.wait_leader().await?;
    let xid = cluster.sql(lost, "with w as (insert into t values (1)) select pg_current_xact_id()::text").await?;
    cluster.kill_node(lost)?;

    cluster.start(last)?;
    assert_eq!(cluster.wait_leader().await?, last);
    cluster.sql(last, "insert into t values (2)").await?;
    assert_eq!(cluster.status(last).await?["timeline"], 3, "2 may have been given away");
    let history = cluster.node(last).data_dir().join("pg_wal/00000003.history");
    let parents: Vec<String> = std::fs::read_to_string(history)?.lines().map(|l| l.chars().take(2).collect()).collect();
    assert_eq!(parents, ["1\t"]);
    wait_for("the history to say that 2 was left out", LONG, async || {
        let rows = cluster.stored("history").await?.context("no history")?;
        ensure!(rows[1][0] == 2 && rows[1][1] == 0, "{rows}");
        Ok(())
    })
    .await?;

    cluster.start(lost)?;
    cluster.start(first)?;
    assert_eq!(cluster.wait_healthy().await?, last);
    for node in [lost, first] {
        assert_eq!(cluster.sql(node, "select string_agg(n::text, ',') from t").await?, "2");
        assert_eq!(cluster.status(node).await?["timeline"], 3);
    }
    let all: Value = serde_json::from_str(&surus(&cluster, last, &["loss", "list", "-f", "json"]).await?)?;
    let name = cluster.node(lost).name.clone();
    assert_eq!((all.as_array().map(Vec::len), &all[0]["member"]), (Some(1), &json!(name)), "{all}");
    assert_eq!(all[0]["xids"], json!([xid.parse::<u32>()?]), "{all}");
    assert!(cluster.node(lost).log().contains("pg_rewind from"), "{}", cluster.node(lost).log());

    // Whoever follows next gives the next number, and needs no placeholder.
    cluster.stop(last).await?;
    let next = cluster.wait_leader_other_than(last).await?;
    assert_eq!(cluster.status(next).await?["timeline"], 4);
    cluster.start(last)?;
    assert_eq!(cluster.wait_healthy().await?, next);
    cluster.passed();
    Ok(())
}

/// Rewinding what can stream costs a member its data for nothing, and looks like a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_that_lost_nothing_streams_as_it_is() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let old = cluster.leader().await?;
    cluster.sql(old, "create table t as select 1 as n").await?;
    cluster.wait_healthy().await?;
    cluster.kill_node(old)?;
    let new = cluster.wait_leader_other_than(old).await?;
    cluster.start(old)?;
    assert_eq!(cluster.wait_healthy().await?, new);
    let log = cluster.node(old).log();
    // What the server wrote by itself in its last moment may have gone nowhere: that is a fork, and loses nothing.
    assert!(!log.contains("running pg_rewind") || log.contains("no commit"), "{log}");
    assert!(!log.contains("loss receipt"), "{log}");
    assert_eq!(surus(&cluster, new, &["loss", "list", "-f", "json"]).await?.trim(), "[]");
    cluster.passed();
    Ok(())
}

/// A disk that is full, a directory nobody may write to: whoever cannot say what it gives up does not give it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_receipt_nothing_is_rewound() -> Result<()> {
    let place = tempfile::tempdir()?;
    let file = place.path().join("in the way");
    let directory = |node: usize| file.join(format!("loss{node}"));
    std::fs::write(&file, "")?;
    let builder = (0..3).fold(cluster(), |b, n| b.settings_of(n, json!({"loss": {"directory": directory(n)}})));
    let mut cluster = builder.healthy().await?;
    let (old, new, lost) = lose(&mut cluster, 2).await?;
    cluster.start(old)?;
    wait_for("it says why it stays out", LONG, async || {
        let text = surus(&cluster, new, &["explain"]).await?;
        ensure!(text.contains("nothing of it is destroyed") && text.contains("loss.directory"), "{text}");
        Ok(())
    })
    .await?;
    let name = cluster.node(old).name.clone();
    let scope = cluster.scope.clone();
    surus(&cluster, new, &["reinit", &scope, &name, "--force"]).await?;
    wait_for("a copy is refused as well", LONG, async || {
        let log = cluster.node(old).log();
        ensure!(log.contains("reinitialize failed") || log.matches("nothing of it is destroyed").count() > 1, "{log}");
        Ok(())
    })
    .await?;
    std::fs::remove_file(&file)?;
    assert_eq!(cluster.wait_healthy().await?, new);
    let all: Value = serde_json::from_str(&surus(&cluster, new, &["loss", "list", "-f", "json"]).await?)?;
    assert_eq!((all.as_array().map(Vec::len), &all[0]["xids"]), (Some(1), &json!(lost)), "{all}");
    let id = all[0]["id"].as_str().context("an id")?;
    assert!(directory(old).join(id).join("wal").exists());

    // Acknowledged where it lies, without the agent: the store forgets it too.
    let dir = directory(old).display().to_string();
    wait_for("all know", LONG, async || {
        ensure!(metric(&cluster, new, "surus_cluster_loss_receipts").await? == "1", "not yet");
        Ok(())
    })
    .await?;
    surus(&cluster, new, &["loss", "ack", id, "--dir", &dir]).await?;
    assert_eq!(surus(&cluster, new, &["loss", "list", "-f", "json"]).await?.trim(), "[]");
    wait_for("nobody remembers", LONG, async || {
        ensure!(metric(&cluster, new, "surus_cluster_loss_receipts").await? == "0", "not yet");
        ensure!(std::fs::read_dir(&dir)?.count() == 0, "a mark is left");
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}

/// The primary and its successor are lost one after the other, and then everybody but the first: what it has is longer and
/// not what the others acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forked_member_leads_only_where_an_operator_named_it() -> Result<()> {
    let mut cluster =
        cluster().store(StoreKind::Etcd).dynamic(json!({"postgresql": {"use_pg_rewind": false}})).healthy().await?;
    let old = cluster.leader().await?;
    cluster.sql(old, "create table t (n int)").await?;
    cluster.wait_healthy().await?;
    cluster.freeze_walsenders(old)?;
    cluster.sql(old, "insert into t select generate_series(1, 50000)").await?;
    cluster.kill_node(old)?;
    let new = cluster.wait_leader_other_than(old).await?;
    cluster.sql(new, "insert into t values (-1)").await?;
    let third = cluster.others(new).into_iter().find(|n| *n != old).context("a third")?;
    cluster.wait_streaming(third).await?;
    cluster.start(old)?;
    let (name, successor) = (cluster.node(old).name.clone(), cluster.node(new).name.clone());
    let told = format!("its history forked from that of {successor}");
    wait_for("it says what keeps it out", LONG, async || {
        let text = surus(&cluster, new, &["list"]).await?;
        ensure!(text.contains(&format!("{name} is not to lead, {told}")), "{text}");
        let text = surus(&cluster, old, &["explain"]).await?;
        ensure!(text.contains("Until then it does not run for the lead"), "{text}");
        ensure!(metric(&cluster, old, "surus_forked").await? == "1", "metrics");
        Ok(())
    })
    .await?;
    // Members that Patroni drives go by the tag, whose own value is beside it.
    let status = cluster.status(old).await?;
    assert_eq!((&status["tags"], &status["surus"]["forked"]["tags"]), (&json!({"nofailover": true}), &json!({})));
    assert!(cluster.status(third).await?["tags"].is_null());
    let refused = cluster.surus(new, &["switchover", "--candidate", &name, "--force"]).await?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains(&told), "{said}");

    cluster.kill_node(new)?;
    assert_eq!(cluster.wait_leader_other_than(new).await?, third, "the one that has what was acknowledged");
    cluster.sql(third, "insert into t values (-2)").await?;
    cluster.kill_node(third)?;
    // It has more log than anybody, and nobody is there.
    wait_for("it waits for an operator", LONG, async || {
        ensure!(cluster.stored_text("leader").await?.is_none(), "the lead has not ended");
        let text = surus(&cluster, old, &["explain"]).await?;
        ensure!(text.contains(&format!("surus failover --candidate {name}")), "{text}");
        Ok(())
    })
    .await?;
    let text = surus(&cluster, old, &["failover", "--candidate", &name, "--force"]).await?;
    assert!(text.contains("is given up: its history forked from that of"), "{text}");
    assert!(text.contains(&format!("Successfully failed over to \"{name}\"; what was acknowledged since")), "{text}");
    assert_eq!(cluster.leader().await?, old);
    assert_eq!(cluster.sql(old, "select count(*) from t").await?, "50000");
    assert!(cluster.node(old).log().contains("although my log left the cluster's"), "{}", cluster.node(old).log());

    // What was given up is written down where it still is.
    surus(&cluster, old, &["edit-config", "-s", "postgresql.use_pg_rewind=true", "--force"]).await?;
    cluster.start(new)?;
    cluster.start(third)?;
    assert_eq!(cluster.wait_healthy().await?, old);
    let all: Value = serde_json::from_str(&surus(&cluster, old, &["loss", "list", "-f", "json"]).await?)?;
    let of = |node: usize| {
        let name = json!(cluster.node(node).name);
        let receipts = all.as_array().into_iter().flatten().filter(|r| r["member"] == name);
        receipts.map(|r| r["committed"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    assert_eq!((of(new), of(third)), (1, 2), "{all}");
    wait_for("nobody tells of a fork any more", LONG, async || {
        let text = surus(&cluster, old, &["list"]).await?;
        ensure!(!text.contains("is not to lead"), "{text}");
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}
