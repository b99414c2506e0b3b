//! What the old primary still acknowledges after another one was promoted.

use std::time::Duration;

use anyhow::Result;
use surus_testbed::history::{Allowed, Clients, check};
use surus_testbed::{Cluster, Job, Signal, StoreKind, wait_for};

use crate::cluster;
use crate::gaps::{calm, fast_timing};
use crate::record::{Recorder, milliseconds};

#[derive(Clone, Copy)]
pub enum Fault {
    AgentKilled,
    AgentFrozen,
    CutOff,
    BothFrozen,
}

impl Fault {
    /// How long it lasts after another member has acknowledged its first commit.
    fn lasts(self) -> Duration {
        match self {
            Fault::AgentFrozen => Duration::from_secs(60),
            _ => Duration::from_secs(10),
        }
    }

    fn begin(self, cluster: &mut Cluster, node: usize) -> Result<()> {
        match self {
            Fault::AgentKilled => cluster.kill_agent(node),
            Fault::AgentFrozen => cluster.freeze_agent(node),
            Fault::CutOff => {
                cluster.cut(node);
                Ok(())
            }
            Fault::BothFrozen => {
                cluster.signal(node, Job::Postmaster, Signal::STOP)?;
                cluster.freeze_agent(node)
            }
        }
    }

    fn end(self, cluster: &mut Cluster, node: usize) -> Result<()> {
        match self {
            Fault::AgentKilled => cluster.start(node),
            Fault::AgentFrozen | Fault::BothFrozen => {
                cluster.thaw(node);
                Ok(())
            }
            Fault::CutOff => {
                cluster.heal(node);
                Ok(())
            }
        }
    }
}

pub async fn fence(fault: Fault, store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let mut cluster = cluster(store, Some(fast_timing()))?.healthy().await?;
    let allowed = Allowed { synchronous: false, bytes: 1024 * 1024, unpublished: Duration::from_secs(8) };
    for _ in 0..runs {
        let leader = calm(&cluster).await?;
        let mut clients = Clients::start(&cluster).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        fault.begin(&mut cluster, leader)?;
        wait_for("a commit by another primary", Duration::from_secs(90), async || {
            clients.led_by_another_than(leader).then_some(()).ok_or_else(|| anyhow::anyhow!("none yet"))
        })
        .await?;
        tokio::time::sleep(fault.lasts()).await;
        fault.end(&mut cluster, leader)?;
        let now = cluster.wait_healthy().await?;
        clients.stop();
        let verdict = clients.verdict(&cluster, now, &allowed).await?;
        let history = clients.history();
        let old = verdict.reigns.iter().filter(|reign| reign.server.node == leader).map(|reign| reign.last).max();
        let new = verdict.reigns.iter().find(|reign| reign.server.node != leader).map(|reign| reign.first);
        let margin = old.zip(new).map_or(0.0, |(old, new)| milliseconds(new) - milliseconds(old));
        recorder.run(&[
            ("after_promotion", verdict.overlapping() as f64),
            ("margin_ms", margin),
            ("acknowledged", verdict.acknowledged as f64),
            ("lost", verdict.lost() as f64),
            ("violations", check(&history, None, &allowed).violations.len() as f64),
        ])?;
    }
    cluster.passed();
    Ok(())
}
