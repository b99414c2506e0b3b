//! Opening the listening socket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::sockopt;
use surus_config::HostPort;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::limits;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("restapi.listen: the host {host:?} does not resolve: {source}")]
    Unresolved { host: String, source: io::Error },
    #[error(
        "restapi.listen: cannot listen on {address}: the port is in use, perhaps by another agent of this member; \
         stop that process or choose another port"
    )]
    InUse { address: SocketAddr },
    #[error("restapi.listen: cannot listen on {address}: {source}")]
    Failed { address: SocketAddr, source: io::Error },
}

pub async fn listen(listen: &HostPort, backlog: u32) -> Result<TcpListener, ListenError> {
    let (host, port) = (listen.host.as_str(), listen.port);
    let unresolved = |source| ListenError::Unresolved { host: host.to_owned(), source };
    let addresses: Vec<SocketAddr> = if matches!(host, "" | "*") {
        vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
    } else {
        let mut found: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(unresolved)?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        found
    };
    let mut failure = unresolved(io::Error::other("it has no address"));
    for address in addresses {
        match open(address, backlog) {
            Ok(listener) => return Ok(listener),
            // Without IPv6 on this machine the next address is the IPv4 one; a port in use is final.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(ListenError::InUse { address }),
            Err(source) => failure = ListenError::Failed { address, source },
        }
    }
    Err(failure)
}

fn open(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // A restarted agent must get its port back while connections of the last one are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// Ends connections to clients that vanished, without help from the application.
pub fn tune(stream: &TcpStream) {
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| Ok(sockopt::set_socket_keepalive(stream, true)?))
        .and_then(|()| Ok(sockopt::set_tcp_keepidle(stream, limits::KEEPALIVE_IDLE)?))
        .and_then(|()| Ok(sockopt::set_tcp_keepintvl(stream, limits::KEEPALIVE_INTERVAL)?))
        .and_then(|()| Ok(sockopt::set_tcp_keepcnt(stream, limits::KEEPALIVE_COUNT)?));
    let user_timeout = u32::try_from(limits::TCP_USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    // A client that is gone already makes these fail; reading from it will tell.
    let _ = tuned.and_then(|()| Ok(sockopt::set_tcp_user_timeout(stream, user_timeout)?));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = listen(&at("127.0.0.1", 0), 16).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(&at("127.0.0.1", address.port()), 16).await.unwrap_err().to_string();
        assert!(error.contains("restapi.listen") && error.contains(&address.to_string()), "{error}");
        let error = listen(&at("no such host", 0), 16).await.unwrap_err().to_string();
        assert!(error.contains("restapi.listen") && error.contains("no such host"), "{error}");
    }

    #[tokio::test]
    async fn every_address_includes_ipv4() {
        let listener = listen(&at("*", 0), 16).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
}
