//! Patroni and Surus as members of one cluster, on etcd where nothing else is said: real processes of both, one configuration file for either.

mod failsafe;
mod lead;
mod loss;
mod replacement;
mod stores;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Agent, Builder, Cluster, StoreKind, WRITER, merge, wait_for};

const LONG: Duration = Duration::from_secs(90);

/// Three members, of which these are Patroni. `ttl` is the least that Patroni takes.
fn cluster(patroni: &[usize], dynamic: Value) -> Builder {
    let mut settings = json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 3});
    merge(&mut settings, &dynamic);
    Cluster::builder(env!("CARGO_BIN_EXE_surus")).store(StoreKind::Etcd).patroni(patroni).dynamic(settings)
}

/// One member bootstraps, the others join it.
async fn bootstrapped_by(first: usize, builder: Builder) -> Result<Cluster> {
    let mut cluster = builder.prepare().await?;
    cluster.start(first)?;
    ensure!(cluster.wait_leader().await? == first);
    for node in cluster.others(first) {
        cluster.start(node)?;
    }
    cluster.wait_healthy().await?;
    Ok(cluster)
}

#[derive(Clone, Copy, Debug)]
enum Tool {
    Surus,
    Patronictl,
}

const TOOLS: [Tool; 2] = [Tool::Surus, Tool::Patronictl];

/// Runs a command that has to succeed, with the configuration of a member.
async fn run(cluster: &Cluster, tool: Tool, node: usize, args: &[&str]) -> Result<String> {
    let done = match tool {
        Tool::Surus => cluster.surus(node, args).await?,
        Tool::Patronictl => cluster.patronictl(node, args).await?,
    };
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{tool:?} {args:?}: {}\n{out}\n{err}", done.status);
    Ok(out.into_owned())
}

/// Both commands tell the same of the cluster, and so do the two kinds of members.
async fn agree(cluster: &Cluster) -> Result<()> {
    wait_for("the commands agree", LONG, async || {
        let (ours, theirs) = tokio::join!(
            run(cluster, Tool::Surus, 0, &["list", "-f", "json"]),
            run(cluster, Tool::Patronictl, 0, &["list", "-f", "json"])
        );
        let [ours, theirs]: [Value; 2] = [serde_json::from_str(&ours?)?, serde_json::from_str(&theirs?)?];
        for field in ["Cluster", "Member", "Host", "Role", "State", "TL", "Pending restart", "Tags"] {
            let of = |list: &Value| -> Vec<Value> {
                list.as_array().into_iter().flatten().map(|member| member[field].clone()).collect()
            };
            ensure!(of(&ours).len() == cluster.nodes.len(), "{ours}");
            ensure!(of(&ours) == of(&theirs), "{field}: {ours} here, {theirs} there");
        }
        Ok(())
    })
    .await?;
    wait_for("the members agree", LONG, async || {
        let mut seen = Vec::new();
        for node in 0..cluster.nodes.len() {
            let mut shown: Value = cluster.get(node, "/cluster").await?.json()?;
            for member in shown["members"].as_array_mut().context("no members")? {
                let member = member.as_object_mut().context("no object")?;
                // Ours also tell of a disk that is nearly full.
                let known = |key: &str| !["lsn", "lag", "location", "disk"].iter().any(|part| key.contains(part));
                member.retain(|key, _| known(key));
            }
            seen.push(shown);
        }
        ensure!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
        Ok(())
    })
    .await
}

#[derive(Clone, Copy, PartialEq)]
enum Texts {
    All,
    /// What is read from the store, or found there not to be.
    OfTheStore,
}

