//! A cluster: made by [`Builder`], killed and removed when dropped.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::consul::Consul;
use crate::disk::Disk;
use crate::etcd::Etcd;
use crate::filter::Filter;
use crate::machine::Machine;
use crate::network::{Endpoint, Network};
use crate::node::Node;
use crate::observe::wait_for;
use crate::patroni::{self, Agent};
use crate::ports::Port;
use crate::procs;
use crate::template::{Member, PASSWORD, merge};
use crate::zookeeper::ZooKeeper;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Embedded,
    Etcd,
    Consul,
    ZooKeeper,
}

pub struct Builder {
    binary: PathBuf,
    nodes: usize,
    store: StoreKind,
    store_servers: usize,
    filtered: bool,
    links: bool,
    disks: Option<u64>,
    clocks: bool,
    bin_dir: Option<PathBuf>,
    overrides: Vec<Value>,
    per_node: Vec<(usize, Value)>,
    patroni: Vec<usize>,
    mixed: bool,
}

pub struct Cluster {
    pub scope: String,
    pub store: StoreKind,
    pub nodes: Vec<Node>,
    pub etcd: Option<Etcd>,
    pub consul: Option<Consul>,
    pub zookeeper: Option<ZooKeeper>,
    pub(crate) network: Network,
    /// As many for each member as the store has servers, or none.
    pub(crate) filters: Vec<Filter>,
    pub machine: Machine,
    pub(crate) binary: PathBuf,
    /// Kept: the ports members and store speak to each other through.
    _ports: Vec<Port>,
    passed: bool,
    // Last: removed after everything else is gone.
    dir: TempDir,
}

impl Cluster {
    /// `binary` is the surus to run, `env!("CARGO_BIN_EXE_surus")` in tests; `SURUS_BIN` wins over it.
    pub fn builder(binary: impl AsRef<Path>) -> Builder {
        let binary = std::env::var_os("SURUS_BIN").map_or_else(|| binary.as_ref().to_owned(), PathBuf::from);
        Builder {
            binary,
            nodes: 3,
            store: StoreKind::Embedded,
            store_servers: 1,
            filtered: false,
            links: false,
            disks: None,
            clocks: false,
            bin_dir: None,
            overrides: Vec::new(),
            per_node: Vec::new(),
            patroni: Vec::new(),
            mixed: false,
        }
    }

    /// The surus that runs here.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    /// Bytes between members and their outside store, or between the agents of the embedded one, so far.
    pub fn store_bytes(&self) -> u64 {
        let store = |end| matches!(end, Endpoint::Store(_));
        self.network.carried(|from, to| store(from) || store(to))
    }

    /// Index of a member by its name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    pub fn others(&self, node: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|other| *other != node).collect()
    }

    /// Runs an operator command with the configuration of a member.
    pub async fn surus(&self, node: usize, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(self.nodes[node].config_path()).args(args).stdin(Stdio::null());
        let shown = args.join(" ");
        let child = tokio::task::spawn_blocking(move || command.output());
        match tokio::time::timeout(Duration::from_secs(120), child).await {
            Ok(done) => done?.with_context(|| format!("cannot run surus {shown}")),
            Err(_) => bail!("surus {shown} did not end within two minutes"),
        }
    }

    /// `surus run` of another configuration than those of the members, to its end; when it has not ended in time it is
    /// killed with everything it started, and there is no status.
    pub async fn run_once(&self, name: &str, config: &str, limit: Duration) -> Result<(Option<ExitStatus>, String)> {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir)?;
        let (file, log) = (dir.join("patroni.yml"), dir.join("agent.log"));
        fs::write(&file, config)?;
        let output = fs::File::create(&log)?;
        let mut command = Command::new(&self.binary);
        command.arg("run").arg(&file).current_dir(&dir).stdin(Stdio::null());
        let mut child = command.stdout(output.try_clone()?).stderr(output).spawn()?;
        let ended = wait_for("the agent ends", limit, async || child.try_wait()?.context("it still runs")).await;
        if ended.is_err() {
            let _ = child.kill();
            child.wait()?;
        }
        procs::sweep(&dir, Duration::from_secs(5));
        Ok((ended.ok(), fs::read_to_string(&log)?))
    }

    /// The end of a test that passed: without it the drop prints the logs.
    pub fn passed(mut self) {
        self.passed = true;
    }

    /// The directory stays after the drop.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// The last lines of every log, for a failure report. Of lines that differ only in numbers the last few: a server that
    /// tries something twice a second would leave nothing of what its agent said.
    pub fn logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let Ok(entries) = fs::read_dir(&node.dir) else { continue };
            let mut logs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            logs.retain(|path| path.extension().is_some_and(|ext| ext == "log"));
            logs.sort();
            for path in logs {
                let content = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
                let tail = telling(&content, lines);
                text.push_str(&format!("--- {} (last {} lines)\n{}\n", path.display(), tail.len(), tail.join("\n")));
            }
        }
        text
    }
}

