//! Real Consul servers on free ports of the loopback interface, ended with the test that started them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surus_store::{Kv, Op, StoreResult, Txn, TxnOutcome, Watch, WatchEvent};
use surus_store_consul::{ConsulOptions, ConsulStore};
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(10);

/// The machine's, or what `cargo xtask install` has unpacked.
pub fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/consul/usr/bin/consul");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("consul")).chain([unpacked]).find(|p| p.is_file());
    found.expect("there is no Consul server: `cargo xtask install` unpacks one")
}

/// A port nobody listens on, below the range from which the kernel gives ports to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 900).unwrap_or(0) * 10;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        // Gossip needs it as UDP too.
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub struct ConsulServer {
    pub url: String,
    args: Vec<String>,
    dir: TempDir,
    child: Child,
}

impl ConsulServer {
    /// One server that is a cluster of its own.
    pub async fn start() -> ConsulServer {
        ConsulServer::with(&[]).await
    }

    /// The same with fragments of configuration.
    pub async fn with(more: &[&str]) -> ConsulServer {
        let server = ConsulServer::cluster(1, more).pop().unwrap();
        server.wait_ready().await;
        server
    }

    /// The members of one cluster; not waited for.
    pub fn cluster(size: usize, more: &[&str]) -> Vec<ConsulServer> {
        ConsulServer::prepared(size, more, |_| {})
    }

    /// The same, after `first` has put files into the directory of each.
    pub fn prepared(size: usize, more: &[&str], first: impl Fn(&Path)) -> Vec<ConsulServer> {
        let program = program();
        let ports: Vec<[u16; 3]> = (0..size).map(|_| [free_port(), free_port(), free_port()]).collect();
        let start = |(i, [http, server, serf]): (usize, &[u16; 3])| {
            let dir = tempfile::tempdir().unwrap();
            first(dir.path());
            let config = dir.path().join("config");
            std::fs::create_dir(&config).unwrap();
            // Timings for a machine on which nothing is far away.
            let own = r#"{"session_ttl_min": "100ms", "performance": {"raft_multiplier": 1}, "disable_update_check": true,
                          "ports": {"dns": -1, "serf_wan": -1, "grpc": -1}}"#;
            for (n, text) in [own].iter().chain(more).enumerate() {
                let text = text.replace("{dir}", &dir.path().display().to_string());
                std::fs::write(config.join(format!("{n}.json")), text).unwrap();
            }
            let mut args: Vec<String> = Vec::new();
            for (option, value) in [
                ("bootstrap-expect", size.to_string()),
                ("node", format!("n{i}")),
                ("bind", "127.0.0.1".to_owned()),
                ("data-dir", dir.path().join("data").display().to_string()),
                ("config-dir", config.display().to_string()),
                ("http-port", http.to_string()),
                ("server-port", server.to_string()),
                ("serf-lan-port", serf.to_string()),
                ("log-file", dir.path().join("log").display().to_string()),
            ] {
                args.push(format!("-{option}={value}"));
            }
            args.extend(ports.iter().map(|[_, _, serf]| format!("-retry-join=127.0.0.1:{serf}")));
            args.push("-retry-interval=300ms".to_owned());
            let child = spawn(&program, &args);
            ConsulServer { url: format!("http://127.0.0.1:{http}"), args, dir, child }
        };
        ports.iter().enumerate().map(start).collect()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Until a consistent read is answered.
    pub async fn wait_ready(&self) {
        let store = client(&[&self.url]);
        eventually("Consul answers", async || store.read("/", Duration::from_secs(2)).await.is_ok()).await;
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
        self.child = spawn(&program(), &self.args);
    }

    /// Takes the other servers' addresses into account: who leads, by number.
    pub async fn leader(servers: &[ConsulServer]) -> usize {
        let mut leader = None;
        eventually("a leader of Consul", async || {
            for server in servers {
                let said = get(&server.url, "/v1/status/leader").await;
                let port = said.trim().trim_matches('"').rsplit_once(':').map(|(_, port)| port.to_owned());
                leader = port.and_then(|port| {
                    let its = format!("-server-port={port}");
                    servers.iter().position(|s| s.args.contains(&its))
                });
                if leader.is_some() {
                    return true;
                }
            }
            false
        })
        .await;
        leader.unwrap()
    }
}

impl Drop for ConsulServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, args: &[String]) -> Child {
    let mut command = Command::new(program);
    command.args(["agent", "-server"]).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()))
}

/// The body of an answer, past every client of ours.
pub async fn get(url: &str, path: &str) -> String {
    request(url, "GET", path, &[], "").await
}

pub async fn request(url: &str, method: &str, path: &str, headers: &[&str], body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = url.split_once("://").unwrap().1;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    match tokio::time::timeout(Duration::from_secs(2), exchange).await {
        Ok(Ok(text)) => text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default(),
        _ => String::new(),
    }
}

pub fn options(urls: &[&str]) -> ConsulOptions {
    ConsulOptions { endpoints: urls.iter().map(|u| (*u).to_owned()).collect(), ..ConsulOptions::default() }
}

pub fn client(urls: &[&str]) -> Arc<ConsulStore> {
    Arc::new(ConsulStore::connect(options(urls)).unwrap())
}

/// Waits for a state, and names it when it does not come.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(60), "never: {what}");
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
