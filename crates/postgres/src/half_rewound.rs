//! A rewind that broke off leaves files of two servers under a control file that says nothing of it. Such a directory may
//! even start, with blocks of a history that it then leaves: nothing would notice but those who read them.
//!
//! So before anything is copied it is written beside the data directory where the two histories part. Until a rewind is
//! done the server is not started. Only a primary that left this server's past there or before can mend it: a later
//! one's comparison would leave out blocks that were copied already.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use surus_core::Lsn;
use surus_core::postgres::ControlState;

use crate::bootstrap::SYNC_LIMIT;
use crate::conf_write::{read_if_there, remove_if_there};
use crate::config::beside;
use crate::control::quick_state;
use crate::disk::{IO_LIMIT, blocking, sync_parent, sync_trees};
use crate::instance::Instance;
use crate::{PgError, Result};

/// What such a directory is good for.
pub(crate) const HINT: &str = "a pg_rewind broke off here and left files of two servers: it has to be rewound again, from a \
                               primary that left this history at the same place or before, or to be made anew (`surus reinit`)";

fn marker(data_dir: &Path) -> PathBuf {
    beside(data_dir, ".surus.rewinding")
}

/// Tells this control file from the one of a copy that replaced the directory since. `pg_rewind` writes into it.
fn identity(data_dir: &Path) -> io::Result<String> {
    let file = fs::metadata(data_dir.join("global/pg_control"))?;
    let born = file.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(format!("{}:{}", file.ino(), born.as_nanos()))
}

fn read(data_dir: &Path) -> Result<Option<Lsn>> {
    let Some(text) = read_if_there(&marker(data_dir))? else { return Ok(None) };
    let same = |of: &str| identity(data_dir).is_ok_and(|is| is == of);
    let parsed = text.trim().split_once(' ').filter(|(_, of)| same(of));
    Ok(parsed.and_then(|(fork, _)| fork.parse().ok()))
}

/// Blocking. A directory beside which nothing can be written is rewound all the same.
pub(crate) fn begin(data_dir: &Path, fork: Lsn) -> Result<()> {
    let path = marker(data_dir);
    let staged = beside(&path, ".new");
    let write = || {
        let mut file = File::create(&staged)?;
        writeln!(file, "{fork} {}", identity(data_dir)?)?;
        file.sync_all()?;
        fs::rename(&staged, &path)
    };
    match write() {
        Ok(()) => sync_parent(&path),
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            tracing::warn!(
                "{} cannot be written ({e}): should this rewind break off, nothing will tell",
                path.display()
            );
        }
        Err(e) => return Err(PgError::io("write", &path, &e)),
    }
    Ok(())
}

/// Blocking.
pub(crate) fn end(data_dir: &Path) -> Result<()> {
    remove_if_there(&marker(data_dir))?;
    sync_parent(&marker(data_dir));
    Ok(())
}

impl Instance {
    /// Where the histories parted for the sake of which a rewind was begun that broke off.
    pub(crate) async fn half_rewound(&self) -> Result<Option<Lsn>> {
        let dir = self.config().data_dir.clone();
        let look = {
            let dir = dir.clone();
            move || Ok(read(&dir)?.map(|fork| (fork, quick_state(&dir))))
        };
        let found = blocking("looking for a rewind that broke off", IO_LIMIT, look).await?;
        let Some((fork, state)) = found else { return Ok(None) };
        // It is begun on a server that was shut down, and the control file is the last that it writes.
        let clean = [ControlState::ShutDown, ControlState::ShutDownInRecovery];
        if state.is_none_or(|state| clean.contains(&state)) {
            return Ok(Some(fork));
        }
        let finish = move || sync_trees(&dir).and_then(|()| end(&dir));
        blocking("forcing the rewound data directory to disk", SYNC_LIMIT, finish).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_about_one_directory_only() {
        let root = tempfile::tempdir().unwrap();
        let data = |name: &str| {
            let dir = root.path().join(name);
            fs::create_dir_all(dir.join("global")).unwrap();
            fs::write(dir.join("global/pg_control"), "x").unwrap();
            dir
        };
        let dir = data("data");
        assert_eq!(read(&dir).unwrap(), None);
        begin(&dir, Lsn(0x1_0000_0010)).unwrap();
        assert_eq!(read(&dir).unwrap(), Some(Lsn(0x1_0000_0010)));
        fs::write(dir.join("global/pg_control"), "y").unwrap();
        assert_eq!(read(&dir).unwrap(), Some(Lsn(0x1_0000_0010)), "written into");
        let copy = data("copy");
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(copy, &dir).unwrap();
        assert_eq!(read(&dir).unwrap(), None, "a new copy is whole");
        end(&dir).unwrap();
        end(&dir).unwrap();
    }
}
