//! Members that are Patroni: what a mixed cluster consists of besides ours.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::python;

/// Which program drives the PostgreSQL of a member. Both read the same configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    Surus,
    Patroni,
}

/// A program of Patroni's environment; `SURUS_PATRONI` names another one.
pub fn program(name: &str) -> Result<PathBuf> {
    python::program("patroni", "SURUS_PATRONI", name)
}

/// Patroni does not start as root, and what either agent leaves behind has to be the other's to change.
pub(crate) fn as_user(command: &mut Command, user: Option<(u32, u32)>) {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
}

impl Cluster {
    /// What drives a member from its next start on.
    pub fn set_agent(&mut self, node: usize, agent: Agent) {
        self.nodes[node].kind = agent;
    }

    /// `patronictl` with the configuration of a member, whichever agent that has.
    pub async fn patronictl(&self, node: usize, args: &[&str]) -> Result<Output> {
        let node = &self.nodes[node];
        let mut command = Command::new(program("patronictl")?);
        command.arg("-c").arg(node.config_path()).args(args).stdin(Stdio::null());
        node.clean(&mut command);
        let shown = args.join(" ");
        let done = tokio::task::spawn_blocking(move || command.output());
        match tokio::time::timeout(Duration::from_secs(120), done).await {
            Ok(done) => done?.with_context(|| format!("cannot run patronictl {shown}")),
            Err(_) => bail!("patronictl {shown} did not end within two minutes"),
        }
    }
}
