//! Shared memory that a killed server left behind.
//!
//! A server that is killed leaves a System V segment and POSIX ones; the next start in the same directory removes them. When
//! the directory goes away instead, nobody ever does: each time a megabyte of `/dev/shm`, of which a container has 64, and
//! one of the 4096 segments that a machine has, until no server starts any more.

#![expect(unsafe_code, reason = "what the segment says of itself can only be read by attaching it")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The start of every server's segment; a number of PostgreSQL's source, the same since 7.x.
const SEGMENT: i32 = 679_834_894;
/// The start of the list of its POSIX segments.
const LIST: u32 = 0x9a50_3d32;
const POSIX: &str = "/dev/shm";

/// As the server lays it out at the start of its segment.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    magic: i32,
    creator: i32,
    total: usize,
    free: usize,
    list: u32,
    index: usize,
    device: u64,
    inode: u64,
}

/// Removes what the server of this directory left, unless a process still has it, and says how many segments that were.
///
/// Only for a directory whose server cannot be starting: it would take the attachment made here for a living one's.
pub fn release_shared_memory(data_dir: &Path) -> usize {
    let Ok(dir) = fs::metadata(data_dir) else { return 0 };
    let pid_file = fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    let written = pid_file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let mut released = 0;
    for segment in segments.lines().filter_map(segment) {
        // Segments of others are not attached, not even for a moment. The key is the directory's inode (version 12 on).
        let ours = Some(segment.id) == written || segment.key == dir.ino() as i32;
        if !ours || segment.attached > 0 {
            continue;
        }
        let Some(header) = header(segment.id, segment.size) else { continue };
        if header.magic != SEGMENT || (header.device, header.inode) != (dir.dev(), dir.ino()) {
            continue;
        }
        released += posix_segments(Path::new(POSIX), header.list);
        // SAFETY: takes numbers only. A process that attached it since keeps it until it is done with it.
        released += usize::from(unsafe { libc::shmctl(segment.id, libc::IPC_RMID, std::ptr::null_mut()) } == 0);
    }
    released
}

struct Segment {
    key: i32,
    id: i32,
    size: usize,
    attached: u64,
}

fn segment(line: &str) -> Option<Segment> {
    let mut fields = line.split_whitespace();
    let (key, id) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let size = fields.nth(1)?.parse().ok()?;
    Some(Segment { key, id, size, attached: fields.nth(2)?.parse().ok()? })
}

fn header(id: i32, size: usize) -> Option<Header> {
    if size < size_of::<Header>() {
        return None;
    }
    // SAFETY: attached where the kernel likes, to be read only, and let go of before this returns.
    let at = unsafe { libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY) };
    if at.addr() == usize::MAX {
        return None;
    }
    // SAFETY: the segment has that many bytes, begins at a page, any bytes make a `Header`, and no process that could
    // change it is attached.
    let header = unsafe { at.cast::<Header>().read() };
    // SAFETY: it is what was attached above.
    unsafe { libc::shmdt(at) };
    Some(header)
}

/// The list is one of them; it ends with items of one size, which differs between versions and begins with the number.
fn posix_segments(dir: &Path, list: u32) -> usize {
    let file = |handle: u32| dir.join(format!("PostgreSQL.{handle}"));
    let Ok(content) = fs::read(file(list)) else { return 0 };
    let number = |at: usize| Some(u32::from_ne_bytes(content.get(at..at + 4)?.try_into().ok()?));
    let (Some(LIST), Some(used), Some(room @ 1..)) = (number(0), number(4), number(8)) else { return 0 };
    let (used, room) = (used as usize, room as usize);
    let item = content.len().saturating_sub(16) / room;
    if item < 16 || used > room {
        return 0;
    }
    let items = (0..used).filter_map(|n| number(16 + n * item));
    items.chain([list]).filter(|handle| fs::remove_file(file(*handle)).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(magic: u32, used: u32, item: usize, handles: &[u32]) -> Vec<u8> {
        let mut content: Vec<u8> = [magic, used, 8].iter().flat_map(|n| n.to_ne_bytes()).collect();
        content.resize(16 + 8 * item, 0);
        for (n, handle) in handles.iter().enumerate() {
            content[16 + n * item..][..4].copy_from_slice(&handle.to_ne_bytes());
        }
        content
    }

    #[test]
    fn a_list_names_the_segments_of_one_server() {
        for item in [24, 40] {
            let dir = tempfile::tempdir().unwrap();
            for other in [11, 12, 99] {
                fs::write(dir.path().join(format!("PostgreSQL.{other}")), "content").unwrap();
            }
            fs::write(dir.path().join("PostgreSQL.7"), list(LIST, 3, item, &[11, 12, 13])).unwrap();
            assert_eq!(posix_segments(dir.path(), 7), 3);
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["PostgreSQL.99"]);
        }
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        let (whole, big) = (list(LIST, 1, 40, &[11]), list(LIST, 9, 40, &[11]));
        for content in [&list(1, 1, 40, &[11]), &big, &whole[..16].to_vec(), &whole[..10].to_vec(), &Vec::new()] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("PostgreSQL.11"), "content").unwrap();
            fs::write(dir.path().join("PostgreSQL.7"), content).unwrap();
            assert_eq!(posix_segments(dir.path(), 7), 0);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn the_kernel_s_lines_are_read() {
        let line =
            "  10273848     851968   600                    56  1521  1521      3   107   111   107   111 1 2 3 4096 0";
        let read = segment(line).unwrap();
        assert_eq!((read.key, read.id, read.size, read.attached), (10_273_848, 851_968, 56, 3));
        assert!(segment("       key      shmid perms                  size  cpid").is_none());
    }
}
