//! The first process of a container, by the hidden flag: a subreaper is to its descendants what process 1 is to all.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use surus_testbed::{Cluster, procs, wait_for};

/// State and parent of a process, from `/proc/<pid>/stat`.
fn state(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn children(parent: i32) -> Vec<(i32, char)> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| state(pid).filter(|(_, p)| *p == parent).map(|(state, _)| (pid, state)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_reaped_and_signals_forwarded() -> Result<()> {
    // The shell ends at once: what is left is an orphan.
    let orphan = json!({"bootstrap": {"post_bootstrap": "/bin/sh -c 'sleep 60 >/dev/null 2>&1 & exit 0'"}});
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus")).nodes(1).settings(orphan).prepare().await?;
    let node = cluster.node(0);
    let log = std::fs::File::create(node.log_path())?;
    let mut first = Command::new(env!("CARGO_BIN_EXE_surus"))
        .arg("--init")
        .arg("run")
        .arg(node.config_path())
        .current_dir(&node.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let pid = first.id().cast_signed();
    let result = async {
        wait_for("the member leads", Duration::from_secs(60), async || {
            let answer = cluster.get(0, "/primary").await?;
            ensure!(answer.status == 200, "GET /primary: {}", answer.status);
            Ok(())
        })
        .await?;
        let orphan = wait_for("the orphan is handed over", Duration::from_secs(10), async || {
            let found = children(pid).into_iter().find(|(child, _)| name(*child) == "sleep");
            Ok(found.context("no orphan yet")?.0)
        })
        .await?;
        procs::terminate(orphan.cast_unsigned());
        wait_for("the orphan is reaped", Duration::from_secs(10), async || {
            ensure!(state(orphan).is_none(), "it is still there: {:?}", state(orphan));
            Ok(())
        })
        .await?;
        procs::terminate(first.id());
        wait_for("it ends", Duration::from_secs(60), async || first.try_wait()?.context("it still runs")).await
    }
    .await;
    if result.is_err() {
        let _ = first.kill();
        let _ = first.wait();
    }
    let status = result.with_context(|| node.log())?;
    ensure!(status.success(), "the agent ended with {status}:\n{}", node.log());
    ensure!(!cluster.postmaster_alive(0), "PostgreSQL was not stopped");
    cluster.passed();
    Ok(())
}
