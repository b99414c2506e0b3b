//! Where the PostgreSQL executables are, and whether they are all there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Checks;

/// Debian and its descendants keep every major version in a directory of its own, none of them in PATH.
const VERSIONED: &str = "/usr/lib/postgresql";

const REQUIRED: [&str; 5] = ["postgres", "initdb", "pg_controldata", "pg_basebackup", "pg_ctl"];

/// The directory of the PostgreSQL executables: `bin_dir` if set; `None` if they are all in PATH; else Debian's
/// `/usr/lib/postgresql/<major>/bin`, of the data directory's major version if there is one, else the newest.
pub fn find_bin_dir(configured: Option<&Path>, data_dir: &Path, path_variable: Option<&str>) -> Option<PathBuf> {
    find_below(Path::new(VERSIONED), configured, data_dir, path_variable)
}

fn find_below(
    versioned: &Path,
    configured: Option<&Path>,
    data_dir: &Path,
    path_variable: Option<&str>,
) -> Option<PathBuf> {
    if let Some(dir) = configured.filter(|d| !d.as_os_str().is_empty()) {
        return Some(dir.to_owned());
    }
    // A wrapper or two in PATH are not an installation: all of them, or the versioned directories.
    if REQUIRED.iter().all(|tool| in_path(tool, path_variable).is_some()) {
        return None;
    }
    if let Some(major) = major_of(data_dir) {
        let dir = versioned.join(&major).join("bin");
        if dir.join("postgres").is_file() {
            return Some(dir);
        }
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(versioned)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let dir = entry.path().join("bin");
            let major = entry.file_name().to_str()?.split('.').next()?.parse().ok()?;
            dir.join("postgres").is_file().then_some((major, dir))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, dir)| dir)
}

fn in_path(name: &str, path_variable: Option<&str>) -> Option<PathBuf> {
    std::env::split_paths(path_variable?).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The content of `PG_VERSION`: `15`, or `9.6`.
pub(super) fn major_of(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(data_dir.join("PG_VERSION")).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

impl Checks<'_> {
    /// Returns the major version of `postgres`, if it can be asked.
    pub(super) fn executables(&mut self) -> Option<String> {
        let settings = &self.config.postgresql.settings;
        let path_variable = self.env.get("PATH").map(String::as_str);
        let configured = settings.bin_dir.as_deref();
        let dir = find_bin_dir(configured, &self.config.postgresql.data_dir, path_variable);
        if let Some(dir) = configured.filter(|d| !d.is_dir()) {
            let message = format!("{} is not a directory; give the one with postgres and initdb in it", dir.display());
            self.error("postgresql.bin_dir", message);
            return None;
        }
        let rewind = settings.use_pg_rewind == Some(true) || self.bootstrap_uses_rewind();
        let mut postgres = None;
        for tool in REQUIRED.into_iter().chain(rewind.then_some("pg_rewind")) {
            let name = settings.bin_name.as_ref().and_then(|names| names.get(tool)).map_or(tool, String::as_str);
            let file = match &dir {
                Some(dir) => Some(dir.join(name)).filter(|f| f.is_file()),
                None => in_path(name, path_variable),
            };
            if tool == "postgres" {
                postgres.clone_from(&file);
            }
            if file.is_none() {
                let searched = dir.as_ref().map_or("PATH".to_owned(), |d| d.display().to_string());
                let message = format!(
                    "there is no {name} in {searched}; install the PostgreSQL server package, or name the directory of \
                     its executables here"
                );
                self.error("postgresql.bin_dir", message);
            }
        }
        let postgres = postgres?;
        let version = Command::new(&postgres).arg("--version").output().ok().filter(|o| o.status.success());
        let major = version.and_then(|o| major_in(&String::from_utf8_lossy(&o.stdout)));
        if major.is_none() {
            let message = format!("`{} --version` does not tell a version; is it PostgreSQL?", postgres.display());
            self.error("postgresql.bin_dir", message);
        }
        major
    }

    fn bootstrap_uses_rewind(&self) -> bool {
        let dcs = self.config.bootstrap.as_ref().map(|b| &b.dcs);
        let value = dcs.and_then(|d| d.pointer("/postgresql/use_pg_rewind"));
        value.is_some_and(|v| v.as_bool().or_else(|| crate::parse_bool(v.as_str()?)).unwrap_or(false))
    }
}

/// From `postgres (PostgreSQL) 15.4 (Debian 15.4-1)`: `15`; before version 10 the first two numbers.
fn major_in(output: &str) -> Option<String> {
    let version = output.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let first: u32 = numbers.next()?.parse().ok()?;
    if first >= 10 { Some(first.to_string()) } else { Some(format!("{first}.{}", numbers.next()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("postgres (PostgreSQL) 15.4 (Debian 15.4-1.pgdg)", Some("15")),
            ("postgres (PostgreSQL) 18beta1", Some("18")),
            ("postgres (PostgreSQL) 9.6.24", Some("9.6")),
            ("something else", None),
        ] {
            assert_eq!(major_in(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_executables_of_the_data_directory_come_before_the_newest() {
        let root = tempfile::tempdir().unwrap();
        for major in ["9.6", "14", "15"] {
            let bin = root.path().join(major).join("bin");
            fs::create_dir_all(&bin).unwrap();
            fs::write(bin.join("postgres"), "").unwrap();
        }
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        let find = |configured: Option<&Path>, path: Option<&str>| find_below(root.path(), configured, &data, path);
        assert_eq!(find(None, None), Some(root.path().join("15/bin")));
        fs::write(data.join("PG_VERSION"), "14\n").unwrap();
        assert_eq!(find(None, None), Some(root.path().join("14/bin")));
        fs::write(data.join("PG_VERSION"), "12\n").unwrap();
        assert_eq!(find(None, None), Some(root.path().join("15/bin")));
        assert_eq!(find(Some(Path::new("/x")), None), Some(PathBuf::from("/x")));
        let path = root.path().join("14/bin");
        assert_eq!(find(None, path.to_str()), Some(root.path().join("15/bin")), "PATH has only one of them");
        for tool in REQUIRED {
            fs::write(path.join(tool), "").unwrap();
        }
        assert_eq!(find(None, path.to_str()), None, "PATH has them all");
        assert_eq!(find_below(&data, None, &data, None), None);
    }
}
