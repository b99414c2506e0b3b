//! Real processes as the world of a scenario.

mod look;
mod operate;
mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use surus_scenario::{Part, Place, Scenario, Statement, Trouble};

use crate::cluster::{Cluster, StoreKind};
use crate::disk::Disk;
use crate::history::{Allowed, Clients, Verdict, check};
use crate::servers::Servers;
use crate::verbs::Job;

/// Room for a cluster and some WAL.
const DISK: u64 = 400;

pub struct Stage {
    binary: PathBuf,
    /// When the scenario leaves it open.
    store: StoreKind,
    needs: Needs,
    cluster: Option<Cluster>,
    clients: Option<Clients>,
    allowed: Allowed,
    begun: Instant,
    /// Where the lead was, on which timeline.
    mark: Option<(usize, String)>,
    tell: Box<dyn FnMut(String)>,
    unavailable: std::cell::RefCell<Vec<String>>,
}

/// What a cluster has to be built with for the statements to work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub links: bool,
    pub disks: bool,
    pub clocks: bool,
    /// Segments of WAL of 1 MB. Each promotion begins one, and they all stay until the log has grown past them: hundreds of
    /// whole ones would fill the small disks.
    pub small_segments: bool,
}

impl Needs {
    pub fn of(scenario: &Scenario) -> Needs {
        let mut needs = Needs::default();
        for step in &scenario.steps {
            match &step.statement {
                Statement::Link { to: Place::Member(_) | Place::Everything, .. } => needs.links = true,
                Statement::FillDisk(_) | Statement::HangDisk(_) => needs.disks = true,
                Statement::StepClock { .. } => needs.clocks = true,
                _ => {}
            }
        }
        needs
    }
}

impl Stage {
    /// `tell` hears each statement as it begins.
    pub fn new(binary: &Path, store: StoreKind, needs: Needs, tell: impl FnMut(String) + 'static) -> Stage {
        let allowed = Allowed { synchronous: false, bytes: 1024 * 1024, unpublished: Duration::from_secs(10) };
        Stage {
            binary: binary.to_owned(),
            store,
            needs,
            cluster: None,
            clients: None,
            allowed,
            begun: Instant::now(),
            mark: None,
            tell: Box::new(tell),
            unavailable: Default::default(),
        }
    }

    pub fn running(&self) -> Result<&Cluster, Trouble> {
        self.cluster.as_ref().ok_or_else(|| Trouble::Failed("there is no cluster yet".into()))
    }

    /// The end of a run that went well: without it the drop prints the logs.
    pub fn passed(&mut self) {
        self.clients = None;
        if let Some(cluster) = self.cluster.take() {
            cluster.passed();
        }
    }

    /// The end of a run that did not go well: its directory stays, and where it is.
    pub fn keep(&mut self) -> Option<PathBuf> {
        let cluster = self.cluster.as_mut()?;
        cluster.keep();
        Some(cluster.dir().to_owned())
    }

    /// What was asked for and cannot be done on this machine.
    pub fn unavailable(&self) -> Vec<String> {
        self.unavailable.borrow().clone()
    }

    pub fn stop_clients(&mut self) {
        self.clients.iter_mut().for_each(Clients::stop);
    }

    fn not_available(&self, why: String) -> Trouble {
        let mut all = self.unavailable.borrow_mut();
        if !all.contains(&why) {
            all.push(why.clone());
        }
        Trouble::NotAvailable(why)
    }

    /// What clients saw so far, against the content of the primary when there is one.
    pub async fn verdict(&self) -> Result<Verdict> {
        let clients =
            self.clients.as_ref().context("nobody writes; the scenario needs the statement `write` before")?;
        let cluster = self.cluster.as_ref().context("no cluster")?;
        match self.primary().await {
            Ok(primary) => clients.verdict(cluster, primary, &self.allowed).await,
            Err(_) => Ok(check(&clients.history(), None, &self.allowed)),
        }
    }

    /// The member that leads and accepts writes.
    async fn primary(&self) -> Result<usize> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        let leader = cluster.leader().await?;
        let recovery = cluster.sql(leader, "select pg_is_in_recovery()").await?;
        ensure!(recovery == "f", "{} leads and does not accept writes yet", cluster.nodes[leader].name);
        Ok(leader)
    }

    fn node(&self, name: &str) -> Result<usize, Trouble> {
        self.running()?.index(name).ok_or_else(|| Trouble::Failed(format!("{name} is no member of the cluster")))
    }

    /// Of an outside store.
    fn server(name: &str) -> Option<usize> {
        name.strip_prefix("store")?.parse::<usize>().ok()?.checked_sub(1)
    }

    fn job(part: Part) -> Option<Job> {
        match part {
            Part::Agent => Some(Job::Agent),
            Part::Fence => Some(Job::Fence),
            Part::Postmaster => Some(Job::Postmaster),
            Part::Backend => Some(Job::Backend),
            Part::Walsenders => Some(Job::Walsenders),
            Part::Node | Part::Store => None,
        }
    }

    fn signal(&self, part: Part, of: &str, signal: Signal) -> Result<(), Trouble> {
        let node = self.node(of)?;
        // Part of the embedded store is the agent.
        let job = Stage::job(part).unwrap_or(Job::Agent);
        self.running()?.signal(node, job, signal).map_err(Trouble::failed)
    }

    fn store_server(&mut self, of: &str) -> Option<(&mut Servers, usize)> {
        let (servers, index) = (self.cluster.as_mut()?.servers_mut()?, Stage::server(of)?);
        (index < servers.servers()).then_some((servers, index))
    }

    fn disk(&self, of: &str) -> Result<&Disk, Trouble> {
        let node = self.node(of)?;
        self.running()?.nodes[node].disk.as_ref().ok_or_else(|| {
            let why = Disk::available().err().unwrap_or_else(|| "the cluster was built without disks".into());
            self.not_available(why)
        })
    }
}
