//! Real etcd servers on free ports of the loopback interface, ended with the test that started them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surus_store::{Kv, Op, StoreResult, Txn, TxnOutcome, Watch, WatchEvent};
use surus_store_etcd::{EtcdOptions, EtcdStore};
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(10);
const ETCD: &str = "/usr/bin/etcd";

/// A port nobody listens on, below the range from which the kernel gives ports to clients.
pub fn free_port() -> u16 {
    free_listener().1
}

/// Listening already. Closed and opened again, a port can be found in use: a process that is just being started by another
/// test holds a copy of the listener until it has become another program.
pub fn free_listener() -> (TcpListener, u16) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 900).unwrap_or(0) * 10;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return (listener, port);
        }
    }
}

pub struct EtcdServer {
    pub url: String,
    args: Vec<String>,
    dir: TempDir,
    child: Child,
}

impl EtcdServer {
    /// One server that is a cluster of its own, with more arguments.
    pub async fn start(scheme: &str, more: &[&str]) -> EtcdServer {
        let server = EtcdServer::cluster(1, scheme, more).pop().unwrap();
        if scheme == "http" {
            server.wait_ready().await;
        }
        server
    }

    /// The members of one cluster; not waited for.
    pub fn cluster(size: usize, scheme: &str, more: &[&str]) -> Vec<EtcdServer> {
        assert!(PathBuf::from(ETCD).exists(), "{ETCD} is missing: apt-get install etcd-server");
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let members: Vec<String> =
            ports.iter().enumerate().map(|(i, (_, peer))| format!("n{i}=http://127.0.0.1:{peer}")).collect();
        let members = members.join(",");
        let start = |(i, (client, peer)): (usize, &(u16, u16))| {
            let dir = tempfile::tempdir().unwrap();
            let url = format!("{scheme}://127.0.0.1:{client}");
            let peer = format!("http://127.0.0.1:{peer}");
            let mut args = Vec::new();
            for (option, value) in [
                ("name", format!("n{i}")),
                ("data-dir", dir.path().join("data").display().to_string()),
                ("listen-client-urls", url.clone()),
                ("advertise-client-urls", url.clone()),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("initial-cluster", members.clone()),
                ("logger", "zap".into()),
                ("log-outputs", dir.path().join("log").display().to_string()),
            ] {
                args.extend([format!("--{option}"), value]);
            }
            args.extend(more.iter().map(|s| (*s).to_owned()));
            let child = spawn(&args);
            EtcdServer { url, args, dir, child }
        };
        ports.iter().enumerate().map(start).collect()
    }

    /// Until a linearisable read is answered.
    pub async fn wait_ready(&self) {
        let store = client(&[&self.url]);
        eventually("etcd answers", async || store.read("/", Duration::from_secs(2)).await.is_ok()).await;
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
        self.child = spawn(&self.args);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(args: &[String]) -> Child {
    let mut command = Command::new(ETCD);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("{ETCD} does not start: {e}"))
}

pub fn options(urls: &[&str]) -> EtcdOptions {
    EtcdOptions { endpoints: urls.iter().map(|u| (*u).to_owned()).collect(), ..EtcdOptions::default() }
}

pub fn client(urls: &[&str]) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::connect(options(urls)).unwrap())
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
