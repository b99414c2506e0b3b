//! Nodes are lost while commits wait for standbys: whoever takes over has all of them.

use super::*;
use surus_testbed::history::{Allowed, Clients};

struct Run {
    cluster: Cluster,
    clients: Clients,
}

impl Run {
    async fn start(cluster: Cluster) -> Result<Run> {
        let clients = Clients::start(&cluster).await?;
        Ok(Run { cluster, clients })
    }

    /// Loses the leader, and says who leads then and accepts writes.
    async fn lose(&mut self, leader: usize) -> Result<usize> {
        self.cluster.kill_node(leader)?;
        self.cluster.wait_leader_other_than(leader).await
    }

    /// Who leads has kept what its predecessor needs to come back.
    async fn come_back(&mut self, nodes: &[usize]) -> Result<()> {
        let mut status = self.cluster.stored("status").await?;
        // Written by the leader, and once more after it has looked after its slots.
        for _ in 0..2 {
            status = wait_for("another status", LONG, async || {
                let now = self.cluster.stored("status").await?;
                ensure!(now != status, "still {status:?}");
                Ok(now)
            })
            .await?;
        }
        let leader = self.cluster.leader().await?;
        for node in nodes {
            let name = &self.cluster.nodes[*node].name;
            let slot = format!("select count(*) from pg_replication_slots where slot_name = '{name}'");
            ensure!(self.cluster.sql(leader, &slot).await? == "1", "no slot for {name}, {status:?}");
            self.cluster.start(*node)?;
        }
        self.cluster.wait_healthy().await.map(drop)
    }

    async fn nothing_lost(mut self, failovers: usize) -> Result<()> {
        agree(&self.cluster).await?;
        let leader = self.cluster.leader().await?;
        let allowed = Allowed { synchronous: true, bytes: 0, unpublished: Duration::ZERO };
        let verdict = self.clients.verdict(&self.cluster, leader, &allowed).await?;
        ensure!(verdict.violations.is_empty() && verdict.failovers() == failovers, "{verdict}");
        self.clients.stop();
        patroni_is_content(&self.cluster)?;
        self.cluster.passed();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surus_bootstraps_and_no_synchronous_commit_is_lost() -> Result<()> {
    let builder = cluster(&[1, 2], json!({"synchronous_mode": true}));
    let mut run = Run::start(bootstrapped_by(0, builder).await?).await?;
    // To a Patroni, to the other one, which alone was there to be synchronous, and for the same reason back.
    let mut leader = 0;
    for _ in 0..3 {
        let synchronous = run.cluster.with_role("sync_standby", 1).await?[0];
        let next = run.lose(leader).await?;
        ensure!(next == synchronous, "{next} leads, and {synchronous} was synchronous");
        run.cluster.with_role("sync_standby", 1).await?;
        run.come_back(&[leader]).await?;
        leader = next;
    }
    ensure!(leader == 0, "{leader} leads");
    run.cluster.with_role("sync_standby", 1).await?;
    run.nothing_lost(3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_commit_of_a_quorum_is_lost() -> Result<()> {
    let builder = cluster(&[0], json!({"synchronous_mode": "quorum"}));
    let mut run = Run::start(bootstrapped_by(0, builder).await?).await?;
    run.cluster.with_role("quorum_standby", 2).await?;
    let ours = run.lose(0).await?;
    run.come_back(&[0]).await?;
    run.cluster.with_role("quorum_standby", 2).await?;
    // Only Patroni is left to take over.
    let third = 3 - ours;
    run.cluster.kill_node(third)?;
    ensure!(run.cluster.with_role("quorum_standby", 1).await? == [0]);
    ensure!(run.lose(ours).await? == 0);
    run.come_back(&[ours, third]).await?;
    run.cluster.with_role("quorum_standby", 2).await?;
    run.nothing_lost(2).await
}
