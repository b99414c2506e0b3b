//! No second agent on one data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::config::beside;
use crate::disk::make_dirs;
use crate::os_user;
use crate::{ErrorKind, PgError, Result};

/// Held for the life of an agent; the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Blocking, for the start of the program.
    pub fn acquire(data_dir: &Path) -> Result<DataDirLock> {
        let dir = real_path(data_dir);
        let path = beside(&dir, ".surus.lock");
        if let Some(parent) = dir.parent() {
            make_dirs(parent, os_user::run_as(data_dir)?.as_ref())?;
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path);
        let (mut file, named) = match opened {
            Ok(file) => (file, true),
            // A parent that is not ours to write to: the directory itself can be locked too, it only cannot say by whom.
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                (File::open(&dir).map_err(|e| PgError::io("open for locking", &dir, &e))?, false)
            }
            Err(e) => return Err(PgError::io("open the lock file", &path, &e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                if named {
                    let _ = file.read_to_string(&mut holder);
                }
                let holder = match holder.trim() {
                    "" => "another agent".to_owned(),
                    pid => format!("another agent, process {pid},"),
                };
                return Err(PgError::new(
                    ErrorKind::Locked,
                    format!(
                        "{holder} already manages {}; stop it first, or give this one another data_dir",
                        data_dir.display()
                    ),
                ));
            }
            Err(e) => return Err(PgError::io("lock", &path, &e)),
        }
        if named {
            let write = |file: &mut File| -> io::Result<()> {
                file.set_len(0)?;
                file.rewind()?;
                write!(file, "{}", std::process::id())
            };
            write(&mut file).map_err(|e| PgError::io("write", &path, &e))?;
        }
        Ok(DataDirLock { _file: file })
    }
}

/// The same name for every way to the directory, whether it exists yet or not.
fn real_path(data_dir: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(data_dir) {
        return real;
    }
    match (data_dir.parent().and_then(|p| fs::canonicalize(p).ok()), data_dir.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = DataDirLock::acquire(&data).unwrap();
        fs::create_dir(&data).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        for way in [&data, &link] {
            let error = DataDirLock::acquire(way).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Locked);
            assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        }
        drop(first);
        DataDirLock::acquire(&link).unwrap();
    }
}
