//! What the machine must have, how to see whether it has it, and the Debian packages that bring it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{consul, newer, python, run};

pub struct Need {
    what: &'static str,
    packages: &'static [&'static str],
    present: fn() -> bool,
}

const COMPILER: Need =
    Need { what: "a C compiler and linker", packages: &["build-essential"], present: || on_path("cc") };
const PROTOC: Need = Need {
    what: "protoc, for the etcd client",
    packages: &["protobuf-compiler"],
    present: || on_path("protoc") || env::var_os("PROTOC").is_some(),
};
// A package of its own: protoc without the well-known types fails in the middle of the build.
const PROTOBUF_TYPES: Need = Need {
    what: "the protobuf well-known types",
    packages: &["libprotobuf-dev"],
    present: || {
        env::var_os("PROTOC_INCLUDE").is_some()
            || ["/usr/include", "/usr/local/include"]
                .iter()
                .any(|dir| Path::new(dir).join("google/protobuf/empty.proto").exists())
    },
};
const POSTGRES: Need = Need {
    what: "the PostgreSQL server, version 13 or newer",
    packages: &["postgresql", "postgresql-contrib"],
    present: postgres_present,
};
const ETCD: Need = Need { what: "etcd", packages: &["etcd-server"], present: || on_path("etcd") };
const ZOOKEEPER: Need = Need {
    what: "ZooKeeper and Java",
    packages: &["zookeeper"],
    present: || on_path("java") && Path::new("/usr/share/java/zookeeper.jar").exists(),
};

const FAKETIME: Need =
    Need { what: "libfaketime, for clocks that jump", packages: &["faketime"], present: || on_path("faketime") };
const FILE_SYSTEM: Need = Need {
    what: "ext4 tools, for disks that are full or hang",
    packages: &["e2fsprogs"],
    present: || on_path("mkfs.ext4") || Path::new("/sbin/mkfs.ext4").exists(),
};
const BACKUP: Need =
    Need { what: "pgBackRest, for backups", packages: &["pgbackrest"], present: || on_path("pgbackrest") };
const TMUX: Need =
    Need { what: "tmux, for what is shown on a whole screen", packages: &["tmux"], present: || on_path("tmux") };
const PROMETHEUS: Need = Need {
    what: "Prometheus, for the alert rules and the dashboard",
    packages: &["prometheus"],
    present: || on_path("prometheus") && on_path("promtool"),
};
const BROWSER: Need = Need {
    what: "Chromium and its driver, for the web page",
    packages: &["chromium", "chromium-driver"],
    present: || on_path("chromium") && on_path("chromedriver"),
};
const PYTHON: Need = Need {
    what: "Python with venv, for Patroni and schemathesis",
    packages: &["python3-venv"],
    present: python::python_present,
};

pub const EVERYTHING: &[Need] = &[
    COMPILER,
    PROTOC,
    PROTOBUF_TYPES,
    POSTGRES,
    ETCD,
    ZOOKEEPER,
    FAKETIME,
    FILE_SYSTEM,
    BACKUP,
    TMUX,
    PROMETHEUS,
    BROWSER,
];
/// Patroni itself follows: it is no Debian package of the version that is compared with.
const PYTHON_PROGRAMS: &[Need] = &[PYTHON];
pub const DEMO: &[Need] = &[COMPILER, PROTOC, PROTOBUF_TYPES, POSTGRES];
pub const DEMO_WITH_ETCD: &[Need] = &[COMPILER, PROTOC, PROTOBUF_TYPES, POSTGRES, ETCD];
pub const BUILD: &[Need] = &[COMPILER, PROTOC, PROTOBUF_TYPES];

/// What the tests need: everything, programs in Python, a Consul server, and if possible a newer PostgreSQL.
pub fn install_for_tests() -> Result<()> {
    let needs: Vec<&Need> = EVERYTHING.iter().chain(PYTHON_PROGRAMS).collect();
    install_these(&needs)?;
    newer::postgres();
    consul::consul();
    python::ALL.iter().try_for_each(python::Environment::install)
}

