//! Keeps the log of a loss: copies, within a budget, and never at the price of a full disk.
//!
//! Not hard links: the server reuses the files of old segments, and `pg_rewind` writes over those the source has too.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use surus_core::loss::KeptWal;

use crate::disk::give_to;
use crate::os_user::OsUser;
use crate::{PgError, Result};

/// Part of the file system that stays free, in percent.
const FREE: u64 = 5;

/// Copies `segments`, the first first, as long as `budget` and the disk allow it. What does not work is told in the result.
pub(super) fn copy(segments: &[std::path::PathBuf], to: &Path, budget: u64, user: Option<&OsUser>) -> Result<KeptWal> {
    let mut kept = KeptWal::default();
    let mut left = segments.iter();
    for segment in left.by_ref() {
        let name = segment.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match one(segment, &to.join(&name), budget.saturating_sub(kept.bytes), user) {
            Ok(bytes) => {
                kept.bytes += bytes;
                kept.segments.push(name);
            }
            Err(why) => {
                kept.left_out.push(name);
                kept.why = Some(why);
                break;
            }
        }
    }
    kept.left_out.extend(left.map(|s| s.file_name().unwrap_or_default().to_string_lossy().into_owned()));
    if let Ok(dir) = File::open(to) {
        dir.sync_all().map_err(|e| PgError::io("force to disk", to, &e))?;
    }
    Ok(kept)
}

fn one(from: &Path, to: &Path, budget: u64, user: Option<&OsUser>) -> Result<u64, String> {
    let size = fs::metadata(from).map_err(|e| format!("{} cannot be read: {e}", from.display()))?.len();
    if size > budget {
        return Err("the budget (loss.keep_wal) is used up".into());
    }
    if !has_room(to, size).map_err(|e| format!("the disk's free space is not known: {e}"))? {
        return Err(format!("the disk would have less than {FREE} % free space left"));
    }
    let write = || -> io::Result<()> {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    };
    let made = write().map_err(|e| format!("{} cannot be copied: {e}", from.display()));
    if let Err(e) = made.and_then(|()| give_to(to, user).map_err(|e| e.to_string())) {
        // Half a segment would be taken for one.
        let _ = fs::remove_file(to);
        return Err(e);
    }
    Ok(size)
}

fn has_room(to: &Path, size: u64) -> io::Result<bool> {
    let stat = rustix::fs::statvfs(to.parent().unwrap_or(to))?;
    let (free, all) = (stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize));
    Ok(free.saturating_sub(size) >= all / 100 * FREE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_within_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, to) = (dir.path().join("pg_wal"), dir.path().join("kept"));
        fs::create_dir(&wal).unwrap();
        fs::create_dir(&to).unwrap();
        let segments: Vec<_> = ["1", "2", "3", "4"].iter().map(|n| wal.join(n)).collect();
        segments.iter().take(3).for_each(|s| fs::write(s, [7; 100]).unwrap());
        let kept = copy(&segments, &to, 250, None).unwrap();
        assert_eq!((kept.bytes, kept.segments.as_slice()), (200, &["1".to_owned(), "2".to_owned()][..]));
        assert_eq!(kept.left_out, ["3", "4"]);
        assert!(kept.why.unwrap().contains("loss.keep_wal"));
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
        let kept = copy(&segments, &to, 1000, None).unwrap();
        assert_eq!((kept.bytes, kept.left_out.as_slice()), (300, &["4".to_owned()][..]));
        assert!(kept.why.unwrap().contains("cannot be read"));
        assert_eq!(fs::read(to.join("3")).unwrap(), [7; 100]);
    }
}
