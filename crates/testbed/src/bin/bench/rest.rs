//! What the checks of load balancers cost: `GET /primary` as fast as a number of connections can ask.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use surus_testbed::{StoreKind, procs};

use crate::cluster;
use crate::record::{Recorder, milliseconds};

const CONNECTIONS: usize = 16;
const WARM: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET /primary HTTP/1.1\r\nHost: bench\r\n\r\n";

pub async fn rest(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let cluster = cluster(store, None)?.nodes(1).healthy().await?;
    let node = cluster.node(0);
    let agent = node.agent_pid().context("the agent has ended")?;
    let address = node.rest.address();
    load(&address, WARM).await?;
    for _ in 0..runs {
        let failures = failed_renewals(&cluster).await?;
        let before = procs::usage(agent).context("the agent has ended")?.cpu;
        let mut times = load(&address, WINDOW).await?;
        let cpu = procs::usage(agent).context("the agent has ended")?.cpu.saturating_sub(before);
        times.sort_unstable();
        let at = |part: f64| milliseconds(times[((times.len() - 1) as f64 * part) as usize]);
        recorder.run(&[
            ("requests_per_s", times.len() as f64 / WINDOW.as_secs_f64()),
            ("p50_ms", at(0.5)),
            ("p99_ms", at(0.99)),
            ("highest_ms", at(1.0)),
            ("agent_us_per_request", cpu.as_secs_f64() * 1e6 / times.len() as f64),
            ("failed_renewals", failed_renewals(&cluster).await? - failures),
        ])?;
    }
    cluster.passed();
    Ok(())
}

async fn failed_renewals(cluster: &surus_testbed::Cluster) -> Result<f64> {
    let metrics = cluster.get(0, "/metrics").await?.body;
    let line = metrics.lines().find(|line| line.starts_with("surus_lease_renewal_failures_total{"));
    Ok(line.and_then(|line| line.rsplit(' ').next()).context("no such series")?.parse()?)
}

/// How long each request took. Threads that wait for one answer each cost little beside the server.
async fn load(address: &str, window: Duration) -> Result<Vec<Duration>> {
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let address = address.to_owned();
            tokio::task::spawn_blocking(move || client(&address, window))
        })
        .collect();
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.await??);
    }
    ensure!(!all.is_empty(), "no request was answered");
    Ok(all)
}

fn client(address: &str, window: Duration) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (begun, mut times, mut buffer) = (Instant::now(), Vec::new(), vec![0; 64 * 1024]);
    while begun.elapsed() < window {
        let sent = Instant::now();
        stream.write_all(REQUEST)?;
        let mut have = 0;
        while !whole(&buffer[..have])? {
            let read = stream.read(&mut buffer[have..])?;
            ensure!(read > 0, "the server closed the connection");
            have += read;
        }
        times.push(sent.elapsed());
    }
    Ok(times)
}

/// Whether this is one whole answer, and the one that a primary gives.
fn whole(answer: &[u8]) -> Result<bool> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let text = std::str::from_utf8(&answer[..head])?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
    Ok(answer.len() == head + 4 + length.parse::<usize>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_body() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert!(whole(answer).unwrap());
        assert!(!whole(&answer[..answer.len() - 1]).unwrap());
        assert!(!whole(&answer[..20]).unwrap());
        assert!(whole(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
