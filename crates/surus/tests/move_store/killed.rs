//! What takes part in a move is killed or stands still.

use std::sync::atomic::AtomicU8;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Stands before a server and lets everything through until it is to hold back a request, and all that follows.
struct Gate {
    port: Port,
    state: Arc<AtomicU8>,
}

const OPEN: u8 = 0;
const ARMED: u8 = 1;
const SHUT: u8 = 2;

impl Gate {
    async fn before(server: u16, request: &'static str) -> Result<Gate> {
        let (port, state) = (Port::free()?, Arc::new(AtomicU8::new(OPEN)));
        let (listener, watched) = (TcpListener::bind(port.address()).await?, state.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(from_client, to_server, watched.clone(), Some(request)));
                tokio::spawn(carry(from_server, to_client, watched.clone(), None));
            }
        });
        Ok(Gate { port, state })
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    fn is_shut(&self) -> bool {
        self.state.load(Ordering::SeqCst) == SHUT
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    state: Arc<AtomicU8>,
    request: Option<&'static str>,
) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if request.is_some_and(|request| String::from_utf8_lossy(&bytes[..read]).contains(request)) {
            let _ = state.compare_exchange(ARMED, SHUT, Ordering::SeqCst, Ordering::SeqCst);
        }
        while state.load(Ordering::SeqCst) == SHUT {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_it_goes_on_or_is_given_up() -> Result<()> {
    let dynamic = json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "synchronous_mode": true,
                         "synchronous_mode_strict": true});
    let mut cluster = Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(dynamic).healthy().await?;
    let (to_raft, _, _ports) = embedded(&cluster)?;
    let server = Consul::start(&cluster.dir().join("consul")).await?;
    let gate = Gate::before(server.port(), "PUT /v1/txn HTTP").await?;
    let consul = Place::new(&cluster, "consul", &json!({"host": gate.port.address()}))?;
    let (to_raft, to_consul) = (to_raft.display().to_string(), consul.file.display().to_string());
    let writer = Writer::start(&cluster).await?;
    let before = running(&cluster).await?;
    let config = cluster.node(0).config_path();

    // The new store is dead: the command is killed while it waits for it, and the leader finds out before anything is
    // decided. The same with the old one. Then it is given up.
    server.freeze();
    let mut run = command(&config, &["store", "migrate", "--to", &to_consul, "--force"]).spawn()?;
    let begun = wait_for("the register", LONG, async || register(&cluster, "preparing").await).await?;
    let id = json!({"id": begun["id"]});
    wait_for("everybody is prepared", LONG, async || {
        for node in 0..cluster.nodes.len() {
            // It asks the store, which takes its time to say nothing.
            let part: Value = cluster.send(node, "GET", "/migrate", &json!({})).await?.json()?;
            ensure!(part["phase"] == "prepared" && part["id"] == begun["id"], "{part}");
        }
        Ok(())
    })
    .await?;
    run.kill()?;
    run.wait()?;
    let watch = Watch::only(&cluster, before.leader);
    let tried = cluster.send(before.leader, "PUT", "/migrate", &id).await?;
    ensure!(tried.status == 412 && tried.body.contains("new store"), "{} {}", tried.status, tried.body);
    server.thaw();
    // It stands still from the copy on, which arrives when nobody waits for it any more.
    gate.set(ARMED);
    let begun = Instant::now();
    let tried = cluster.send(before.leader, "PUT", "/migrate", &id).await?;
    ensure!(tried.status == 412 && gate.is_shut(), "{} {}", tried.status, tried.body);
    println!("frozen from the copy on: given up after {:?}: {}", begun.elapsed(), tried.body);
    writer.goes_on().await?;
    gate.set(OPEN);
    let gap = writer.seen().longest_gap(begun);
    println!("longest gap of writes {gap:?}");
    ensure!(gap < Duration::from_secs(3), "nobody could write for {gap:?}");
    let etcd = cluster.etcd.as_ref().context("etcd")?;
    etcd.freeze();
    let tried = cluster.send(before.leader, "PUT", "/migrate", &id).await;
    etcd.thaw();
    let tried = tried?;
    ensure!(tried.status == 412, "{} {}", tried.status, tried.body);
    let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
    ensure!(given_up.status.success() && said(&given_up).contains("has closed the new store"), "{}", said(&given_up));
    ensure!(register(&cluster, "preparing").await.is_err(), "it is still there");
    ensure!(running(&cluster).await? == before, "{:?} instead of {before:?}", running(&cluster).await?);
    watch.end().await?;

    // The leader is lost as soon as a move begins; somebody else leads, and it is given up.
    let mut run = command(&config, &["store", "migrate", "--to", &to_raft, "--force"]).spawn()?;
    wait_for("the register", LONG, async || register(&cluster, "preparing").await).await?;
    cluster.kill_node(before.leader)?;
    // It would wait for the one that is lost.
    run.kill()?;
    run.wait()?;
    cluster.start(before.leader)?;
    let leader = cluster.wait_healthy().await?;
    let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
    ensure!(given_up.status.success(), "{}", said(&given_up));

    // The agent of the leader is killed as soon as it has decided: it goes on in the new store, and so does its server.
    let mut run = command(&config, &["store", "migrate", "--to", &to_consul, "--force"]).spawn()?;
    let server_before = cluster.node(leader).postmaster_pid();
    while register(&cluster, "moved").await.is_err() {
        ensure!(run.try_wait()?.is_none_or(|status| status.success()), "the command failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill_agent(leader)?;
    cluster.start(leader)?;
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    ensure!(cluster.node(leader).postmaster_pid() == server_before, "the server was restarted");
    ensure!(run.wait()?.success(), "the command failed");
    ensure!(leader_key(&cluster, &consul.direct).await? == (cluster.node(leader).name.clone(), true));
    // And the store that it came to gives the lead to somebody else when it is lost.
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    ensure!(cluster.wait_healthy().await? == new, "the lead has moved once more");
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
