//! Endpoints from DNS SRV records (`spec/dcs.md §5`): the client records of a domain, `-ssl` ones first.

mod message;

use std::net::SocketAddr;
use std::time::Duration;

use surus_store::{StoreError, StoreResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use message::{Answer, Record};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A lost datagram must not use up the deadline.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(1);
const SERVICES: [(&str, &str); 4] =
    [("_etcd-client-ssl", "https"), ("_etcd-client", "http"), ("_etcd-ssl", "https"), ("_etcd", "http")];

/// The endpoints that the SRV records of `domain` name, for [`EtcdOptions::endpoints`](crate::EtcdOptions).
/// Asks the name servers of the system. `Unavailable` while none answers.
pub async fn discover_srv(domain: &str, suffix: Option<&str>, deadline: Duration) -> StoreResult<Vec<String>> {
    let conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    endpoints(&name_servers(&conf), domain, suffix, deadline).await
}

/// As `resolv.conf(5)` has it: the local one if none is named.
fn name_servers(conf: &str) -> Vec<SocketAddr> {
    let named = conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|w| *w == "nameserver").and(words.next())?;
        // A zone such as `%eth0` cannot be expressed portably in an address; without it the server is unreachable.
        address.parse().ok().map(|ip| SocketAddr::new(ip, 53))
    });
    let mut servers: Vec<SocketAddr> = named.collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
    }
    servers
}

async fn endpoints(
    servers: &[SocketAddr],
    domain: &str,
    suffix: Option<&str>,
    deadline: Duration,
) -> StoreResult<Vec<String>> {
    let end = Instant::now() + deadline;
    let domain = domain.trim_end_matches('.');
    let mut asked = Vec::new();
    for (service, scheme) in SERVICES {
        let service = suffix.filter(|s| !s.is_empty()).map_or(service.to_owned(), |s| format!("{service}-{s}"));
        let name = format!("{service}._tcp.{domain}");
        let mut records = lookup(servers, &name, end).await?;
        if !records.is_empty() {
            records.sort_by_key(|r| (r.priority, u16::MAX - r.weight));
            return Ok(records.into_iter().map(|r| format!("{scheme}://{}:{}", r.target, r.port)).collect());
        }
        asked.push(name);
    }
    Err(StoreError::Refused(format!(
        "no SRV record names an etcd endpoint; asked for {}: create one of them, or list `hosts` instead of `srv`",
        asked.join(", ")
    )))
}

async fn lookup(servers: &[SocketAddr], name: &str, end: Instant) -> StoreResult<Vec<Record>> {
    let mut failures = Vec::new();
    loop {
        for server in servers {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match timeout(left.min(DATAGRAM_PATIENCE), ask(*server, name)).await {
                Ok(Ok(records)) => return Ok(records),
                Ok(Err(text)) => failures.push(format!("{server}: {text}")),
                Err(_) => failures.push(format!("{server}: no answer")),
            }
        }
        if Instant::now() + DATAGRAM_PATIENCE >= end {
            let text = failures.join("; ");
            return Err(StoreError::Unavailable(format!("SRV records of {name} could not be looked up: {text}")));
        }
        failures.clear();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn ask(server: SocketAddr, name: &str) -> Result<Vec<Record>, String> {
    let failed = |e: std::io::Error| e.to_string();
    // Unguessable enough together with the kernel's choice of port: the answer only names endpoints,
    // and those must still pass TLS and authentication.
    let id = u16::try_from(surus_store::boot_now().as_millis() & 0xffff).unwrap_or(0);
    let query = message::query(id, name)?;
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(&query).await.map_err(failed)?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buffer).await.map_err(failed)?;
        match message::answer(&buffer[..n], id)? {
            Answer::Records(records) => return Ok(records),
            Answer::Truncated => break,
            Answer::NotOurs => {}
        }
    }
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    let length = u16::try_from(query.len()).map_err(|e| e.to_string())?;
    stream.write_all(&length.to_be_bytes()).await.map_err(failed)?;
    stream.write_all(&query).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(failed)?;
    match message::answer(&buffer, id)? {
        Answer::Records(records) => Ok(records),
        Answer::Truncated | Answer::NotOurs => Err("an answer that makes no sense".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_resolver_does() {
        let conf = "# x\nsearch a.b\nnameserver 10.0.0.1\nnameserver ::1\nnameserver nonsense\n";
        let servers = name_servers(conf);
        assert_eq!(servers, ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        assert_eq!(name_servers(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    type Zone = &'static [(&'static str, &'static [(u16, u16, u16, &'static str)])];

    /// A port that is free for UDP is often taken for TCP: the kernel gives it to connections of others too.
    async fn one_port_for_both() -> (UdpSocket, tokio::net::TcpListener, SocketAddr) {
        loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            if let Ok(tcp) = tokio::net::TcpListener::bind(address).await {
                return (udp, tcp, address);
            }
        }
    }

    /// A name server that knows some names; big answers only by TCP.
    async fn serve(known: Zone, truncate: bool) -> SocketAddr {
        let (udp, tcp, address) = one_port_for_both().await;
        let reply = move |query: &[u8], cut: bool| {
            let found = known.iter().find(|(name, _)| query[12..].starts_with(&message::encode_name(name).unwrap()));
            message::tests::reply(query, found.map(|(_, records)| *records), cut)
        };
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (n, from) = udp.recv_from(&mut buffer).await.unwrap();
                udp.send_to(&reply(&buffer[..n], truncate), from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let answer = reply(&query, false);
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        address
    }

    const DEADLINE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_first_service_with_records_decides() {
        for truncate in [false, true] {
            let server = serve(
                &[
                    (
                        "_etcd-client._tcp.x.example",
                        &[(20, 0, 2379, "c.x.example"), (10, 1, 2380, "b.x.example"), (10, 9, 2381, "a.x.example")],
                    ),
                    ("_etcd-client-ssl-blue._tcp.x.example", &[(0, 0, 2379, "tls.x.example")]),
                    ("_etcd._tcp.x.example", &[(0, 0, 1, "never.x.example")]),
                ],
                truncate,
            )
            .await;
            let found = endpoints(&[server], "x.example.", None, DEADLINE).await.unwrap();
            assert_eq!(found, ["http://a.x.example:2381", "http://b.x.example:2380", "http://c.x.example:2379"]);
            let blue = endpoints(&[server], "x.example", Some("blue"), DEADLINE).await.unwrap();
            assert_eq!(blue, ["https://tls.x.example:2379"]);
        }
    }

    #[tokio::test]
    async fn no_records_and_no_server_are_different_answers() {
        let server = serve(&[], false).await;
        let none = endpoints(&[server], "x.example", None, DEADLINE).await;
        assert!(matches!(&none, Err(StoreError::Refused(text)) if text.contains("_etcd._tcp.x.example")), "{none:?}");
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let unanswered = endpoints(&[address], "x.example", None, Duration::from_millis(300)).await;
        assert!(matches!(unanswered, Err(StoreError::Unavailable(_))), "{unanswered:?}");
        // The second server answers in the first one's place.
        let second = endpoints(&[address, server], "x.example", None, DEADLINE).await;
        assert!(matches!(second, Err(StoreError::Refused(_))), "{second:?}");
    }
}
