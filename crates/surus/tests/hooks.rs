//! What users hang onto a cluster: callbacks, `pre_promote`, `before_stop`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, wait_for};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const ACTIONS: [&str; 5] = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];

/// Scripts, and what they write down: one file for each member.
struct Scripts {
    dir: TempDir,
}

impl Scripts {
    fn new() -> Result<Scripts> {
        let dir = tempfile::Builder::new().prefix("surus-hooks-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
        let scripts = Scripts { dir };
        scripts.script("record", "file=$1; shift; echo \"$@\" >> \"$file\"")?;
        Ok(scripts)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, body: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// A command line that writes its arguments down as that member's.
    fn record(&self, node: usize) -> String {
        format!("'{}' '{}'", self.path("record").display(), self.path(&format!("told{node}")).display())
    }

    fn callbacks(&self, node: usize) -> Value {
        ACTIONS.iter().map(|action| ((*action).to_owned(), json!(self.record(node)))).collect()
    }

    fn told(&self, node: usize) -> Vec<String> {
        lines(&self.path(&format!("told{node}")))
    }

    /// Waits for exactly this since the last time, reloads aside, and forgets it.
    async fn expect(&self, node: usize, calls: &[&str]) -> Result<()> {
        wait_for(&format!("{calls:?} on node {node}"), SOON, async || {
            let told: Vec<String> = self.told(node).into_iter().filter(|t| !t.starts_with("on_reload")).collect();
            ensure!(told == calls, "{told:?}");
            Ok(())
        })
        .await?;
        fs::remove_file(self.path(&format!("told{node}")))?;
        Ok(())
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

/// Follows one cluster through everything that happens to a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_told_what_happens() -> Result<()> {
    let scripts = Scripts::new()?;
    let mut builder = cluster().nodes(2);
    for node in 0..2 {
        builder = builder.settings_of(
            node,
            json!({"postgresql": {
                "callbacks": scripts.callbacks(node),
                "pre_promote": format!("{} pre_promote", scripts.record(node)),
                "before_stop": format!("{} before_stop", scripts.record(node)),
            }}),
        );
    }
    let mut cluster = builder.healthy().await?;
    let a = cluster.leader().await?;
    let b = cluster.others(a)[0];
    scripts.expect(a, &["on_start primary testbed"]).await?;
    scripts.expect(b, &["on_start replica testbed"]).await?;

    let answer = cluster.send(b, "POST", "/restart", &json!({})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    scripts.expect(b, &["before_stop", "on_restart replica testbed"]).await?;
    cluster.wait_healthy().await?;

    let body = json!({"leader": cluster.nodes[a].name, "candidate": cluster.nodes[b].name});
    let answer = cluster.send(a, "POST", "/switchover", &body).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    scripts.expect(b, &["pre_promote", "on_role_change primary testbed"]).await?;
    scripts.expect(a, &["before_stop", "on_stop demoted testbed", "on_role_change replica testbed"]).await?;
    assert_eq!(cluster.wait_healthy().await?, b);

    let patch = json!({"postgresql": {"parameters": {"work_mem": "5MB"}}});
    assert_eq!(cluster.send(b, "PATCH", "/config", &patch).await?.status, 200);
    for (node, said) in [(a, "on_reload replica testbed"), (b, "on_reload primary testbed")] {
        wait_for("the reload is told", SOON, async || {
            ensure!(scripts.told(node).iter().any(|t| t == said), "{:?}", scripts.told(node));
            Ok(())
        })
        .await?;
    }
    let _ = fs::remove_file(scripts.path(&format!("told{a}")));
    let _ = fs::remove_file(scripts.path(&format!("told{b}")));

    // The primary that crashed is not told to stop; it comes back as what it is by then.
    cluster.kill_postmaster(b)?;
    let leader = wait_for("a primary again", SOON, async || cluster.healthy().await).await?;
    let told = if leader == b { ["on_start primary testbed"] } else { ["on_role_change replica testbed"] };
    scripts.expect(b, &told).await?;
    if leader != b {
        scripts.expect(a, &["pre_promote", "on_role_change primary testbed"]).await?;
    }

    // An adopted server is announced, and an agent that ends leaves its last callback running.
    let replica = cluster.others(leader)[0];
    cluster.kill_agent(replica)?;
    cluster.start(replica)?;
    scripts.expect(replica, &["on_start replica testbed"]).await?;
    cluster.wait_healthy().await?;
    assert!(cluster.stop(replica).await?.success());
    scripts.expect(replica, &["before_stop", "on_stop replica testbed"]).await?;
    cluster.passed();
    Ok(())
}

/// One that hangs is ended by the next one, with its children, and holds up nothing meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_hangs() -> Result<()> {
    let scripts = Scripts::new()?;
    let hang = scripts
        .script("hang", "trap '' TERM\nsleep 3600 &\necho $$ $! >> \"$(dirname \"$0\")/pids\"\nwait\nsleep 3600")?;
    let callbacks = json!({"on_start": hang, "on_restart": scripts.record(0), "on_role_change": "/no/such/program"});
    let cluster = cluster().nodes(1).settings(json!({"postgresql": {"callbacks": callbacks}})).healthy().await?;
    let pids = wait_for("the callback runs", SOON, async || {
        let found = lines(&scripts.path("pids"));
        let pids: Vec<i32> =
            found.first().map(|l| l.split(' ').filter_map(|p| p.parse().ok()).collect()).unwrap_or_default();
        ensure!(pids.len() == 2, "{found:?}");
        Ok(pids)
    })
    .await?;
    let alive = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    };
    assert!(pids.iter().all(alive));
    let answer = cluster.send(0, "POST", "/restart", &json!({})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    scripts.expect(0, &["on_restart primary testbed"]).await?;
    assert!(!pids.iter().any(alive), "{pids:?}");
    assert!(cluster.node(0).log().contains("which still runs, for the next callback"));
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

/// The candidate's own script says no: it gives the lead away, and somebody else serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_is_refused() -> Result<()> {
    let scripts = Scripts::new()?;
    let flag = scripts.path("refuse");
    let asks =
        scripts.script("ask", &format!("if [ -e '{}' ]; then echo 'not today' >&2; exit 3; fi", flag.display()))?;
    let builder = cluster().nodes(2).dynamic(json!({"ttl": 6, "loop_wait": 1, "retry_timeout": 2}));
    let cluster = builder.settings(json!({"postgresql": {"pre_promote": asks}})).healthy().await?;
    let a = cluster.leader().await?;
    let b = cluster.others(a)[0];
    cluster.sql(a, "create table t as select 7 as n").await?;
    cluster.wait_healthy().await?;
    fs::write(&flag, "")?;
    let body = json!({"leader": cluster.nodes[a].name, "candidate": cluster.nodes[b].name});
    // What becomes of it is seen below: the lead may come back to the old leader, or stay free while both refuse.
    let _ = cluster.send(a, "POST", "/switchover", &body).await?;
    wait_for("the log says why", SOON, async || {
        let log = cluster.node(b).log();
        ensure!(log.contains("giving the lead away because the promotion failed"), "no refusal yet");
        ensure!(log.contains("postgresql.pre_promote") && log.contains("not today"), "no reason");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.sql(b, "select pg_is_in_recovery()").await?, "t");
    fs::remove_file(&flag)?;
    let leader = cluster.wait_healthy().await?;
    assert_eq!(cluster.writable().await, [leader]);
    assert_eq!(cluster.sql(leader, "select n from t").await?, "7");
    cluster.passed();
    Ok(())
}
