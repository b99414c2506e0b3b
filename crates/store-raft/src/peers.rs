//! Connections to other nodes by address, made when needed and kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::clock::boot_ms;
use crate::connection::{CallError, Connection};
use crate::handshake::{HandshakeError, PATIENCE, Who, greet};
use crate::host;
use crate::tls::Tls;
use crate::wire::{Reply, Request};

/// After a failed attempt, calls fail at once for this long instead of knocking again.
const PAUSE: u64 = 200;
/// A connection to another node than the one that is meant is made anew when it is older than this.
const LOOK_AGAIN: u64 = 1000;

#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    me: Mutex<Who>,
    secret: Option<String>,
    tls: Option<Tls>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
}

struct Peer {
    addr: String,
    /// Held while a connection is being made, by a task that outlives impatient callers: under load
    /// the first handshake may take longer than one heartbeat is allowed to.
    link: Arc<tokio::sync::Mutex<Link>>,
    heard_at: Arc<AtomicU64>,
    /// What was last said about it in the log.
    complaint: Mutex<Option<String>>,
}

#[derive(Default)]
struct Link {
    connection: Option<Arc<Connection>>,
    made_at: u64,
    failed: Option<(u64, Failed)>,
}

#[derive(Clone)]
struct Failed {
    refused: bool,
    reason: String,
}

impl Peers {
    pub fn new(me: Who, secret: Option<String>, tls: Option<Tls>) -> Peers {
        Peers { shared: Arc::new(Shared { me: Mutex::new(me), secret, tls, peers: Mutex::default() }) }
    }

    /// Tells the others from now on which group this node belongs to.
    pub fn set_group(&self, group: &str) {
        lock(&self.shared.me).group = Some(group.to_owned());
        self.close_all();
    }

    pub fn me(&self) -> Who {
        lock(&self.shared.me).clone()
    }

    pub fn close_all(&self) {
        lock(&self.shared.peers).clear();
    }

    /// Time since the node at `addr` last answered anything.
    pub fn heard(&self, addr: &str) -> Option<Duration> {
        let at = lock(&self.shared.peers).get(addr)?.heard_at.load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_millis(boot_ms().saturating_sub(at)))
    }

    /// `node`: the call is meant for this node and no other that may now live at the address.
    pub async fn call(
        &self,
        addr: &str,
        node: Option<u64>,
        request: Request,
        within: Duration,
    ) -> Result<Reply, CallError> {
        let begun = tokio::time::Instant::now();
        let connection = match timeout(within, self.connection(addr, node)).await {
            Ok(connection) => connection?,
            Err(_) => return Err(CallError::NotSent(format!("{addr}: no connection in time"))),
        };
        if node.is_some() && connection.peer.node != node {
            return Err(CallError::Refused(format!("{addr} is now another node: it lost its data directory")));
        }
        let named = |e: CallError| match e {
            CallError::NotSent(why) => CallError::NotSent(format!("{addr}: {why}")),
            CallError::NoAnswer(why) => CallError::NoAnswer(format!("{addr}: {why}")),
            CallError::Refused(why) => CallError::Refused(format!("{addr}: {why}")),
        };
        connection.call(request, within.saturating_sub(begun.elapsed())).await.map_err(named)
    }

    /// A connection that nobody else uses.
    pub async fn separate(&self, addr: &str) -> Result<Connection, String> {
        let peer =
            Peer { addr: addr.to_owned(), link: Arc::default(), heard_at: Arc::default(), complaint: Mutex::default() };
        dial(&self.shared, &peer).await.map_err(|failed| failed.reason)
    }

    async fn connection(&self, addr: &str, node: Option<u64>) -> Result<Arc<Connection>, CallError> {
        let peer = lock(&self.shared.peers)
            .entry(addr.to_owned())
            .or_insert_with(|| {
                Arc::new(Peer {
                    addr: addr.to_owned(),
                    link: Arc::default(),
                    heard_at: Arc::default(),
                    complaint: Mutex::default(),
                })
            })
            .clone();
        let mut link = peer.link.clone().lock_owned().await;
        if let Some(connection) = link.connection.as_ref().filter(|c| !c.is_closed()) {
            // One that was made to a machine which lost power, and came back at this address with an empty disk, never
            // closes by itself, and nothing that is meant for the new node would be sent on it to find that out.
            let other = node.is_some() && connection.peer.node != node;
            if !other || boot_ms().saturating_sub(link.made_at) < LOOK_AGAIN {
                return Ok(connection.clone());
            }
        }
        link.connection = None;
        if let Some((at, failed)) = &link.failed
            && boot_ms().saturating_sub(*at) < PAUSE
        {
            return Err(failed.clone().into());
        }
        let shared = self.shared.clone();
        let dialing = tokio::spawn(async move {
            match dial(&shared, &peer).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    link.failed = None;
                    link.made_at = boot_ms();
                    link.connection = Some(connection.clone());
                    peer.complain(None);
                    Ok(connection)
                }
                Err(failed) => {
                    peer.complain(Some(&failed));
                    link.failed = Some((boot_ms(), failed.clone()));
                    Err(failed.into())
                }
            }
        });
        dialing.await.unwrap_or_else(|_| Err(CallError::NotSent(format!("{addr}: the attempt was given up"))))
    }
}

