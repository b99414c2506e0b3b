//! A data directory goes away: renamed, or removed when that is what was asked for (`spec/postgres.md §22`).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bootstrap::SYNC_LIMIT;
use crate::config::beside;
use crate::disk::{blocking, linked_dirs, pinned, sync_parent};
use crate::in_place;
use crate::instance::{Instance, lock};
use crate::shared_memory::release_shared_memory;
use crate::staging::clear_tree;
use crate::{ErrorKind, PgError, Result};

/// Removing a big data directory takes its time, and the caller must not think it undone.
const REMOVE_LIMIT: Duration = Duration::from_secs(24 * 3600);

impl Instance {
    /// Renames it to `<data_dir>.failed` (with a number when that is taken), WAL and tablespace directories behind links
    /// likewise. Nothing is removed.
    pub async fn move_data_dir_aside(&self) -> Result<PathBuf> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot move the data directory").await?;
        self.kill_orphans().await?;
        let dir = self.config().data_dir.clone();
        let moved = blocking("moving the data directory", SYNC_LIMIT, move || move_aside(&dir)).await?;
        self.forget();
        Ok(moved)
    }

    /// Moves the data directory of a cluster that did not come to be aside, for whoever wants to know why; says what was
    /// done. One that a bootstrap method left half-made is removed when an earlier one lies there already: attempts are
    /// repeated, and each copy may be big.
    pub async fn give_up_new_data(&self) -> Result<String> {
        let dir = self.config().data_dir.clone();
        let look = move || {
            Ok((
                fs::read_dir(&dir).map_or(0, Iterator::count),
                in_place::marker(&dir).exists(),
                beside(&dir, ".failed").exists(),
            ))
        };
        let (entries, marked, another) = blocking("looking at the data directory", SYNC_LIMIT, look).await?;
        if entries == 0 || (marked && another) {
            self.remove_data_dir().await?;
            return Ok("removed".to_owned());
        }
        Ok(format!("moved to {}", self.move_data_dir_aside().await?.display()))
    }

    /// For good. Directories behind links and mount points are emptied and stay.
    pub async fn remove_data_dir(&self) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot remove the data directory").await?;
        self.kill_orphans().await?;
        let dir = self.config().data_dir.clone();
        blocking("removing the data directory", REMOVE_LIMIT, move || remove(&dir)).await?;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        *lock(&self.inner.overrides) = None;
        *lock(&self.inner.role) = None;
    }
}

fn remove(dir: &Path) -> Result<()> {
    in_place::end_former(dir);
    release_shared_memory(dir);
    clear_tree(dir)?;
    in_place::forget(dir)?;
    if !pinned(dir) {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(PgError::io("remove", dir, &e)),
            _ => sync_parent(dir),
        }
    }
    Ok(())
}

fn move_aside(dir: &Path) -> Result<PathBuf> {
    let target = fs::canonicalize(dir).map_err(|e| PgError::io("move aside", dir, &e))?;
    if pinned(&target) {
        return Err(PgError::new(
            ErrorKind::Refused,
            format!(
                "{} is a mount point and cannot be renamed; save what you want to keep of it, then empty it",
                target.display()
            ),
        ));
    }
    let mut links: Vec<PathBuf> = vec![target.join("pg_wal")];
    links.extend(fs::read_dir(target.join("pg_tblspc")).into_iter().flatten().flatten().map(|e| e.path()));
    let behind = linked_dirs(&target);
    for link in links.iter().filter(|l| l.is_symlink()) {
        let Ok(old) = fs::canonicalize(link) else { continue };
        if !behind.contains(&old) || pinned(&old) {
            continue;
        }
        let new = free_name(&old);
        fs::rename(&old, &new).map_err(|e| PgError::io("move aside", &old, &e))?;
        fs::remove_file(link)
            .and_then(|()| symlink(&new, link))
            .map_err(|e| PgError::io("point elsewhere", link, &e))?;
    }
    release_shared_memory(&target);
    let to = free_name(&target);
    fs::rename(&target, &to).map_err(|e| PgError::io("move aside", &target, &e))?;
    in_place::end_former(dir);
    in_place::forget(dir)?;
    sync_parent(&to);
    Ok(to)
}

fn free_name(path: &Path) -> PathBuf {
    let first = beside(path, ".failed");
    std::iter::once(first.clone())
        .chain((2..u32::MAX).map(|n| beside(&first, &format!(".{n}"))))
        .find(|p| fs::symlink_metadata(p).is_err())
        .unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_aside_with_what_links_lead_to() {
        let root = tempfile::tempdir().unwrap();
        let (data, wal) = (root.path().join("data"), root.path().join("wal"));
        for _ in 0..2 {
            fs::create_dir_all(data.join("base")).unwrap();
            fs::create_dir_all(&wal).unwrap();
            fs::write(wal.join("x"), "").unwrap();
            symlink(&wal, data.join("pg_wal")).unwrap();
            let to = move_aside(&data).unwrap();
            assert!(!data.exists() && !wal.exists());
            assert!(to.join("pg_wal/x").exists() && to.join("base").exists());
        }
        assert!(root.path().join("data.failed.2").exists());
        remove(&root.path().join("data.failed")).unwrap();
        assert!(!root.path().join("data.failed").exists() && root.path().join("data.failed.2").exists());
        remove(&data).unwrap();
        assert!(move_aside(&data).is_err());
    }
}
