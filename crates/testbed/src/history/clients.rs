//! The clients: on every member one that appends on a connection it keeps, one that appends on a new connection each
//! time, one that transfers money, and one that adds up the accounts.
//!
//! A connection that does not answer is kept until it does or breaks: a server that was stopped may acknowledge when it
//! goes on, and exactly that has to be seen. Meanwhile another connection is opened.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{sleep, timeout};

use super::{Ack, Allowed, Content, History, Server, Verdict, check};
use crate::cluster::Cluster;
use crate::observe::{Connection, wait_for};
use crate::template::WRITER;

const ACCOUNTS: i64 = 8;
const CONNECT: Duration = Duration::from_millis(500);
/// Between two writes of one client.
const PACE: Duration = Duration::from_millis(15);
const FRESH: Duration = Duration::from_millis(150);
const ADD_UP: Duration = Duration::from_millis(250);
/// No answer for that long: the next connection is opened, this one is kept.
const HUNG: Duration = Duration::from_secs(1);
/// Connections of one client that wait for an answer.
const WAITING: usize = 4;

const SETUP: &str = "\
create role writer login; \
alter role writer set log_min_messages = 'panic'; \
create table appends (id bigserial primary key, key int not null, n bigint not null); \
create table accounts (id int primary key, balance bigint not null); \
insert into accounts select generate_series(0, 7), 100; \
grant insert, select on appends to writer; \
grant usage on sequence appends_id_seq to writer; \
grant select, update on accounts to writer";

const TOTAL: &str = "select sum(balance) from accounts";
const STARTED: &str = "select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint";
const WHO: &str = "select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), \
     (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint";

/// Writes from a thread of its own until it is stopped or dropped.
pub struct Clients {
    begun: Instant,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    history: Mutex<History>,
    stop: AtomicBool,
    keys: AtomicU32,
}

#[derive(Clone, Copy)]
enum Load {
    Append,
    Transfer,
}

impl Clients {
    /// Returns once the first append is acknowledged.
    pub async fn start(cluster: &Cluster) -> Result<Clients> {
        let leader = cluster.wait_leader().await?;
        let connection = cluster.connect(leader).await?;
        if connection.rows("select 1 from pg_tables where tablename = 'appends'").await?.is_empty() {
            connection.execute(SETUP).await?;
        }
        // What an earlier record wrote stays, and is not this one's to judge.
        let rows = connection.rows("select coalesce(max(key), -1) + 1000 from appends").await?;
        let first: u32 = rows.first().and_then(|row| row.first()?.parse().ok()).context("no key")?;
        let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.postgres.number).collect();
        let shared = Arc::new(Shared { keys: AtomicU32::new(first), ..Shared::default() });
        shared.history().first_key = first;
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("testbed-clients".into()).spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async {
                    let all = ports.iter().enumerate().map(|(node, port)| Client {
                        node,
                        port: *port,
                        begun,
                        shared: Arc::clone(&shared),
                    });
                    for client in all {
                        tokio::task::spawn_local(keeping(client.clone(), Load::Append));
                        tokio::task::spawn_local(keeping(client.clone(), Load::Transfer));
                        tokio::task::spawn_local(afresh(client.clone()));
                        tokio::task::spawn_local(adding_up(client));
                    }
                    while !shared.stop.load(Ordering::Relaxed) {
                        sleep(Duration::from_millis(20)).await;
                    }
                });
            })?
        };
        let clients = Clients { begun, shared, thread: Some(thread) };
        wait_for("the first acknowledged append", Duration::from_secs(30), async || {
            ensure!(!clients.history().acknowledged.is_empty(), "nothing acknowledged yet");
            Ok(())
        })
        .await?;
        Ok(clients)
    }

    /// So far.
    pub fn history(&self) -> History {
        self.shared.history().clone()
    }

    /// Since the record began, as its times are.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether anything was acknowledged that was sent after a moment, and by whom last.
    pub fn acknowledged_after(&self, moment: Instant) -> Option<usize> {
        let since = moment.saturating_duration_since(self.begun);
        let history = self.shared.history();
        history.acknowledged.iter().rev().take(500).find(|ack| ack.sent > since).map(|ack| ack.server.node)
    }

    /// Whether another member than `old` has acknowledged anything.
    pub fn led_by_another_than(&self, old: usize) -> bool {
        self.shared.history().acknowledged.iter().rev().take(500).any(|ack| ack.server.node != old)
    }

    /// Every process of the member stands still.
    pub fn suspended(&self, node: usize) {
        let now = self.now();
        self.shared.history().suspended.push((now, node));
    }

    /// An operator was told that a planned switchover succeeded.
    pub fn switched_over(&self, from: usize) {
        let now = self.now();
        self.shared.history().switchovers.push((now, from));
    }

    /// The record so far against what a primary holds, while clients go on.
    pub async fn verdict(&self, cluster: &Cluster, primary: usize, allowed: &Allowed) -> Result<Verdict> {
        let mut history = self.history();
        let content = Content::of(cluster, primary, &mut history).await?;
        // What came in between may be there or not.
        let after = self.history();
        let counted: HashSet<(u32, u64)> = history.acknowledged.iter().map(|ack| (ack.key, ack.n)).collect();
        let more = after.acknowledged.iter().map(|ack| (ack.key, ack.n)).filter(|append| !counted.contains(append));
        history.unanswered.extend(more);
        history.unanswered.extend(after.unanswered);
        Ok(check(&history, Some(&content), allowed))
    }

    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Content {
    /// Of a primary, and what its accounts add up to as one more read.
    pub async fn of(cluster: &Cluster, node: usize, history: &mut History) -> Result<Content> {
        let connection = cluster.connect(node).await?;
        let row = connection.rows(WHO).await?.into_iter().next().context("no row")?;
        let [timeline, started] = &row[..] else { bail!("{} columns instead of two", row.len()) };
        let server = Server { node, timeline: u32::from_str_radix(timeline, 16)?, started: started.parse()? };
        let rows = connection.rows("select key, n from appends order by id").await?;
        let append = |row: &Vec<String>| Some((row.first()?.parse().ok()?, row.get(1)?.parse().ok()?));
        let appends = rows.iter().map(append).collect::<Option<Vec<_>>>().context("appends that are not numbers")?;
        let total = connection.rows(TOTAL).await?;
        let total = total.first().and_then(|row| row.first()?.parse().ok()).context("no total")?;
        history.totals.push((Duration::ZERO, node, total));
        Ok(Content { server, appends })
    }
}

