//! A client that inserts an increasing number every 5 ms, and keeps account of what was acknowledged when.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::cluster::Cluster;
use crate::observe::{Connection, wait_for};
use crate::template::WRITER;

const PACE: Duration = Duration::from_millis(5);
const CONNECT: Duration = Duration::from_millis(200);
/// A commit that takes longer counts as failed: the server behind the connection is frozen.
const COMMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub number: i64,
    pub sent: Instant,
    pub acknowledged: Instant,
    /// The member that acknowledged it.
    pub node: usize,
}

/// What the writer saw.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub acknowledged: Vec<Ack>,
    /// Sent without an acknowledgement: failed, or nobody knows.
    pub failed: Vec<(i64, String)>,
}

/// Writes from a thread of its own until it is stopped or dropped.
pub struct Writer {
    seen: Arc<Mutex<Written>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Creates its table when it is missing, and returns once the first number is acknowledged.
    pub async fn start(cluster: &Cluster) -> Result<Writer> {
        let leader = cluster.wait_leader().await?;
        let connection = cluster.connect(leader).await?;
        if connection.rows("select 1 from pg_roles where rolname = 'writer'").await?.is_empty() {
            connection.execute("create role writer login; create table writes (number bigint primary key)").await?;
            connection.execute("grant insert on writes to writer").await?;
        }
        let rows = connection.rows("select coalesce(max(number), 0) + 1 from writes").await?;
        let first: i64 = rows.first().and_then(|row| row.first()).context("no row")?.parse()?;
        let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.postgres.number).collect();
        let seen = Arc::new(Mutex::new(Written::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            let write = async move { write(&ports, first, &seen, &stop).await };
            std::thread::Builder::new().name("testbed-writer".into()).spawn(move || runtime.block_on(write))?
        };
        let writer = Writer { seen, stop, thread: Some(thread) };
        wait_for("the writer's first commit", Duration::from_secs(30), async || {
            ensure!(!writer.seen().acknowledged.is_empty(), "nothing acknowledged yet");
            Ok(())
        })
        .await?;
        Ok(writer)
    }

    pub fn seen(&self) -> Written {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a member has acknowledged a number sent after now.
    pub async fn writes_to(&self, node: usize) -> Result<()> {
        self.writes(|ack| ack.node == node).await.map(drop)
    }

    /// Waits until another member than `old` has acknowledged a number sent after now; which one. Costs the cluster
    /// nothing, unlike asking its members.
    pub async fn leaves(&self, old: usize) -> Result<usize> {
        self.writes(|ack| ack.node != old).await
    }

    /// Waits until anyone has acknowledged a number sent after now.
    pub async fn goes_on(&self) -> Result<()> {
        self.writes(|_| true).await.map(drop)
    }

    async fn writes(&self, wanted: impl Fn(&Ack) -> bool) -> Result<usize> {
        let begin = Instant::now();
        wait_for("the writer's next commit", Duration::from_secs(90), async || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let found = seen.acknowledged.iter().rev().take_while(|ack| ack.sent > begin).find(|ack| wanted(ack));
            let last = || format!("last acknowledged by {:?}", seen.acknowledged.last().map(|ack| ack.node));
            found.map(|ack| ack.node).with_context(last)
        })
        .await
    }

    pub fn stop(mut self) -> Written {
        self.finish();
        self.seen()
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Written {
    /// The longest time between two neighbouring acknowledgements, the later of them after `since`.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let pairs = self.acknowledged.windows(2).filter(|pair| pair[1].acknowledged > since);
        pairs.map(|pair| pair[1].acknowledged - pair[0].acknowledged).max().unwrap_or_default()
    }

    /// Acknowledged numbers that the member does not have.
    pub async fn lost(&self, cluster: &Cluster, node: usize) -> Result<Vec<i64>> {
        let rows = cluster.connect(node).await?.rows("select number from writes").await?;
        let there: HashSet<i64> = rows.iter().filter_map(|row| row.first()?.parse().ok()).collect();
        Ok(self.acknowledged.iter().map(|ack| ack.number).filter(|number| !there.contains(number)).collect())
    }

    /// Fails when the leader lacks a number that was acknowledged.
    pub async fn verify_none_lost(&self, cluster: &Cluster) -> Result<()> {
        self.verify_lost_only(cluster, |_| false).await
    }

    /// The same, but for what a member that was killed acknowledged in its last moment: asynchronous replication permits
    /// that it was not sent yet.
    pub async fn verify_lost_with(&self, cluster: &Cluster, killed: usize) -> Result<()> {
        let last = self.acknowledged.iter().filter(|ack| ack.node == killed).map(|ack| ack.acknowledged).max();
        let moment = Duration::from_millis(500);
        let permitted = |ack: &Ack| ack.node == killed && last.is_some_and(|last| last - ack.acknowledged < moment);
        self.verify_lost_only(cluster, permitted).await
    }

    async fn verify_lost_only(&self, cluster: &Cluster, permitted: impl Fn(&Ack) -> bool) -> Result<()> {
        let leader = cluster.wait_leader().await?;
        let mut lost = self.lost(cluster, leader).await?;
        lost.retain(|number| !self.acknowledged.iter().any(|ack| ack.number == *number && permitted(ack)));
        if !lost.is_empty() {
            let some = &lost[..lost.len().min(10)];
            bail!("{} of {} acknowledged numbers are lost: {some:?} ...", lost.len(), self.acknowledged.len());
        }
        Ok(())
    }
}

async fn write(ports: &[u16], first: i64, seen: &Mutex<Written>, stop: &AtomicBool) {
    let mut number = first;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection: Option<(usize, Connection)> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some((node, open)) = &connection else {
            connection = primary(ports).await;
            if connection.is_none() {
                // Each attempt costs every server a process: more often would slow down what is being measured.
                sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        pace.tick().await;
        let sent = Instant::now();
        let sql = format!("insert into writes values ({number})");
        let done = timeout(COMMIT, open.execute(&sql)).await;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = match done {
            Ok(Ok(())) => {
                seen.acknowledged.push(Ack { number, sent, acknowledged: Instant::now(), node: *node });
                None
            }
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {COMMIT:?}")),
        };
        if let Some(failure) = failure {
            seen.failed.push((number, failure));
            connection = None;
        }
        number += 1;
    }
}

/// Asks all members at once; the first that accepts writes is taken.
async fn primary(ports: &[u16]) -> Option<(usize, Connection)> {
    let mut attempts: FuturesUnordered<_> = ports
        .iter()
        .enumerate()
        .map(async |(node, port)| {
            let attempt = async {
                let connection = Connection::open(*port, WRITER, CONNECT).await.ok()?;
                let rows = connection.rows("select pg_is_in_recovery()").await.ok()?;
                (rows.first()?.first()? == "f").then_some(connection)
            };
            Some((node, timeout(CONNECT, attempt).await.ok()??))
        })
        .collect();
    while let Some(found) = attempts.next().await {
        if found.is_some() {
            return found;
        }
    }
    None
}
