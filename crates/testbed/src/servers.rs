//! The servers of a store outside: processes of one kind, by number.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::procs;
use crate::zookeeper::ZooKeeper;

/// Ended when dropped.
pub struct Servers {
    name: &'static str,
    servers: Vec<Server>,
}

struct Server {
    command: Command,
    child: Option<Child>,
}

impl Servers {
    pub(crate) fn none(name: &'static str) -> Servers {
        Servers { name, servers: Vec::new() }
    }

    /// One more that works in this directory and writes its log there; it does not run yet.
    pub(crate) fn add(&mut self, dir: &Path, mut command: Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(dir.join(format!("{}.log", self.name)))?;
        command.current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.servers.push(Server { command, child: None });
        Ok(())
    }

    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Those that were started and not killed since.
    pub(crate) fn started(&self) -> impl Iterator<Item = usize> {
        self.servers.iter().enumerate().filter(|(_, server)| server.child.is_some()).map(|(index, _)| index)
    }

    /// Starts one server, if it does not run, without waiting for it.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        if let Some(child) = &mut server.child
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        server.child = Some(server.command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    pub(crate) fn spawn_all(&mut self) -> Result<()> {
        (0..self.servers.len()).try_for_each(|index| self.spawn(index))
    }

    pub fn kill(&mut self) {
        (0..self.servers.len()).for_each(|index| self.kill_one(index));
    }

    pub fn kill_one(&mut self, index: usize) {
        if let Some(mut child) = self.servers[index].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn freeze(&self) {
        (0..self.servers.len()).for_each(|index| self.freeze_one(index));
    }

    pub fn freeze_one(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    pub fn thaw(&self) {
        (0..self.servers.len()).for_each(|index| self.thaw_one(index));
    }

    pub fn thaw_one(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    fn signal(&self, index: usize, signal: Signal) {
        if let Some(child) = &self.servers[index].child {
            procs::signal(child.id().cast_signed(), signal);
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is done to servers is the same for all kinds.
macro_rules! servers {
    ($($kind:ty),*) => {$(
        impl Deref for $kind {
            type Target = Servers;
            fn deref(&self) -> &Servers {
                &self.servers
            }
        }
        impl DerefMut for $kind {
            fn deref_mut(&mut self) -> &mut Servers {
                &mut self.servers
            }
        }
    )*};
}

servers!(Etcd, Consul, ZooKeeper);

impl Cluster {
    /// None where the agents are the store.
    pub fn servers(&self) -> Option<&Servers> {
        let (etcd, consul) = (self.etcd.as_deref(), self.consul.as_deref());
        etcd.or(consul).or(self.zookeeper.as_deref())
    }

    pub fn servers_mut(&mut self) -> Option<&mut Servers> {
        let (etcd, consul) = (self.etcd.as_deref_mut(), self.consul.as_deref_mut());
        etcd.or(consul).or(self.zookeeper.as_deref_mut())
    }

    /// The server that leads the others, as those that answer see it.
    pub async fn store_leader(&self) -> Result<usize> {
        match (&self.etcd, &self.consul, &self.zookeeper) {
            (Some(etcd), _, _) => etcd.leader().await,
            (_, Some(consul), _) => consul.leader().await,
            (_, _, Some(zookeeper)) => zookeeper.leader().await,
            _ => bail!("the agents are the store"),
        }
    }
}
