//! The REST API of a real member: what a flood does to its lease, and whether its document tells the truth.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Cluster, http, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(90);
const USER: &str = "operator:only for tests";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_keeps_its_lead_and_its_word() -> Result<()> {
    let authentication = json!({"username": "operator", "password": "only for tests"});
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .nodes(1)
        .dynamic(json!({"ttl": 8, "loop_wait": 1, "retry_timeout": 3}))
        .settings(json!({"restapi": {"authentication": authentication}}))
        .healthy()
        .await?;
    a_flood_never_makes_the_lease_late(&cluster).await?;
    the_document_is_true(&cluster).await?;
    cluster.passed();
    Ok(())
}

/// One sample of `/metrics`.
async fn metric(kept: &mut TcpStream, names: &[&str]) -> Result<Vec<f64>> {
    kept.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let (mut text, mut chunk) = (String::new(), vec![0; 64 * 1024]);
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
            if body.len() >= length.parse()? {
                break;
            }
        }
        let read = timeout(LONG, kept.read(&mut chunk)).await.context("no answer to /metrics")??;
        ensure!(read > 0, "the connection was closed");
        text.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    let value = |name: &&str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).context((*name).to_owned())?;
        Ok(line.rsplit(' ').next().context("no value")?.parse()?)
    };
    names.iter().map(value).collect()
}

