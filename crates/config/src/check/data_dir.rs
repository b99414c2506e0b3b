//! Whether the data directory is one this member can begin with.

use std::fs;
use std::io::ErrorKind;

use super::Checks;
use super::bin_dir::major_of;

const KEY: &str = "postgresql.data_dir";

impl Checks<'_> {
    pub(super) fn data_dir(&mut self, executables: Option<String>) {
        let dir = &self.config.postgresql.data_dir;
        let shown = dir.display();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return,
            Err(e) => {
                let message =
                    format!("{shown} cannot be looked into: {e}; it has to be a directory of the user Surus runs as");
                return self.error(KEY, message);
            }
        };
        let names: Vec<String> =
            entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect();
        if names.iter().all(|n| n.starts_with('.') || n == "lost+found") {
            return;
        }
        let Some(version) = major_of(dir) else {
            let message = format!(
                "{shown} is not empty and no data directory of PostgreSQL (it has no PG_VERSION); nothing in it will be \
                 touched, so empty it or name another"
            );
            return self.error(KEY, message);
        };
        let wal = if version.starts_with("9.") { "pg_xlog" } else { "pg_wal" };
        if !dir.join(wal).is_dir() {
            let message = format!("{shown} has a PG_VERSION but no {wal}; restore it or empty it for a new copy");
            return self.error(KEY, message);
        }
        if let Some(executables) = executables.filter(|e| *e != version) {
            let message = format!(
                "{shown} was made by PostgreSQL {version}, and the executables are of {executables}; set \
                 postgresql.bin_dir to those of {version}"
            );
            self.error(KEY, message);
        }
    }
}
