//! What can be done to a cluster. Each verb exists once, here; tests and measurements only combine them.

use std::fs;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::cluster::{Cluster, StoreKind};
use crate::filter::{Answers, Filter};
use crate::network::{Endpoint, Link};
use crate::observe::wait_for;
use crate::procs;
use crate::servers::Servers;
use crate::template::WRITER;

impl Cluster {
    /// Starts the agent of a member that has none.
    pub fn start(&mut self, node: usize) -> Result<()> {
        ensure!(self.nodes[node].agent.is_none(), "{} already has an agent", self.nodes[node].name);
        for mut dying in std::mem::take(&mut self.nodes[node].dying) {
            dying.wait()?;
        }
        let mut command = self.nodes[node].command(&self.binary)?;
        let child = command.spawn().with_context(|| {
            let program = command.get_program().display();
            let user = self.nodes[node].user.map(|(uid, _)| format!(" as user {uid}, who has to be able to reach it"));
            format!("cannot start {program}{}", user.unwrap_or_default())
        })?;
        self.nodes[node].agent = Some(child);
        Ok(())
    }

    /// SIGTERM to the agent, which stops PostgreSQL cleanly; returns when it has exited.
    pub async fn stop(&mut self, node: usize) -> Result<ExitStatus> {
        self.terminate(node)?;
        self.exited(node).await
    }

    /// SIGTERM without waiting.
    pub fn terminate(&self, node: usize) -> Result<()> {
        let pid = self.nodes[node].agent_pid().context("no agent to stop")?;
        ensure!(procs::signal(pid, Signal::TERM), "{} has no agent any more", self.nodes[node].name);
        Ok(())
    }

    /// SIGHUP to the agent.
    pub fn hangup(&self, node: usize) -> Result<()> {
        let pid = self.nodes[node].agent_pid().context("no agent to signal")?;
        ensure!(procs::signal(pid, Signal::HUP), "{} has no agent any more", self.nodes[node].name);
        Ok(())
    }

    /// Waits until the agent has ended by itself.
    pub async fn exited(&mut self, node: usize) -> Result<ExitStatus> {
        let name = self.nodes[node].name.clone();
        let agent = &mut self.nodes[node];
        let status = wait_for(&format!("the agent of {name} exits"), Duration::from_secs(60), async || {
            agent.exited()?.context("it still runs")
        })
        .await?;
        self.nodes[node].agent = None;
        Ok(status)
    }

