//! The network between agents and their store, with links that can be cut and frozen.
//!
//! One proxy stands before each store endpoint. Which member a connection comes from is read from `/proc`: all members
//! live on one loopback address and know each endpoint by one name, as a store's membership demands.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// How a member is connected to the store, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    #[default]
    Open,
    /// Connections are accepted and kept, nothing is forwarded.
    Frozen,
    /// Connections are dropped and refused.
    Cut,
}

struct Route {
    listen: u16,
    to: u16,
    /// The member behind it, when the endpoint is a member itself.
    target: Option<usize>,
}

/// Runs on a thread of its own, so that a busy test never slows the cluster's traffic.
pub struct Network {
    links: watch::Sender<Vec<Link>>,
    agents: Arc<Mutex<Vec<Option<i32>>>>,
    routes: Option<mpsc::UnboundedSender<Route>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Network {
    pub fn new(members: usize) -> Result<Network> {
        let (links, watching) = watch::channel(vec![Link::Open; members]);
        let agents = Arc::new(Mutex::new(vec![None; members]));
        let (routes, mut incoming) = mpsc::unbounded_channel::<Route>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("proxy runtime")?;
        let known = Arc::clone(&agents);
        let thread = std::thread::Builder::new().name("testbed-network".into()).spawn(move || {
            runtime.block_on(async move {
                // Ends when the sender is dropped; with the runtime every connection ends too.
                while let Some(route) = incoming.recv().await {
                    tokio::spawn(serve(route, watching.clone(), Arc::clone(&known)));
                }
            });
        })?;
        Ok(Network { links, agents, routes: Some(routes), thread: Some(thread) })
    }

    pub fn route(&self, listen: u16, to: u16, target: Option<usize>) {
        if let Some(routes) = &self.routes {
            let _ = routes.send(Route { listen, to, target });
        }
    }

    pub fn agent_is(&self, member: usize, pid: Option<i32>) {
        if let Ok(mut agents) = self.agents.lock() {
            agents[member] = pid;
        }
    }

    pub fn set(&self, member: usize, link: Link) {
        self.links.send_modify(|links| links[member] = link);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.routes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(route: Route, links: watch::Receiver<Vec<Link>>, agents: Arc<Mutex<Vec<Option<i32>>>>) {
    let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, route.listen)).await else { return };
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let source = agents.lock().ok().and_then(|agents| source_of(peer, &agents));
        let mut ends: Vec<usize> = source.into_iter().chain(route.target).collect();
        if source.is_some() && source == route.target {
            // A member reaches its own store part whatever happens to the network.
            ends.clear();
        }
        tokio::spawn(relay(stream, route.to, Gate { links: links.clone(), ends }));
    }
}

/// The state of one connection: the worst of its ends' links.
#[derive(Clone)]
struct Gate {
    links: watch::Receiver<Vec<Link>>,
    ends: Vec<usize>,
}

impl Gate {
    async fn until(&mut self, wanted: impl Fn(Link) -> bool) {
        let ends = self.ends.clone();
        let worst = move |links: &Vec<Link>| ends.iter().map(|&end| links[end]).max().unwrap_or_default();
        if self.links.wait_for(|links| wanted(worst(links))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn relay(near: TcpStream, to: u16, gate: Gate) {
    let mut cut = gate.clone();
    let traffic = async {
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        tokio::join!(pump(near_read, far_write, gate.clone()), pump(far_read, near_write, gate));
    };
    tokio::select! {
        biased;
        () = cut.until(|link| link == Link::Cut) => {}
        () = traffic => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: Gate) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        gate.until(|link| link != Link::Frozen).await;
        if n == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// The member whose agent holds the other end of a loopback connection.
fn source_of(peer: SocketAddr, agents: &[Option<i32>]) -> Option<usize> {
    let SocketAddr::V4(peer) = peer else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(peer.ip().octets()), peer.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inodes: HashSet<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1).is_some_and(|address| *address == local))
        .filter_map(|fields| fields.get(9).map(|inode| format!("socket:[{inode}]")))
        .collect();
    agents.iter().position(|pid| {
        let Some(pid) = pid else { return false };
        fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|target| inodes.contains(&*target.to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Port;

    async fn echo(port: u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut r, mut w) = stream.split();
                    let _ = tokio::io::copy(&mut r, &mut w).await;
                });
            }
        });
    }

    async fn says(stream: &mut TcpStream, patience: Duration) -> Option<usize> {
        stream.write_all(b"x").await.ok()?;
        let mut byte = [0];
        tokio::time::timeout(patience, stream.read(&mut byte)).await.ok()?.ok()
    }

    #[tokio::test]
    async fn forwards_freezes_and_cuts_by_source() {
        let (near, far) = (Port::free().unwrap(), Port::free().unwrap());
        echo(far.number).await;
        let network = Network::new(2).unwrap();
        network.agent_is(0, Some(i32::try_from(std::process::id()).unwrap()));
        network.route(near.number, far.number, None);
        let connect = async || loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, near.number)).await {
                return stream;
            }
            tokio::task::yield_now().await;
        };
        let mut stream = connect().await;
        let long = Duration::from_secs(5);
        assert_eq!(says(&mut stream, long).await, Some(1));
        network.set(1, Link::Cut);
        assert_eq!(says(&mut stream, long).await, Some(1), "another member's link is cut, not this one's");
        network.set(0, Link::Frozen);
        assert_eq!(says(&mut stream, Duration::from_millis(100)).await, None);
        network.set(0, Link::Open);
        assert_eq!(says(&mut stream, long).await, Some(1), "what was held back arrives");
        network.set(0, Link::Cut);
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(long, stream.read_to_end(&mut rest)).await.expect("the connection is dropped");
        let mut again = connect().await;
        assert_ne!(says(&mut again, long).await, Some(1), "and refused");
    }
}
