//! Wrong input: a clear error, an exit status that says so, and nothing changed.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, Node, Port, StoreKind, wait_for};

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

const LIMIT: Duration = Duration::from_secs(30);

/// The agent must end with an error that has all the words in it.
async fn refused(cluster: &Cluster, name: &str, config: &str, words: &[&str]) -> Result<()> {
    let (status, output) = cluster.run_once(name, config, LIMIT).await?;
    let Some(status) = status else { anyhow::bail!("{name}: the agent went on:\n{output}") };
    ensure!(!status.success(), "{name}: it ended with success:\n{output}");
    for word in words {
        ensure!(output.contains(word), "{name}: the error does not say \"{word}\":\n{output}");
    }
    Ok(())
}

fn yaml(config: &Value) -> String {
    // JSON is YAML.
    config.to_string()
}

/// A member's configuration with one value replaced; the pointer's parents exist.
fn with(node: &Node, pointer: &str, value: Value) -> String {
    let mut config = node.config.clone();
    let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
    config.pointer_mut(parent).expect("the parent exists")[key] = value;
    yaml(&config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_that_cannot_work() -> Result<()> {
    let cluster = cluster().nodes(1).prepare().await?;
    let node = cluster.node(0);
    refused(&cluster, "no-yaml", "scope: demo\nname: [unclosed\nrestapi: {}\n", &["patroni.yml", "line"]).await?;
    refused(&cluster, "no-mapping", "just a text\n", &["patroni.yml"]).await?;
    refused(&cluster, "empty", "", &["patroni.yml"]).await?;
    refused(&cluster, "no-listen", &with(node, "/restapi/listen", json!("nowhere")), &["restapi.listen"]).await?;
    refused(&cluster, "wrong-type", &with(node, "/postgresql/data_dir", json!({"a": 1})), &["postgresql.data_dir"])
        .await?;
    let mut storeless = node.config.clone();
    storeless.as_object_mut().expect("a mapping").remove("raft");
    refused(&cluster, "no-store", &yaml(&storeless), &["raft", "etcd3"]).await?;
    let timing = json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10});
    refused(
        &cluster,
        "timing",
        &with(node, "/bootstrap/dcs", timing),
        &["ttl", "loop_wait", "retry_timeout", "20", "30"],
    )
    .await?;
    refused(&cluster, "no-binaries", &with(node, "/postgresql/bin_dir", json!("/nonexistent")), &["/nonexistent"])
        .await?;
    assert!(!node.data_dir().exists(), "nothing may have been created");

    let missing = cluster.surus(0, &["run", "/nonexistent/patroni.yml"]).await?;
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/patroni.yml"));
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use() -> Result<()> {
    let cluster = cluster().nodes(1).prepare().await?;
    let node = cluster.node(0);
    let _taken = TcpListener::bind(("127.0.0.1", node.rest.number))?;
    refused(&cluster, "port", &yaml(&node.config), &[&node.rest.address()]).await?;
    assert!(!node.data_dir().exists());
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_are_not_ours() -> Result<()> {
    let cluster = cluster().nodes(1).prepare().await?;
    let node = cluster.node(0);
    let data = node.data_dir();
    fs::create_dir(&data)?;
    fs::write(data.join("diary.txt"), "dear diary")?;
    let path = data.display().to_string();
    refused(&cluster, "diary", &yaml(&node.config), &[&path]).await?;
    assert_eq!(fs::read_to_string(data.join("diary.txt"))?, "dear diary");

    fs::remove_dir_all(&data)?;
    initdb(&cluster)?;
    fs::write(data.join("PG_VERSION"), "9.6\n")?;
    refused(&cluster, "version", &yaml(&node.config), &[&path, "9.6"]).await?;
    cluster.passed();
    Ok(())
}

/// A PostgreSQL cluster of its own in the data directory of the last member.
fn initdb(cluster: &Cluster) -> Result<()> {
    let data = cluster.nodes.last().expect("a member").data_dir();
    let program = cluster.machine.bin_dir.join("initdb");
    let mut command = match cluster.machine.postgres {
        Some(_) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    let output = command.arg("-D").arg(&data).args(["--no-sync", "-U", "postgres"]).current_dir("/").output()?;
    ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_directory_of_another_cluster() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let ours = cluster.status(0).await?["database_system_identifier"].as_str().unwrap_or_default().to_owned();
    if cluster.leader().await? == 2 {
        let answer = cluster.send(2, "POST", "/switchover", &json!({"leader": "node3"})).await?;
        ensure!(answer.status == 200, "{}", answer.body);
        cluster.wait_healthy().await?;
    }
    assert!(cluster.stop(2).await?.success());
    cluster.wipe(2)?;
    initdb(&cluster)?;
    let marker = cluster.node(2).data_dir().join("global/pg_control");
    let before = fs::read(&marker)?;
    cluster.start(2)?;
    let status = cluster.exited(2).await?;
    assert!(!status.success());
    let log = cluster.node(2).log();
    assert!(log.contains(&ours), "the log does not name this cluster's identifier {ours}:\n{log}");
    assert_eq!(fs::read(&marker)?, before, "the foreign data directory must stay as it is");
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent() -> Result<()> {
    let cluster = cluster().store(StoreKind::Etcd).nodes(2).healthy().await?;
    let node = cluster.node(0);
    let (rest, postgres) = (Port::free()?, Port::free()?);
    let mut other = node.config.clone();
    other["restapi"] = json!({"listen": rest.address(), "connect_address": rest.address()});
    other["postgresql"]["listen"] = json!(postgres.address());
    other["postgresql"]["connect_address"] = json!(postgres.address());

    let mut same_directory = other.clone();
    same_directory["name"] = json!("another");
    let data = node.data_dir().display().to_string();
    refused(&cluster, "same-directory", &yaml(&same_directory), &[&data]).await?;

    let mut same_name = other;
    same_name["postgresql"]["data_dir"] = json!(cluster.dir().join("elsewhere"));
    refused(&cluster, "same-name", &yaml(&same_name), &["node1"]).await?;
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_there() -> Result<()> {
    let cluster = cluster().nodes(1).store(StoreKind::Etcd).prepare().await?;
    let nobody = Port::free()?;
    let mut config = cluster.node(0).config.clone();
    config["etcd3"] = json!({"host": nobody.address()});
    let (status, output) = cluster.run_once("no-store", &yaml(&config), Duration::from_secs(20)).await?;
    assert!(status.is_none_or(|status| !status.success()));
    assert!(output.contains(&nobody.address()), "the store's address is not named:\n{output}");
    assert!(!cluster.node(0).data_dir().exists(), "nothing is initialised without the store");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_the_store() -> Result<()> {
    let cluster = cluster().store(StoreKind::Etcd).healthy().await?;
    let leader = cluster.leader().await?;
    let etcd = cluster.etcd.as_ref().expect("built with etcd");
    for key in ["config", "status", "history", "failover", "sync", "members/node9", "nonsense"] {
        for garbage in [&b"{\"not\": json"[..], b"\xff\xfe\x00", b"[1,2]", b""] {
            etcd.put(&format!("/service/{}/{key}", cluster.scope), garbage).await?;
        }
        etcd.put(&format!("/service/{}/{key}", cluster.scope), b"{\"not\": json").await?;
        // The leader repairs config and status at once, maybe before anyone has read what was there.
        if ["history", "failover", "sync", "members/node9"].contains(&key) {
            wait_for(&format!("the leader's log names {key}"), LIMIT, async || {
                let log = cluster.node(leader).log();
                ensure!(log.contains(&format!("/{key}")), "not yet");
                Ok(())
            })
            .await?;
        }
    }
    let now = cluster.wait_healthy().await?;
    assert_eq!(now, leader, "garbage moved the lead");
    assert_eq!(cluster.sql(leader, "create table t as select 1 as n; select n from t").await?, "1");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_bodies() -> Result<()> {
    let cluster = cluster().nodes(1).healthy().await?;
    let before = cluster.dynamic(0).await?;
    let huge = format!("{{\"x\": \"{}\"}}", "y".repeat(4 << 20));
    for (method, path) in [("PATCH", "/config"), ("PUT", "/config"), ("POST", "/switchover"), ("POST", "/failover")] {
        for body in [&b"not json"[..], b"[]", b"7", b"\xff", b"", b"{}"] {
            let answer = cluster.send_raw(0, method, path, body).await?;
            assert_eq!(answer.status, 400, "{method} {path} {:?}: {}", String::from_utf8_lossy(body), answer.body);
        }
        let answer = cluster.send_raw(0, method, path, huge.as_bytes()).await?;
        assert!((400..500).contains(&answer.status), "{method} {path} 4 MB: {}", answer.status);
    }
    for (path, body, status) in [
        ("/switchover", json!({"leader": 7}), 400..500),
        ("/failover", json!({"foo": "bar"}), 400..401),
        ("/restart", json!({"timeout": "soon"}), 400..401),
        ("/restart", json!({"role": "emperor"}), 400..401),
        ("/switchover", json!({"leader": "node1", "scheduled_at": "2000-01-01T00:00:00Z"}), 422..423),
    ] {
        let answer = cluster.send(0, "POST", path, &body).await?;
        assert!(status.contains(&answer.status), "{path} {body}: {} {}", answer.status, answer.body);
    }
    assert_eq!(cluster.dynamic(0).await?, before);
    assert_eq!(cluster.healthy().await?, 0);
    cluster.passed();
    Ok(())
}
