//! Taking over what an operator made: a stand-alone server, a streaming pair, and what must not be taken over.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, PASSWORD, StoreKind, wait_for};

const LONG: Duration = Duration::from_secs(60);

fn cluster(nodes: usize) -> Builder {
    // The operator has made a configuration file, and a server without anything that a cluster needs.
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .nodes(nodes)
        .store(StoreKind::Etcd)
        .settings(json!({"bootstrap": {"dcs": null, "initdb": null}, "postgresql": {"pg_hba": null}}))
}

/// Which server this is: the same postmaster in the same directory.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    postmaster: Option<i32>,
    started: String,
    directory: u64,
}

/// The server of a member as its operator runs it, without any agent.
struct Operator<'a> {
    cluster: &'a Cluster,
    node: usize,
}

impl Operator<'_> {
    fn data(&self) -> PathBuf {
        self.cluster.node(self.node).data_dir()
    }

    fn dir(&self) -> PathBuf {
        self.cluster.node(self.node).dir.clone()
    }

    fn port(&self) -> u16 {
        self.cluster.node(self.node).postgres.number
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.cluster.machine.run(program, args, &self.dir())
    }

    fn initdb(&self, settings: &str) -> Result<()> {
        let data = self.data().to_string_lossy().into_owned();
        self.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-N"])?;
        self.append(settings)
    }

    fn append(&self, settings: &str) -> Result<()> {
        let conf = self.data().join("postgresql.conf");
        let text = fs::read_to_string(&conf)?;
        let (port, dir) = (self.port(), self.dir().display().to_string());
        fs::write(&conf, format!("{text}\nport = {port}\nunix_socket_directories = '{dir}'\n{settings}\n"))?;
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let data = self.data().to_string_lossy().into_owned();
        let log = self.dir().join("operator.log").to_string_lossy().into_owned();
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "start"]).map(drop)
    }

    fn sql(&self, sql: &str) -> Result<String> {
        let (dir, port) = (self.dir().to_string_lossy().into_owned(), self.port().to_string());
        let out = self.run("psql", &["-h", &dir, "-p", &port, "-U", "postgres", "-AtXq", "-c", sql, "postgres"])?;
        Ok(out.trim().to_owned())
    }

    fn identity(&self) -> Result<Identity> {
        Ok(Identity {
            postmaster: self.cluster.node(self.node).postmaster_pid(),
            started: self.sql("select pg_postmaster_start_time()")?,
            directory: fs::metadata(self.data())?.ino(),
        })
    }
}

fn operator(cluster: &Cluster, node: usize) -> Operator<'_> {
    Operator { cluster, node }
}