impl From<Failed> for CallError {
    fn from(failed: Failed) -> CallError {
        match failed.refused {
            true => CallError::Refused(failed.reason),
            false => CallError::NotSent(failed.reason),
        }
    }
}

impl Peer {
    /// Says a refusal once, not with every heartbeat.
    fn complain(&self, failed: Option<&Failed>) {
        let mut last = lock(&self.complaint);
        let reason = failed.filter(|f| f.refused).map(|f| f.reason.clone());
        if let Some(reason) = reason.as_ref().filter(|r| last.as_ref() != Some(*r)) {
            tracing::error!("the embedded store cannot talk to a node: {reason}");
        }
        *last = reason;
    }
}

async fn dial(shared: &Shared, peer: &Peer) -> Result<Connection, Failed> {
    let addr = &peer.addr;
    let me = lock(&shared.me).clone();
    let attempt = async {
        let io = |e: std::io::Error| HandshakeError::Broken(e.to_string());
        let tcp = host::connect(addr).await.map_err(io)?;
        let io: Box<dyn crate::handshake::Transport> = match &shared.tls {
            Some(tls) => tls.connect(addr, tcp).await.map_err(|e| HandshakeError::Refused(format!("TLS: {e}")))?,
            None => tcp,
        };
        greet(io, &me, shared.secret.as_deref()).await
    };
    let failed = |refused, why: String| Failed { refused, reason: format!("{addr}: {why}") };
    match timeout(PATIENCE, attempt).await {
        Ok(Ok(session)) => Ok(Connection::start(session, peer.heard_at.clone())),
        Ok(Err(HandshakeError::Refused(why))) => Err(failed(true, why)),
        Ok(Err(HandshakeError::Broken(why))) => Err(failed(false, why)),
        Err(_) => Err(failed(false, format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{Session, welcome};

    fn who(node: u64) -> Who {
        Who { node: Some(node), addr: format!("h{node}:1"), group: Some("g".into()), replaces: vec![] }
    }

    #[tokio::test]
    async fn a_node_is_reached_behind_the_silent_connection_to_its_predecessor() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let peers = Peers::new(who(9), None, None);
        let admit = async |node| -> Session {
            let (tcp, _) = listener.accept().await.unwrap();
            welcome(Box::new(tcp), &who(node), None).await.unwrap_or_else(|e| panic!("{e}"))
        };
        let (connection, _silent) = tokio::join!(peers.connection(&addr, Some(1)), admit(1));
        assert_eq!(connection.unwrap().peer.node, Some(1));
        // Not with every call, while the address really is another node's.
        let at_once = peers.call(&addr, Some(2), Request::Ping, Duration::from_secs(5)).await;
        assert!(matches!(at_once, Err(CallError::Refused(_))));
        let later = async {
            loop {
                match peers.connection(&addr, Some(2)).await {
                    Ok(connection) if connection.peer.node == Some(2) => return,
                    Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(e) => panic!("{e}"),
                }
            }
        };
        let met = timeout(Duration::from_secs(20), async { tokio::join!(later, admit(2)) }).await;
        assert!(met.is_ok());
        // Whoever asks for nobody in particular takes what is there.
        assert_eq!(peers.connection(&addr, None).await.unwrap().peer.node, Some(2));
    }
}
