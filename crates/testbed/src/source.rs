//! Who holds the other end of a loopback connection, from `/proc`.
//!
//! One look at the kernel's table and at who holds what answers everybody who has asked by then. A look for each would
//! come to a standstill where twenty members dial each other: what takes too long is dialled again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::network::Endpoint;
use crate::procs;

const LOOKS: u32 = 10;
const BREATH: Duration = Duration::from_millis(5);

/// Ends with the last clone.
#[derive(Clone)]
pub struct Sources(Sender<Asked>);

struct Asked {
    peer: SocketAddr,
    looks: u32,
    answer: oneshot::Sender<Endpoint>,
}

impl Sources {
    /// Whoever works under one of the directories speaks for that end; the first that fits counts.
    pub fn start(homes: Vec<(Endpoint, PathBuf)>) -> Result<Sources> {
        let (sender, receiver) = channel();
        let look = move || Look { homes, known: BTreeMap::new() }.answer(&receiver);
        std::thread::Builder::new().name("testbed-sources".into()).spawn(look).context("thread for sources")?;
        Ok(Sources(sender))
    }

    /// `None`: nobody, or it is gone.
    pub async fn of(&self, peer: SocketAddr) -> Option<Endpoint> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Asked { peer, looks: 0, answer }).ok()?;
        answered.await.ok()
    }
}

struct Look {
    homes: Vec<(Endpoint, PathBuf)>,
    /// Processes that opened a connection before: agents and store servers open most.
    known: BTreeMap<i32, usize>,
}

impl Look {
    fn answer(mut self, asked: &Receiver<Asked>) {
        let mut open: Vec<Asked> = Vec::new();
        loop {
            if open.is_empty() {
                let Ok(first) = asked.recv() else { return };
                open.push(first);
            }
            open.extend(asked.try_iter());
            open.retain(|asked| !asked.answer.is_closed());
            let found = self.look(&open.iter().map(|asked| asked.peer).collect());
            let mut again = Vec::new();
            for asked in open {
                match found.get(&asked.peer) {
                    Some(endpoint) => _ = asked.answer.send(*endpoint),
                    // The kernel's table is read in pieces: a line may be missing from it while others come and go.
                    None if asked.looks < LOOKS => again.push(Asked { looks: asked.looks + 1, ..asked }),
                    None => {}
                }
            }
            open = again;
            if let Some(looks) = open.iter().map(|asked| asked.looks).min() {
                std::thread::sleep(BREATH * looks);
            }
        }
    }

    fn look(&mut self, peers: &HashSet<SocketAddr>) -> HashMap<SocketAddr, Endpoint> {
        let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let wanted: HashMap<String, SocketAddr> =
            peers.iter().filter_map(|peer| Some((local(*peer)?, *peer))).collect();
        let mut sockets: HashMap<String, SocketAddr> = HashMap::new();
        for line in table.lines() {
            let mut fields = line.split_whitespace().skip(1);
            let Some(peer) = fields.next().and_then(|local| wanted.get(local)) else { continue };
            // Without one it is being closed.
            if let Some(inode) = fields.nth(7).filter(|inode| *inode != "0") {
                sockets.insert(format!("socket:[{inode}]"), *peer);
            }
        }
        self.known.retain(|pid, _| procs::alive(*pid));
        let mut found = HashMap::new();
        let known: Vec<i32> = self.known.keys().copied().collect();
        for pid in known.into_iter().chain(procs::all()) {
            if sockets.is_empty() {
                break;
            }
            let place = procs::Place::of(pid);
            let Some(home) = self.homes.iter().position(|(_, dir)| place.is_in(dir)) else { continue };
            let held = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            for target in held.filter_map(|fd| fs::read_link(fd.path()).ok()) {
                if let Some(peer) = sockets.remove(target.to_string_lossy().as_ref()) {
                    found.insert(peer, self.homes[home].0);
                    self.known.insert(pid, home);
                }
            }
        }
        found
    }
}

/// As the kernel's table writes it.
fn local(peer: SocketAddr) -> Option<String> {
    let SocketAddr::V4(peer) = peer else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_le_bytes(peer.ip().octets()), peer.port()))
}
