//! A log file that is renamed to `.1`, `.2` ... when it has grown to its size.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The name peers use, so that what collects it goes on finding it.
pub const FILE_NAME: &str = "patroni.log";

pub struct RotatingFile {
    path: PathBuf,
    file: File,
    written: u64,
    /// Zero: never rotated.
    limit: u64,
    kept: u32,
    mode: Option<u32>,
}

impl RotatingFile {
    pub fn open(dir: &Path, limit: u64, kept: u32, mode: Option<u32>) -> io::Result<RotatingFile> {
        let path = dir.join(FILE_NAME);
        let (file, written) = open(&path, mode)?;
        Ok(RotatingFile { path, file, written, limit, kept, mode })
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    /// If the renaming fails, for example on a full disk, the file simply goes on growing.
    fn rotate(&mut self) -> io::Result<()> {
        if self.kept == 0 {
            self.file.set_len(0)?;
            self.written = 0;
            return Ok(());
        }
        for n in (1..self.kept).rev() {
            let from = self.numbered(n);
            if from.exists() {
                fs::rename(from, self.numbered(n + 1))?;
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        (self.file, self.written) = open(&self.path, self.mode)?;
        Ok(())
    }
}

fn open(path: &Path, mode: Option<u32>) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let written = file.metadata()?.len();
    Ok((file, written))
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = bytes.len() as u64;
        if self.limit > 0 && self.written > 0 && self.written + size > self.limit {
            let _ = self.rotate();
        }
        self.file.write_all(bytes)?;
        self.written += size;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_move_up_and_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open(dir.path(), 10, 2, Some(0o640)).unwrap();
        for line in ["one 567\n", "two 567\n", "three 7\n", "four 67\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(text("patroni.log").as_deref(), Some("four 67\n"));
        assert_eq!(text("patroni.log.1").as_deref(), Some("three 7\n"));
        assert_eq!(text("patroni.log.2").as_deref(), Some("two 567\n"));
        assert_eq!(text("patroni.log.3"), None);
        let mode = fs::metadata(dir.path().join("patroni.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        drop(file);
        let mut again = RotatingFile::open(dir.path(), 10, 2, None).unwrap();
        again.write_all(b"five\n").unwrap();
        assert_eq!(text("patroni.log.1").as_deref(), Some("four 67\n"), "what was there before counts");
    }
}
