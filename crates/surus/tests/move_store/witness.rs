//! Two members and a witness, and a third machine that Patroni drives: it keeps the cluster where it is, and who comes to the
//! old store too late neither leads nor begins anything there.

use super::*;

/// The third node is Patroni's.
const PATRONI: usize = 2;

/// A node of the embedded store without PostgreSQL.
struct Witness(std::process::Child);

impl Witness {
    fn start(cluster: &Cluster, section: &Value) -> Result<Witness> {
        let dir = cluster.dir().join("witness");
        std::fs::create_dir_all(&dir)?;
        let (file, log) = (dir.join("surus.yml"), std::fs::File::create(dir.join("witness.log"))?);
        std::fs::write(&file, json!({"raft": section}).to_string())?;
        let mut command = Command::new(SURUS);
        command.arg("store").arg(&file).current_dir(&dir).stdin(Stdio::null());
        Ok(Witness(command.stdout(log.try_clone()?).stderr(log).spawn()?))
    }

    async fn stop(mut self) -> Result<()> {
        surus_testbed::procs::terminate(self.0.id());
        wait_for("the witness ends", LONG, async || {
            let status = self.0.try_wait()?.context("it still runs")?;
            ensure!(status.success(), "{status}");
            Ok(())
        })
        .await
    }
}

/// The embedded store of the two members and the witness, whose section comes with it.
fn with_a_witness(cluster: &Cluster) -> Result<(Place, Value, Vec<Port>)> {
    let ports: Vec<Port> = (0..3).map(|_| Port::free()).collect::<Result<_>>()?;
    let all: Vec<String> = ports.iter().map(Port::address).collect();
    let common = json!({"password": "secret", "partner_addrs": all});
    let section = |node: usize, dir: PathBuf| {
        let partners: Vec<&String> = all.iter().filter(|address| **address != all[node]).collect();
        json!({"self_addr": all[node], "data_dir": dir, "password": "secret", "partner_addrs": partners})
    };
    let dirs = [0, 1].map(|node| cluster.node(node).dir.join("raft"));
    let mut members = serde_json::Map::new();
    for (node, dir) in dirs.iter().enumerate() {
        let own = json!({"raft": {"self_addr": all[node], "data_dir": dir}});
        members.insert(cluster.node(node).name.clone(), own);
    }
    let file = cluster.dir().join("to-raft.yml");
    std::fs::write(&file, json!({"raft": common, "members": members}).to_string())?;
    let sections = dirs.into_iter().enumerate().map(|(node, dir)| section(node, dir)).collect();
    let place = Place { name: "raft", file, sections, direct: Value::Null };
    Ok((place, section(2, cluster.dir().join("witness/raft")), ports))
}

/// What Patroni has said since `from`, as soon as it has said this so many times.
async fn patroni_says(cluster: &Cluster, from: usize, what: &str, times: usize) -> Result<String> {
    wait_for(&format!("Patroni says {what}"), LONG, async || {
        let log = cluster.node(PATRONI).log();
        let since = log.get(from..).unwrap_or_default().to_owned();
        ensure!(since.matches(what).count() >= times, "{since}");
        Ok(since)
    })
    .await
}

async fn stop_patroni(cluster: &mut Cluster, etcd: &Place) -> Result<()> {
    cluster.stop(PATRONI).await?;
    // Its key would stay for a ttl.
    let key = format!("/service/{}/members/{}", cluster.scope, cluster.node(PATRONI).name);
    delete(&*look_into(cluster, &etcd.direct).await?, &key).await
}

