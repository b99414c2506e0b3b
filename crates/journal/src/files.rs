//! The files of a journal: a directory of numbered segments, the oldest of which goes when there is no room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A journal smaller than this would hold too little to be of use.
pub const MIN_SIZE: u64 = 1024 * 1024;
/// A journal consists of about so many segments: what is given up at once when it is full.
const SEGMENTS: u64 = 8;
const SUFFIX: &str = ".jsonl";

/// The segments in `dir`, oldest first.
pub fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|n| n.to_str()).and_then(number);
        found.extend(number.map(|n| (n, path)));
    }
    found.sort();
    Ok(found)
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The writing end.
pub struct Segments {
    dir: PathBuf,
    /// Never exceeded by all segments together.
    max_size: u64,
    current: Option<(u64, File, u64)>,
    others: Vec<(u64, PathBuf, u64)>,
}

impl Segments {
    /// Goes on where the last process stopped.
    pub fn open(dir: &Path, max_size: u64) -> io::Result<Segments> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let mut others = Vec::new();
        for (n, path) in segments(dir)? {
            let size = fs::metadata(&path)?.len();
            others.push((n, path, size));
        }
        let mut opened = Segments { dir: dir.to_owned(), max_size: max_size.max(MIN_SIZE), current: None, others };
        match opened.others.pop() {
            Some((n, path, size)) if size < opened.segment_size() => {
                let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
                let end = end_line(&mut file, size)?;
                opened.current = Some((n, file, size + end));
            }
            Some(full) => {
                let n = full.0 + 1;
                opened.others.push(full);
                opened.create(n)?;
            }
            None => opened.create(1)?,
        }
        opened.make_room()?;
        Ok(opened)
    }

    /// Appending `bytes` would begin another segment.
    pub fn is_full_for(&self, bytes: usize) -> bool {
        self.current.as_ref().is_none_or(|(_, _, size)| size + bytes as u64 > self.segment_size())
    }

    pub fn begin(&mut self) -> io::Result<()> {
        let n = match self.current.take() {
            Some((n, _, size)) => {
                self.others.push((n, self.path(n), size));
                n + 1
            }
            None => self.others.last().map_or(1, |o| o.0 + 1),
        };
        self.create(n)?;
        self.make_room()
    }

    /// More than a segment can hold is refused.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_full_for(bytes.len()) {
            return Err(io::Error::other("the record is larger than a segment; raise recorder.max_size"));
        }
        let Some((_, file, size)) = &mut self.current else { return Err(io::Error::other("no segment is open")) };
        // In one call, so that a reader hardly ever meets half a line.
        file.write_all(bytes)?;
        *size += bytes.len() as u64;
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |(_, file, _)| file.sync_data())
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.others.iter().map(|o| o.2).sum::<u64>() + self.current.as_ref().map_or(0, |c| c.2)
    }

    fn segment_size(&self) -> u64 {
        self.max_size / SEGMENTS
    }

    fn path(&self, n: u64) -> PathBuf {
        self.dir.join(format!("{n:08}{SUFFIX}"))
    }

    fn create(&mut self, n: u64) -> io::Result<()> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(self.path(n))?;
        self.current = Some((n, file, 0));
        Ok(())
    }

    /// The current segment may grow to its full size.
    fn make_room(&mut self) -> io::Result<()> {
        while self.others.iter().map(|o| o.2).sum::<u64>() > self.max_size - self.segment_size() {
            let (_, path, _) = self.others.remove(0);
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A process that was killed may have left half a line, which the next one must not be part of.
fn end_line(file: &mut File, size: u64) -> io::Result<u64> {
    if size == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(size - 1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(0);
    }
    file.write_all(b"\n")?;
    Ok(1)
}