fn telling(log: &str, lines: usize) -> Vec<&str> {
    const OF_A_SHAPE: usize = 6;
    let mut seen: HashMap<String, usize> = HashMap::new();
    let often = |line: &&str| {
        let shape = line.chars().filter(|c| !c.is_ascii_hexdigit()).collect();
        let count = seen.entry(shape).or_default();
        *count += 1;
        *count <= OF_A_SHAPE
    };
    let mut tail: Vec<&str> = log.lines().rev().filter(often).take(lines).collect();
    tail.reverse();
    tail
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.passed {
            let lines = std::env::var("SURUS_LOG_LINES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
            eprintln!("{}", self.logs(lines));
        }
        // A process that waits for a disk does not die.
        self.nodes.iter().filter_map(|node| node.disk.as_ref()).for_each(Disk::free);
        for node in &mut self.nodes {
            if let Some(mut agent) = node.agent.take() {
                let _ = agent.kill();
                let _ = agent.wait();
            }
            node.dying.iter_mut().for_each(|agent| _ = agent.wait());
        }
        let left = procs::sweep(self.dir.path(), Duration::from_secs(10));
        if !left.is_empty() {
            eprintln!("processes that did not die: {left:?}");
        }
        procs::release_shared_memory(self.dir.path());
        if std::env::var_os("SURUS_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept: {}", self.dir.path().display());
        }
    }
}

impl Builder {
    pub fn nodes(mut self, nodes: usize) -> Builder {
        self.nodes = nodes;
        self
    }

    pub fn store(mut self, store: StoreKind) -> Builder {
        self.store = store;
        self
    }

    /// As many servers, when the store is one outside.
    pub fn store_servers(mut self, servers: usize) -> Builder {
        self.store_servers = servers;
        self
    }

    /// Between each member and the store stands something that can answer in the store's place ([`Cluster::answers`]).
    pub fn filtered(mut self) -> Builder {
        self.filtered = true;
        self
    }

    /// Members reach each other's agent and PostgreSQL through the network as well, so that those links can be cut.
    pub fn links(mut self) -> Builder {
        self.links = true;
        self
    }

    /// Each data directory on a file system of its own of that size, in a file.
    pub fn disks(mut self, mebibytes: u64) -> Builder {
        self.disks = Some(mebibytes);
        self
    }

    /// The wall clock of each member can be moved.
    pub fn clocks(mut self) -> Builder {
        self.clocks = true;
        self
    }

    /// Another PostgreSQL than the machine's ([`Machine::postgres`]).
    pub fn bin_dir(mut self, bin_dir: PathBuf) -> Builder {
        self.bin_dir = Some(bin_dir);
        self
    }

    /// Merged over the configuration of every member.
    pub fn settings(mut self, over: Value) -> Builder {
        self.overrides.push(over);
        self
    }

    /// Merged over `bootstrap.dcs` of every member.
    pub fn dynamic(self, over: Value) -> Builder {
        self.settings(json!({"bootstrap": {"dcs": over}}))
    }

    /// Merged over the configuration of one member.
    pub fn settings_of(mut self, node: usize, over: Value) -> Builder {
        self.per_node.push((node, over));
        self
    }

    /// These members are Patroni. All agents run as the user of PostgreSQL then, also when there are none at first.
    pub fn patroni(mut self, nodes: &[usize]) -> Builder {
        self.patroni.extend(nodes);
        self.mixed = true;
        self
    }