/// Installs what is missing when it may; else says the one command that does. Touches nothing when all is there.
pub fn install(needs: &[Need]) -> Result<()> {
    install_these(&needs.iter().collect::<Vec<_>>())
}

fn install_these(needs: &[&Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().copied().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("missing on this machine:");
    for need in &missing {
        println!("  {} (Debian: {})", need.what, need.packages.join(" "));
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    let by_hand = format!("apt-get update && apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !on_path("apt-get") {
        bail!("this machine has no apt-get; install the above with its own package manager, then run this again");
    }
    let mut apt = match privilege() {
        Privilege::Root => Command::new("sh"),
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "sh"]);
            sudo
        }
        Privilege::None => {
            bail!("installing needs root; run this once, then the same command again:\n\n  sudo sh -c '{by_hand}'\n")
        }
    };
    apt.arg("-c").arg(INSTALL).arg("install").args(&packages);
    println!("installing them through apt-get");
    let status = apt.stdin(Stdio::null()).status()?;
    let still: Vec<&str> = missing.iter().filter(|need| !(need.present)()).map(|need| need.what).collect();
    if !status.success() || !still.is_empty() {
        let left = if still.is_empty() { String::new() } else { format!("; still missing: {}", still.join(", ")) };
        bail!("apt-get did not bring everything{left}\nto try by hand, as root:\n\n  {by_hand}\n");
    }
    Ok(())
}

/// Packages as arguments. Servers that come with a package are not started and no default cluster is created: only the
/// binaries are wanted, and the machine's ports stay as they were.
const INSTALL: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"; }
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  trap 'exit 130' INT TERM
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
fi
for package in "$@"; do
  if ! apt-cache policy "$package" 2>/dev/null | grep -q 'Candidate: [0-9]'; then update=yes; fi
done
if [ -n "$update" ]; then apt update; fi
wanted() { case " $* " in *" postgresql "*) return 0 ;; *) return 1 ;; esac; }
if wanted "$@" && [ ! -e /etc/postgresql-common ]; then
  apt install postgresql-common || { apt update; apt install postgresql-common; }
  sed -ri "s/^#? *create_main_cluster.*/create_main_cluster = false/" /etc/postgresql-common/createcluster.conf
fi
apt install "$@" || { apt update; apt install "$@"; }
"#;

enum Privilege {
    Root,
    Sudo,
    None,
}

fn privilege() -> Privilege {
    let quiet = |program: &str, args: &[&str]| {
        Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()
    };
    if quiet("id", &["-u"]).is_some_and(|out| out.stdout.trim_ascii() == b"0") {
        Privilege::Root
    } else if quiet("sudo", &["-n", "true"]).is_some_and(|out| out.status.success()) {
        Privilege::Sudo
    } else {
        Privilege::None
    }
}

pub fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Debian keeps the servers out of the path, in a directory for each major version.
fn postgres_present() -> bool {
    let complete = |dir: &Path| {
        ["postgres", "initdb", "pg_ctl", "pg_controldata", "pg_basebackup", "pg_rewind"]
            .iter()
            .all(|program| dir.join(program).is_file())
    };
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|major| major >= 13))
        .map(|entry| entry.path().join("bin"));
    let path: Vec<PathBuf> = env::var_os("PATH").map(|p| env::split_paths(&p).collect()).unwrap_or_default();
    debian.chain(path).any(|dir| complete(&dir))
}

/// Clippy and rustfmt are components of the toolchain, not packages.
pub fn toolchain(components: &[&str]) -> Result<()> {
    for component in components {
        let works = run::cargo(&[component, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !works {
            let name = if *component == "fmt" { "rustfmt" } else { component };
            bail!("the Rust toolchain lacks {name}; add it with: rustup component add {name}");
        }
    }
    Ok(())
}
