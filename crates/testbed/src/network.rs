//! The network between members, and between members and their store, with links that can be cut, frozen and slowed down.
//!
//! One proxy stands before each endpoint. Which member or store server a connection comes from is read from `/proc`: all
//! of them live on one loopback address and know each endpoint by one name, as a store's membership demands. This takes
//! no privileges, unlike network namespaces. What a proxy cannot do is lose a handshake: over a link that is cut one way
//! a connection still opens, and then carries nothing in that direction.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::chance;
use crate::source::Sources;

/// What happens to everything that one end sends to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    #[default]
    Open,
    /// Arrives that much later.
    Slow(Duration),
    /// Arrives, and then, at random, both ends lose the connection: with it goes the answer to a request that was carried
    /// out, or whatever else was under way.
    Flaky,
    /// Connections are accepted and kept, nothing is forwarded.
    Frozen,
    /// Connections are dropped and refused.
    Cut,
}

/// Of a hundred pieces that a flaky link carries so many are the last of their connection. A store's client needs about
/// six to open one and to make its first request.
const FLAKY: u64 = 5;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// The agent and PostgreSQL of a member.
    Member(usize),
    /// A server of the store; of the embedded one, the part that lives in that member's agent.
    Store(usize),
    /// Whoever else works in the cluster's directory, such as a second agent of a member. No link of its is ever cut.
    Guest,
}

struct Route {
    listen: SocketAddr,
    to: u16,
    target: Endpoint,
}

/// Links that are not open, by direction.
type Links = BTreeMap<(Endpoint, Endpoint), Link>;

/// What went over each link, in bytes.
type Carried = Arc<Mutex<BTreeMap<(Endpoint, Endpoint), u64>>>;

