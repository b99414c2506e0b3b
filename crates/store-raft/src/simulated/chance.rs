//! Chance in a simulation: one generator, seeded, and nothing beside it.
//!
//! The runtime picks between ready branches at random, and the standard library seeds its hash tables: both ask
//! `getrandom`, a weak symbol that may be interposed. In this test binary it is, so that a thread with a seed gets
//! the same numbers every time; every other thread gets the system's.

use std::cell::Cell;
use std::io::Read;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on what this thread asks the system for follows from `seed`.
pub fn seed_thread(seed: u64) {
    SEEDED.set(Some(seed));
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.draw() % n }
    }

    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from))
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let drawn = self.draw().to_le_bytes();
            part.copy_from_slice(&drawn[..part.len()]);
        }
    }
}

/// What the system's function of this name promises: fills `len` bytes at `buf`.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buf: *mut u8, len: usize, _flags: u32) -> isize {
    if buf.is_null() {
        return 0;
    }
    // SAFETY: the caller gives a buffer of `len` bytes that it lets us write to, as for the system's function.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buf, len) };
    match SEEDED.get() {
        Some(seed) => {
            let mut random = Random(seed);
            random.fill(bytes);
            SEEDED.set(Some(random.0));
            len as isize
        }
        None => match std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes)) {
            Ok(()) => len as isize,
            Err(_) => -1,
        },
    }
}
