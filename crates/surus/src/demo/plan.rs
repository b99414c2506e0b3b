//! What the demo consists of: directory, ports, and the configuration file of each member.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DemoArgs, Store};

/// Kept in the demo's directory, so that a kept demo starts again as it was.
const FILE: &str = "demo.json";
const PACKAGES: &str = "apt-get install postgresql";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub store: Store,
    pub nodes: Vec<PlannedNode>,
    /// Client and peer port.
    pub etcd: Option<(u16, u16)>,
    pub password: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    pub name: String,
    pub postgres: u16,
    pub rest: u16,
    pub raft: u16,
}

/// Holds ports while their servers do not run, against other demos and tests on this machine; see [`claim`].
pub type Claims = Vec<UnixListener>;

impl Plan {
    /// The demo that was kept in the directory, or a new one.
    pub fn at(dir: &Path, args: &DemoArgs) -> Result<(Plan, Claims)> {
        let file = dir.join(FILE);
        if file.exists() {
            return Plan::again(&file, args);
        }
        ensure!(
            fs::read_dir(dir)?.next().is_none(),
            "{} is not empty and holds no demo; choose an empty or a new directory",
            dir.display()
        );
        let store = args.store.unwrap_or(Store::Embedded);
        let mut claims = Vec::new();
        let nodes = (1..=args.nodes.unwrap_or(3)).map(|i| {
            let mut port = |from| free_port(from + i, &mut claims);
            Ok(PlannedNode { name: format!("node{i}"), postgres: port(15430)?, rest: port(18000)?, raft: port(12200)? })
        });
        let nodes = nodes.collect::<Result<_>>()?;
        let etcd = match store {
            Store::Etcd => Some((free_port(12379, &mut claims)?, free_port(12380, &mut claims)?)),
            Store::Embedded => None,
        };
        Ok((Plan { store, nodes, etcd, password: password()? }, claims))
    }

    fn again(file: &Path, args: &DemoArgs) -> Result<(Plan, Claims)> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let plan: Plan = serde_json::from_str(&text).with_context(|| {
            format!("{} is no description of a demo; remove the directory or choose another", file.display())
        })?;
        let fits =
            args.nodes.is_none_or(|n| usize::from(n) == plan.nodes.len()) && args.store.is_none_or(|s| s == plan.store);
        ensure!(
            fits,
            "{} describes a demo of {} nodes with the store \"{}\"; leave --nodes and --store out, or choose another --dir",
            file.display(),
            plan.nodes.len(),
            plan.store.name()
        );
        let mut claims = Vec::new();
        for port in plan.ports() {
            let claimed = claim(port).with_context(|| {
                format!(
                    "port {port} of the demo in {} is in use; end what uses it, or choose another --dir",
                    file.display()
                )
            })?;
            claims.push(claimed);
        }
        Ok((plan, claims))
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        let nodes = self.nodes.iter().flat_map(|node| [node.postgres, node.rest, node.raft]);
        nodes.chain(self.etcd.iter().flat_map(|(client, peer)| [*client, *peer]))
    }

    /// The directories and configuration files of all members.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let bin_dir = postgres_bin_dir()?;
        let owner = if rustix::process::geteuid().is_root() { Some(postgres_user()?) } else { None };
        for (i, node) in self.nodes.iter().enumerate() {
            let own = dir.join(&node.name);
            fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
            fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
            if let Some((uid, gid)) = owner {
                chown(&own, Some(uid), Some(gid))?;
            }
            let text = serde_saphyr::to_string(&self.config(dir, i, &bin_dir)).context("writing a configuration")?;
            secret_file(&dir.join(format!("{}.yml", node.name)), &text)?;
        }
        secret_file(&dir.join(FILE), &serde_json::to_string_pretty(self)?)
    }

    /// An ordinary `patroni.yml`. The dynamic part leaves timing out: a new cluster has good values of its own.
    fn config(&self, dir: &Path, node: usize, bin_dir: &Path) -> Value {
        let PlannedNode { name, postgres, rest, .. } = &self.nodes[node];
        let own = dir.join(name);
        let user = |name: &str| json!({"username": name, "password": self.password});
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let mut config = json!({
            "scope": "demo",
            "name": name,
            "restapi": {"listen": address(rest), "connect_address": address(rest)},
            "bootstrap": {
                "dcs": {"postgresql": {"use_pg_rewind": true}},
                "initdb": [{"encoding": "UTF8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": address(postgres),
                "connect_address": address(postgres),
                "data_dir": own.join("data"),
                "bin_dir": bin_dir,
                "pgpass": own.join("pgpass"),
                "authentication": {
                    "superuser": user("postgres"),
                    "replication": user("replicator"),
                    "rewind": user("rewind_user"),
                },
                "pg_hba": [
                    "local all all peer",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                ],
                "parameters": {"unix_socket_directories": own},
            },
        });
        match self.etcd {
            Some((client, _)) => config["etcd3"] = json!({"host": address(&client)}),
            None => {
                let raft = |node: &PlannedNode| address(&node.raft);
                let partners: Vec<String> = self.nodes.iter().filter(|other| other.name != *name).map(raft).collect();
                config["raft"] = json!({
                    "self_addr": raft(&self.nodes[node]),
                    "partner_addrs": partners,
                    "data_dir": own.join("raft"),
                    "password": self.password,
                });
            }
        }
        config
    }

    pub fn api_url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}/patroni", self.nodes[node].rest)
    }

    /// What to type to get a session on whoever is the primary.
    pub fn psql(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.postgres)).collect();
        format!("psql 'postgres://postgres:{}@{}/?target_session_attrs=read-write'", self.password, hosts.join(","))
    }
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Store::Embedded => "embedded",
            Store::Etcd => "etcd",
        }
    }
}

