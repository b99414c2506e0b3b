//! Memory of this process: as little as possible, and that for certain.
//!
//! The fence is the whole agent's program, of which it needs a few pages. Starting a program touches many more: the
//! loader reads every relocation, and each fault brings neighbours in. Those are given back before what remains is locked,
//! and fewer are brought in from then on.

#![expect(unsafe_code, reason = "the one call that gives pages back works on addresses")]

use rustix::mm::{Advice, MlockAllFlags, madvise, mlockall};

const PIECE: usize = 16 * 1024;

/// Then locks what is in memory, and what will be as it comes.
pub fn lock() -> Result<(), String> {
    for (start, length) in clean_file_pages(&std::fs::read_to_string("/proc/self/smaps").unwrap_or_default()) {
        divide(start, length);
        // SAFETY: the range is a mapping of this program's own files, as the kernel lists it, in which no page was ever
        // written to. Whatever is read there later comes from the same file again, with the same content. No mapping
        // goes away between the list and this call: the process has one thread and unloads nothing.
        let _ = unsafe { madvise(std::ptr::without_provenance_mut(start), length, Advice::LinuxDontNeed) };
    }
    // On fault only: locking the whole program would bring all of it into memory.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(|e| e.to_string())
}

/// A fault brings in up to 64 KiB around it, but nothing beyond the mapping that it is in: marked in turns, one mapping is
/// many. Most of what is in memory would be neighbours else.
fn divide(start: usize, length: usize) {
    for (piece, length) in every_other_piece(start, length) {
        // SAFETY: this only says what a core dump leaves out, of a mapping of this program that stays as it is.
        let _ = unsafe { madvise(std::ptr::without_provenance_mut(piece), length, Advice::LinuxDontDump) };
    }
}

fn every_other_piece(start: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..length).step_by(2 * PIECE).map(move |at| (start + at, PIECE.min(length - at)))
}

/// Gives back the pages of the program that only its start needed: what an agent does for months is a small part of it.
/// What is needed again comes back by itself, from the page cache.
pub fn give_back() {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for (start, length) in around(&clean_file_pages(&smaps), &smaps, give_back as fn() as usize) {
        divide(start, length);
        // SAFETY: as in `lock`; and of all mappings only those are touched that the kernel made of the program itself when
        // it was started, which stay for as long as the process does, whatever other threads map and unmap meanwhile.
        let _ = unsafe { madvise(std::ptr::without_provenance_mut(start), length, Advice::LinuxDontNeed) };
    }
}

/// Those of the unbroken row of mappings of one file that the address lies in.
fn around(pages: &[(usize, usize)], smaps: &str, address: usize) -> Vec<(usize, usize)> {
    let mut rows: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    for (range, path) in smaps.lines().filter_map(mapping) {
        match rows.last_mut() {
            Some((file, row)) if *file == path && row.end == range.start => row.end = range.end,
            _ => rows.push((path, range)),
        }
    }
    let Some((_, row)) = rows.into_iter().find(|(path, row)| path.starts_with('/') && row.contains(&address)) else {
        return Vec::new();
    };
    pages.iter().copied().filter(|(start, _)| row.contains(start)).collect()
}

fn mapping(line: &str) -> Option<(std::ops::Range<usize>, &str)> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    Some((range, line.split_whitespace().nth(5).unwrap_or_default()))
}

/// Start and length of mappings of files that hold no page of this process's own.
fn clean_file_pages(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(header) = header(line) {
            current = header;
        } else if let Some(kib) = line.strip_prefix("Anonymous:")
            && let Some(range) = current.take()
            && kib.split_whitespace().next() == Some("0")
        {
            found.push(range);
        }
    }
    found
}

/// `Some(None)`: a mapping that is not to be touched.
fn header(line: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let (rights, path) = (words.next()?, words.nth(3));
    let kept = rights.contains('w') || !path.is_some_and(|p| p.starts_with('/'));
    Some((!kept).then_some((start, end.checked_sub(start)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_pages_of_files() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 1                          /usr/bin/surus
Size:                  8 kB
Anonymous:             0 kB
3000-5000 r--p 00002000 fe:00 1                          /usr/bin/surus
Anonymous:             4 kB
5000-6000 rw-p 00004000 fe:00 1                          /usr/bin/surus
Anonymous:             0 kB
7000-8000 r--p 00000000 00:00 0                          [vvar]
Anonymous:             0 kB
9000-a000 r-xp 00000000 fe:00 2                          /lib/x.so (deleted)
Anonymous:             0 kB
b000-c000 rw-p 00000000 00:00 0
Anonymous:             0 kB
";
        assert_eq!(clean_file_pages(smaps), [(0x1000, 0x2000), (0x9000, 0x1000)]);
    }

    #[test]
    fn pieces_in_turns() {
        let pieces: Vec<_> = every_other_piece(0x10000, 0x9000).collect();
        assert_eq!(pieces, [(0x10000, 0x4000), (0x18000, 0x1000)]);
        assert_eq!(every_other_piece(0x10000, 0).count(), 0);
    }

    #[test]
    fn only_the_program_itself() {
        let smaps = "\
1000-3000 r--p 00000000 fe:00 1 /usr/bin/surus
Anonymous:             0 kB
3000-5000 r-xp 00002000 fe:00 1 /usr/bin/surus
Anonymous:             0 kB
5000-6000 rw-p 00004000 fe:00 1 /usr/bin/surus
Anonymous:             4 kB
7000-8000 r--p 00000000 fe:00 1 /usr/bin/surus
Anonymous:             0 kB
9000-a000 r-xp 00000000 fe:00 2 /lib/x.so
Anonymous:             0 kB
";
        let found = |address| around(&clean_file_pages(smaps), smaps, address);
        assert_eq!(found(0x4000), [(0x1000, 0x2000), (0x3000, 0x2000)]);
        assert_eq!(found(0x7000), [(0x7000, 0x1000)]);
        assert_eq!(found(0x8000), []);
    }

    #[test]
    fn nothing_is_lost_by_giving_pages_back() {
        let before = std::fs::read("/proc/self/exe").unwrap().len();
        give_back();
        let _ = lock();
        assert_eq!(std::fs::read("/proc/self/exe").unwrap().len(), before);
        assert_eq!(format!("{:?}", "still here".split(' ').collect::<Vec<_>>()), "[\"still\", \"here\"]");
    }
}