#[derive(Clone)]
struct Client {
    node: usize,
    port: u16,
    begun: Instant,
    shared: Arc<Shared>,
}

/// One key, and how far it has been counted.
struct Key {
    key: u32,
    next: AtomicU64,
}

impl Client {
    fn key(&self) -> Rc<Key> {
        Rc::new(Key { key: self.shared.keys.fetch_add(1, Ordering::Relaxed), next: AtomicU64::new(0) })
    }

    /// A connection, and when its server was started. Standbys are connected to as well: they may be promoted under it.
    async fn connect(&self) -> Option<(Rc<Connection>, i64)> {
        let open = async {
            let connection = Connection::open(self.port, WRITER, CONNECT).await.ok()?;
            let rows = connection.rows(STARTED).await;
            let started = rows.ok()?.first()?.first()?.parse().ok()?;
            Some((Rc::new(connection), started))
        };
        timeout(CONNECT * 2, open).await.ok()?
    }

    /// One append, recorded whenever its answer comes. Whether the connection is good for another.
    async fn append(&self, connection: &Connection, started: i64, key: &Key, load: Load) -> bool {
        let n = key.next.fetch_add(1, Ordering::Relaxed);
        let append = format!(
            "insert into appends (key, n) values ({}, {n}) returning pg_current_wal_insert_lsn(), \
             substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)",
            key.key
        );
        let sql = match load {
            Load::Append => append,
            Load::Transfer => {
                let (from, to) = (n as i64 % ACCOUNTS, (n as i64 * 3 + 1) % ACCOUNTS);
                // In the order of ids: two transfers never wait for each other in a circle.
                let (first, second) = if from < to { ((from, -1), (to, 1)) } else { ((to, 1), (from, -1)) };
                let step =
                    |(id, by): (i64, i64)| format!("update accounts set balance = balance + {by} where id = {id}");
                // One message is one transaction.
                format!("{}; {}; {append}", step(first), step(second))
            }
        };
        let sent = self.begun.elapsed();
        self.history().unanswered.insert((key.key, n));
        let answer = connection.rows(&sql).await;
        let received = self.begun.elapsed();
        let rows = match answer {
            Ok(rows) => rows,
            Err(error) => {
                // A standby refuses before it has written anything.
                let refused = format!("{error:#}").contains("read-only transaction");
                if refused {
                    self.history().unanswered.remove(&(key.key, n));
                    sleep(PACE).await;
                }
                return refused;
            }
        };
        let Some((lsn, timeline)) = rows.first().and_then(|row| place(row)) else { return false };
        let server = Server { node: self.node, timeline, started };
        let mut history = self.history();
        history.unanswered.remove(&(key.key, n));
        history.acknowledged.push(Ack { key: key.key, n, sent, received, server, lsn });
        true
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.shared.history()
    }
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(row: &[String]) -> Option<(u64, u32)> {
    let (high, low) = row.first()?.split_once('/')?;
    let lsn = u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?;
    Some((lsn, u32::from_str_radix(row.get(1)?, 16).ok()?))
}

/// Writes on one connection as long as that works; on another when it breaks or hangs.
async fn keeping(client: Client, load: Load) {
    let waiting = Rc::new(RefCell::new(0_usize));
    loop {
        let Some((connection, started)) = client.connect().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // A key for each connection: one that hangs must not get between the counts of the next.
        let key = client.key();
        loop {
            let mut write = {
                let (client, connection, key) = (client.clone(), Rc::clone(&connection), Rc::clone(&key));
                tokio::task::spawn_local(async move { client.append(&connection, started, &key, load).await })
            };
            match timeout(HUNG, &mut write).await {
                Ok(Ok(true)) => {}
                Ok(_) => break,
                Err(_) if *waiting.borrow() < WAITING => {
                    *waiting.borrow_mut() += 1;
                    let waiting = Rc::clone(&waiting);
                    tokio::task::spawn_local(async move {
                        let _ = write.await;
                        *waiting.borrow_mut() -= 1;
                    });
                    break;
                }
                Err(_) => {
                    if !matches!(write.await, Ok(true)) {
                        break;
                    }
                }
            }
            sleep(PACE).await;
        }
    }
}

async fn afresh(client: Client) {
    let key = client.key();
    loop {
        if let Some((connection, started)) = client.connect().await {
            client.append(&connection, started, &key, Load::Append).await;
        }
        sleep(FRESH).await;
    }
}

async fn adding_up(client: Client) {
    loop {
        if let Some((connection, _)) = client.connect().await {
            while let Ok(Ok(rows)) = timeout(HUNG * 10, connection.rows(TOTAL)).await {
                if let Some(total) = rows.first().and_then(|row| row.first()?.parse().ok()) {
                    let at = client.begun.elapsed();
                    let mut history = client.history();
                    history.totals.push((at, client.node, total));
                }
                sleep(ADD_UP).await;
            }
        }
        sleep(ADD_UP).await;
    }
}
