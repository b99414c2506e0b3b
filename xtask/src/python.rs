//! Programs from the Python package index that the tests use: each in a virtual environment of its own under `target/`,
//! every version pinned. Where the index is, pip's own configuration says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

pub struct Environment {
    name: &'static str,
    what_for: &'static str,
    pinned: &'static str,
}

pub const ALL: &[Environment] = &[
    Environment {
        name: "patroni",
        what_for: "the tests of mixed clusters",
        pinned: include_str!("../../crates/testbed/patroni.txt"),
    },
    Environment {
        name: "schemathesis",
        what_for: "the test of the REST API against its document",
        pinned: include_str!("../../crates/testbed/schemathesis.txt"),
    },
];

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

impl Environment {
    /// Does nothing when the environment is whole and of the pinned versions.
    pub fn install(&self) -> Result<()> {
        let Environment { name, what_for, pinned } = self;
        let home = run::root().join("target").join(name);
        // Written last: an environment that was interrupted in the making lacks it.
        let stamp = home.join("pinned.txt");
        let whole = || fs::read_to_string(&stamp).is_ok_and(|text| text == *pinned) && self.works(&home);
        if whole() {
            return Ok(());
        }
        println!("installing {name} for {what_for} into {}", home.display());
        if home.exists() {
            fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
        }
        let mut venv = Command::new(python());
        run::step("virtual environment", venv.args(["-m", "venv"]).arg(&home).stdin(Stdio::null()))?;
        let list = run::root().join(format!("crates/testbed/{name}.txt"));
        let mut pip = Command::new(home.join("bin/pip"));
        pip.args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "-r"]).arg(&list);
        // What pip builds from source is built by the pinned setuptools as well.
        pip.env("PIP_CONSTRAINT", &list).stdin(Stdio::null());
        run::step(&format!("{name} from the Python package index"), &mut pip).with_context(|| {
            format!("{name} could not be installed; {what_for} needs it, and pip a package index that it can reach")
        })?;
        if !self.works(&home) {
            bail!("{} does not run; remove {} and try again", home.join("bin").join(name).display(), home.display());
        }
        fs::write(&stamp, pinned).with_context(|| format!("cannot write {}", stamp.display()))
    }

    fn works(&self, home: &Path) -> bool {
        let mut look = Command::new(home.join("bin").join(self.name));
        look.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        look.status().is_ok_and(|status| status.success())
    }
}