/// What only shows is printed the same by both commands, byte for byte, and ends the same.
async fn same_texts(cluster: &Cluster, texts: Texts) -> Result<()> {
    let role = format!("do $$ begin create role {WRITER} login; exception when duplicate_object then null; end $$");
    cluster.sql(cluster.leader().await?, &role).await?;
    let scope = cluster.scope.as_str();
    let values = "select 1 as a, true as b, null as c, 2::float8 as d, 'x' as e";
    let query = ["query", "-U", WRITER, "-d", "postgres", "-c"];
    let mut lines: Vec<Vec<&str>> = vec![
        vec!["list", "-e"],
        vec!["list", scope, "nowhere"],
        vec!["topology"],
        vec!["show-config"],
        vec!["show-config", "nowhere"],
        vec!["resume"],
        // Otherwise ours also tells what comes of it.
        vec!["edit-config", "-s", "ttl=20", "--force", "-q"],
        vec!["switchover", "--force", "--candidate", "nobody"],
        vec!["flush", scope, "switchover"],
        vec!["list", "-f", "tsv"],
        vec!["history", "-f", "json"],
    ];
    if texts == Texts::All {
        lines.extend([
            // The first of them, which on ZooKeeper is the first that the server thinks of.
            vec!["dsn", "-r", "replica"],
            vec!["dsn", "-m", "node2"],
            vec!["dsn", "-m", "nobody"],
            vec!["dsn", "-m", "node2", "-r", "any"],
            vec!["restart", scope, "nobody", "--force"],
            vec!["switchover", "--scheduled", "soon", "--force"],
            vec!["failover", "--force"],
            vec!["restart", scope, "--pg-version", "x", "--force"],
            vec!["reload", scope],
            vec!["reload"],
            vec!["flush", scope, "restart", "--force"],
            vec!["remove", scope],
            vec!["demote-cluster"],
            vec!["promote-cluster", "--force"],
            vec!["query", "-c", "x", "-f", "/dev/null"],
            [&query[..], &["select 1", "-m", "node3", "--delimiter", ";"]].concat(),
            [&query[..], &["select pg_is_in_recovery()", "-r", "replica"]].concat(),
            vec!["nothing"],
        ]);
        for format in ["pretty", "tsv", "json", "yaml"] {
            lines.push(vec!["list", "-f", format]);
            lines.push(vec!["history", "-f", format]);
            lines.push([&query[..], &[values, "--format", format]].concat());
        }
    }
    for args in lines {
        // The members write their keys meanwhile.
        wait_for("the commands print the same", LONG, async || {
            let (ours, theirs) = tokio::join!(cluster.surus(0, &args), cluster.patronictl(0, &args));
            let [ours, theirs] =
                [ours?, theirs?].map(|o| (o.status.code(), String::from_utf8_lossy(&o.stdout).into_owned()));
            ensure!(ours == theirs, "{args:?}: {ours:#?} here, {theirs:#?} there");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Nothing that we do or write is an error to Patroni.
fn patroni_is_content(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let log = node.log();
        // Only Patroni says that, and elsewhere it has never been at work.
        if !log.contains(" INFO: Lock owner: ") {
            continue;
        }
        let bad = ["Traceback", "please report it as a BUG", " ERROR: ", " CRITICAL: "];
        // The server's own lines, in the same file, have no comma in their times.
        let of_patroni = |line: &&str| line.get(19..20) == Some(",") || line.starts_with("Traceback");
        // It reads the checkpoint at its own shutdown, and is told of what an earlier use of the segment left behind it.
        let recycled = |line: &str| {
            ["Failed to parse pg_waldump output", " stdout=rmgr: XLOG ", " stderr=pg_waldump: "]
                .iter()
                .any(|said| line.contains(said))
        };
        // And its REST API asks a server that it is restarting itself, for a slot that was copied.
        let mut restarting = false;
        let restarted = |line: &&str| {
            let after = std::mem::replace(
                &mut restarting,
                line.contains("Can not fetch local timeline and lsn from replication connection"),
            );
            !(restarting || after && line.starts_with("Traceback"))
        };
        let found: Vec<&str> = without_lost_leaders(&log)
            .into_iter()
            .filter(of_patroni)
            .filter(restarted)
            .filter(|line| bad.iter().any(|word| line.contains(word)) && !recycled(line))
            .collect();
        ensure!(found.is_empty(), "{}: {found:#?}", node.name);
    }
    Ok(())
}

/// A replica that was to compare its log with that of a leader which was killed meanwhile says so, loop by loop, until the
/// lead of that one ends.
fn without_lost_leaders(log: &str) -> Vec<&str> {
    let timed = |line: &str| line.get(19..20) == Some(",");
    let lines: Vec<&str> = log.lines().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let told = 1 + lines[at + 1..].iter().take_while(|line| !timed(line)).count();
        if line.contains("ERROR: Exception when working with leader")
            && lines[at..at + told].iter().any(|line| line.contains("Connection refused"))
        {
            at += told;
        } else {
            kept.push(*line);
            at += 1;
        }
    }
    kept
}
