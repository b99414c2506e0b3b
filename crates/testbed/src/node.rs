//! One member: its directory, ports, configuration and agent process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::patroni::{self, Agent};
use crate::ports::Port;

pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    pub(crate) data: PathBuf,
    pub rest: Port,
    pub postgres: Port,
    pub config: Value,
    pub disk: Option<Disk>,
    pub(crate) clock: Option<Clock>,
    pub(crate) kind: Agent,
    /// As which both kinds of agent run in a mixed cluster, when we are root.
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) agent: Option<Child>,
    /// Killed, and waiting for a dead disk.
    pub(crate) dying: Vec<Child>,
}

impl Node {
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("patroni.yml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn write_config(&self) -> Result<()> {
        let text = serde_saphyr::to_string(&self.config).context("cannot write the configuration as YAML")?;
        fs::write(self.config_path(), text).with_context(|| format!("cannot write {}", self.config_path().display()))
    }

    /// Pid of the agent, while it runs.
    pub fn agent_pid(&self) -> Option<i32> {
        self.agent.as_ref().map(|child| child.id().cast_signed())
    }

    /// From `postmaster.pid`, whether or not that process still lives.
    pub fn postmaster_pid(&self) -> Option<i32> {
        fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// The agent of this member, its output appended to the member's log. `binary` is ours.
    pub(crate) fn command(&self, binary: &std::path::Path) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = match self.kind {
            Agent::Surus => Command::new(binary),
            Agent::Patroni => Command::new(patroni::program("patroni")?),
        };
        if self.kind == Agent::Surus {
            command.arg("run");
        }
        // Works in the member's directory, so that whatever it starts is found by it (see `procs`).
        command.arg(self.config_path()).current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        self.clean(&mut command);
        patroni::as_user(&mut command, self.user);
        if let Some(clock) = &self.clock {
            clock.given_to(&mut command);
        }
        Ok(command)
    }

    /// Nothing of our own environment reaches the programs of a member.
    pub(crate) fn clean(&self, command: &mut Command) {
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if ["PG", "PATRONI_", "SURUS_", "PYTHON"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&key);
            }
        }
        if self.user.is_some() {
            // libpq looks for certificates there, and may not look into that of root.
            command.env("HOME", &self.dir);
        }
    }

    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.agent {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }
}