/// No member keeps anything of a move, and the store says nothing of one.
async fn nothing_of_a_move(cluster: &Cluster) -> Result<()> {
    ensure!(register(cluster, "").await.is_err(), "the register is there");
    for node in [0, 1] {
        let kept = cluster.node(node).data_dir().with_extension("surus.store");
        ensure!(!kept.exists(), "{} is there", kept.display());
        let part: Value = cluster.get(node, "/migrate").await?.json()?;
        ensure!(part["phase"] == "none", "{part}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_and_a_witness_and_patroni_comes_late() -> Result<()> {
    let dynamic =
        json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 3, "synchronous_mode": true, "failsafe_mode": true});
    let builder = Cluster::builder(SURUS).store(StoreKind::Etcd).patroni(&[PATRONI]).dynamic(dynamic);
    let mut cluster = builder.prepare().await?;
    let port = cluster.etcd.as_ref().context("etcd")?.port();
    let etcd = Place::new(&cluster, "etcd3", &cluster.node(0).config["etcd3"])?;
    let etcd = Place { direct: json!({"etcd3": {"host": format!("127.0.0.1:{port}"), "use_proxies": true}}), ..etcd };
    let (raft, witness, _ports) = with_a_witness(&cluster)?;
    cluster.start(0)?;
    cluster.start(1)?;
    let leader = cluster.wait_healthy().await?;
    let config = cluster.node(leader).config_path();

    // A store that takes connections and answers nothing is told apart in time; Patroni joins meanwhile.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let section = json!({"hosts": listener.local_addr()?.to_string(), "use_proxies": true});
    let to_deaf = cluster.dir().join("to-deaf.yml").display().to_string();
    std::fs::write(&to_deaf, json!({"etcd3": section}).to_string())?;
    let (begun, tried) = (Instant::now(), ["store", "migrate", "--to", &to_deaf, "--dry-run"]);
    let refusal = async {
        let tried = surus(&config, &tried).await?;
        anyhow::Ok((said(&tried), tried.status.success(), begun.elapsed()))
    };
    cluster.start(PATRONI)?;
    let (refusal, joined) = tokio::join!(refusal, cluster.wait_healthy());
    let (text, moved, took) = refusal?;
    println!("{text}refused after {took:?}");
    ensure!(joined? == leader && !moved && took < Duration::from_secs(60), "after {took:?}: {text}");
    ensure!(text.contains("the new store cannot be used: node1: "), "{text}");
    nothing_of_a_move(&cluster).await?;

    // As long as Patroni drives a member nothing moves.
    let before = running(&cluster).await?;
    let version = cluster.status(PATRONI).await?["patroni"]["version"].as_str().context("no version")?.to_owned();
    let why = format!(
        "every member has to go over, and not all can. Replace these by Surus, start them, or remove them, first: node3: \
         Patroni {version} drives it"
    );
    refused(&cluster, &raft, &[&why]).await?;
    nothing_of_a_move(&cluster).await?;
    ensure!(running(&cluster).await? == before, "{:?} instead of {before:?}", running(&cluster).await?);
    stop_patroni(&mut cluster, &etcd).await?;

    // It comes while the members wait for the witness.
    let writer = Writer::start(&cluster).await?;
    let before = running(&cluster).await?;
    let to_raft = raft.file.display().to_string();
    let mut run = command(&config, &["store", "migrate", "--to", &to_raft, "--force"]).spawn()?;
    wait_for("both are prepared", LONG, async || {
        for node in [0, 1] {
            let part: Value = cluster.get(node, "/migrate").await?.json()?;
            ensure!(part["phase"] == "prepared" && part["answers"] == false, "{part}");
        }
        Ok(())
    })
    .await?;
    ensure!(run.try_wait()?.is_none(), "the command does not wait for the witness");
    cluster.start(PATRONI)?;
    wait_for("Patroni is a member", LONG, async || cluster.stored("members/node3").await?.context("no key").map(drop))
        .await?;
    let witness = Witness::start(&cluster, &witness)?;
    let output = tokio::task::spawn_blocking(move || run.wait_with_output()).await??;
    let why = "node3 runs Patroni, which cannot go over to another store; replace it there by Surus, or stop it, first";
    ensure!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
    stop_patroni(&mut cluster, &etcd).await?;
    ensure!(running(&cluster).await? == before, "{:?} instead of {before:?}", running(&cluster).await?);

    // The same command goes on, and the cluster moves.
    let watch = Watch::only(&cluster, leader);
    let kept = hop(&mut cluster, &writer, &etcd, &raft).await?;
    let quick = surus(&config, &["edit-config", "-s", "ttl=8", "--force"]).await?;
    ensure!(quick.status.success(), "{}", said(&quick));

    // Patroni comes to the old store when nobody is there any more; with its data, and then without any.
    let from = cluster.node(PATRONI).log().len();
    cluster.start(PATRONI)?;
    patroni_says(&cluster, from, "a secondary, and following a leader (/moved)", 2).await?;
    let clean = surus(&kept, &["store", "migrate", "--clean", "--force"]).await?;
    let why = format!("node3: Patroni {version} drives it");
    ensure!(!clean.status.success() && said(&clean).contains(&why), "{}", said(&clean));
    cluster.stop(PATRONI).await?;
    cluster.wipe(PATRONI)?;
    let from = cluster.node(PATRONI).log().len();
    cluster.start(PATRONI)?;
    patroni_says(&cluster, from, "bootstrap from leader '/moved'", 2).await?;
    stop_patroni(&mut cluster, &etcd).await?;
    let data = cluster.node(PATRONI).data_dir();
    ensure!(!data.join("PG_VERSION").exists(), "Patroni has made a cluster in {}", data.display());
    ensure!(leader_key(&cluster, &etcd.direct).await? == ("/moved".into(), false));
    watch.end().await?;
    let clean = surus(&kept, &["store", "migrate", "--clean"]).await?;
    ensure!(clean.status.success(), "{}", said(&clean));

    // One of the two is lost: the witness and the other are a majority.
    cluster.with_role("sync_standby", 1).await?;
    wait_for("Patroni has left the list of those who vouch", LONG, async || {
        let listed: Value = cluster.get(leader, "/failsafe").await?.json()?;
        ensure!(listed.as_object().is_some_and(|names| names.len() == 2), "{listed}");
        Ok(())
    })
    .await?;
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    ensure!(cluster.wait_healthy().await? == new, "the lead has moved once more");
    cluster.with_role("sync_standby", 1).await?;

    // And back. The witness is stopped at the end.
    let watch = Watch::only(&cluster, new);
    hop(&mut cluster, &writer, &raft, &etcd).await?;
    witness.stop().await?;
    let before = running(&cluster).await?;
    for node in [1 - new, new] {
        cluster.restart_agent(node)?;
        ensure!(cluster.wait_healthy().await? == new, "the lead has moved");
    }
    writer.goes_on().await?;
    ensure!(running(&cluster).await? == before, "{:?} instead of {before:?}", running(&cluster).await?);
    watch.end().await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