    /// SIGKILL to the agent alone; PostgreSQL goes on.
    pub fn kill_agent(&mut self, node: usize) -> Result<()> {
        let mut agent = self.nodes[node].agent.take().context("no agent to kill")?;
        agent.kill()?;
        let begun = Instant::now();
        while agent.try_wait()?.is_none() {
            // In the kernel, waiting for a disk that hangs, it stays until the disk answers.
            if begun.elapsed() > Duration::from_secs(2) {
                self.nodes[node].dying.push(agent);
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// The whole machine gone: SIGKILL to the agent, PostgreSQL and whatever else runs for this member, together.
    pub fn kill_node(&mut self, node: usize) -> Result<()> {
        let dir = self.nodes[node].dir.clone();
        for pid in procs::under(&dir) {
            procs::signal(pid, Signal::KILL);
        }
        if let Some(mut agent) = self.nodes[node].agent.take() {
            let _ = agent.kill();
            agent.wait()?;
        }
        let left = procs::sweep(&dir, Duration::from_secs(10));
        ensure!(left.is_empty(), "processes of {} that survived SIGKILL: {left:?}", self.nodes[node].name);
        Ok(())
    }

    /// SIGKILL to the postmaster alone; its children notice by themselves.
    pub fn kill_postmaster(&self, node: usize) -> Result<()> {
        let pid = self.nodes[node].postmaster_pid().context("no postmaster.pid")?;
        ensure!(procs::signal(pid, Signal::KILL), "postmaster {pid} of {} is gone already", self.nodes[node].name);
        Ok(())
    }

    /// SIGSTOP to the agent alone.
    pub fn freeze_agent(&self, node: usize) -> Result<()> {
        let pid = self.nodes[node].agent_pid().context("no agent to freeze")?;
        ensure!(procs::signal(pid, Signal::STOP), "{} has no agent any more", self.nodes[node].name);
        Ok(())
    }

    /// SIGSTOP to everything that runs for this member, as a suspended machine.
    pub fn freeze_node(&self, node: usize) -> Result<()> {
        let pids = procs::under(&self.nodes[node].dir);
        ensure!(!pids.is_empty(), "nothing runs for {}", self.nodes[node].name);
        for pid in pids {
            procs::signal(pid, Signal::STOP);
        }
        Ok(())
    }

    /// Holds back what a primary sends to its replicas; it goes on acknowledging commits. Makes its WAL fork when it is
    /// killed afterwards.
    pub fn freeze_walsenders(&self, node: usize) -> Result<()> {
        let senders = procs::named(&self.nodes[node].dir, "walsender");
        ensure!(!senders.is_empty(), "nobody streams from {}", self.nodes[node].name);
        for pid in senders {
            procs::signal(pid, Signal::STOP);
        }
        Ok(())
    }

    /// Ends every freeze of this member.
    pub fn thaw(&self, node: usize) {
        for pid in procs::under(&self.nodes[node].dir) {
            procs::signal(pid, Signal::CONT);
        }
    }

    /// Kill and start of the agent alone, at once.
    pub fn restart_agent(&mut self, node: usize) -> Result<()> {
        self.kill_agent(node)?;
        self.start(node)
    }

    /// Deletes the data directory of a member that does not run.
    pub fn wipe(&mut self, node: usize) -> Result<()> {
        let data = self.nodes[node].data_dir();
        if self.nodes[node].agent.is_some() {
            bail!("{} still runs", self.nodes[node].name);
        }
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))
    }

    /// Cuts a member off from the store in both directions; agents and PostgreSQL still reach each other.
    pub fn cut(&self, node: usize) {
        self.store_link(node, Link::Cut, false);
    }

    /// As [`Cluster::cut`], but connections stay and nothing comes through.
    pub fn stall(&self, node: usize) {
        self.store_link(node, Link::Frozen, false);
    }

    /// Ends what was done to the member's links.
    pub fn heal(&self, node: usize) {
        let own = [Endpoint::Member(node), Endpoint::Store(node)];
        let own = if self.store == StoreKind::Embedded { &own[..] } else { &own[..1] };
        self.network.heal(|from, to| own.contains(&from) || own.contains(&to));
    }

    pub fn heal_all(&self) {
        self.network.heal(|_, _| true);
    }

    /// What a member sends to the store, and unless it is one way what comes back.
    pub fn store_link(&self, node: usize, link: Link, one_way: bool) {
        let servers = self.servers().map_or(self.nodes.len(), Servers::servers);
        for server in 0..servers {
            if self.store != StoreKind::Embedded {
                self.link(Endpoint::Member(node), Endpoint::Store(server), link, one_way);
            } else if server != node {
                self.link(Endpoint::Member(node), Endpoint::Store(server), link, one_way);
                // Its own part of the store, which the others' agents speak to.
                self.link(Endpoint::Store(node), Endpoint::Member(server), link, one_way);
            }
        }
    }

    /// What the store answers to a member, in a cluster that was built with [`crate::Builder::filtered`].
    pub fn answers(&self, node: usize, answers: Answers) {
        let servers = self.filters.len() / self.nodes.len();
        self.filters[node * servers..][..servers].iter().for_each(|filter| filter.set(answers));
    }

    /// Requests refused and answers lost between the members and the store, so far.
    pub fn failed_answers(&self) -> u64 {
        self.filters.iter().map(Filter::failed).sum()
    }

    /// What one end sends to the other, and unless it is one way what comes back. Between members only in a cluster
    /// that was built with [`crate::Builder::links`].
    pub fn link(&self, from: Endpoint, to: Endpoint, link: Link, one_way: bool) {
        // A connection that is dropped is dropped for both ends.
        let link = if one_way && link == Link::Cut { Link::Frozen } else { link };
        self.network.set(from, to, link);
        if !one_way {
            self.network.set(to, from, link);
        }
    }

    /// SIGKILL, SIGSTOP or SIGCONT to the processes of a member that do one job; an error when there is none.
    pub fn signal(&self, node: usize, job: Job, signal: Signal) -> Result<()> {
        let pids = self.processes(node, job);
        let reached = pids.iter().filter(|pid| procs::signal(**pid, signal)).count();
        ensure!(reached > 0, "{} has no {job:?}", self.nodes[node].name);
        Ok(())
    }

    pub fn processes(&self, node: usize, job: Job) -> Vec<i32> {
        let node = &self.nodes[node];
        match job {
            Job::Agent => node.agent_pid().into_iter().collect(),
            Job::Fence => {
                procs::under(&node.dir).into_iter().filter(|pid| procs::argument(*pid, 1) == "fence").collect()
            }
            Job::Postmaster => node.postmaster_pid().into_iter().filter(|pid| procs::alive(*pid)).collect(),
            // Whoever serves the account-keeping clients: `postgres: testbed: writer postgres 127.0.0.1(5000) INSERT`.
            Job::Backend => procs::named(&node.dir, &format!(" {WRITER} postgres ")).into_iter().take(1).collect(),
            Job::Walsenders => procs::named(&node.dir, "walsender"),
        }
    }
}

/// What a process of a member is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Agent,
    Fence,
    Postmaster,
    /// One server process that works for a client.
    Backend,
    Walsenders,
}
