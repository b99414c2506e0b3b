//! A small file system in a file, so that a data directory can run out of room and can hang.
//!
//! Hanging is `fsfreeze`: whoever writes sleeps in the kernel and cannot be killed until it ends, as with a dead disk;
//! what is in memory can still be read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::machine::Machine;

pub struct Disk {
    pub path: PathBuf,
}

impl Disk {
    pub(crate) fn mount(dir: &Path, mebibytes: u64, machine: &Machine) -> Result<Disk> {
        Disk::available().map_err(anyhow::Error::msg)?;
        let (image, path) = (dir.join("disk.img"), dir.join("disk"));
        File::create(&image)?.set_len(mebibytes * 1024 * 1024).context("cannot make the file of a disk")?;
        fs::create_dir_all(&path)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path))?;
        let disk = Disk { path };
        machine.directory(&disk.path)?;
        Ok(disk)
    }

    /// Whether this machine lets us; tries it.
    pub fn available() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = dir.path().join("try.img");
        let tried = || -> Result<()> {
            ensure!(rustix::process::geteuid().is_root(), "mounting a file system in a file takes root");
            File::create(&image)?.set_len(4 * 1024 * 1024)?;
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
            let at = dir.path().join("at");
            fs::create_dir(&at)?;
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
            let frozen = run(Command::new("fsfreeze").arg("-f").arg(&at));
            if frozen.is_ok() {
                run(Command::new("fsfreeze").arg("-u").arg(&at))?;
            }
            run(Command::new("umount").arg(&at))?;
            frozen
        };
        tried().map_err(|error| format!("no small file system of our own: {error:#}"))
    }

    /// Takes all the room there is left.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        let block = vec![1_u8; 1024 * 1024];
        let mut size = block.len();
        // Smaller and smaller: what is left over would be enough for a segment of WAL's worth of commits.
        while size > 0 {
            match std::io::Write::write(&mut ballast, &block[..size]) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(error).context("cannot fill the disk"),
            }
        }
        Ok(())
    }

    /// Takes room until so much is left.
    pub fn leave(&self, mebibytes: u64) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        let block = vec![1_u8; 1024 * 1024];
        while self.room()? > mebibytes * 1024 * 1024 {
            std::io::Write::write_all(&mut ballast, &block).context("cannot fill the disk")?;
        }
        Ok(())
    }

    /// Bytes that are free.
    pub fn room(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.path).context("cannot look at the disk")?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    pub fn hang(&self) -> Result<()> {
        run(Command::new("fsfreeze").arg("-f").arg(&self.path))
    }

    /// Ends [`Disk::fill`] and [`Disk::hang`].
    pub fn free(&self) {
        let _ = run(Command::new("fsfreeze").arg("-u").arg(&self.path));
        let _ = fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.free();
        // The last process may not have let go yet.
        for _ in 0..50 {
            if run(Command::new("umount").arg(&self.path)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = run(Command::new("umount").arg("-l").arg(&self.path));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_hangs_and_comes_back() {
        if let Err(why) = Disk::available() {
            eprintln!("not available here: {why}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::mount(dir.path(), 32, &Machine::look().unwrap()).unwrap();
        let file = disk.path.join("file");
        disk.fill().unwrap();
        let full = fs::write(&file, vec![0; 8192]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        disk.free();
        fs::write(&file, vec![0; 8192]).unwrap();
        disk.hang().unwrap();
        let writer = std::thread::spawn({
            let file = file.clone();
            move || fs::write(file, "later")
        });
        std::thread::sleep(Duration::from_millis(200));
        assert!(!writer.is_finished(), "a write to a hanging disk returned");
        disk.free();
        writer.join().unwrap().unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "later");
    }
}
