//! A store that is half alive: it answers readings alone, fails at random, is there for moments, or is slow.
//!
//! In each case one member at most writes, nothing acknowledged is lost, PostgreSQL is not restarted, and when it is over
//! everything is as before. With failsafe mode commits are acknowledged all the time, and without it, too, as long as the
//! store can be asked often enough to renew the lead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::history::{Allowed, Clients};
use surus_testbed::{Answers, Cluster, Link, StoreKind, wait_for};

const TTL: Duration = Duration::from_secs(5);
/// With failsafe mode off.
const LEASE: Duration = Duration::from_secs(8);
/// The longest time without an acknowledged commit while the lead stays where it is.
const GAP: Duration = Duration::from_secs(2);
/// Until everything is as before.
const SETTLED: Duration = Duration::from_secs(20);

struct Rig {
    cluster: Cluster,
    clients: Clients,
    leader: usize,
    failsafe: bool,
}

/// One kind of trouble, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// etcd's database is full: leases are renewed, writes are refused.
    NoSpace,
    /// For the leader, while the others can write, and could take the lead; then for all.
    ReadsOnly,
    /// Requests are refused, answers lost, connections lost.
    AtRandom,
    /// There for a second, away for as long as this.
    Flapping(Duration),
    /// Each answer takes more than half of `retry_timeout`.
    Slow,
}

impl Rig {
    fn node(&self) -> &str {
        &self.cluster.nodes[self.leader].name
    }

    fn all(&self, answers: Answers) {
        (0..self.cluster.nodes.len()).for_each(|node| self.cluster.answers(node, answers));
    }

    fn links(&self, link: Link) {
        (0..self.cluster.nodes.len()).for_each(|node| self.cluster.store_link(node, link, false));
    }

    async fn begin(&self, trouble: Trouble) -> Result<()> {
        let etcd = self.cluster.etcd.as_ref().context("no etcd")?;
        match trouble {
            Trouble::NoSpace => etcd.out_of_space(true).await?,
            Trouble::ReadsOnly => self.cluster.answers(self.leader, Answers::ReadsOnly),
            Trouble::AtRandom => {
                self.all(Answers::AtRandom(20));
                self.links(Link::Flaky);
            }
            Trouble::Flapping(_) => {}
            Trouble::Slow => self.all(Answers::Late(Duration::from_millis(1100))),
        }
        Ok(())
    }

    async fn last(&self, trouble: Trouble, time: Duration) -> Result<()> {
        let begun = Instant::now();
        let etcd = self.cluster.etcd.as_ref().context("no etcd")?;
        while begun.elapsed() < time {
            if let Trouble::Flapping(away) = trouble {
                etcd.freeze();
                self.keeps_leading(away).await?;
                etcd.thaw();
            }
            self.keeps_leading(Duration::from_secs(1)).await?;
        }
        if trouble == Trouble::ReadsOnly {
            let key = self.cluster.stored_text("leader").await?;
            ensure!(key.is_none(), "the lead was to end in the store: {key:?}");
            self.all(Answers::ReadsOnly);
            self.keeps_leading(Duration::from_secs(3)).await?;
        }
        Ok(())
    }

    /// As its agent says, and no other server accepts writes.
    async fn keeps_leading(&self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let answer = self.cluster.get(self.leader, "/primary").await?;
            ensure!(answer.status == 200, "{} leads no more: {}", self.node(), answer.body);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Whether the leader does is for the clients to say.
        let writable = self.cluster.writable().await;
        ensure!(
            writable.iter().all(|node| *node == self.leader),
            "writes are accepted by {:?}",
            self.cluster.names(&writable)
        );
        Ok(())
    }

    async fn end(&self, trouble: Trouble) -> Result<()> {
        let etcd = self.cluster.etcd.as_ref().context("no etcd")?;
        match trouble {
            Trouble::NoSpace => etcd.out_of_space(false).await?,
            Trouble::ReadsOnly => self.all(Answers::All),
            Trouble::AtRandom | Trouble::Slow => {
                self.all(Answers::All);
                self.cluster.heal_all();
            }
            Trouble::Flapping(_) => {}
        }
        Ok(())
    }

