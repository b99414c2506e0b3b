//! From each store to the next, and what the cluster is used for meanwhile.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_all_stores_under_load() -> Result<()> {
    let dynamic =
        json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "synchronous_mode": true, "failsafe_mode": true});
    let mut cluster = Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(dynamic).healthy().await?;
    let (file, sections, _ports) = embedded(&cluster)?;
    let raft = Place { name: "raft", file, sections, direct: Value::Null };
    let etcd = Place::new(&cluster, "etcd3", &cluster.node(0).config["etcd3"])?;
    let port = cluster.etcd.as_ref().context("etcd")?.port();
    let etcd = Place { direct: json!({"etcd3": {"host": format!("127.0.0.1:{port}"), "use_proxies": true}}), ..etcd };
    let zookeeper = ZooKeeper::start(&cluster.dir().join("zookeeper")).await?;
    let hosts = json!({"hosts": [format!("127.0.0.1:{}", zookeeper.ports()[0])]});
    let zookeeper_place = Place::new(&cluster, "zookeeper", &hosts)?;
    let consul_server = Consul::start(&cluster.dir().join("consul")).await?;
    let consul = Place::new(&cluster, "consul", &json!({"host": format!("127.0.0.1:{}", consul_server.port())}))?;
    let writer = Writer::start(&cluster).await?;
    let leader = cluster.wait_healthy().await?;
    wait_for("a synchronous standby", LONG, async || {
        let names = cluster.sql(leader, "show synchronous_standby_names").await?;
        ensure!(!names.is_empty(), "none yet");
        Ok(())
    })
    .await?;
    let config = cluster.node(0).config_path();

    // What cannot be moved is told, and stays where it is.
    let paused = surus(&config, &["pause", "--wait"]).await?;
    ensure!(paused.status.success(), "{}", said(&paused));
    refused(&cluster, &consul, &["paused", "resume it first"]).await?;
    let resumed = surus(&config, &["resume", "--wait"]).await?;
    ensure!(resumed.status.success(), "{}", said(&resumed));
    let key = format!("/service/{}/members/old", cluster.scope);
    let patroni = br#"{"conn_url":"postgres://127.0.0.1:1/postgres","api_url":"http://127.0.0.1:1/patroni","state":"running","role":"replica","version":"4.1.1"}"#;
    cluster.etcd.as_ref().context("etcd")?.put(&key, patroni).await?;
    refused(&cluster, &consul, &["old: Patroni 4.1.1 drives it"]).await?;
    ensure!(surus(&config, &["store", "migrate", "--abort"]).await.is_ok_and(|o| !o.status.success()), "nothing began");
    delete(&*look_into(&cluster, &etcd.direct).await?, &key).await?;
    let foreign = format!("service/{}/initialize", cluster.scope);
    consul_server.put(&foreign, b"7000000000000000001").await?;
    refused(&cluster, &consul, &["7000000000000000001", "already holds"]).await?;
    let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
    ensure!(given_up.status.success() && said(&given_up).contains("has closed the new store"), "{}", said(&given_up));
    delete(&*look_into(&cluster, &consul.direct).await?, &format!("/{foreign}")).await?;

    let tried = surus(&config, &["store", "migrate", "--to", &raft.file.display().to_string(), "--dry-run"]).await?;
    ensure!(tried.status.success() && said(&tried).contains("can be made"), "{}", said(&tried));
    let watch = Watch::only(&cluster, leader);
    let moved = config.clone();
    let kept = hop(&mut cluster, &writer, &etcd, &raft).await?;
    // Commands that still name the old store say so; the keys there go only when nobody names it any more.
    let list = surus(&kept, &["list"]).await?;
    ensure!(said(&list).contains("has moved to another store, raft"), "{}", said(&list));
    let removed = surus(&kept, &["remove", &cluster.scope]).await?;
    ensure!(!removed.status.success() && said(&removed).contains("store migrate --clean"), "{}", said(&removed));
    std::fs::copy(&kept, &moved)?;
    let early = surus(&kept, &["store", "migrate", "--clean"]).await?;
    ensure!(!early.status.success() && said(&early).contains("still names this store"), "{}", said(&early));
    // A member that is restarted before its configuration was changed goes on with the new store.
    cluster.restart_agent(0)?;
    cluster.wait_healthy().await?;
    ensure!(cluster.node(0).log().contains("moved to another store than the configuration names"), "it says nothing");
    cluster.node(0).write_config()?;
    cluster.restart_agent(0)?;
    cluster.wait_healthy().await?;
    ensure!(!cluster.node(0).data_dir().with_extension("surus.store").exists(), "the section is still kept");
    let clean = surus(&kept, &["store", "migrate", "--clean"]).await?;
    ensure!(clean.status.success(), "{}", said(&clean));

    hop(&mut cluster, &writer, &raft, &zookeeper_place).await?;
    hop(&mut cluster, &writer, &zookeeper_place, &consul).await?;

    // One member is away meanwhile: it reads in the old store that the cluster has left it.
    let before = running(&cluster).await?;
    ensure!(before.leader == leader, "the lead has moved");
    let away = cluster.others(leader)[1];
    cluster.stop(away).await?;
    let config = cluster.node(leader).config_path();
    wait_for("it is gone", LONG, async || {
        let shown: Value = cluster.get(leader, "/cluster").await?.json()?;
        ensure!(shown["members"].as_array().is_some_and(|m| m.len() == 2), "{shown}");
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    println!("{}", migrate(&config, &etcd.file).await?);
    writer.goes_on().await?;
    println!("from consul to etcd3: longest gap of writes {:?}", writer.seen().longest_gap(begun));
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    ensure!(leader_key(&cluster, &etcd.direct).await? == (cluster.node(leader).name.clone(), true));
    ensure!(leader_key(&cluster, &consul.direct).await? == ("/moved".into(), false));
    cluster.start(away)?;
    wait_for("it says so", LONG, async || {
        ensure!(cluster.node(away).log().contains("while this member was away"), "not yet");
        Ok(())
    })
    .await?;
    // It would go on there as a cluster of its own if nothing were left of this one.
    wait_for("it is in the old store", LONG, async || {
        let key = consul_server.get(&format!("service/{}/members/{}", cluster.scope, cluster.node(away).name)).await?;
        key.context("no key").map(drop)
    })
    .await?;
    let early = surus(&config, &["store", "migrate", "--clean", "--force"]).await?;
    let why = format!("{}: it has not gone over by this move", cluster.node(away).name);
    ensure!(!early.status.success() && said(&early).contains(&why), "{}", said(&early));
    // The command tells whoever is in the old store.
    wait_for("it is told", LONG, async || {
        migrate(&config, &etcd.file).await?;
        let part: Value = cluster.get(away, "/migrate").await?.json()?;
        let there: Value = cluster.get(leader, "/migrate").await?.json()?;
        ensure!(part["phase"] == "arrived" && part["id"] == there["id"], "{part}");
        Ok(())
    })
    .await?;
    let after = running(&cluster).await?;
    watch.end().await?;
    ensure!((0..3).all(|node| node == away || after.starts[node] == before.starts[node]), "a server was restarted");
    ensure!(after.leader == leader, "the lead has moved");
    configure(&mut cluster, "consul", "etcd3", &etcd.sections)?;
    // The cluster works as before: somebody else takes over from a leader that is lost.
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
