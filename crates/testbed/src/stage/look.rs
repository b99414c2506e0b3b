//! Conditions, looked at from outside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use surus_scenario::Condition;

use super::Stage;
use crate::history::check;
use crate::procs;

impl Stage {
    /// The timeline of a member that accepts writes.
    pub(super) async fn timeline(&self, node: usize) -> Result<String> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        cluster.sql(node, "select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)").await
    }

    pub(super) async fn condition(&self, condition: &Condition<String>, since: Duration) -> Result<()> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        let node = |name: &str| cluster.index(name).with_context(|| format!("{name} is no member"));
        match condition {
            Condition::Primary => self.primary().await.map(drop),
            Condition::PrimaryIs(who) => {
                let leader = self.primary().await?;
                ensure!(leader == node(who)?, "{} leads", cluster.nodes[leader].name);
                Ok(())
            }
            Condition::PrimaryIsNot(who) => {
                let leader = self.primary().await?;
                ensure!(leader != node(who)?, "{who} still leads");
                Ok(())
            }
            Condition::AllStreaming => cluster.healthy().await.map(drop),
            Condition::SynchronousStandby => {
                let cluster = cluster.get(self.primary().await?, "/cluster").await?.body;
                let named = ["sync_standby", "quorum_standby"].iter().any(|role| cluster.contains(role));
                ensure!(named, "no standby is synchronous: {cluster}");
                Ok(())
            }
            Condition::Streaming(who) => {
                let status = cluster.status(node(who)?).await?;
                ensure!(status["replication_state"] == "streaming", "{who} reports {status}");
                Ok(())
            }
            Condition::Running(who) => cluster.sql(node(who)?, "select 1").await.map(drop),
            Condition::Down(who) => {
                let there = procs::programs(&cluster.nodes[node(who)?].dir);
                let servers = there.iter().filter(|(_, program)| program == "postgres").count();
                ensure!(servers == 0, "{servers} processes of PostgreSQL of {who} live");
                Ok(())
            }
            Condition::ReadOnly(who) => {
                let answer = cluster.sql(node(who)?, "select pg_is_in_recovery()").await;
                ensure!(!answer.is_ok_and(|answer| answer == "f"), "{who} accepts writes");
                Ok(())
            }
            Condition::Writes => {
                let clients = self.clients.as_ref().context("nobody writes")?;
                let seen = clients.acknowledged_after(self.begun + since);
                seen.map(drop).context("no write that was sent since then is acknowledged")
            }
            Condition::NoTwoWriters => {
                let clients = self.clients.as_ref().context("nobody writes")?;
                let verdict = check(&clients.history(), None, &self.allowed);
                ensure!(verdict.violations.is_empty(), "{verdict}");
                Ok(())
            }
            Condition::NothingLost => {
                let verdict = self.verdict().await?;
                ensure!(verdict.violations.is_empty() && verdict.lost() == 0, "{verdict}");
                Ok(())
            }
            Condition::LossWithinSettings => {
                let verdict = self.verdict().await?;
                ensure!(verdict.violations.is_empty(), "{verdict}");
                Ok(())
            }
            Condition::NoFailover => {
                let (node, timeline) = self.mark.as_ref().context("the cluster was not started as a whole")?;
                let name = &cluster.nodes[*node].name;
                let now = self.timeline(*node).await.with_context(|| format!("{name} led, and does not any more"))?;
                ensure!(now == *timeline, "{name} led on timeline {timeline}, and now on {now}");
                Ok(())
            }
        }
    }
}
