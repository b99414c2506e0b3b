//! Nodes as processes of their own, to be killed and frozen.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surus_store::{Kv, TxnOutcome};
use surus_store_raft::{RaftClient, RaftOptions, RaftStore};
use tempfile::TempDir;

use crate::harness::{DEADLINE, PATIENCE, free_addr, log, options, put, until, value};

const NODE: &str = "STORE_TEST_NODE";
/// Seconds, for tests that would else wait half a minute for each replacement.
const REPLACE_AFTER: &str = "STORE_TEST_REPLACE_AFTER";

/// Not a test: what this binary does when one of the tests below starts it as a node.
#[test]
fn node_process() {
    let Ok(spec) = std::env::var(NODE) else { return };
    log();
    let mut words = spec.split(' ').map(str::to_owned);
    let (dir, addr) = (words.next().unwrap(), words.next().unwrap());
    let all: Vec<String> = words.collect();
    let mut options = options(&addr, &all, Path::new(&dir));
    if let Ok(seconds) = std::env::var(REPLACE_AFTER) {
        options.replace_after = Duration::from_secs(seconds.parse().unwrap());
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(serve(options));
}

async fn serve(options: RaftOptions) {
    let store = RaftStore::start(options).await.unwrap();
    // Ends with the test that started it, however that ends.
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    store.shutdown().await;
}

pub struct Process {
    pub child: Option<Child>,
    pub dir: TempDir,
    pub addr: String,
}

impl Process {
    pub fn start(&mut self, all: &[String]) {
        self.start_with(all, &[]);
    }

    pub fn start_impatient(&mut self, all: &[String]) {
        self.start_with(all, &[(REPLACE_AFTER, "3")]);
    }

    fn start_with(&mut self, all: &[String], environment: &[(&str, &str)]) {
        let (name, spec) = node_command(self, all);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["processes::node_process", "--exact", "--nocapture"])
            .env(name, spec)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            let status = child.wait().unwrap();
            // It must not have died before, of a failed storage for example.
            assert_eq!(status.signal(), Some(9), "{status}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The variable that makes this binary a node, and its value.
pub fn node_command(node: &Process, all: &[String]) -> (&'static str, String) {
    (NODE, format!("{} {} {}", node.dir.path().display(), node.addr, all.join(" ")))
}

pub fn plan(n: usize) -> (Vec<String>, Vec<Process>) {
    let addrs: Vec<String> = (0..n).map(|_| free_addr()).collect();
    let process = |addr: &String| Process { child: None, dir: tempfile::tempdir().unwrap(), addr: addr.clone() };
    let processes = addrs.iter().map(process).collect();
    (addrs, processes)
}

pub async fn client(addrs: &[String]) -> Arc<RaftClient> {
    Arc::new(RaftClient::connect(addrs, Some("herd".into()), None).await.unwrap())
}

pub async fn works(kv: &RaftClient) {
    until("the group takes writes", || async { kv.txn(put("/works", "yes", None), DEADLINE).await.is_ok() }).await;
}

/// Writes 1, 2, 3 ... to one key and remembers the last one acknowledged.
pub struct Writer {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Writer {
    pub fn start(kv: Arc<RaftClient>, key: String) -> Writer {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (last, end) = (acknowledged.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut n = 0;
            while !end.load(Ordering::Relaxed) {
                n += 1;
                if let Ok(TxnOutcome::Applied(_)) = kv.txn(put(&key, &n.to_string(), None), DEADLINE).await {
                    last.store(n, Ordering::Relaxed);
                }
            }
            n
        });
        Writer { acknowledged, stop, task }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub async fn goes_on(&self) {
        let before = self.acknowledged();
        until("writes are acknowledged", || async { self.acknowledged() > before + 5 }).await;
    }

    /// The last acknowledged, and the last attempted.
    pub async fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let attempted = self.task.await.unwrap();
        (self.acknowledged.load(Ordering::Relaxed), attempted)
    }
}

pub async fn number(kv: &RaftClient, key: &str) -> u64 {
    value(kv, key).await.unwrap().parse().unwrap()
}

pub fn between(found: u64, (acknowledged, attempted): (u64, u64)) {
    assert!((acknowledged..=attempted).contains(&found), "{found} is not in {acknowledged}..={attempted}");
}

/// One node, killed again and again in the middle of writes: what it had acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_acknowledged_is_on_its_disk() {
    let (addrs, mut nodes) = plan(1);
    let kv = client(&addrs).await;
    for round in 0..12 {
        nodes[0].start(&addrs);
        works(&kv).await;
        if round > 0 {
            assert!(value(&*kv, &format!("/n{}", round - 1)).await.is_some());
        }
        let key = format!("/n{round}");
        let writer = Writer::start(kv.clone(), key.clone());
        // A different instant every time.
        until("some writes", || async { writer.acknowledged() > 3 + 7 * round }).await;
        nodes[0].kill();
        let written = writer.finish().await;
        nodes[0].start(&addrs);
        works(&kv).await;
        between(number(&kv, &key).await, written);
        nodes[0].kill();
    }
}

/// Three nodes, one of them killed at any time, then all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_survives_the_death_of_any_and_of_all() {
    let (addrs, mut nodes) = plan(3);
    nodes.iter_mut().for_each(|n| n.start(&addrs));
    let kv = client(&addrs).await;
    works(&kv).await;
    let writer = Writer::start(client(&addrs).await, "/n".into());
    for round in 0..6 {
        writer.goes_on().await;
        nodes[round % 3].kill();
        writer.goes_on().await;
        nodes[round % 3].start(&addrs);
    }
    for _ in 0..3 {
        writer.goes_on().await;
        nodes.iter_mut().for_each(Process::kill);
        nodes.iter_mut().for_each(|n| n.start(&addrs));
    }
    writer.goes_on().await;
    let written = writer.finish().await;
    between(number(&kv, "/n").await, written);
    // Every node has it, not only the one that was asked.
    for addr in &addrs {
        between(number(&*client(std::slice::from_ref(addr)).await, "/n").await, written);
    }
}

pub async fn leader_of(kv: &RaftClient) -> Option<String> {
    let members = kv.members(DEADLINE).await.ok()?;
    members.into_iter().find(|m| m.role == surus_store_raft::Role::Leader).map(|m| m.addr)
}

/// A frozen leader: connections to it stay open and say nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_is_replaced_and_comes_back_as_a_follower() {
    let (addrs, mut nodes) = plan(3);
    nodes.iter_mut().for_each(|n| n.start(&addrs));
    let kv = client(&addrs).await;
    works(&kv).await;
    until("there is a leader", || async { leader_of(&kv).await.is_some() }).await;
    let frozen = leader_of(&kv).await.unwrap();
    let node = nodes.iter().find(|n| n.addr == frozen).unwrap();
    let others: Vec<String> = addrs.iter().filter(|a| **a != frozen).cloned().collect();
    let survivors = client(&others).await;
    node.signal(Signal::STOP);
    let began = Instant::now();
    works(&survivors).await;
    let gap = began.elapsed();
    eprintln!("writes again {gap:?} after the Raft leader froze");
    assert!(gap < Duration::from_secs(15), "writes again after {gap:?}");
    survivors.txn(put("/a", "new", None), DEADLINE).await.unwrap();
    let led_by_another = || async { leader_of(&survivors).await.is_some_and(|leader| leader != frozen) };
    until("another node leads", led_by_another).await;
    node.signal(Signal::CONT);
    // It does not serve what it knew, it does not get its office back, and it does not disturb.
    let back = client(std::slice::from_ref(&frozen)).await;
    let found = back.read("/a", PATIENCE).await.unwrap();
    assert_eq!(found.keys[0].value, b"new");
    until("another node still leads", led_by_another).await;
}