/// Runs on a thread of its own, so that a busy test never slows the cluster's traffic.
pub struct Network {
    links: watch::Sender<Links>,
    carried: Carried,
    routes: Option<mpsc::UnboundedSender<Route>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Network {
    /// Whoever works under one of the directories speaks for that end; the first that fits counts.
    pub fn new(homes: Vec<(Endpoint, PathBuf)>) -> Result<Network> {
        let (links, watching) = watch::channel(Links::new());
        let (routes, mut incoming) = mpsc::unbounded_channel::<Route>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("proxy runtime")?;
        let sources = Sources::start(homes)?;
        let carried = Carried::default();
        let counting = Arc::clone(&carried);
        let thread = std::thread::Builder::new().name("testbed-network".into()).spawn(move || {
            runtime.block_on(async move {
                // Ends when the sender is dropped; with the runtime every connection ends too.
                while let Some(route) = incoming.recv().await {
                    tokio::spawn(serve(route, watching.clone(), Arc::clone(&counting), sources.clone()));
                }
            });
        })?;
        Ok(Network { links, carried, routes: Some(routes), thread: Some(thread) })
    }

    pub fn route(&self, listen: u16, to: u16, target: Endpoint) {
        self.route_from((Ipv4Addr::LOCALHOST, listen).into(), to, target);
    }

    pub fn route_from(&self, listen: SocketAddr, to: u16, target: Endpoint) {
        if let Some(routes) = &self.routes {
            let _ = routes.send(Route { listen, to, target });
        }
    }

    pub fn set(&self, from: Endpoint, to: Endpoint, link: Link) {
        self.links.send_modify(|links| {
            links.insert((from, to), link);
        });
    }

    /// Bytes that went over the links that fit, so far.
    pub fn carried(&self, fits: impl Fn(Endpoint, Endpoint) -> bool) -> u64 {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.iter().filter(|((from, to), _)| fits(*from, *to)).map(|(_, bytes)| bytes).sum()
    }

    /// Every link that fits is whole again.
    pub fn heal(&self, fits: impl Fn(Endpoint, Endpoint) -> bool) {
        self.links.send_modify(|links| links.retain(|(from, to), _| !fits(*from, *to)));
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

async fn serve(route: Route, links: watch::Receiver<Links>, carried: Carried, sources: Sources) {
    let Ok(listener) = TcpListener::bind(route.listen).await else { return };
    loop {
        let Ok((near, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (links, carried, sources) = (links.clone(), Arc::clone(&carried), sources.clone());
        let (to, target) = (route.to, route.target);
        tokio::spawn(async move {
            // First: whoever dials a dead server again and again would keep the search busy.
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
            // Who speaks for nobody is not let through: no link is cut for it.
            let Some(source) = sources.of(peer).await else { return };
            let there = Gate { links: links.clone(), carried: Arc::clone(&carried), link: (source, target) };
            let back = Gate { links, carried, link: (target, source) };
            relay(near, far, there, back).await;
        });
    }
}

/// One direction of one connection.
#[derive(Clone)]
struct Gate {
    links: watch::Receiver<Links>,
    carried: Carried,
    link: (Endpoint, Endpoint),
}

impl Gate {
    fn state(&self) -> Link {
        self.links.borrow().get(&self.link).copied().unwrap_or_default()
    }

    fn count(&self, bytes: usize) {
        *self.carried.lock().unwrap_or_else(PoisonError::into_inner).entry(self.link).or_default() += bytes as u64;
    }

    async fn until(&mut self, wanted: impl Fn(Link) -> bool) {
        let link = self.link;
        let state = move |links: &Links| links.get(&link).copied().unwrap_or_default();
        if self.links.wait_for(|links| wanted(state(links))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn relay(near: TcpStream, far: TcpStream, there: Gate, back: Gate) {
    let (mut cut_there, mut cut_back) = (there.clone(), back.clone());
    let traffic = async {
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let _ = tokio::try_join!(pump(near_read, far_write, there), pump(far_read, near_write, back));
    };
    tokio::select! {
        biased;
        () = cut_there.until(|link| link == Link::Cut) => {}
        () = cut_back.until(|link| link == Link::Cut) => {}
        () = traffic => {}
    }
}

/// Nothing goes either way any more.
struct ConnectionLost;

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gate: Gate) -> Result<(), ConnectionLost> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return Ok(()) };
        gate.until(|link| link != Link::Frozen).await;
        if let Link::Slow(by) = gate.state() {
            tokio::time::sleep(by).await;
        }
        if n == 0 {
            let _ = to.shutdown().await;
            return Ok(());
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return Ok(());
        }
        gate.count(n);
        if gate.state() == Link::Flaky && chance::percent(FLAKY) {
            return Err(ConnectionLost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Port;

    const STORE: Endpoint = Endpoint::Store(0);

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

    /// Reads the answers to what was said while the link was frozen.
    async fn settle(stream: &mut TcpStream) {
        let mut byte = [0];
        while tokio::time::timeout(Duration::from_millis(300), stream.read(&mut byte)).await.is_ok() {}
    }

    #[tokio::test]
    async fn forwards_freezes_and_cuts_by_source() {
        let (near, far) = (Port::free().unwrap(), Port::free().unwrap());
        echo(far.number).await;
        // This process stands for the first member: it works in its own directory.
        let home = std::env::current_dir().unwrap();
        let network = Network::new(vec![(Endpoint::Member(0), home)]).unwrap();
        network.route(near.number, far.number, STORE);
        let connect = async || loop {
            if let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, near.number)).await {
                return stream;
            }
            tokio::task::yield_now().await;
        };
        let mut stream = connect().await;
        let long = Duration::from_secs(5);
        let short = Duration::from_millis(100);
        let set = |link| network.set(Endpoint::Member(0), STORE, link);
        assert_eq!(says(&mut stream, long).await, Some(1));
        network.set(Endpoint::Member(1), STORE, Link::Cut);
        assert_eq!(says(&mut stream, long).await, Some(1), "another member's link is cut, not this one's");
        set(Link::Frozen);
        assert_eq!(says(&mut stream, short).await, None);
        set(Link::Open);
        assert_eq!(says(&mut stream, long).await, Some(1), "what was held back arrives");
        settle(&mut stream).await;
        network.set(STORE, Endpoint::Member(0), Link::Frozen);
        assert_eq!(says(&mut stream, short).await, None, "one way: heard, and not answered");
        network.heal(|from, _| from == STORE);
        assert_eq!(says(&mut stream, long).await, Some(1));
        settle(&mut stream).await;
        set(Link::Slow(short));
        let begin = std::time::Instant::now();
        assert_eq!(says(&mut stream, long).await, Some(1));
        assert!(begin.elapsed() >= short);
        set(Link::Flaky);
        let mut carried = 0;
        while says(&mut stream, long).await == Some(1) {
            carried += 1;
            assert!(carried < 1000, "nothing is ever lost");
        }
        let mut stream = connect().await;
        set(Link::Cut);
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(long, stream.read_to_end(&mut rest)).await.expect("the connection is dropped");
        let mut again = connect().await;
        assert_ne!(says(&mut again, long).await, Some(1), "and refused");
    }
}
