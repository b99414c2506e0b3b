//! What a member keeps of a move, beside the data directory: the section of the new store, which the configuration does
//! not have yet. It has secrets in it, so it is for its owner alone.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    pub id: String,
    /// The old store said that the new one counts.
    pub arrived: bool,
    /// What the configuration named as the store then, without its secrets: to tell a file that was not changed yet from one
    /// that was.
    pub from: String,
    /// One section, by its name.
    pub section: Value,
}

pub fn path(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".surus.store");
    name.into()
}

pub fn read(path: &Path) -> Result<Option<Stored>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
            format!(
                "{} is to tell which store the cluster was moved to, and cannot be understood ({e}): name the store in use \
                 in the configuration and remove this file",
                path.display()
            )
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{} cannot be read: {e}", path.display())),
    }
}

/// Whoever is killed in the middle of it leaves the old text or the new one.
pub fn write(path: &Path, stored: &Stored) -> Result<(), String> {
    let new = path.with_extension("store.new");
    let written = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        if let Some(parent) = path.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    written().map_err(|e| format!("{} cannot be written: {e}", path.display()))
}

pub fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{} cannot be removed: {e}", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_kept_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(&dir.path().join("data"));
        assert_eq!(read(&path), Ok(None));
        let stored = Stored {
            id: "m1".into(),
            arrived: false,
            from: "Raft".into(),
            section: serde_json::json!({"etcd3": {"password": "x"}}),
        };
        write(&path, &stored).unwrap();
        write(&path, &Stored { arrived: true, ..stored.clone() }).unwrap();
        assert_eq!(read(&path), Ok(Some(Stored { arrived: true, ..stored })));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().contains("remove this file"));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path), Ok(None));
    }
}
