//! A simulated disk with one file: what is not synced may be lost with the power, in any part; writes can fail, and the
//! process can die in the middle of a transaction.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::chance::Random;

const SECTOR: usize = 512;

#[derive(Default)]
pub struct Disk {
    image: Mutex<Image>,
    pub full: AtomicBool,
    /// A sync returns before anything is safe.
    forgets: bool,
}

#[derive(Default)]
struct Image {
    data: Vec<u8>,
    unsynced: Vec<Change>,
}

enum Change {
    Write { at: usize, old: Vec<u8>, new: Vec<u8> },
    Length { old: usize, new: usize, cut: Vec<u8> },
}

impl Disk {
    pub fn new(forgets: bool) -> Disk {
        Disk { forgets, ..Disk::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_empty(&self) -> bool {
        self.lock().data.is_empty()
    }

    pub fn wipe(&self) {
        *self.lock() = Image::default();
    }

    /// As if `draft` had been renamed over the file.
    pub fn replace(&self, draft: &Disk) {
        *self.lock() = Image { data: draft.lock().data.clone(), unsynced: Vec::new() };
    }

    /// Of what was not synced, each sector is kept or not.
    pub fn lose_power(&self, random: &mut Random) {
        let mut image = self.lock();
        let changes = std::mem::take(&mut image.unsynced);
        for change in changes.iter().rev() {
            match change {
                Change::Write { at, old, .. } => image.data[*at..*at + old.len()].copy_from_slice(old),
                Change::Length { old, cut, .. } => {
                    image.data.resize(*old, 0);
                    let kept = *old - cut.len();
                    image.data[kept..].copy_from_slice(cut);
                }
            }
        }
        for change in changes {
            match change {
                Change::Write { at, new, .. } => {
                    for (i, sector) in new.chunks(SECTOR).enumerate() {
                        let from = at + i * SECTOR;
                        if random.below(2) == 0 && from + sector.len() <= image.data.len() {
                            image.data[from..from + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
                Change::Length { new, .. } => {
                    // A length that shrinks is never ahead of what made the end superfluous.
                    if new > image.data.len() && random.below(2) == 0 {
                        image.data.resize(new, 0);
                    }
                }
            }
        }
    }
}

/// The file as one process has it open.
pub struct Open {
    pub disk: Arc<Disk>,
    pub dead: Arc<AtomicBool>,
    /// The process dies at the so manieth write or sync from now; negative: it does not.
    pub dies_in: Arc<AtomicI64>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a simulated disk")
    }
}

impl Open {
    fn alive(&self) -> Result<(), Error> {
        match self.dead.load(Ordering::Relaxed) {
            true => Err(Error::other("this process is dead")),
            false => Ok(()),
        }
    }

    fn change(&self) -> Result<(), Error> {
        if self.dies_in.load(Ordering::Relaxed) >= 0 && self.dies_in.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.dead.store(true, Ordering::Relaxed);
        }
        self.alive()?;
        match self.disk.full.load(Ordering::Relaxed) {
            true => Err(Error::from(ErrorKind::StorageFull)),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Open {
    fn len(&self) -> Result<u64, Error> {
        self.alive()?;
        Ok(self.disk.lock().data.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.alive()?;
        let (image, from) = (self.disk.lock(), offset as usize);
        match image.data.get(from..from + out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return Err(Error::from(ErrorKind::UnexpectedEof)),
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change()?;
        let mut image = self.disk.lock();
        let (old, new) = (image.data.len(), len as usize);
        let cut = image.data.get(new..).map(<[u8]>::to_vec).unwrap_or_default();
        image.data.resize(new, 0);
        image.unsynced.push(Change::Length { old, new, cut });
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.change()?;
        if !self.disk.forgets {
            self.disk.lock().unsynced.clear();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.change()?;
        let (mut image, at) = (self.disk.lock(), offset as usize);
        let Some(place) = image.data.get_mut(at..at + data.len()) else {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        };
        let old = place.to_vec();
        place.copy_from_slice(data);
        image.unsynced.push(Change::Write { at, old, new: data.to_vec() });
        Ok(())
    }
}
