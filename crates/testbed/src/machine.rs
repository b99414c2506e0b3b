//! What this machine has: PostgreSQL's and etcd's binaries, and the user PostgreSQL runs as.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

#[derive(Clone, Debug)]
pub struct Machine {
    /// Directory of the newest PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// Set when we are root: uid and gid of `postgres`, as which PostgreSQL runs then.
    pub postgres: Option<(u32, u32)>,
}

impl Machine {
    pub fn look() -> Result<Machine> {
        let root = rustix::process::geteuid().is_root();
        let postgres = if root { Some(user("postgres")?) } else { None };
        // Runs every test on another PostgreSQL than the machine's.
        let bin_dir = env::var_os("TESTBED_PG_BIN").map_or_else(postgres_bin_dir, |dir| Ok(PathBuf::from(dir)))?;
        Ok(Machine { bin_dir, postgres })
    }

    /// A directory PostgreSQL may write to.
    pub fn directory(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        self.give(path)
    }

    /// Makes it PostgreSQL's when that is another user than ours.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.postgres {
            chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} to postgres", path.display()))?;
        }
        Ok(())
    }

    /// Runs one of PostgreSQL's programs to its end, or another one, as PostgreSQL's user; its standard output.
    pub fn run(&self, program: &str, args: &[&str], dir: &Path) -> Result<String> {
        let own = self.bin_dir.join(program);
        let mut command = Command::new(if own.is_file() { own } else { program.into() });
        command.args(args).current_dir(dir).stdin(Stdio::null());
        if let Some((uid, gid)) = self.postgres {
            command.uid(uid).gid(gid);
        }
        let output = command.output().with_context(|| format!("cannot run {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The programs of a PostgreSQL of at least that major version: the machine's, or what `cargo xtask install` has
    /// unpacked; else why there is none.
    pub fn postgres(&self, major: u32) -> Result<PathBuf> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let unpacked = target.join(format!("postgresql-{major}/usr/lib/postgresql/{major}/bin"));
        let newer = (major..major + 10).map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
        let bin_dir = newer
            .chain(unpacked.canonicalize())
            .find(|dir| dir.join("postgres").is_file())
            .with_context(|| format!("no PostgreSQL {major}; `cargo xtask install` unpacks one where it can be had"))?;
        if self.postgres.is_some()
            && let Some(closed) = bin_dir.ancestors().find(|dir| !passes(dir))
        {
            bail!(
                "PostgreSQL in {} cannot be run by postgres: {} is closed to it",
                bin_dir.display(),
                closed.display()
            );
        }
        Ok(bin_dir)
    }

    /// The machine's, or what `cargo xtask install` has unpacked.
    pub fn consul() -> Result<PathBuf> {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/consul/usr/bin/consul");
        on_path("consul")
            .or_else(|| Some(unpacked).filter(|path| path.is_file()))
            .context("there is no Consul server; `cargo xtask install` unpacks one")
    }

    /// Java, and the classes to run: the package's jar names the others it needs itself. Its scripts insist on a user and
    /// directories of their own.
    pub fn zookeeper() -> Result<(PathBuf, String)> {
        let how = "`cargo xtask install` installs it (Debian: apt-get install zookeeper)";
        let jar = Path::new("/usr/share/java/zookeeper.jar");
        ensure!(jar.is_file(), "ZooKeeper is not installed; {how}");
        let java = on_path("java").with_context(|| format!("Java is not installed; {how}"))?;
        Ok((java, format!("{}:/usr/share/java/slf4j-simple.jar", jar.display())))
    }

    pub fn etcd() -> Result<PathBuf> {
        on_path("etcd")
            .context("etcd is not installed; `cargo xtask install` installs it (Debian: apt-get install etcd-server)")
    }
}

/// Everybody may pass through.
fn passes(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 != 0)
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
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
    newest
        .or_else(|| on_path("postgres")?.parent().map(Path::to_path_buf))
        .context("PostgreSQL is not installed; `cargo xtask install` installs it (Debian: apt-get install postgresql)")
}

fn user(name: &str) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [n, _, uid, gid, ..] = fields[..]
            && n == name
        {
            return Ok((uid.parse()?, gid.parse()?));
        }
    }
    bail!(
        "there is no user {name}, as which PostgreSQL is to run when we are root; Debian's postgresql package creates it"
    )
}