    /// Directories, ports, configurations and the outside store; no agent runs yet.
    pub async fn prepare(self) -> Result<Cluster> {
        let mut machine = Machine::look()?;
        machine.bin_dir = self.bin_dir.unwrap_or(machine.bin_dir);
        if self.mixed {
            patroni::program("patroni")?;
        }
        let dir = tempfile::Builder::new().prefix("surus-").tempdir().context("cannot create a temporary directory")?;
        // PostgreSQL, as another user, has to pass through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let homes = (0..self.nodes).map(|n| (Endpoint::Member(n), dir.path().join(format!("node{}", n + 1))));
        let (servers, kind) = match self.store {
            StoreKind::Embedded => (0, ""),
            StoreKind::Etcd => (self.store_servers, "etcd"),
            StoreKind::Consul => (self.store_servers, "consul"),
            StoreKind::ZooKeeper => (self.store_servers, "zookeeper"),
        };
        let stores: Vec<PathBuf> = (0..servers).map(|n| dir.path().join(format!("{kind}{}", n + 1))).collect();
        let mut homes: Vec<(Endpoint, PathBuf)> = homes.collect();
        homes.extend(stores.iter().cloned().enumerate().map(|(n, home)| (Endpoint::Store(n), home)));
        homes.push((Endpoint::Guest, dir.path().to_owned()));
        let network = Network::new(homes)?;
        let mut ports = Vec::new();
        let mut port = || -> Result<u16> {
            let port = Port::free()?;
            let number = port.number;
            ports.push(port);
            Ok(number)
        };
        let (mut etcd, mut consul, mut zookeeper) = (None, None, None);
        let bound = match self.store {
            StoreKind::Etcd => etcd.insert(Etcd::group(stores, Some(&network)).await?).ports(),
            StoreKind::Consul => consul.insert(Consul::group(stores, Some(&network)).await?).ports(),
            StoreKind::ZooKeeper => zookeeper.insert(ZooKeeper::group(stores).await?).ports(),
            StoreKind::Embedded => Vec::new(),
        };
        let mut filters = Vec::new();
        let mut hosts = Vec::new();
        for _ in 0..if self.filtered { self.nodes } else { 1 } {
            let mut own = Vec::new();
            for (index, to) in bound.iter().enumerate() {
                let (public, mut to) = (port()?, *to);
                if self.filtered {
                    let filter = Filter::before(self.store, to)?;
                    to = filter.port();
                    filters.push(filter);
                }
                network.route(public, to, Endpoint::Store(index));
                own.push(format!("127.0.0.1:{public}"));
            }
            hosts.push(own);
        }
        let each = |section: &dyn Fn(&Vec<String>) -> (&'static str, Value)| {
            (0..self.nodes).map(|node| section(&hosts[node % hosts.len()])).collect()
        };
        let sections: Vec<(&str, Value)> = match self.store {
            // Without use_proxies a client may go on to the addresses that etcd advertises, past the network.
            StoreKind::Etcd => each(&|hosts| ("etcd3", json!({"hosts": hosts, "use_proxies": true}))),
            StoreKind::ZooKeeper => each(&|hosts| ("zookeeper", json!({"hosts": hosts}))),
            // Patroni knows one agent only.
            StoreKind::Consul if self.store_servers == 1 => each(&|hosts| ("consul", json!({"host": hosts[0]}))),
            StoreKind::Consul => each(&|hosts| ("consul", json!({"hosts": hosts}))),
            StoreKind::Embedded => {
                let mut pairs = Vec::new();
                for node in 0..self.nodes {
                    let (public, bound) = (port()?, port()?);
                    network.route(public, bound, Endpoint::Store(node));
                    pairs.push((format!("127.0.0.1:{public}"), format!("127.0.0.1:{bound}")));
                }
                let sections = (0..self.nodes).map(|node| {
                    let partners: Vec<&String> =
                        pairs.iter().enumerate().filter(|(i, _)| *i != node).map(|(_, (public, _))| public).collect();
                    let section = json!({
                        "data_dir": dir.path().join(format!("node{}", node + 1)).join("raft"),
                        "self_addr": pairs[node].0,
                        "bind_addr": pairs[node].1,
                        "partner_addrs": partners,
                        "password": PASSWORD,
                    });
                    ("raft", section)
                });
                sections.collect()
            }
        };
        let scope = "testbed".to_owned();
        let mut nodes = Vec::new();
        for (i, store) in sections.into_iter().enumerate() {
            let name = format!("node{}", i + 1);
            let dir = dir.path().join(&name);
            machine.directory(&dir)?;
            let (rest, postgres) = (Port::free()?, Port::free()?);
            let disk = self.disks.map(|size| Disk::mount(&dir, size, &machine)).transpose()?;
            let data = disk.as_ref().map_or(&dir, |disk| &disk.path).join("data");
            let mut seen = [rest.number, postgres.number];
            if self.links {
                for to in &mut seen {
                    let public = port()?;
                    network.route(public, *to, Endpoint::Member(i));
                    *to = public;
                }
            }
            let member = Member {
                scope: &scope,
                name: &name,
                dir: &dir,
                rest: &rest.address(),
                postgres: &postgres.address(),
                seen: seen.map(|port| format!("127.0.0.1:{port}")),
                data: &data,
                store,
            };
            let mut config = member.config(&machine);
            self.overrides.iter().for_each(|over| merge(&mut config, over));
            self.per_node.iter().filter(|(node, _)| *node == i).for_each(|(_, over)| merge(&mut config, over));
            let clock = if self.clocks { Some(Clock::of(&dir)?) } else { None };
            let kind = if self.patroni.contains(&i) { Agent::Patroni } else { Agent::Surus };
            let user = if self.mixed { machine.postgres } else { None };
            let node = Node {
                name,
                dir,
                data,
                rest,
                postgres,
                config,
                disk,
                clock,
                kind,
                user,
                agent: None,
                dying: Vec::new(),
            };
            node.write_config()?;
            nodes.push(node);
        }
        Ok(Cluster {
            scope,
            store: self.store,
            nodes,
            etcd,
            consul,
            zookeeper,
            network,
            filters,
            machine,
            binary: self.binary,
            _ports: ports,
            passed: false,
            dir,
        })
    }

    /// All agents started; what they make of it is for the caller to wait for.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare().await?;
        for node in 0..cluster.nodes.len() {
            cluster.start(node)?;
        }
        Ok(cluster)
    }

    /// All agents started, one leader, everyone else streaming from it.
    pub async fn healthy(self) -> Result<Cluster> {
        let cluster = self.start().await?;
        cluster.wait_healthy().await?;
        Ok(cluster)
    }
}
