//! Real ZooKeeper servers on free ports of the loopback interface, ended with the test that started them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surus_store::{Kv, Op, StoreResult, Txn, TxnOutcome, Watch, WatchEvent};
use surus_store_zookeeper::{ZooKeeperOptions, ZooKeeperStore};
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(10);
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// It names the other jars itself, but for one that writes a log and two that TLS needs. The scripts of the package
/// insist on a user and directories of their own.
const CLASS_PATH: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar:\
                          /usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";

/// A port nobody listens on, below the range from which the kernel gives ports to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 900).unwrap_or(0) * 10;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub struct Server {
    pub host: String,
    pub dir: TempDir,
    child: Child,
}

impl Server {
    /// One server that is an ensemble of its own.
    pub async fn start(config: &str) -> Server {
        let server = Server::ensemble(1, config).pop().unwrap();
        server.wait_ready().await;
        server
    }

    /// The servers of one ensemble; not waited for.
    pub fn ensemble(size: usize, config: &str) -> Vec<Server> {
        assert!(Path::new(JAR).exists(), "ZooKeeper is missing: apt-get install zookeeper");
        let ports: Vec<[u16; 3]> = (0..size).map(|_| [free_port(), free_port(), free_port()]).collect();
        let members = || {
            let line = |(i, [_, peer, election]): (usize, &[u16; 3])| {
                format!("server.{}=127.0.0.1:{peer}:{election}\n", i + 1)
            };
            ports.iter().enumerate().map(line).collect::<String>()
        };
        let start = |(i, [client, ..]): (usize, &[u16; 3])| {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            std::fs::create_dir(&data).unwrap();
            std::fs::write(data.join("myid"), format!("{}\n", i + 1)).unwrap();
            let members = if size == 1 { String::new() } else { members() };
            let limit = if config.contains("maxSessionTimeout") { "" } else { "maxSessionTimeout=120000\n" };
            let text = format!(
                "tickTime=200\ninitLimit=50\nsyncLimit=10\nmaxClientCnxns=0\n\
                 admin.enableServer=false\n{limit}dataDir={}\nclientPort={client}\nclientPortAddress=127.0.0.1\n{members}{}",
                data.display(),
                config
            );
            std::fs::write(dir.path().join("zoo.cfg"), text).unwrap();
            let child = spawn(dir.path());
            Server { host: format!("127.0.0.1:{client}"), dir, child }
        };
        ports.iter().enumerate().map(start).collect()
    }

    /// Until it is part of a quorum.
    pub async fn wait_ready(&self) {
        let store = client(&[&self.host]);
        eventually("ZooKeeper answers", async || store.read("/", Duration::from_secs(2)).await.is_ok()).await;
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again on the same data and ports.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.dir.path());
    }

    /// One line of the answer to a four-letter word.
    pub fn mode(&self) -> Option<String> {
        use std::io::{Read, Write};
        let address = self.host.parse().unwrap();
        let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ").map(str::to_owned))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new("java")
        .args(["-Xms32m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .args(["-Dzookeeper.4lw.commands.whitelist=*", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])
        // Some operators have it on: without a quorum a server reads to whoever asked for that.
        .arg("-Dreadonlymode.enabled=true")
        .args(["-cp", CLASS_PATH, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
        .arg(dir.join("zoo.cfg"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("java does not start: {e}"))
}

pub fn options(hosts: &[&str]) -> ZooKeeperOptions {
    ZooKeeperOptions { hosts: hosts.iter().map(|h| (*h).to_owned()).collect(), ..ZooKeeperOptions::default() }
}

pub fn client(hosts: &[&str]) -> Arc<ZooKeeperStore> {
    Arc::new(ZooKeeperStore::connect(&options(hosts)).unwrap())
}

/// Waits for a state, and names it when it does not come.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(90), "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub fn put(key: &str, value: &str) -> Txn {
    Txn { compare: vec![], then: vec![Op::Put { key: key.into(), value: value.into(), lease: None }] }
}

pub async fn write(kv: &dyn Kv, key: &str, value: &str) -> StoreResult<TxnOutcome> {
    kv.txn(put(key, value), DEADLINE).await
}

pub async fn next(watch: &mut Watch) -> WatchEvent {
    let event = tokio::time::timeout(Duration::from_secs(30), watch.events.recv()).await;
    event.ok().flatten().unwrap_or_else(|| panic!("the watch said nothing"))
}
