//! A data directory that somebody else's program fills where it is to be.
//!
//! Such a program may know the path by itself, and may remove what it does not know, so neither can the work be done
//! elsewhere and renamed nor can a marker lie within. The marker lies beside: as long as it is there the directory counts
//! as empty, whatever is in it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::conf_write::remove_if_there;
use crate::config::beside;
use crate::disk::{give_to, make_dirs, pinned, sync_parent, sync_trees};
use crate::os_user::OsUser;
use crate::proc_fs::start_ticks;
use crate::staging::{Content, clear_tree, content};
use crate::user_command::kill_tree;
use crate::{ErrorKind, PgError, Result};

pub(crate) fn marker(data_dir: &Path) -> PathBuf {
    beside(data_dir, ".surus.creating")
}

#[derive(Clone, Debug)]
pub(crate) struct InPlace {
    data_dir: PathBuf,
    /// Holds the process that fills the directory, once there is one.
    pub marker: PathBuf,
    keep: bool,
}

impl InPlace {
    /// `keep`: what is there is made use of. Otherwise a directory that holds anything is refused. Blocking.
    pub fn begin(data_dir: &Path, keep: bool, user: Option<&OsUser>) -> Result<InPlace> {
        let marker = marker(data_dir);
        end_former(data_dir);
        match content(data_dir).map_err(|e| PgError::io("list", data_dir, &e))? {
            Content::Something(_) if !keep => {
                return Err(PgError::new(
                    ErrorKind::Refused,
                    format!(
                        "{} is not empty; nothing is created over existing files: move them away first",
                        data_dir.display()
                    ),
                ));
            }
            Content::Unfinished if !keep => {
                tracing::warn!("removing what an interrupted attempt left in {}", data_dir.display());
                clear_tree(data_dir)?;
            }
            _ => {}
        }
        if let Some(parent) = data_dir.parent() {
            make_dirs(parent, user)?;
        }
        fs::write(&marker, "").map_err(|e| PgError::io("write", &marker, &e))?;
        sync_parent(&marker);
        if !data_dir.exists() {
            let made = fs::DirBuilder::new().mode(0o700).create(data_dir);
            made.map_err(|e| PgError::io("create directory", data_dir, &e))?;
            give_to(data_dir, user)?;
        }
        Ok(InPlace { data_dir: data_dir.to_owned(), marker, keep })
    }

    /// Whether a data directory has come of it. Blocking.
    pub fn check(&self, what: &str) -> Result<()> {
        for file in ["PG_VERSION", "global/pg_control"] {
            if !self.data_dir.join(file).exists() {
                return Err(PgError::new(
                    ErrorKind::Tool,
                    format!(
                        "{what} ended well, but {} has no {file}; does it fill another directory?",
                        self.data_dir.display()
                    ),
                ));
            }
        }
        let mode = fs::metadata(&self.data_dir).map_or(0o700, |m| m.mode());
        if mode & 0o027 != 0 {
            // The server does not start in one that others can enter.
            let closed = fs::set_permissions(&self.data_dir, fs::Permissions::from_mode(0o700));
            closed.map_err(|e| PgError::io("close to others", &self.data_dir, &e))?;
        }
        sync_trees(&self.data_dir)
    }

    /// From now on it counts. Blocking.
    pub fn commit(&self) -> Result<()> {
        remove_if_there(&self.marker)?;
        sync_parent(&self.marker);
        Ok(())
    }

    /// Removes what was made, unless that is to be gone on with: then the marker stays. Blocking.
    pub fn abort(&self) -> Result<()> {
        if self.keep {
            return Ok(());
        }
        clear_tree(&self.data_dir)?;
        if !pinned(&self.data_dir) {
            let _ = fs::remove_dir(&self.data_dir);
        }
        self.commit()
    }
}

/// The program of an agent that was killed goes on by itself, and would write into what the next one makes.
pub(crate) fn end_former(data_dir: &Path) {
    let Ok(text) = fs::read_to_string(marker(data_dir)) else { return };
    let mut numbers = text.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
    let (Some(pid), Some(ticks)) = (numbers.next().and_then(|p| i32::try_from(p).ok()), numbers.next()) else { return };
    if start_ticks(pid) == Some(ticks) {
        tracing::warn!("ending process {pid}, which an earlier agent had fill the data directory");
        kill_tree(pid);
    }
}

/// As [`InPlace::begin`] finds it again.
pub(crate) fn note_process(marker: &Path, pid: u32) -> io::Result<()> {
    let ticks = i32::try_from(pid).ok().and_then(start_ticks).unwrap_or_default();
    fs::write(marker, format!("{pid} {ticks}\n"))
}

/// For a directory that goes away.
pub(crate) fn forget(data_dir: &Path) -> Result<()> {
    remove_if_there(&marker(data_dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_made_counts_as_empty() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        let making = InPlace::begin(&data, false, None).unwrap();
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        assert!(matches!(content(&data), Ok(Content::Unfinished)));
        assert!(making.check("x").unwrap_err().to_string().contains("global/pg_control"));
        making.abort().unwrap();
        assert!(!data.exists() && !making.marker.exists());

        // The agent died in the middle, and the next attempt begins anew.
        InPlace::begin(&data, false, None).unwrap();
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        let making = InPlace::begin(&data, false, None).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        fs::create_dir(data.join("global")).unwrap();
        fs::write(data.join("global/pg_control"), "").unwrap();
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        making.check("x").unwrap();
        making.commit().unwrap();
        assert!(matches!(content(&data), Ok(Content::Something(_))));
        assert_eq!(InPlace::begin(&data, false, None).unwrap_err().kind, ErrorKind::Refused);
        assert!(!making.marker.exists(), "refused before anything was changed");
    }

    #[test]
    fn a_method_that_keeps_data_goes_on_with_it() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        for _ in 0..2 {
            let making = InPlace::begin(&data, true, None).unwrap();
            assert!(data.join("PG_VERSION").exists());
            making.abort().unwrap();
            assert!(data.join("PG_VERSION").exists());
            assert!(matches!(content(&data), Ok(Content::Unfinished)), "what is half changed must not be started");
        }
        // Another method begins with nothing.
        InPlace::begin(&data, false, None).unwrap().abort().unwrap();
        assert!(!data.exists());
    }

    #[test]
    fn the_program_of_a_killed_agent_is_ended() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        let making = InPlace::begin(&data, false, None).unwrap();
        let mut child = std::process::Command::new("sleep").arg("985").spawn().unwrap();
        note_process(&making.marker, child.id()).unwrap();
        InPlace::begin(&data, false, None).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
