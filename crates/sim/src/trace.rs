//! What happened, line by line. Two runs of one seed give the same lines, byte for byte.

use std::fmt::Write;

use crate::world::clock::{MS, True};

/// The lines kept when only the end is wanted.
const TAIL: usize = 60;

#[derive(Default)]
pub struct Trace {
    on: bool,
    pub lines: Vec<String>,
    /// Of everything, also of what is not kept.
    digest: u64,
    last: Vec<(String, String)>,
}

impl Trace {
    pub fn new(on: bool) -> Trace {
        Trace { on, digest: 0xCBF2_9CE4_8422_2325, ..Trace::default() }
    }

    pub fn is_on(&self) -> bool {
        self.on
    }

    pub fn line(&mut self, at: True, who: &str, text: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        let mut line = String::new();
        let _ = write!(line, "{:>8}.{:03} {who:<6} {}", at / MS / 1000, at / MS % 1000, text());
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        self.lines.push(line);
    }

    /// Said only when it differs from what `who` said before.
    pub fn changed(&mut self, at: True, who: &str, text: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        let text = text();
        match self.last.iter_mut().find(|(w, _)| w == who) {
            Some((_, last)) if *last == text => return,
            Some((_, last)) => last.clone_from(&text),
            None => self.last.push((who.to_owned(), text.clone())),
        }
        self.line(at, who, || text);
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn tail(&self) -> &[String] {
        &self.lines[self.lines.len().saturating_sub(TAIL)..]
    }
}
