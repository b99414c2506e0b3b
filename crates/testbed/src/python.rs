//! Programs of the virtual environments that `cargo xtask install` makes.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// `variable` of the process environment names another directory for the virtual environment.
pub(crate) fn program(environment: &str, variable: &str, name: &str) -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target").join(environment);
    let home = env::var_os(variable).map_or(own, PathBuf::from);
    let program = home.join("bin").join(name);
    ensure!(program.is_file(), "{} is missing: `cargo xtask install` installs {environment}", program.display());
    Ok(program)
}

/// Makes requests from an OpenAPI document and compares the answers with it; `SURUS_SCHEMATHESIS` names another
/// environment.
pub fn schemathesis() -> Result<PathBuf> {
    program("schemathesis", "SURUS_SCHEMATHESIS", "schemathesis")
}
