//! Free loopback ports that stay ours while nobody listens on them.
//!
//! Below 32768, where Linux's ephemeral range begins: a port above may be taken by any outgoing connection while its
//! server restarts. A claim is an abstract Unix socket named after the port, so test processes that run at the same
//! time never pick the same one, and the kernel releases it whatever way the process ends.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail};

const FIRST: u16 = 12_000;
const LAST: u16 = 32_000;

#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _claim: UnixListener,
}

impl Port {
    pub fn free() -> Result<Port> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let span = LAST - FIRST;
        // Where to begin differs between processes, so that they rarely try each other's ports.
        let base = (std::process::id() % u32::from(span)) as u16;
        for _ in 0..span {
            let step = NEXT.fetch_add(7, Ordering::Relaxed);
            let number = FIRST + ((u32::from(base) + u32::from(step)) % u32::from(span)) as u16;
            let Ok(name) = SocketAddr::from_abstract_name(format!("surus-port-{number}")) else { continue };
            let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port { number, _claim: claim });
            }
        }
        bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_exclusive_until_dropped() {
        let a = Port::free().unwrap();
        let b = Port::free().unwrap();
        assert_ne!(a.number, b.number);
        let name = SocketAddr::from_abstract_name(format!("surus-port-{}", a.number)).unwrap();
        assert!(UnixListener::bind_addr(&name).is_err());
        drop(a);
        assert!(UnixListener::bind_addr(&name).is_ok());
    }
}