    fn postmasters(&self) -> Vec<Option<i32>> {
        self.cluster.nodes.iter().map(surus_testbed::Node::postmaster_pid).collect()
    }

    /// The lead is held, every member has its key, the position of now is there, all stream, and with failsafe mode it is
    /// known anew who may vouch.
    async fn settled(&self, leader: usize) -> Result<()> {
        let name = &self.cluster.nodes[leader].name;
        wait_for("everything is as before", SETTLED, async || {
            let seen = self.cluster.healthy().await?;
            ensure!(seen == leader, "{} leads", self.cluster.nodes[seen].name);
            let key = self.cluster.stored_text("leader").await?.context("no leader key")?;
            ensure!(key == name.as_bytes(), "the leader key says {}", String::from_utf8_lossy(&key));
            for node in &self.cluster.nodes {
                let key = self.cluster.stored(&format!("members/{}", node.name)).await?;
                ensure!(key.is_some_and(|key| key["api_url"].is_string()), "no key of {}", node.name);
            }
            let status = self.cluster.status(leader).await?;
            ensure!(status.get("failsafe_mode_is_active").is_none(), "{status}");
            let log = self.cluster.node(leader).log();
            let last = |text: &str| log.rfind(text).unwrap_or(0);
            let takes = ["acquired session lock as a leader", "the leader lock ended in the store"].map(last);
            let knows = last("without the store the leader needs");
            ensure!(!self.failsafe || takes.iter().all(|at| *at < knows), "who may vouch is not known yet");
            Ok(())
        })
        .await
    }

    /// The position in the store is of now.
    async fn publishes(&self) -> Result<()> {
        let before = self.cluster.sql(self.leader, "select pg_current_wal_lsn() - '0/0'").await?;
        let before: u64 = before.parse()?;
        wait_for("the position is published", SETTLED, async || {
            let status = self.cluster.stored("status").await?.context("no status key")?;
            ensure!(status["optime"].as_u64().is_some_and(|at| at >= before), "{status}, not yet {before}");
            Ok(())
        })
        .await
    }

    async fn survive(&self, trouble: Trouble, time: Duration) -> Result<()> {
        self.survive_while(trouble, time, async || Ok(())).await
    }

    async fn survive_while(&self, trouble: Trouble, time: Duration, look: impl AsyncFn() -> Result<()>) -> Result<()> {
        let (servers, since, failed) = (self.postmasters(), self.clients.now(), self.cluster.failed_answers());
        self.begin(trouble).await?;
        let survived = async {
            self.last(trouble, time).await?;
            look().await
        };
        let survived = survived.await;
        self.end(trouble).await?;
        survived.with_context(|| format!("{trouble:?}, failsafe mode {}", self.failsafe))?;
        let over = Instant::now();
        self.settled(self.leader).await.with_context(|| format!("after {trouble:?}"))?;
        self.publishes().await?;
        let gap = self.clients.history().longest_gap(since);
        eprintln!(
            "{trouble:?}, failsafe mode {}: longest time without an acknowledged commit {gap:?}, as before {:?} after it, \
             {} requests failed",
            self.failsafe,
            over.elapsed(),
            self.cluster.failed_answers() - failed
        );
        ensure!(gap < GAP, "{trouble:?}: nothing was acknowledged for {gap:?}");
        ensure!(self.postmasters() == servers, "{trouble:?}: PostgreSQL was restarted");
        Ok(())
    }

