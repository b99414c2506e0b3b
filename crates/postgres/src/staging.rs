//! A data directory comes into being elsewhere and is renamed into place when it is whole.
//!
//! Where it cannot be renamed (a mount point, a link, a parent we may not write to) it is filled in place, under a
//! marker: a directory with the marker in it counts as empty and is never started.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::beside;
use crate::disk::{clear_dir, give_to, linked_dirs, make_dirs, pinned, sync_parent, sync_trees};
use crate::in_place;
use crate::os_user::OsUser;
use crate::{ErrorKind, PgError, Result};

const MARKER: &str = "surus.copy_in_progress";

pub(crate) fn staged_path(data_dir: &Path) -> PathBuf {
    beside(data_dir, ".surus.new")
}

/// What a look at the directory itself tells. Blocking.
pub(crate) enum Content {
    Empty,
    /// A copy or `initdb` that was interrupted.
    Unfinished,
    Something(Vec<String>),
}

pub(crate) fn content(dir: &Path) -> io::Result<Content> {
    if in_place::marker(dir).try_exists()? {
        return Ok(Content::Unfinished);
    }
    unmarked_content(dir)
}

/// Without regard to a marker beside it.
pub(crate) fn unmarked_content(dir: &Path) -> io::Result<Content> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Content::Empty),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == MARKER {
            return Ok(Content::Unfinished);
        }
        if !name.starts_with('.') && name != "lost+found" {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(if names.is_empty() { Content::Empty } else { Content::Something(names) })
}

#[derive(Clone, Debug)]
pub(crate) struct Staging {
    data_dir: PathBuf,
    /// Where the tool is to write.
    pub work: PathBuf,
    in_place: bool,
    user: Option<OsUser>,
}

impl Staging {
    /// Removes what an interrupted attempt left. Refused when the data directory holds anything else. Blocking.
    pub fn begin(data_dir: &Path, user: Option<OsUser>) -> Result<Staging> {
        match content(data_dir).map_err(|e| PgError::io("list", data_dir, &e))? {
            Content::Empty => {}
            Content::Unfinished => {
                tracing::warn!("removing what an interrupted attempt left in {}", data_dir.display());
                in_place::end_former(data_dir);
                clear_tree(data_dir)?;
                in_place::forget(data_dir)?;
            }
            Content::Something(_) => {
                return Err(PgError::new(
                    ErrorKind::Refused,
                    format!(
                        "{} is not empty; nothing is created over existing files: move them away first",
                        data_dir.display()
                    ),
                ));
            }
        }
        if let Some(parent) = data_dir.parent() {
            make_dirs(parent, user.as_ref())?;
        }
        let work = staged_path(data_dir);
        let staged = !pinned(data_dir) && fresh_dir(&work, user.as_ref())?;
        if staged {
            return Ok(Staging { data_dir: data_dir.to_owned(), work, in_place: false, user });
        }
        make_dirs(data_dir, user.as_ref())?;
        Ok(Staging { work: data_dir.to_owned(), data_dir: data_dir.to_owned(), in_place: true, user })
    }

    /// For the time a tool fills the directory. The tools insist on an empty one to begin with, so the marker goes in
    /// right behind their first file. Never resolves.
    pub async fn keep_marked(&self) {
        if self.in_place {
            let (dir, marker) = (self.work.clone(), self.work.join(MARKER));
            while !matches!(content(&dir), Ok(Content::Something(_))) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if let Err(e) = fs::write(&marker, "")
                .map_err(|e| PgError::io("write", &marker, &e))
                .and_then(|()| give_to(&marker, self.user.as_ref()))
            {
                tracing::warn!("{e}");
            }
        }
        std::future::pending::<()>().await;
    }

    /// Makes it durable and puts it in place. Blocking.
    pub fn commit(self) -> Result<()> {
        sync_trees(&self.work)?;
        if self.in_place {
            let marker = self.work.join(MARKER);
            match fs::remove_file(&marker) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(PgError::io("remove", &marker, &e)),
                _ => {}
            }
            return sync_trees(&self.work);
        }
        // An "empty" directory may hold dot files; they move along.
        for entry in fs::read_dir(&self.data_dir).into_iter().flatten().flatten() {
            let to = self.work.join(entry.file_name());
            fs::rename(entry.path(), &to).map_err(|e| PgError::io("move to", &to, &e))?;
        }
        match fs::remove_dir(&self.data_dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(PgError::io("replace the empty directory", &self.data_dir, &e));
            }
            _ => {}
        }
        fs::rename(&self.work, &self.data_dir).map_err(|e| PgError::io("rename into place", &self.work, &e))?;
        sync_parent(&self.data_dir);
        Ok(())
    }

    /// Removes everything that was made. Blocking.
    pub fn abort(self) -> Result<()> {
        clear_tree(&self.work)?;
        if !self.in_place {
            let _ = fs::remove_dir(&self.work);
        }
        Ok(())
    }
}