/// What the agent says is wanting, as the statements in it.
async fn wanting(cluster: &Cluster, node: usize) -> Result<Vec<String>> {
    let said = cluster.status(node).await?["surus"]["wanting"].clone();
    Ok(said.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// As a person would: copies what comes after "run:", with the passwords of the configuration.
fn obey(cluster: &Cluster, node: usize, wanting: &[String]) -> Result<()> {
    for line in wanting {
        let statements = line.split_once("run: ").context("it does not say what to run")?.1;
        let statements = statements
            .replace("'(the one in postgresql.authentication.replication)'", &format!("'{PASSWORD}'"))
            .replace("'(the one in postgresql.authentication.rewind)'", &format!("'{PASSWORD}'"));
        operator(cluster, node).sql(&statements)?;
    }
    Ok(())
}

async fn leads(cluster: &Cluster, node: usize) -> Result<()> {
    wait_for("it leads", LONG, async || {
        ensure!(cluster.leader().await? == node, "another leads");
        Ok(())
    })
    .await
}

async fn streams(cluster: &Cluster, node: usize) -> Result<()> {
    wait_for("it streams as a member", LONG, async || {
        let status = cluster.status(node).await?;
        ensure!(status["replication_state"] == "streaming", "{status}");
        let slot = operator(cluster, node).sql("select slot_name from pg_stat_wal_receiver")?;
        ensure!(slot == cluster.node(node).name, "by slot {slot}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stand_alone_server_is_taken_over_as_it_runs() -> Result<()> {
    let mut cluster = cluster(2).prepare().await?;
    let settings =
        "wal_level = minimal\nmax_wal_senders = 0\nmax_connections = 37\nwork_mem = '7MB'\nhot_standby = off";
    operator(&cluster, 0).initdb(settings)?;
    let server = operator(&cluster, 0);
    server.start()?;
    server.sql("create table kept as select generate_series(1, 1000) as i")?;
    server.sql("alter system set maintenance_work_mem = '33MB'")?;
    let before = server.identity()?;

    cluster.start(0)?;
    leads(&cluster, 0).await?;
    wait_for("the operator is told", LONG, async || {
        let wanting = wanting(&cluster, 0).await?;
        ensure!(wanting.len() == 3 && wanting[2].contains("wal_level minimal"), "{wanting:?}");
        let status = cluster.status(0).await?;
        let pending = &status["pending_restart_reason"];
        ensure!(pending["wal_level"]["new_value"] == "replica" && pending["max_wal_senders"].is_object(), "{status}");
        ensure!(pending.get("max_connections").is_none(), "the operator's own limit is kept: {status}");
        Ok(())
    })
    .await?;
    let server = operator(&cluster, 0);
    assert_eq!(server.identity()?, before, "it runs on as it was");
    assert_eq!(server.sql("select count(*) from kept")?, "1000");
    assert_eq!(server.sql("show work_mem")?, "7MB");
    assert_eq!(server.sql("show maintenance_work_mem")?, "33MB");
    let kept = fs::read_to_string(server.data().join("postgresql.base.conf"))?;
    assert!(kept.contains("work_mem = '7MB'"), "the operator's configuration");
    let id = server.sql("select system_identifier from pg_control_system()")?;
    let status = cluster.status(0).await?;
    assert_eq!(status["database_system_identifier"], id, "{status}");
    let told = String::from_utf8_lossy(&cluster.surus(0, &["explain"]).await?.stdout).into_owned();
    assert!(told.contains("CREATE ROLE \"replicator\" REPLICATION LOGIN"), "{told}");

    // What it says is what helps: the users, and one restart when it suits.
    let said = wanting(&cluster, 0).await?;
    obey(&cluster, 0, &said[..2])?;
    let restart = said[2].split_once("surus ").context("no command")?.1.to_owned();
    let restart: Vec<&str> = restart.split(' ').chain(["--force"]).collect();
    let done = cluster.surus(0, &restart).await?;
    assert!(done.status.success(), "{done:?}");
    wait_for("nothing is wanting", LONG, async || {
        let wanting = wanting(&cluster, 0).await?;
        ensure!(wanting.is_empty(), "{wanting:?}");
        ensure!(cluster.status(0).await?["pending_restart"].is_null(), "a restart is pending");
        Ok(())
    })
    .await?;
    let server = operator(&cluster, 0);
    assert_eq!(server.sql("show wal_level")?, "replica");
    assert_eq!(server.sql("show max_connections")?, "37");
    assert_eq!(server.sql("select count(*) from kept")?, "1000");
    assert_eq!(server.sql("select timeline_id from pg_control_checkpoint()")?, "1", "the restart was one of a primary");
    assert_eq!(fs::metadata(server.data())?.ino(), before.directory);

    // From here on it is a cluster like another: a second member is copied from it.
    cluster.start(1)?;
    streams(&cluster, 1).await?;
    assert_eq!(operator(&cluster, 1).sql("select count(*) from kept")?, "1000");
    cluster.passed();
    Ok(())
}

/// Two servers, the second one streams from the first with an own user, slot and name, by ALTER SYSTEM.
fn pair(cluster: &Cluster) -> Result<()> {
    let first = operator(cluster, 0);
    first.initdb("wal_level = replica")?;
    first.start()?;
    first.sql("create table kept as select generate_series(1, 1000) as i")?;
    first.sql("create role repl login replication; select pg_create_physical_replication_slot('old_slot')")?;
    let second = operator(cluster, 1);
    let from = format!("host=127.0.0.1 port={} user=repl application_name=old", first.port());
    let data = second.data().to_string_lossy().into_owned();
    second.run("pg_basebackup", &["-D", &data, "-d", &from, "-R", "-S", "old_slot", "-c", "fast"])?;
    second.append("")?;
    second.start()?;
    ensure!(fs::read_to_string(second.data().join("postgresql.auto.conf"))?.contains("old_slot"), "not as meant");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streaming_pair_is_taken_over_without_a_copy_or_a_restart() -> Result<()> {
    let mut cluster = cluster(2).prepare().await?;
    pair(&cluster)?;
    let before = [operator(&cluster, 0).identity()?, operator(&cluster, 1).identity()?];
    let receiving = || operator(&cluster, 1).sql("select slot_name, status from pg_stat_wal_receiver");
    wait_for("it streams", LONG, async || {
        ensure!(receiving()? == "old_slot|streaming", "{}", receiving()?);
        Ok(())
    })
    .await?;

    // In the wrong order: the standby's agent waits, changes nothing, and leaves PostgreSQL alone when it is stopped.
    cluster.start(1)?;
    let waits = "Please first start the agent on the node running as primary";
    wait_for("it waits for the primary's agent", LONG, async || {
        let told = cluster.get(1, "/explain").await?.json()?["goal"].to_string();
        ensure!(told.contains(waits), "{told}");
        Ok(())
    })
    .await?;
    assert!(cluster.stop(1).await?.success());
    assert!(!operator(&cluster, 1).data().join("postgresql.base.conf").exists(), "its files are as they were");
    cluster.start(1)?;

    cluster.start(0)?;
    leads(&cluster, 0).await?;
    // Without the users it would lose what it has, so it keeps it.
    wait_for("it is told why it does not follow", LONG, async || {
        let log = fs::read_to_string(cluster.node(1).dir.join("agent.log"))?;
        ensure!(log.contains("staying with the present upstream because node1 does not let me in"), "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(operator(&cluster, 1).sql("select slot_name, status from pg_stat_wal_receiver")?, "old_slot|streaming");

    wait_for("the operator is told", LONG, async || {
        let wanting = wanting(&cluster, 0).await?;
        ensure!(wanting.len() == 2, "{wanting:?}");
        Ok(())
    })
    .await?;
    obey(&cluster, 0, &wanting(&cluster, 0).await?)?;
    streams(&cluster, 1).await?;
    let after = [operator(&cluster, 0).identity()?, operator(&cluster, 1).identity()?];
    assert_eq!(after, before, "neither was restarted or copied");
    let auto = fs::read_to_string(operator(&cluster, 1).data().join("postgresql.auto.conf"))?;
    assert!(!auto.contains("primary_conninfo"), "{auto}");
    operator(&cluster, 0).sql(
        "insert into kept values (1001); select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name \
         = 'old_slot' and not active",
    )?;
    wait_for("the row is there", LONG, async || {
        ensure!(operator(&cluster, 1).sql("select count(*) from kept")? == "1001", "not yet");
        Ok(())
    })
    .await?;

    // And it is a cluster: the lead goes over and comes back.
    let status = cluster.send(0, "POST", "/switchover", &json!({"leader": "node1", "candidate": "node2"})).await?;
    assert_eq!(status.status, 200, "{}", status.body);
    leads(&cluster, 1).await?;
    streams(&cluster, 0).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_together_is_refused_and_left_as_it_is() -> Result<()> {
    let mut cluster = cluster(3).prepare().await?;
    // node1 and node2 are of one system; node2 was promoted by hand. node3 is of another.
    pair(&cluster)?;
    operator(&cluster, 1).sql("select pg_promote()")?;
    operator(&cluster, 1).sql("create table second as select 1")?;
    operator(&cluster, 2).initdb("")?;
    operator(&cluster, 2).start()?;
    operator(&cluster, 2).sql("create table other as select 1")?;
    let before = [operator(&cluster, 1).identity()?, operator(&cluster, 2).identity()?];
    cluster.start(0)?;
    leads(&cluster, 0).await?;

    for (node, says) in [
        (1, "node1 leads the cluster, and PostgreSQL runs here as a primary that was never managed"),
        (2, "system ID mismatch, node node3 belongs to a different cluster"),
    ] {
        cluster.start(node)?;
        let status = cluster.exited(node).await?;
        assert!(!status.success());
        let log = fs::read_to_string(cluster.node(node).dir.join("agent.log"))?;
        assert!(log.contains(says), "{log}");
        let server = operator(&cluster, node);
        assert_eq!(server.identity()?, before[node - 1], "it runs on");
        assert!(!server.data().join("postgresql.base.conf").exists(), "its files are as they were");
    }
    assert_eq!(operator(&cluster, 1).sql("select count(*) from second")?, "1");
    assert_eq!(operator(&cluster, 2).sql("select count(*) from other")?, "1");
    assert_eq!(cluster.leader().await?, 0);
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_let_the_agent_in_runs_on() -> Result<()> {
    let mut cluster = cluster(1).prepare().await?;
    let server = operator(&cluster, 0);
    server.initdb("wal_level = minimal\nmax_wal_senders = 0")?;
    server.start()?;
    let before = server.identity()?;
    server.sql("create role agent superuser login password 'something else'")?;
    let hba = server.data().join("pg_hba.conf");
    let as_it_was = fs::read_to_string(&hba)?;
    fs::write(&hba, format!("local all agent scram-sha-256\nhost all agent all scram-sha-256\n{as_it_was}"))?;
    server.sql("select pg_reload_conf()")?;
    cluster.nodes[0].config["postgresql"]["authentication"]["superuser"]["username"] = json!("agent");
    cluster.nodes[0].write_config()?;

    // For longer than a ttl.
    cluster.start(0)?;
    wait_for("it says why", LONG, async || {
        let told = cluster.get(0, "/explain").await?.json()?;
        let goal = told["goal"].to_string();
        ensure!(goal.contains("it is left as it is") && goal.contains("password authentication failed"), "{told}");
        let time = |key: &str| Ok::<jiff::Timestamp, anyhow::Error>(told[key].as_str().context("no time")?.parse()?);
        ensure!(time("at")?.as_second() - time("since")?.as_second() > 12, "not for long yet");
        Ok(())
    })
    .await?;
    assert_eq!(operator(&cluster, 0).identity()?, before);
    assert!(cluster.stop(0).await?.success());
    assert_eq!(operator(&cluster, 0).identity()?, before, "the agent leaves it alone when it ends");

    // Let in, it is taken over; and its log of level minimal does not keep it from coming back.
    operator(&cluster, 0).sql(&format!("alter role agent password '{PASSWORD}'"))?;
    cluster.start(0)?;
    leads(&cluster, 0).await?;
    assert_eq!(operator(&cluster, 0).identity()?, before);
    assert!(cluster.stop(0).await?.success());
    assert!(!cluster.postmaster_alive(0), "it is the cluster's now");
    cluster.start(0)?;
    leads(&cluster, 0).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_in_another_directory_is_not_lost() -> Result<()> {
    let mut cluster = cluster(1).prepare().await?;
    let server = operator(&cluster, 0);
    server.initdb("work_mem = '7MB'")?;
    let etc = server.dir().join("etc");
    server.run("mkdir", &["-p", &etc.to_string_lossy()])?;
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        server.run("mv", &[&server.data().join(file).to_string_lossy(), &etc.join(file).to_string_lossy()])?;
    }
    let text = fs::read_to_string(etc.join("postgresql.conf"))?;
    let places = format!(
        "data_directory = '{}'\nhba_file = '{e}/pg_hba.conf'\nident_file = '{e}/pg_ident.conf'\n",
        server.data().display(),
        e = etc.display()
    );
    fs::write(etc.join("postgresql.conf"), text + &places)?;
    let data = server.data().to_string_lossy().into_owned();
    let file = format!("-c config_file={}", etc.join("postgresql.conf").display());
    let log = server.dir().join("operator.log").to_string_lossy().into_owned();
    server.run("pg_ctl", &["-D", &data, "-o", &file, "-l", &log, "-w", "start"])?;
    let before = server.identity()?;

    cluster.start(0)?;
    assert!(!cluster.exited(0).await?.success());
    let log = fs::read_to_string(cluster.node(0).dir.join("agent.log"))?;
    let says = format!("Set postgresql.config_dir to {}", etc.display());
    assert!(log.contains(&says), "{log}");
    cluster.nodes[0].config["postgresql"]["config_dir"] = json!(etc);
    cluster.nodes[0].write_config()?;
    cluster.start(0)?;
    leads(&cluster, 0).await?;
    assert_eq!(operator(&cluster, 0).identity()?, before);
    let done = cluster.surus(0, &["restart", &cluster.scope, "node1", "--force"]).await?;
    assert!(done.status.success(), "{done:?}");
    assert_eq!(operator(&cluster, 0).sql("show work_mem")?, "7MB");
    cluster.passed();
    Ok(())
}
