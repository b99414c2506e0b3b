//! A hardware watchdog: a device that resets the machine unless it is kept alive.

#![expect(unsafe_code, reason = "the kernel has no other way to set the timeout of a watchdog than an ioctl")]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, OFlags, access};
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);
const GET_TIMEOUT: Opcode = opcode::read::<c_int>(b'W', 7);

/// What a device is driven by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Driver {
    #[default]
    Kernel,
    /// A file or FIFO in place of the device, which gets to hear what the device would.
    Testing,
}

/// Opened, it runs: the machine is reset unless [`Device::keepalive`] comes in time, also if this process dies.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    driver: Driver,
}

/// Whether the device could be opened, without doing so: that would start it, and not every one can be stopped again.
pub fn usable(path: &Path, driver: Driver) -> Result<(), String> {
    let said = |what: String| format!("{}: {what}", path.display());
    let kind = std::fs::metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound if driver == Driver::Kernel => {
            said("there is no such device; load the driver of the watchdog, or softdog".into())
        }
        _ => said(e.to_string()),
    })?;
    if driver == Driver::Kernel && !kind.file_type().is_char_device() {
        return Err(said("is not a device".into()));
    }
    access(path, Access::WRITE_OK)
        .map_err(|e| said(format!("{e}; the user that runs the agent must be able to write to it")))
}

impl Device {
    pub fn open(path: &Path, driver: Driver) -> io::Result<Device> {
        let mut options = OpenOptions::new();
        match driver {
            Driver::Kernel => options.write(true),
            // A FIFO that nobody reads is an error, not a wait.
            Driver::Testing => options.append(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()),
        };
        let file = options.open(path).map_err(|e| match e.kind() {
            ErrorKind::ResourceBusy => io::Error::new(e.kind(), format!("{e}: another program keeps it")),
            _ => e,
        })?;
        Ok(Device { file, path: path.to_owned(), driver })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the device took, which need not be what it was told: some know a few values, some one. Whole
    /// seconds.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
        let seconds = c_int::try_from(timeout.as_secs()).unwrap_or(c_int::MAX);
        if self.driver == Driver::Testing {
            writeln!(self.file, "Ctimeout={seconds}")?;
            return Ok(timeout);
        }
        let mut taken = seconds;
        // SAFETY: WDIOC_SETTIMEOUT reads one int and writes one int, at the address of `taken`, which outlives the call.
        let set = unsafe { ioctl(&self.file, Updater::<SET_TIMEOUT, c_int>::new(&mut taken)) };
        if set.is_err() {
            // SAFETY: WDIOC_GETTIMEOUT writes one int, which the getter has room for.
            taken = unsafe { ioctl(&self.file, Getter::<GET_TIMEOUT, c_int>::new()) }?;
        }
        Ok(Duration::from_secs(u64::try_from(taken).unwrap_or_default()))
    }

    pub fn keepalive(&mut self) -> io::Result<()> {
        self.file.write_all(b"1")
    }

    /// Stops it. One whose driver does not stop (`nowayout`) resets the machine all the same, and the kernel says so.
    pub fn close(mut self) -> io::Result<()> {
        self.file.write_all(b"V")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_gets_to_hear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        assert!(usable(&path, Driver::Testing).unwrap_err().contains("No such file"));
        assert!(usable(&path, Driver::Kernel).unwrap_err().contains("there is no such device; load"));
        std::fs::write(&path, "").unwrap();
        assert!(usable(&path, Driver::Kernel).unwrap_err().contains("is not a device"));
        usable(&path, Driver::Testing).unwrap();
        let mut device = Device::open(&path, Driver::Testing).unwrap();
        assert_eq!(device.set_timeout(Duration::from_secs(25)).unwrap(), Duration::from_secs(25));
        device.keepalive().unwrap();
        device.keepalive().unwrap();
        device.close().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "Ctimeout=25\n11V");
    }

    /// What is no watchdog refuses its requests, and the numbers are those of the kernel's header.
    #[test]
    fn the_requests_are_the_kernels() {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        assert_eq!((SET_TIMEOUT, GET_TIMEOUT), (0xC004_5706, 0x8004_5707));
        let mut null = Device::open(Path::new("/dev/null"), Driver::Kernel).unwrap();
        assert!(null.set_timeout(Duration::from_secs(25)).is_err());
    }
}