    /// What an operator sees of a full etcd.
    async fn tells_of_the_alarm(&self) -> Result<()> {
        for command in ["list", "explain"] {
            let told = self.cluster.surus(self.leader, &[command]).await?;
            let out = String::from_utf8_lossy(&told.stdout);
            ensure!(told.status.success(), "{command}: {told:?}");
            ensure!(out.contains("NOSPACE") && out.contains("etcdctl alarm disarm"), "{command}: {out}");
        }
        let log = self.cluster.node(self.leader).log();
        let told = log.lines().find(|line| line.contains("my keys in the store could not be written"));
        ensure!(told.is_some_and(|line| line.contains("etcdctl alarm disarm")), "not in the log: {told:?}");
        let status = self.cluster.status(self.leader).await?;
        let summary = status.pointer("/surus/store/summary").and_then(Value::as_str).unwrap_or_default();
        ensure!(summary.contains("refuses every write"), "{status}");
        ensure!(status.get("failsafe_mode_is_active").is_none(), "the lead is held: {status}");
        let refused = self.cluster.surus(self.leader, &["pause"]).await?;
        let text = String::from_utf8_lossy(&refused.stdout);
        ensure!(!refused.status.success() && text.contains("etcdctl alarm disarm"), "{refused:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_alive_store_moves_no_lead() -> Result<()> {
    let dynamic = json!({"ttl": TTL.as_secs(), "loop_wait": 1, "retry_timeout": 1, "failsafe_mode": null});
    let builder = Cluster::builder(env!("CARGO_BIN_EXE_surus")).store(StoreKind::Etcd).filtered().dynamic(dynamic);
    let cluster = builder.healthy().await?;
    let leader = cluster.leader().await?;
    let clients = Clients::start(&cluster).await?;
    let mut rig = Rig { cluster, clients, leader, failsafe: true };
    rig.settled(leader).await?;
    let long = TTL + Duration::from_secs(1);
    rig.survive_while(Trouble::NoSpace, long, async || rig.tells_of_the_alarm().await).await?;
    // By now is over what a member may have promised before it was started.
    rig.survive(Trouble::ReadsOnly, TTL + Duration::from_secs(3)).await?;
    rig.survive(Trouble::AtRandom, long).await?;
    rig.survive(Trouble::Flapping(Duration::from_secs(3)), TTL * 2).await?;

    // Now by the lease alone, and with times in which a busy machine can renew it, too.
    let off = json!({"failsafe_mode": false, "ttl": LEASE.as_secs(), "retry_timeout": 2});
    let off = rig.cluster.send(leader, "PATCH", "/config", &off).await?;
    ensure!(off.status == 200, "{}", off.body);
    rig.failsafe = false;
    wait_for("the new ttl is in use", SETTLED, async || {
        let told = format!("the session in the store now has a ttl of {} s", LEASE.as_secs());
        ensure!(rig.cluster.nodes.iter().all(|node| node.log().contains(&told)), "not everywhere yet");
        Ok(())
    })
    .await?;
    for trouble in [Trouble::AtRandom, Trouble::Flapping(Duration::from_secs(1)), Trouble::Slow] {
        rig.survive(trouble, LEASE + Duration::from_secs(1)).await?;
    }

    // It cannot renew, and another member can write: that one takes over, once the old one has stopped.
    let since = rig.clients.now();
    rig.begin(Trouble::ReadsOnly).await?;
    let new = rig.cluster.wait_leader_other_than(leader).await?;
    rig.end(Trouble::ReadsOnly).await?;
    rig.settled(new).await?;
    let gap = rig.clients.history().longest_gap(since);
    eprintln!("reads only for the leader, failsafe mode off: {gap:?} without an acknowledged commit");
    ensure!(gap < LEASE * 2, "it took {gap:?}");
    let allowed = Allowed { synchronous: false, bytes: 1024 * 1024, unpublished: LEASE + Duration::from_secs(3) };
    let verdict = rig.clients.verdict(&rig.cluster, new, &allowed).await?;
    ensure!(verdict.violations.is_empty() && verdict.reigns.len() == 2, "{verdict}");
    rig.clients.stop();
    rig.cluster.passed();
    Ok(())
}
