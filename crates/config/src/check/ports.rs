//! Whether the addresses to listen on are free.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};

use super::Checks;
use crate::local::StoreConfig;

impl Checks<'_> {
    pub(super) fn ports(&mut self) {
        let postgresql = self.config.postgresql.listen.clone();
        let restapi = self.config.restapi.listen.clone();
        self.port("restapi.listen", &restapi.host, restapi.port);
        for host in &postgresql.hosts {
            self.port("postgresql.listen", host, postgresql.port);
        }
        if let StoreConfig::Raft(raft) = &self.config.store
            && let Some(address) = raft.bind_addr.clone().or_else(|| raft.self_addr.clone())
        {
            let key = if raft.bind_addr.is_some() { "raft.bind_addr" } else { "raft.self_addr" };
            self.port(key, &address.host, address.port);
        }
    }

    fn port(&mut self, key: &str, host: &str, port: u16) {
        let addresses: Vec<SocketAddr> = if host == "*" {
            vec![(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into()]
        } else {
            match (host, port).to_socket_addrs() {
                Ok(addresses) => addresses.collect(),
                Err(e) => return self.error(key, format!("{host:?} cannot be resolved to an address: {e}")),
            }
        };
        for address in addresses {
            // The listener is closed at once; nothing can have connected, so the port is free again.
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::AddrInUse => {
                    let message = format!(
                        "port {port} of {host} is in use; stop what listens there or choose another (if it is this \
                         member itself, check with --ignore-listen-port)"
                    );
                    return self.error(key, message);
                }
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable => {
                    return self
                        .error(key, format!("{host} is no address of this machine; give one that is, or 0.0.0.0"));
                }
                Err(e) => return self.error(key, format!("cannot listen on {address}: {e}")),
            }
        }
    }
}
