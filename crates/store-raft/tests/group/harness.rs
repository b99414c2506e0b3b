use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, Once};
use std::time::{Duration, Instant};

use surus_store::{Kv, Op, Txn, TxnOutcome};
use surus_store_raft::{REPLACE_AFTER, RaftOptions, RaftStore, Role, StartError};
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(5);
/// For things that must happen, on a machine that may be very busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `STORE_LOG=debug` shows what the nodes say.
pub fn log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = std::env::var("STORE_LOG") {
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        }
    });
}

/// Below the ephemeral range, so that no client socket takes it in between. Kept from other test
/// processes by the UDP port of the same number.
pub fn free_port() -> u16 {
    static TAKEN: LazyLock<Mutex<Vec<UdpSocket>>> = LazyLock::new(Mutex::default);
    let mut taken = TAKEN.lock().unwrap();
    let mut port = 21_000 + (std::process::id() * 37 % 9000) as u16 + taken.len() as u16;
    loop {
        port = if port >= 31_900 { 21_000 } else { port + 1 };
        if let Ok(reserved) = UdpSocket::bind(("127.0.0.1", port))
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            taken.push(reserved);
            return port;
        }
    }
}

pub fn free_addr() -> String {
    format!("127.0.0.1:{}", free_port())
}

pub fn options(addr: &str, all: &[String], dir: &Path) -> RaftOptions {
    RaftOptions {
        self_addr: addr.into(),
        bind_addr: addr.into(),
        partner_addrs: all.iter().filter(|a| *a != addr).cloned().collect(),
        data_dir: dir.into(),
        password: Some("herd".into()),
        tls: None,
        voter: true,
        witness: false,
        replace_after: REPLACE_AFTER,
    }
}

/// A node that was just stopped in this process may need a moment to let go of its file and port.
pub async fn start(options: RaftOptions) -> RaftStore {
    log();
    let began = Instant::now();
    loop {
        match RaftStore::start(options.clone()).await {
            Ok(store) => return store,
            Err(StartError::InUse { .. } | StartError::Listen { .. }) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

pub struct Group {
    pub addrs: Vec<String>,
    pub dirs: Vec<Arc<TempDir>>,
    pub nodes: Vec<Option<Arc<RaftStore>>>,
}

impl Group {
    /// Addresses and directories of `n` nodes, none started.
    pub fn plan(n: usize) -> Group {
        let addrs: Vec<String> = (0..n).map(|_| free_addr()).collect();
        let dirs = (0..n).map(|_| Arc::new(tempfile::tempdir().unwrap())).collect();
        Group { addrs, dirs, nodes: (0..n).map(|_| None).collect() }
    }

    pub async fn formed(n: usize) -> Group {
        let mut group = Group::plan(n);
        for i in 0..n {
            group.start(i).await;
        }
        group.whole().await;
        group
    }

    pub fn options(&self, i: usize) -> RaftOptions {
        options(&self.addrs[i], &self.addrs, self.dirs[i].path())
    }

    pub async fn start(&mut self, i: usize) {
        self.nodes[i] = Some(Arc::new(start(self.options(i)).await));
    }

    pub async fn stop(&mut self, i: usize) {
        if let Some(node) = self.nodes[i].take() {
            node.shutdown().await;
        }
    }

    pub fn node(&self, i: usize) -> &Arc<RaftStore> {
        self.nodes[i].as_ref().unwrap()
    }

    pub fn running(&self) -> impl Iterator<Item = &Arc<RaftStore>> {
        self.nodes.iter().flatten()
    }

    /// Every planned node votes, and one leads.
    pub async fn whole(&self) {
        let n = self.addrs.len();
        until("the group is whole", || async {
            for node in self.running() {
                let Ok(members) = node.members(DEADLINE).await else { return false };
                let voters = members.iter().filter(|m| m.role != Role::Learner).count();
                let leaders = members.iter().filter(|m| m.role == Role::Leader).count();
                if voters != n || members.len() != n || leaders != 1 {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Index of the Raft leader among the running nodes.
    pub async fn leader(&self) -> usize {
        let mut found = None;
        until("there is a leader", || {
            let position = self.leader_now();
            found = position;
            async move { position.is_some() }
        })
        .await;
        found.unwrap()
    }

    pub fn leader_now(&self) -> Option<usize> {
        self.nodes.iter().position(|n| n.as_ref().is_some_and(|n| n.health().summary.contains("this node leads")))
    }

    pub fn follower_of(&self, leader: usize) -> usize {
        (0..self.nodes.len()).find(|i| *i != leader && self.nodes[*i].is_some()).unwrap()
    }
}

pub async fn until<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn put(key: &str, value: &str, lease: Option<u64>) -> Txn {
    Txn { compare: vec![], then: vec![Op::Put { key: key.into(), value: value.into(), lease }] }
}

/// Writes until it is acknowledged: for setting scenes, not for what is being tested.
pub async fn write(kv: &dyn Kv, key: &str, value: &str) {
    until("a write is acknowledged", || async {
        matches!(kv.txn(put(key, value, None), DEADLINE).await, Ok(TxnOutcome::Applied(_)))
    })
    .await;
}

pub async fn value(kv: &dyn Kv, key: &str) -> Option<String> {
    let snapshot = kv.read(key, PATIENCE).await.unwrap();
    let found = snapshot.keys.into_iter().find(|k| k.key == key)?;
    Some(String::from_utf8(found.value).unwrap())
}
