//! What a node has of its machine: the time since boot, chance, connections, room for work that waits for a disk, and
//! its own end. In one place, so that this crate's tests can run whole nodes on simulated machines
//! (`crate::simulated`); nothing of that is in a build that is no test.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinError;

use crate::format::NEWEST;
use crate::handshake::Transport;
#[cfg(test)]
use crate::simulated;

/// Milliseconds since boot, counting through suspend.
pub fn boot_ms() -> u64 {
    #[cfg(test)]
    if let Some(ms) = simulated::boot_ms() {
        return ms;
    }
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
}

/// What this program reads at most.
pub fn newest_format() -> u32 {
    #[cfg(test)]
    if let Some(here) = simulated::here() {
        return here.newest_format();
    }
    NEWEST
}

/// Random bytes from the system, for identities and nonces.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(test)]
    if simulated::random(&mut bytes) {
        return bytes;
    }
    if rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).is_err() {
        // Without randomness two nodes could take the same identity, or a nonce repeat.
        tracing::error!("the system gives no random numbers; stopping");
        abort();
    }
    bytes
}

/// Ends the process at once, because it cannot keep what it promised.
pub fn abort() -> ! {
    #[cfg(test)]
    simulated::abort();
    std::process::abort()
}

/// Does what waits for a disk, without holding up anything else.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(test)]
    if let Some(here) = simulated::here() {
        here.disk_answers().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

pub async fn connect(addr: &str) -> io::Result<Box<dyn Transport>> {
    #[cfg(test)]
    if let Some(here) = simulated::here() {
        return here.connect(addr).await;
    }
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    Ok(Box::new(tcp))
}

pub enum Listener {
    Tcp(TcpListener),
    #[cfg(test)]
    Simulated(simulated::Listener),
}

impl Listener {
    pub async fn bind(addr: &str) -> io::Result<Listener> {
        #[cfg(test)]
        if let Some(here) = simulated::here() {
            return Ok(Listener::Simulated(here.listen(addr)));
        }
        Ok(Listener::Tcp(TcpListener::bind(addr).await?))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr(),
            #[cfg(test)]
            Listener::Simulated(_) => Ok(SocketAddr::from(([0, 0, 0, 0], 0))),
        }
    }

    pub async fn accept(&self) -> io::Result<(Box<dyn Transport>, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                let (tcp, from) = listener.accept().await?;
                // Fails only on a connection that is gone already, which the handshake finds out.
                let _ = tcp.set_nodelay(true);
                Ok((Box::new(tcp), from))
            }
            #[cfg(test)]
            Listener::Simulated(listener) => Ok((listener.accept().await, SocketAddr::from(([0, 0, 0, 0], 0)))),
        }
    }
}