pub fn temporary_directory() -> Result<tempfile::TempDir> {
    let dir =
        tempfile::Builder::new().prefix("surus-demo-").tempdir().context("cannot create a temporary directory")?;
    passable(dir.path())?;
    Ok(dir)
}

pub fn directory(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = fs::canonicalize(dir)?;
    passable(&dir)?;
    Ok(dir)
}

/// Started by root, PostgreSQL runs as `postgres`, which has to be able to pass through to its data.
fn passable(dir: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for parent in dir.ancestors().skip(1) {
        let mode = fs::metadata(parent)?.mode();
        ensure!(
            mode & 0o001 != 0,
            "PostgreSQL will run as postgres, which may not enter {} (mode {:03o}); choose a --dir elsewhere",
            parent.display(),
            mode & 0o777
        );
    }
    Ok(())
}

/// The first free port from here on, kept below the range from which outgoing connections take theirs.
fn free_port(from: u16, claims: &mut Claims) -> Result<u16> {
    for port in (from..32_768).step_by(40) {
        if let Ok(claimed) = claim(port) {
            claims.push(claimed);
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 from {from} on")
}

/// Fails when the port is in use, or claimed under the same name by another process, whose server may just not run.
fn claim(port: u16) -> std::io::Result<UnixListener> {
    let claimed = UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("surus-port-{port}"))?)?;
    TcpListener::bind(("127.0.0.1", port))?;
    Ok(claimed)
}

fn password() -> Result<String> {
    let mut bytes = [0_u8; 6];
    fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The directory of the demo is open to PostgreSQL's user and so to everybody; the passwords in it are not.
fn secret_file(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn postgres_bin_dir() -> Result<PathBuf> {
    let mut majors: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    majors.sort();
    let newest = majors.pop().map(|(_, bin)| bin);
    let found = newest.or_else(|| on_path("postgres")?.parent().map(Path::to_path_buf));
    found.with_context(|| format!("PostgreSQL is not installed; on Debian: {PACKAGES}"))
}

pub fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn postgres_user() -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == "postgres");
    match fields.as_deref() {
        Some([_, _, uid, gid, ..]) => Ok((uid.parse()?, gid.parse()?)),
        _ => {
            bail!("started by root, PostgreSQL runs as the user postgres, which does not exist; on Debian: {PACKAGES}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: Option<u16>, store: Option<Store>) -> DemoArgs {
        DemoArgs { nodes, store, dir: None, for_seconds: None }
    }

    #[test]
    fn a_kept_demo_starts_again_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (plan, claims) = Plan::at(dir.path(), &args(Some(2), None)).unwrap();
        secret_file(&dir.path().join(FILE), &serde_json::to_string(&plan).unwrap()).unwrap();
        let taken = Plan::at(dir.path(), &args(None, None)).unwrap_err();
        assert!(format!("{taken:#}").contains("in use"), "{taken:#}");
        drop(claims);
        let (again, _claims) = Plan::at(dir.path(), &args(None, Some(Store::Embedded))).unwrap();
        assert_eq!(again, plan);
        let other = Plan::at(dir.path(), &args(Some(3), None)).unwrap_err();
        assert!(other.to_string().contains("2 nodes"), "{other}");
    }

    #[test]
    fn leaves_other_directories_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("diary.txt"), "x").unwrap();
        let refused = Plan::at(dir.path(), &args(None, None)).unwrap_err();
        assert!(refused.to_string().contains("is not empty"), "{refused}");
    }

    #[test]
    fn members_know_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (plan, _claims) = Plan::at(dir.path(), &args(None, None)).unwrap();
        let config = plan.config(dir.path(), 1, Path::new("/bin"));
        let partners = [0, 2].map(|i| format!("127.0.0.1:{}", plan.nodes[i].raft));
        assert_eq!(config["raft"]["partner_addrs"], json!(partners));
        assert!(config["bootstrap"]["dcs"].get("ttl").is_none());
        assert_eq!(plan.psql().matches("127.0.0.1").count(), 3);
    }
}