/// A fresh directory of that name; `false` when its parent is not ours to write to.
fn fresh_dir(dir: &Path, user: Option<&OsUser>) -> Result<bool> {
    clear_tree(dir)?;
    let _ = fs::remove_dir(dir);
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => give_to(dir, user).map(|()| true),
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => Ok(false),
        Err(e) => Err(PgError::io("create directory", dir, &e)),
    }
}

/// Empties a data directory, its WAL directory and its tablespaces. Directories that links lead to stay, empty: they
/// may be mount points, and the next copy wants them.
pub(crate) fn clear_tree(data_dir: &Path) -> Result<()> {
    for dir in linked_dirs(data_dir) {
        let wal = fs::canonicalize(data_dir.join("pg_wal")).is_ok_and(|w| w == dir);
        if wal {
            clear_dir(&dir)?;
            continue;
        }
        // A tablespace directory belongs to one cluster of each major version; only the version's part is ours.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("PG_") {
                fs::remove_dir_all(entry.path()).map_err(|e| PgError::io("remove", &entry.path(), &e))?;
            }
        }
    }
    clear_dir(data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b/data");
        let staging = Staging::begin(&data, None).unwrap();
        assert_eq!(staging.work, staged_path(&data));
        fs::write(staging.work.join("PG_VERSION"), "15").unwrap();
        assert!(matches!(content(&data), Ok(Content::Empty)));

        // Another attempt after an interruption finds nothing of the first one.
        let staging = Staging::begin(&data, None).unwrap();
        assert_eq!(fs::read_dir(&staging.work).unwrap().count(), 0);
        fs::write(staging.work.join("PG_VERSION"), "15").unwrap();
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join(".hidden"), "kept").unwrap();
        staging.commit().unwrap();
        assert_eq!(fs::read_to_string(data.join("PG_VERSION")).unwrap(), "15");
        assert_eq!(fs::read_to_string(data.join(".hidden")).unwrap(), "kept");
        assert!(!staged_path(&data).exists());

        let error = Staging::begin(&data, None).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
    }

    #[tokio::test]
    async fn a_linked_directory_is_filled_in_place_under_a_marker() {
        let dir = tempfile::tempdir().unwrap();
        let (real, data) = (dir.path().join("real"), dir.path().join("data"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &data).unwrap();
        let staging = Staging::begin(&data, None).unwrap();
        assert_eq!(staging.work, data);
        let marking = tokio::spawn({
            let staging = staging.clone();
            async move { staging.keep_marked().await }
        });
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        while !data.join(MARKER).exists() {
            tokio::task::yield_now().await;
        }
        marking.abort();
        assert!(matches!(content(&data), Ok(Content::Unfinished)));
        let again = Staging::begin(&data, None).unwrap();
        assert!(matches!(content(&data), Ok(Content::Empty)));
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        again.commit().unwrap();
        assert!(matches!(content(&data), Ok(Content::Something(_))));
        assert!(data.is_symlink());
    }

    #[test]
    fn clearing_reaches_wal_and_tablespaces_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (data, wal, space) = (dir.path().join("data"), dir.path().join("wal"), dir.path().join("space"));
        for d in [&data.join("pg_tblspc"), &wal, &space.join("PG_15_1"), &space.join("foreign")] {
            fs::create_dir_all(d).unwrap();
        }
        fs::write(wal.join("000000010000000000000001"), "x").unwrap();
        std::os::unix::fs::symlink(&wal, data.join("pg_wal")).unwrap();
        std::os::unix::fs::symlink(&space, data.join("pg_tblspc/16385")).unwrap();
        clear_tree(&data).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&wal).unwrap().count(), 0);
        assert!(space.join("foreign").exists() && !space.join("PG_15_1").exists());
    }
}
