//! Whether a write to a disk returns, tried on a thread of its own that may hang with the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{Mode, OFlags};

/// As PostgreSQL writes its log: a page.
const BLOCK: [u8; 8192] = [0; 8192];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Try,
    /// Hold nothing open on that disk.
    LetGo,
}

pub struct DiskProbe {
    ask: SyncSender<Ask>,
    busy: Arc<AtomicBool>,
    holds: Arc<AtomicBool>,
}

impl DiskProbe {
    pub fn start(dir: PathBuf) -> io::Result<DiskProbe> {
        let (ask, asked) = sync_channel(1);
        let (busy, holds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let work = Work { dir, busy: busy.clone(), holds: holds.clone(), file: None, told: None };
        std::thread::Builder::new().name("disk-probe".into()).stack_size(128 * 1024).spawn(move || work.run(&asked))?;
        Ok(DiskProbe { ask, busy, holds })
    }

    /// Begins an attempt, unless one is outstanding.
    pub fn begin(&self) {
        self.send(Ask::Try);
    }

    /// An unmount, for example, is not to fail because of the probe.
    pub fn let_go(&self) {
        if self.holds.load(Ordering::Acquire) {
            self.send(Ask::LetGo);
        }
    }

    fn send(&self, ask: Ask) {
        if !self.busy.swap(true, Ordering::AcqRel) && self.ask.try_send(ask).is_err() {
            self.busy.store(false, Ordering::Release);
        }
    }

    pub fn outstanding(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

struct Work {
    dir: PathBuf,
    busy: Arc<AtomicBool>,
    holds: Arc<AtomicBool>,
    /// Has no name, so that nothing is left behind whatever happens; with the device it is on.
    file: Option<(u64, File)>,
    told: Option<String>,
}

impl Work {
    fn run(mut self, asked: &Receiver<Ask>) {
        while let Ok(ask) = asked.recv() {
            match ask {
                Ask::LetGo => self.file = None,
                Ask::Try => self.attempt(),
            }
            self.holds.store(self.file.is_some(), Ordering::Release);
            self.busy.store(false, Ordering::Release);
        }
    }

    fn attempt(&mut self) {
        match self.write() {
            Ok(()) => self.told = None,
            // It returned: whatever is wrong with the disk, it does not hang.
            Err(e) => {
                self.file = None;
                let text = e.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!("whether the disk of {} hangs is not known: {text}", self.dir.display());
                    self.told = Some(text);
                }
            }
        }
    }

    /// Over the same block again: as with the server's log, the file system has nothing to keep account of, so that
    /// the write takes as long as a commit would, and not as long as a busy file system's journal.
    fn write(&mut self) -> io::Result<()> {
        let device = std::fs::metadata(&self.dir)?.dev();
        if let Some((_, file)) = self.file.as_ref().filter(|(on, _)| *on == device) {
            file.write_all_at(&BLOCK, 0)?;
            return file.sync_data();
        }
        let mut file = unnamed(&self.dir)?;
        file.write_all(&BLOCK)?;
        file.sync_all()?;
        self.file = Some((device, file));
        Ok(())
    }
}

fn unnamed(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this file system has no files without a name (O_TMPFILE)"))
        }
        Err(e) => Err(e.into()),
    }
}

/// Where PostgreSQL writes, one directory for each device. Waits for the disk.
pub fn places(data_dir: &Path) -> Vec<PathBuf> {
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    let wal = data_dir.join("pg_wal");
    let mut places = vec![data_dir.to_owned()];
    if device(&wal).is_some_and(|d| device(data_dir) != Some(d)) {
        places.push(wal);
    }
    places
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn settled(probe: &DiskProbe) {
        let end = Instant::now() + Duration::from_secs(30);
        while probe.outstanding() {
            assert!(Instant::now() < end, "it does not come back");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn leaves_nothing_behind_and_holds_nothing_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let probe = DiskProbe::start(dir.path().to_owned()).unwrap();
        let open = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            all.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(dir.path()))).count()
        };
        for _ in 0..3 {
            probe.begin();
            settled(&probe);
        }
        assert_eq!((open(), std::fs::read_dir(dir.path()).unwrap().count()), (1, 0));
        probe.let_go();
        settled(&probe);
        assert_eq!(open(), 0);
        std::fs::remove_dir(dir.path()).unwrap();
        probe.begin();
        settled(&probe);
    }

    #[test]
    fn one_place_for_each_device() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        assert_eq!(places(dir.path()), [dir.path()]);
        std::fs::remove_dir(dir.path().join("pg_wal")).unwrap();
        std::os::unix::fs::symlink("/dev/shm", dir.path().join("pg_wal")).unwrap();
        assert_eq!(places(dir.path()).len(), 2);
    }
}
