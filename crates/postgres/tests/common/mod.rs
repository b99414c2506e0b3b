//! A real PostgreSQL for each test, in a directory of its own, gone when the test is over.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use surus_core::cluster::Upstream;
use surus_core::postgres::Progress;
use surus_postgres::{Credentials, Instance, InstanceConfig, StartAs};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const LIMIT: Duration = Duration::from_secs(30);

/// The newest PostgreSQL of this machine.
pub fn bin_dir() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin"))
        .filter(|p| p.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL is missing; install it: apt-get install -y postgresql")
}

/// Below the range the system hands out by itself, so that nobody takes it between this and the server's start.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(step % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory with room for several nodes. Dropped: every server in it is ended, then it is removed.
pub struct Site {
    dir: Option<tempfile::TempDir>,
}

impl Site {
    pub fn new() -> Site {
        // PostgreSQL's user has to get in, and the path has to leave room for a socket's name.
        let dir = tempfile::Builder::new().prefix("spg").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            let (uid, gid) = postgres_ids();
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        Site { dir: Some(dir) }
    }

    pub fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    pub fn config(&self, name: &str) -> InstanceConfig {
        let data_dir = self.path().join(name);
        let port = free_port();
        let login = |user: &str, password: &str| Credentials {
            username: user.into(),
            password: Some(password.into()),
            options: BTreeMap::new(),
        };
        let mut parameters: BTreeMap<String, String> = [
            ("listen_addresses", "127.0.0.1"),
            ("cluster_name", "testing"),
            ("wal_level", "replica"),
            ("wal_log_hints", "on"),
            ("hot_standby", "on"),
            ("max_connections", "30"),
            ("shared_buffers", "16MB"),
            ("wal_keep_size", "128MB"),
            ("min_wal_size", "32MB"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        parameters.insert("port".into(), port.to_string());
        parameters.insert("unix_socket_directories".into(), self.path().display().to_string());
        InstanceConfig {
            config_dir: data_dir.clone(),
            data_dir,
            bin_dir: Some(bin_dir()),
            listen_addresses: "127.0.0.1".into(),
            port,
            database: "postgres".into(),
            use_unix_socket: true,
            unix_socket_directories: Some(self.path().display().to_string()),
            superuser: login("postgres", "it's super"),
            replication: login("replicator", "rep:pass"),
            rewind: Some(login("rewinder", "back\\slash")),
            pgpass: self.path().join(format!("{name}.pgpass")),
            cluster_name: "testing".into(),
            member: name.into(),
            command_line: vec![("max_connections".into(), "30".into()), ("port".into(), port.to_string())],
            parameters,
            pg_hba: Some(vec![
                "local all all scram-sha-256".into(),
                "host all all 127.0.0.1/32 scram-sha-256".into(),
                "local replication all scram-sha-256".into(),
                "host replication replicator 127.0.0.1/32 scram-sha-256".into(),
            ]),
            initdb_options: vec!["--data-checksums".into(), "--auth=scram-sha-256".into(), "--encoding=UTF8".into()],
            server_log: Some(self.path().join(format!("{name}.log"))),
            ..InstanceConfig::default()
        }
    }

    pub fn instance(&self, name: &str) -> Instance {
        Instance::new(self.config(name))
    }

    pub async fn primary(&self, name: &str) -> Instance {
        let instance = self.instance(name);
        instance.initdb(&CancellationToken::new()).await.unwrap();
        instance.start(&StartAs::Primary, LIMIT).await.unwrap();
        instance.create_roles().await.unwrap();
        instance
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // By what runs in our directory and nowhere else; also after a panic.
        for _ in 0..100 {
            let pids = processes_in(self.path());
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                kill(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for entry in fs::read_dir(self.path()).unwrap().flatten() {
            surus_postgres::release_shared_memory(&entry.path());
        }
        self.dir.take();
    }
}

pub fn processes_in(dir: &Path) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let alive = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
            let at = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
            let named = fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|c| String::from_utf8_lossy(&c).contains(dir.to_string_lossy().as_ref()));
            alive && (at || named)
        })
        .collect()
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn postgres_ids() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line =
        passwd.lines().find(|l| l.starts_with("postgres:")).expect("user postgres: apt-get install -y postgresql");
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

pub fn upstream(of: &Instance) -> Upstream {
    let config = of.config();
    Upstream { name: config.member.clone(), host: "127.0.0.1".into(), port: config.port, remote: false }
}

pub fn no_progress() -> watch::Sender<Option<Progress>> {
    watch::channel(None).0
}

/// Asks until the answer is right.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !ask().await {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn one(instance: &Instance, sql: &str) -> String {
    let rows = instance.query(sql, LIMIT).await.unwrap();
    rows[0][0].clone().unwrap_or_default()
}
