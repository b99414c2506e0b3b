//! Patroni, from the Python package index, for the tests of mixed clusters: in a virtual environment of its own under
//! `target/`, every version pinned. Where the index is, pip's own configuration says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

const PINNED: &str = include_str!("../../crates/testbed/patroni.txt");

/// The system's own comes first: Patroni runs as `postgres`, who cannot reach an interpreter in somebody's home.
fn python() -> PathBuf {
    let system = Path::new("/usr/bin/python3");
    if system.is_file() { system.to_owned() } else { PathBuf::from("python3") }
}

pub fn python_present() -> bool {
    let mut look = Command::new(python());
    look.args(["-c", "import venv, ensurepip"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    look.status().is_ok_and(|status| status.success())
}

/// Does nothing when the environment is whole and of the pinned versions.
pub fn install() -> Result<()> {
    let home = run::root().join("target/patroni");
    // Written last: an environment that was interrupted in the making lacks it.
    let stamp = home.join("pinned.txt");
    let whole = || fs::read_to_string(&stamp).is_ok_and(|text| text == PINNED) && works(&home);
    if whole() {
        return Ok(());
    }
    println!("installing Patroni for the tests into {}", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    let mut venv = Command::new(python());
    run::step("virtual environment", venv.args(["-m", "venv"]).arg(&home).stdin(Stdio::null()))?;
    let pinned = run::root().join("crates/testbed/patroni.txt");
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "-r"]).arg(&pinned);
    // What pip builds from source is built by the pinned setuptools as well.
    pip.env("PIP_CONSTRAINT", &pinned).stdin(Stdio::null());
    run::step("Patroni from the Python package index", &mut pip).context(
        "Patroni could not be installed; the tests of mixed clusters need it, and pip a package index that it can reach",
    )?;
    if !works(&home) {
        bail!("{} does not run; remove {} and try again", home.join("bin/patroni").display(), home.display());
    }
    fs::write(&stamp, PINNED).with_context(|| format!("cannot write {}", stamp.display()))
}

fn works(home: &Path) -> bool {
    let mut look = Command::new(home.join("bin/patroni"));
    look.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    look.status().is_ok_and(|status| status.success())
}
