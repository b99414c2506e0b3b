//! Files and directories, always with a time limit and always owned by PostgreSQL's user.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use surus_core::slots::Room;

use crate::config::beside;
use crate::os_user::OsUser;
use crate::{ErrorKind, PgError, Result};

/// For anything that touches a few small files.
pub(crate) const IO_LIMIT: Duration = Duration::from_secs(10);

/// Runs `work` on a thread that may hang on a dead disk without its caller hanging too.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(e)) => Err(PgError::new(ErrorKind::Io, format!("{what}: the work ended abnormally: {e}"))),
        Err(_) => Err(PgError::new(
            ErrorKind::TimedOut,
            format!("{what}: no answer from the file system within {limit:?}; check the disk"),
        )),
    }
}

pub(crate) fn give_to(path: &Path, user: Option<&OsUser>) -> Result<()> {
    match user {
        Some(u) => {
            chown(path, Some(u.uid), Some(u.gid)).map_err(|e| PgError::io("hand to PostgreSQL's user", path, &e))
        }
        None => Ok(()),
    }
}

/// 0600, or 0640 where the data directory is readable by its group.
pub(crate) fn file_mode(data_dir: &Path) -> u32 {
    match fs::metadata(data_dir) {
        Ok(meta) if meta.mode() & 0o050 == 0o050 => 0o640,
        _ => 0o600,
    }
}

/// Replaces a file as a whole: a reader, or a crash, sees the old or the new text. `false` if it was the same already.
pub(crate) fn replace_file(path: &Path, text: &str, mode: u32, user: Option<&OsUser>) -> Result<bool> {
    let same = fs::read(path).is_ok_and(|old| old == text.as_bytes());
    if same && fs::metadata(path).is_ok_and(|m| m.mode() & 0o777 == mode) {
        return Ok(false);
    }
    // A configuration file may be a link to where an operator keeps it; the link stays.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let staged = beside(&target, ".surus.new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&staged) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|e| PgError::io("write", &staged, &e))?;
    give_to(&staged, user)?;
    fs::rename(&staged, &target).map_err(|e| PgError::io("replace", &target, &e))?;
    sync_parent(&target);
    Ok(!same)
}

/// What the file system that holds a directory has.
pub async fn room(dir: &Path) -> Result<Room> {
    let dir = dir.to_owned();
    blocking("looking at the free space of a disk", IO_LIMIT, move || {
        let stat = rustix::fs::statvfs(&dir).map_err(|e| PgError::io("look at the disk of", &dir, &e))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Room { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    })
    .await
}

pub(crate) fn sync_parent(path: &Path) {
    if let Some(dir) = path.parent().and_then(|p| File::open(p).ok()) {
        // Durability of the rename; that it could not be forced is no reason to fail what is done already.
        let _ = dir.sync_all();
    }
}

/// Creates missing directories, each 0700 and PostgreSQL's.
pub(crate) fn make_dirs(path: &Path, user: Option<&OsUser>) -> Result<()> {
    let mut missing: Vec<&Path> = Vec::new();
    for dir in path.ancestors().take_while(|d| !d.as_os_str().is_empty()) {
        match fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => break,
            Ok(_) => return Err(PgError::io("use as a directory", dir, &"a file of that name is in the way")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(dir),
            Err(e) => return Err(PgError::io("look at", dir, &e)),
        }
    }
    for dir in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => give_to(dir, user)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(PgError::io("create directory", dir, &e)),
        }
    }
    Ok(())
}

/// Forces everything written below `paths` to disk with one call for each file system: as durable as syncing file by
/// file, and several times faster for a fresh data directory.
pub(crate) fn sync_trees(data_dir: &Path) -> Result<()> {
    let mut done: Vec<u64> = Vec::new();
    for path in std::iter::once(data_dir.to_owned()).chain(linked_dirs(data_dir)) {
        let dir = File::open(&path).map_err(|e| PgError::io("open", &path, &e))?;
        let dev = dir.metadata().map_err(|e| PgError::io("look at", &path, &e))?.dev();
        if !done.contains(&dev) {
            rustix::fs::syncfs(&dir).map_err(|e| PgError::io("force to disk", &path, &e))?;
            done.push(dev);
        }
    }
    Ok(())
}

/// Where the links of a data directory point to: `pg_wal` and tablespaces.
pub(crate) fn linked_dirs(data_dir: &Path) -> Vec<PathBuf> {
    let tablespaces = fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten().flatten().map(|e| e.path());
    let numeric = |p: &PathBuf| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    std::iter::once(data_dir.join("pg_wal"))
        .chain(tablespaces.filter(numeric))
        .filter(|p| p.is_symlink())
        .filter_map(|p| fs::canonicalize(p).ok())
        .collect()
}

/// Removes what is in a directory and leaves the directory.
pub(crate) fn clear_dir(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(PgError::io("list", dir, &e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| PgError::io("list", dir, &e))?.path();
        let real_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        let removed = if real_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(PgError::io("remove", &path, &e)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether `dir` cannot be renamed because something is mounted on it or it is a link.
pub(crate) fn pinned(dir: &Path) -> bool {
    let Ok(meta) = fs::symlink_metadata(dir) else { return false };
    if meta.is_symlink() {
        return true;
    }
    let parent = dir.parent().and_then(|p| fs::metadata(p).ok());
    parent.is_some_and(|p| p.dev() != meta.dev()) || is_mount_point(dir)
}

fn is_mount_point(dir: &Path) -> bool {
    let Ok(real) = fs::canonicalize(dir) else { return false };
    // A bind mount has the device of its parent, so the mount table is asked too.
    fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|t| t.lines().any(|l| l.split(' ').nth(4).is_some_and(|m| Path::new(m) == real)))
}

/// The last lines of a text, for error messages.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The end of a file, read from `from` but no more than 16 KiB.
pub(crate) fn file_tail(path: &Path, from: u64, lines: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let start = if from <= len { from } else { 0 };
        file.seek(SeekFrom::Start(start.max(len.saturating_sub(16 * 1024))))?;
        let mut bytes = Vec::new();
        file.take(16 * 1024).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    tail(&read().unwrap_or_default(), lines)
}