/// More clients than there are places: silent ones, ones that send a byte now and then, ones with bodies without end,
/// and ones that ask as fast as they can. Meanwhile the lease is renewed at its pace.
async fn a_flood_never_makes_the_lease_late(cluster: &Cluster) -> Result<()> {
    const NAMES: [&str; 4] = [
        "surus_lease_remaining_seconds",
        "surus_lease_renewals_total",
        "surus_lease_renewal_failures_total",
        "surus_demotions_total",
    ];
    let address = cluster.node(0).rest.address();
    let mut kept = TcpStream::connect(&address).await?;
    let before = metric(&mut kept, &NAMES).await?;

    let mut flood = JoinSet::new();
    let answered = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    for _ in 0..480 {
        flood.spawn(forever(address.clone(), async |mut stream| drop(stream.read(&mut [0; 64]).await)));
    }
    for _ in 0..80 {
        flood.spawn(forever(address.clone(), async |mut stream| {
            let _ = stream.write_all(b"GET /primary HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
            while stream.write_all(b"a").await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    for _ in 0..8 {
        let refused = refused.clone();
        flood.spawn(forever(address.clone(), async move |stream| {
            if endless_body(stream).await.is_some_and(|code| code == 401 || code == 413) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..16 {
        let answered = answered.clone();
        flood.spawn(forever(address.clone(), async move |mut stream| {
            let mut answer = vec![0; 16 * 1024];
            while stream.write_all(b"GET /primary HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
                match stream.read(&mut answer).await {
                    Ok(n) if n > 0 => answered.fetch_add(1, Ordering::Relaxed),
                    _ => break,
                };
            }
        }));
    }

    let mut lowest = f64::MAX;
    let mut seen = before.clone();
    wait_for("eight renewals under the flood", LONG, async || {
        seen = metric(&mut kept, &NAMES).await?;
        lowest = lowest.min(seen[0]);
        let enough = answered.load(Ordering::Relaxed) > 200 && refused.load(Ordering::Relaxed) > 10;
        ensure!(seen[1] >= before[1] + 8.0 && enough, "{seen:?} {answered:?} {refused:?}");
        Ok(())
    })
    .await?;
    // The flood still goes on; a new client has its turn.
    let started = Instant::now();
    let answer = http::request(&address, "GET", "/primary", None, LONG).await?;
    let took = started.elapsed();
    flood.shutdown().await;

    println!(
        "lowest remaining {lowest:.2} s, {answered:?} answers, {refused:?} refusals, a new client waited {took:?}"
    );
    ensure!(answer.status == 200, "a new client got {}", answer.status);
    ensure!(seen[2] == before[2], "renewals failed: {seen:?}");
    ensure!(seen[3] == 0.0, "it was demoted");
    // 8 s less a tenth are good when the renewal is sent; the next one comes after a second.
    ensure!(lowest > 5.0, "the lease was renewed late: {lowest} s remained");
    Ok(())
}

/// One client after another.
async fn forever(address: String, client: impl AsyncFn(TcpStream)) {
    loop {
        match TcpStream::connect(&address).await {
            Ok(stream) => client(stream).await,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The code of the answer to a body that does not end.
async fn endless_body(mut stream: TcpStream) -> Option<u16> {
    let (mut reading, mut writing) = stream.split();
    let over = AtomicBool::new(false);
    let chunk = [b' '; 64 * 1024];
    let write = async {
        let head = b"PATCH /config HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n";
        let mut sent = writing.write_all(head).await;
        while sent.is_ok() && !over.load(Ordering::Relaxed) {
            sent = writing.write_all(&chunk).await;
        }
    };
    let read = async {
        let mut answer = [0; 256];
        let read = reading.read(&mut answer).await.unwrap_or(0);
        over.store(true, Ordering::Relaxed);
        String::from_utf8_lossy(&answer[..read]).split(' ').nth(1)?.parse().ok()
    };
    tokio::select! {
        code = read => code,
        () = async { write.await; std::future::pending::<()>().await } => None,
    }
}

/// Requests made from `/openapi.json`: every answer is one that the document knows, and what changes something is not
/// done for who has no password, nor when the request is wrong.
async fn the_document_is_true(cluster: &Cluster) -> Result<()> {
    let before = state(cluster).await?;
    let reading = "--include-tag health --include-tag documents --mode positive \
                   --checks status_code_conformance,content_type_conformance,response_headers_conformance,\
                   response_schema_conformance";
    schemathesis(cluster, reading, None).await?;
    // Methods that nothing answers to are tried as well, and get the 501 that clients know from Patroni.
    let changing = "--include-tag changes --checks all --exclude-checks unsupported_method,not_a_server_error";
    schemathesis(cluster, changing, None).await?;
    // With the password: what has no effect as long as nobody else could lead, and nothing is scheduled or lost.
    let harmless = "--include-operation-id post-switchover --include-operation-id post-failover \
                    --include-operation-id post-failsafe --include-operation-id post-reload \
                    --include-operation-id delete-switchover --include-operation-id delete-restart \
                    --include-operation-id delete-loss-id \
                    --checks status_code_conformance,content_type_conformance,negative_data_rejection";
    schemathesis(cluster, harmless, Some(USER)).await?;
    assert_eq!(state(cluster).await?, before, "nothing was changed");
    Ok(())
}

async fn state(cluster: &Cluster) -> Result<Value> {
    let status = cluster.status(0).await?;
    let history: Value = cluster.get(0, "/history").await?.json()?;
    Ok(json!({
        "configuration": cluster.dynamic(0).await?, "history": history, "role": status["role"],
        "started": status["postmaster_start_time"], "scheduled": status["scheduled_restart"],
    }))
}

/// A seed makes the requests the same every time.
async fn schemathesis(cluster: &Cluster, options: &str, user: Option<&str>) -> Result<()> {
    let mut command = Command::new(surus_testbed::schemathesis()?);
    let url = format!("http://{}", cluster.node(0).rest.address());
    command.arg("run").arg(format!("{url}/openapi.json")).args(["--url", &url]);
    command.args(
        "--seed 1 --max-examples 10 --phases examples,coverage,fuzzing --request-timeout 20 --no-color".split(' '),
    );
    command.args("--continue-on-failure --suppress-health-check all".split(' ')).args(options.split_whitespace());
    if let Some(user) = user {
        command.args(["--auth", user]);
    }
    // It keeps what it found before beside itself.
    command.current_dir(cluster.dir()).stdin(Stdio::null());
    let started = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("schemathesis does not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("schemathesis {options}: {:?}", started.elapsed());
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
