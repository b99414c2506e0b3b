//! What operators do: pause, restart, reload, reinitialise, change the configuration, look.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, Screen, StoreKind, WRITER, wait_for};

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

const LONG: Duration = Duration::from_secs(90);

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs an operator command that has to succeed; its standard output.
async fn surus(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let output = cluster.surus(0, args).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "surus {}: {}\n{}{errors}", args.join(" "), output.status, text(&output));
    Ok(text(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_means_hands_off() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    surus(&cluster, &["pause", "--wait"]).await?;
    for node in 0..3 {
        assert_eq!(cluster.status(node).await?["pause"], true);
    }

    // A dead primary stays dead, and nobody takes over.
    cluster.kill_postmaster(leader)?;
    cluster.wait_postgres_down(leader, LONG).await?;
    let rounds = async |node: usize| Ok::<_, anyhow::Error>(cluster.status(node).await?["dcs_last_seen"].as_i64());
    let since = rounds(leader).await?;
    wait_for("every member has looked twice since", LONG, async || {
        for node in 0..3 {
            ensure!(rounds(node).await? > since.map(|at| at + 5), "not yet");
        }
        Ok(())
    })
    .await?;
    assert!(!cluster.postmaster_alive(leader));
    assert_eq!(cluster.writable().await, [] as [usize; 0]);

    surus(&cluster, &["resume", "--wait"]).await?;
    let leader = cluster.wait_healthy().await?;

    // An agent that stops while paused leaves PostgreSQL running.
    surus(&cluster, &["pause", "--wait"]).await?;
    let pid = cluster.node(leader).postmaster_pid();
    assert!(cluster.stop(leader).await?.success());
    assert!(cluster.postmaster_alive(leader));
    assert_eq!(cluster.sql(leader, "select pg_is_in_recovery()").await?, "f");
    cluster.start(leader)?;
    wait_for("it leads again", LONG, async || {
        ensure!(cluster.leader().await? == leader, "another leads");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.node(leader).postmaster_pid(), pid);
    surus(&cluster, &["resume", "--wait"]).await?;
    cluster.wait_healthy().await?;

    // A leader that is lost while paused: nobody takes over unasked, and somebody does who is named.
    surus(&cluster, &["pause", "--wait"]).await?;
    cluster.kill_node(leader)?;
    let others = cluster.others(leader);
    wait_for("its lead has ended", LONG, async || {
        ensure!(cluster.leader().await.is_err(), "it leads");
        Ok(())
    })
    .await?;
    let resume = json!({"pause": null});
    ensure!(cluster.send(others[0], "PATCH", "/config", &resume).await?.status == 200, "not resumed");
    wait_for("it is waited for", LONG, async || {
        let told = cluster.get(others[1], "/explain").await?.json()?["goal"].to_string();
        ensure!(told.contains("was left alone while the cluster was paused"), "{told}");
        Ok(())
    })
    .await?;
    let candidate = json!({"candidate": cluster.node(others[0]).name});
    let failed_over = cluster.send(others[1], "POST", "/failover", &candidate).await?;
    ensure!(failed_over.status == 200, "{}", failed_over.body);
    assert_eq!(cluster.leader().await?, others[0]);
    cluster.start(leader)?;
    assert_eq!(cluster.wait_healthy().await?, others[0]);
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_reload_and_reinitialise() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let (replica, other) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    let scope = cluster.scope.clone();
    let name = |cluster: &Cluster, node: usize| cluster.nodes[node].name.clone();

    let before = cluster.node(replica).postmaster_pid();
    let answer = cluster.send(replica, "POST", "/restart", &json!({})).await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
    assert_ne!(cluster.node(replica).postmaster_pid(), before);
    cluster.wait_healthy().await?;

    let before = cluster.node(leader).postmaster_pid();
    surus(&cluster, &["restart", &scope, &name(&cluster, leader), "--force"]).await?;
    assert_ne!(cluster.node(leader).postmaster_pid(), before);
    assert_eq!(cluster.wait_healthy().await?, leader, "a restart keeps the lead");
    let refused = cluster.send(leader, "POST", "/restart", &json!({"role": "replica"})).await?;
    assert_eq!((refused.status, refused.body.as_str()), (503, "restart conditions are not satisfied"));

    for (memory, by_signal) in [("5MB", false), ("6MB", true)] {
        cluster.nodes[replica].config["postgresql"]["parameters"]["work_mem"] = json!(memory);
        cluster.node(replica).write_config()?;
        if by_signal {
            cluster.hangup(replica)?;
        } else {
            assert_eq!(cluster.send(replica, "POST", "/reload", &json!({})).await?.status, 202);
        }
        wait_for("the parameter is in force", LONG, async || {
            let seen = cluster.sql(replica, "show work_mem").await?;
            ensure!(seen == memory, "work_mem is {seen}");
            Ok(())
        })
        .await?;
    }

    // What was in the way of a reload is gone: nobody has to ask again.
    let in_the_way = cluster.node(replica).data_dir().join("postgresql.conf.surus.new");
    std::fs::create_dir(&in_the_way)?;
    cluster.nodes[replica].config["postgresql"]["parameters"]["work_mem"] = json!("7MB");
    cluster.node(replica).write_config()?;
    cluster.hangup(replica)?;
    wait_for("the failure is told", LONG, async || {
        ensure!(cluster.node(replica).log().contains("reloading PostgreSQL failed and is tried again"), "not yet");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.sql(replica, "show work_mem").await?, "6MB");
    std::fs::remove_dir(&in_the_way)?;
    wait_for("the parameter is in force", LONG, async || {
        ensure!(cluster.sql(replica, "show work_mem").await? == "7MB", "not yet");
        Ok(())
    })
    .await?;

    // A copy does not have this file, whatever else it shares with the directory it replaces.
    let old = cluster.node(other).data_dir().join("not-copied");
    let copied = async || {
        wait_for("a new copy", LONG, async || {
            ensure!(!old.exists(), "the old data directory is still there");
            cluster.healthy().await
        })
        .await
    };
    std::fs::write(&old, "")?;
    let answer = cluster.send(other, "POST", "/reinitialize", &json!({})).await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "reinitialize started"));
    copied().await?;
    std::fs::write(&old, "")?;
    surus(&cluster, &["reinit", &scope, &name(&cluster, other), "--force", "--wait"]).await?;
    copied().await?;
    let refused = cluster.send(leader, "POST", "/reinitialize", &json!({"force": true})).await?;
    assert_eq!((refused.status, refused.body.as_str()), (503, "I am the leader, can not reinitialize"));
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dynamic_configuration_reaches_every_server() -> Result<()> {
    let cluster = cluster().store(StoreKind::Etcd).healthy().await?;
    let leader = cluster.leader().await?;
    planned(&cluster).await?;
    let patch = json!({"maximum_lag_on_failover": 2_000_000, "postgresql": {"parameters": {"work_mem": "7MB", "max_connections": 111}}});
    let answer = cluster.send(leader, "PATCH", "/config", &patch).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()?["maximum_lag_on_failover"], 2_000_000);
    for node in 0..3 {
        wait_for("applied, and what needs a restart told", LONG, async || {
            let memory = cluster.sql(node, "show work_mem").await?;
            ensure!(memory == "7MB", "work_mem is {memory}");
            let status = cluster.status(node).await?;
            ensure!(status["pending_restart"] == true, "no pending restart: {status}");
            let reason = &status["pending_restart_reason"]["max_connections"];
            ensure!(*reason == json!({"old_value": "100", "new_value": "111"}), "{reason}");
            ensure!(cluster.dynamic(node).await?["maximum_lag_on_failover"] == 2_000_000, "not shown by /config");
            Ok(())
        })
        .await?;
        assert_eq!(cluster.sql(node, "show max_connections").await?, "100", "not before a restart");
    }
    // What `bootstrap.dcs` says counted once.
    let file = cluster.node(leader).config_path();
    let checked = cluster.surus(leader, &["check", "-i", &file.display().to_string()]).await?;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    ensure!(checked.status.success(), "{said}");
    ensure!(said.contains("bootstrap.dcs.postgresql.parameters.max_connections: is ignored"), "{said}");
    ensure!(said.contains("has 111") && !said.contains("Not compared"), "{said}");

    // A standby must not have fewer connections than its primary: it goes first.
    let scope = cluster.scope.clone();
    surus(&cluster, &["restart", &scope, "--role", "replica", "--pending", "--force"]).await?;
    surus(&cluster, &["restart", &scope, "--role", "leader", "--pending", "--force"]).await?;
    for node in 0..3 {
        wait_for("nothing pending", LONG, async || {
            let status = cluster.status(node).await?;
            ensure!(status.get("pending_restart").is_none(), "{status}");
            let connections = cluster.sql(node, "show max_connections").await?;
            ensure!(connections == "111", "max_connections is {connections}");
            Ok(())
        })
        .await?;
    }
    assert_eq!(cluster.wait_healthy().await?, leader);

    surus(&cluster, &["edit-config", "--set", "postgresql.parameters.work_mem=8MB", "--force"]).await?;
    let edited = surus(&cluster, &["edit-config", "-p", "shared_buffers=48MB", "--force"]).await?;
    ensure!(edited.contains("comes before the dynamic configuration"), "the preview does not warn:\n{edited}");
    surus(&cluster, &["edit-config", "-p", "shared_buffers=null", "--force"]).await?;
    generated(&cluster, leader).await?;
    let shown = surus(&cluster, &["show-config"]).await?;
    assert!(shown.contains("work_mem: 8MB"), "{shown}");
    let removed = cluster.send(leader, "PATCH", "/config", &json!({"maximum_lag_on_failover": null})).await?;
    assert!(removed.json()?.get("maximum_lag_on_failover").is_none());
    wait_for("every member shows the same", LONG, async || {
        for node in 0..3 {
            let shown = cluster.dynamic(node).await?;
            ensure!(shown == removed.json()?, "{} shows {shown}", cluster.nodes[node].name);
        }
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}

/// What would happen is told before it happens, and nothing happens.
async fn planned(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader().await?;
    let (name, before) = (cluster.nodes[leader].name.clone(), cluster.dynamic(leader).await?);
    cluster.sql(leader, "alter system set maintenance_work_mem = '77MB'").await?;
    cluster.sql(leader, "select pg_reload_conf()").await?;
    wait_for("ALTER SYSTEM counts", LONG, async || {
        let memory = cluster.sql(leader, "show maintenance_work_mem").await?;
        ensure!(memory == "77MB", "{memory}");
        Ok(())
    })
    .await?;
    let parameters = ["max_connections=111", "work_mem=7MB", "shared_buffers=64MB", "maintenance_work_mem=99MB"];
    let mut args = vec!["plan", "-f", "json", "-s", "maximum_lag_on_failover=2000000"];
    args.extend(parameters.iter().flat_map(|pair| ["-p", *pair]));
    let plan: Value = serde_json::from_str(&surus(cluster, &args).await?)?;
    let effects = |setting: &str| -> Vec<(String, String)> {
        let rows = plan["changes"].as_array().into_iter().flatten();
        let rows = rows.filter(|row| row["setting"].as_str().is_some_and(|s| s.ends_with(setting)));
        let text = |value: &Value| value.as_str().unwrap_or("all").to_owned();
        rows.map(|row| (text(&row["member"]), text(&row["effect"]))).collect()
    };
    let all = |setting: &str, effect: &str| effects(setting).iter().filter(|(_, e)| e == effect).count();
    ensure!(all("max_connections", "restart") == 3, "{plan:#}");
    ensure!(all("work_mem", "reload") == 5 && all("shared_buffers", "none") == 3, "{plan:#}");
    ensure!(effects("maintenance_work_mem").contains(&(name.clone(), "none".to_owned())), "{plan:#}");
    ensure!(effects("maximum_lag_on_failover") == [("all".to_owned(), "at_once".to_owned())], "{plan:#}");
    ensure!(plan["restart_order"] == "replicas_first" && plan["restarts"][2] == name.as_str(), "{plan:#}");

    let output = cluster.surus(0, &["plan", "-p", "no_such_thing=1", "-s", "ttl=15", "-s", "loop_wait=10"]).await?;
    let shown = text(&output);
    ensure!(output.status.code() == Some(1), "{shown}");
    for words in ["has no parameter of this name", "breaks the rule", "refused"] {
        ensure!(shown.contains(words), "{words}:\n{shown}");
    }
    // The same for a file that its member has not read yet.
    let mut config = cluster.node(leader).config.clone();
    config["postgresql"]["parameters"]["shared_buffers"] = json!("48MB");
    let file = cluster.node(leader).config_path().with_file_name("changed.yml");
    std::fs::write(&file, config.to_string())?;
    let plan: Value =
        serde_json::from_str(&surus(cluster, &["plan", "-f", "json", &file.display().to_string()]).await?)?;
    let change = &plan["changes"][0];
    ensure!(plan["changes"].as_array().is_some_and(|changes| changes.len() == 1), "{plan:#}");
    ensure!(
        change["setting"] == "shared_buffers" && change["effect"] == "restart" && change["to"] == "48MB",
        "{plan:#}"
    );
    ensure!(change["source"].as_str().is_some_and(|place| place.contains("changed.yml")), "{plan:#}");

    ensure!(cluster.dynamic(leader).await? == before, "a plan changed the configuration");
    cluster.sql(leader, "alter system reset maintenance_work_mem").await?;
    Ok(())
}

/// A configuration of the server that runs, good enough to take it over.
async fn generated(cluster: &Cluster, node: usize) -> Result<()> {
    let port = cluster.nodes[node].postgres.number;
    let dsn = format!("host=127.0.0.1 port={port} user=postgres password='{}'", surus_testbed::PASSWORD);
    let file = cluster.nodes[node].config_path().with_file_name("generated").join("patroni.yml");
    let path = file.display().to_string();
    surus(cluster, &["generate-config", "--dsn", &dsn, &path]).await?;
    let text = std::fs::read_to_string(&file)?;
    for words in ["scope: testbed", "shared_buffers: 32MB", "max_connections: 111", "- host replication replicator"] {
        ensure!(text.contains(words), "{words}:\n{text}");
    }
    std::fs::write(&file, text.replace("'#FIXME'", "replicator") + "\nraft:\n  self_addr: 127.0.0.1:1\n")?;
    let checked = cluster.surus(node, &["check", "-i", "--offline", &path]).await?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let wrong = cluster.surus(node, &["generate-config", "--dsn", &dsn.replace("only", "not")]).await?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(!wrong.status.success() && said.contains("Failed to establish PostgreSQL connection"), "{said}");
    Ok(())
}

/// A reload takes them up when the store takes them, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_the_store_are_exchanged_by_a_reload() -> Result<()> {
    let user = |password: &str| json!({"username": "root", "password": password});
    let settings = json!({"etcd3": user("first")});
    let mut cluster = cluster().nodes(1).store(StoreKind::Etcd).settings(settings).healthy().await?;
    let pid = cluster.node(0).postmaster_pid();
    let says = async |cluster: &Cluster, what: &str, times: usize| {
        wait_for(what, LONG, async || {
            ensure!(cluster.node(0).log().matches(what).count() == times, "not yet");
            Ok(())
        })
        .await
    };
    let reload = async |cluster: &mut Cluster, password: &str| {
        cluster.nodes[0].config["etcd3"]["password"] = json!(password);
        cluster.node(0).write_config()?;
        ensure!(cluster.send(0, "POST", "/reload", &json!({})).await?.status == 202, "not reloaded");
        Ok(())
    };
    let taken = "the credentials and certificates of etcd3 that are configured now are used from here on";
    // Nobody asks for a password yet.
    reload(&mut cluster, "second").await?;
    says(&cluster, taken, 1).await?;
    cluster.etcd.as_ref().context("no etcd")?.demand_password("second").await?;

    let confirmed = async |cluster: &Cluster| {
        let seen = async || Ok::<_, anyhow::Error>(cluster.status(0).await?["dcs_last_seen"].as_i64());
        let before = seen().await?;
        wait_for("the lease is confirmed again", LONG, async || {
            ensure!(seen().await? > before, "not yet");
            Ok(())
        })
        .await?;
        ensure!(cluster.get(0, "/primary").await?.status == 200, "it does not lead");
        Ok(())
    };
    confirmed(&cluster).await?;
    reload(&mut cluster, "wrong").await?;
    says(&cluster, "does not accept user \"root\" with this password", 1).await?;
    confirmed(&cluster).await?;
    reload(&mut cluster, "second").await?;
    confirmed(&cluster).await?;
    let log = cluster.node(0).log();
    ensure!(!log.contains("counts after a restart") && !log.contains("Demoting"), "{log}");
    ensure!(cluster.node(0).postmaster_pid() == pid, "PostgreSQL was restarted");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_show_and_do() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let rows = wait_for("all members listed", LONG, async || {
        let rows: Value = serde_json::from_str(&surus(&cluster, &["list", "-f", "json"]).await?)?;
        let streaming = rows.as_array().context("no rows")?.iter().filter(|row| row["State"] == "streaming").count();
        ensure!(streaming == 2, "{rows}");
        Ok(rows)
    })
    .await?;
    let led = rows.as_array().context("no rows")?.iter().find(|row| row["Role"] == "Leader").context("no leader")?;
    assert_eq!(led["Member"], cluster.nodes[leader].name);
    for command in [&["list"][..], &["topology"], &["history"], &["show-config"], &["explain"], &["version"]] {
        assert!(!surus(&cluster, command).await?.trim().is_empty(), "{command:?} says nothing");
    }
    let file = cluster.node(leader).config_path();
    surus(&cluster, &["check", &file.display().to_string()]).await.or_else(|error| {
        // The ports are in use by the very member: that, and only that, may be complained about.
        ensure!(format!("{error:#}").contains("in use"), "{error:#}");
        Ok(String::new())
    })?;

    queries(&cluster, leader).await?;

    let candidate = cluster.others(leader)[0];
    let (from, to) = (cluster.nodes[leader].name.clone(), cluster.nodes[candidate].name.clone());
    surus(&cluster, &["switchover", "--leader", &from, "--candidate", &to, "--force"]).await?;
    wait_for("the candidate leads", LONG, async || {
        ensure!(cluster.healthy().await? == candidate, "not yet");
        Ok(())
    })
    .await?;
    let history: Value = serde_json::from_str(&surus(&cluster, &["history", "-f", "json"]).await?)?;
    assert!(history.as_array().is_some_and(|lines| !lines.is_empty()), "{history}");

    // To an unknown candidate, from who does not lead, to a candidate that may not.
    for body in
        [json!({"leader": to, "candidate": "nobody"}), json!({"leader": from}), json!({"leader": to, "candidate": to})]
    {
        let answer = cluster.send(candidate, "POST", "/switchover", &body).await?;
        assert!((400..500).contains(&answer.status), "{body}: {} {}", answer.status, answer.body);
    }
    assert_eq!(cluster.leader().await?, candidate);
    the_whole_screen(&cluster).await?;
    a_question_is_not_answered(&cluster).await?;
    cluster.passed();
    Ok(())
}

/// As a user who needs no password.
async fn queries(cluster: &Cluster, leader: usize) -> Result<()> {
    cluster.sql(leader, &format!("create role {WRITER} login")).await?;
    for node in cluster.others(leader) {
        wait_for("the user is there", LONG, async || {
            let there = cluster.sql(node, &format!("select count(*) from pg_roles where rolname = '{WRITER}'")).await?;
            ensure!(there == "1", "not yet");
            Ok(())
        })
        .await?;
    }
    let as_writer = ["query", "-U", WRITER, "-d", "postgres"];
    let query = async |args: &[&str]| surus(cluster, &[&as_writer[..], args].concat()).await;
    let role = ["-c", "select pg_is_in_recovery() as standby"];
    assert_eq!(query(&role).await?, "standby\nFalse\n");
    for (pick, standby) in [("leader", "False"), ("primary", "False"), ("replica", "True"), ("standby", "True")] {
        assert_eq!(query(&[&role[..], &["-r", pick]].concat()).await?, format!("standby\n{standby}\n"));
    }
    for node in 0..3 {
        let told = query(&[&role[..], &["-m", &cluster.nodes[node].name, "--format", "json"]].concat()).await?;
        assert_eq!(told, format!("[{{\"standby\": {}}}]\n", node != leader));
    }
    let file = cluster.dir().join("some.sql");
    std::fs::write(&file, "select 1 as a;\nselect 2 as b, null as c, 'x'::text as d where true;\n")?;
    let told = query(&["-f", &file.display().to_string(), "--delimiter", ","]).await?;
    assert_eq!(told, "b,c,d\n2,None,x\n", "of the last statement");
    assert_eq!(query(&["-c", "create temp table gone(a int)"]).await?, "", "no rows, and no error");
    for (database, sql, code) in [
        ("postgres", "select 1/0", "22012"),
        ("postgres", "select * from nowhere", "42P01"),
        ("none", "select 1", "3D000"),
    ] {
        let args = ["query", "-U", WRITER, "-d", database, "-c", sql];
        let done = cluster.surus(0, &args).await?;
        assert_eq!(done.status.code(), Some(1), "{args:?}");
        let told = text(&done);
        assert!(told.contains("\tERROR, SQLSTATE: ") && told.contains(code), "{args:?}: {told}");
    }
    Ok(())
}

/// By Ctrl-C: the shell sees a command that failed, not one that was killed.
async fn a_question_is_not_answered(cluster: &Cluster) -> Result<()> {
    let (binary, config) = (env!("CARGO_BIN_EXE_surus"), cluster.node(0).config_path());
    let line = format!("{binary} -c {} switchover; echo ended with $?; stty -a; exec sleep 1000", config.display());
    let screen = Screen::run(cluster.dir(), &line, 80, 40)?;
    let shows = async |what: &[&str]| {
        wait_for("it is on the screen", LONG, async || {
            let text = screen.text()?;
            ensure!(what.iter().all(|part| text.contains(part)), "no {what:?} in\n{text}");
            Ok(())
        })
        .await
    };
    shows(&["Primary ["]).await?;
    screen.press("C-c")?;
    shows(&["Aborted!", "ended with 1", "intr = ^C;", "eol = <undef>;"]).await
}

async fn the_whole_screen(cluster: &Cluster) -> Result<()> {
    let refused = cluster.surus(0, &["top"]).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("top needs a terminal"));

    let (binary, config) = (env!("CARGO_BIN_EXE_surus"), cluster.node(0).config_path());
    let line = format!("{binary} -c {} top; echo ended with $?; exec sleep 1000", config.display());
    let screen = Screen::run(cluster.dir(), &line, 80, 24)?;
    let shows = async |what: &str| {
        wait_for("it is on the screen", LONG, async || {
            let text = screen.text()?;
            ensure!(text.contains(what), "no {what:?} in\n{text}");
            Ok(())
        })
        .await
    };
    let leader = cluster.leader().await?;
    let (candidate, other) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    let name = |node: usize| cluster.nodes[node].name.as_str();
    shows(&format!("Cluster: {}", cluster.scope)).await?;
    shows("would take over").await?;
    screen.press("?")?;
    shows("Any key closes this").await?;
    screen.press("x")?;

    // The first replica is selected.
    screen.press("s")?;
    shows(&format!("Hand the lead over from {} to {}?", name(leader), name(candidate))).await?;
    screen.press("y")?;
    shows(&format!("{} has taken the lead", name(candidate))).await?;
    wait_for("the candidate leads", LONG, async || {
        ensure!(cluster.healthy().await? == candidate, "not yet");
        Ok(())
    })
    .await?;

    screen.resize(120, 40)?;
    wait_for("it is drawn for the new size", LONG, async || {
        let text = screen.text()?;
        ensure!(text.lines().nth(39).is_some_and(|line| line.contains("q quit")), "{text}");
        Ok(())
    })
    .await?;

    // A member that does not answer holds nothing up: the clock goes on, and what it means is told.
    cluster.freeze_node(other)?;
    let (silent, gone) = (format!("not {}: not reachable", name(other)), format!("{} is gone", name(other)));
    wait_for("it is told", LONG, async || {
        let text = screen.text()?;
        ensure!(text.contains(&silent) || text.contains(&gone), "neither in\n{text}");
        Ok(())
    })
    .await?;
    let clock = || anyhow::Ok(screen.text()?.lines().next().unwrap_or_default().to_owned());
    let before = clock()?;
    wait_for("the clock goes on", LONG, async || {
        ensure!(clock()? != before, "it stands at {before}");
        Ok(())
    })
    .await?;
    cluster.thaw(other);

    screen.press("C-c")?;
    shows("ended with 0").await?;
    ensure!(!screen.text()?.contains("q quit"), "the screen is not what it was");
    Ok(())
}
