//! Decisions in, lines of a journal out.

use std::sync::Arc;

use serde_json::Value;
use surus_core::memory::Memory;

use crate::delta;
use crate::digest::Landmarks;
use crate::record::{Body, Decision, DecisionLine, LostLine, SameLine, Took};
use crate::redact::redact;

/// So many records at most depend on one another: what a damaged line takes with it.
const CHAIN: u32 = 32;
/// A decision that is made again and again is mentioned this often.
const MENTION_MS: u64 = 60_000;

/// What a decision has to have in common with the one before for being the same.
#[derive(PartialEq)]
struct Likeness {
    rule: u16,
    goal: String,
    steady: bool,
    waiting: bool,
    seen: Landmarks,
    memory: Memory,
}

struct Run {
    n: u64,
    times: u64,
    likeness: Likeness,
    /// The newest repetition, not written yet.
    last: Option<(u64, Took, Box<Decision>)>,
    mentioned: u64,
}

/// Turns the decisions of one process into lines. [`Encoder::begin`] after every line that may not have reached the disk.
#[derive(Default)]
pub struct Encoder {
    base: Option<(u64, Value)>,
    chain: u32,
    run: Option<Run>,
    line: Vec<u8>,
}

impl Encoder {
    /// The next record stands for itself: what was written before is in another file, or perhaps nowhere.
    pub fn begin(&mut self) {
        self.base = None;
    }

    /// Hands what `decision` adds to the journal to `write`, line by line.
    pub fn decision<E>(
        &mut self,
        n: u64,
        took: Took,
        decision: Box<Decision>,
        mut write: impl FnMut(&mut Encoder, Line) -> Result<(), E>,
    ) -> Result<(), E> {
        let likeness = Likeness::of(&decision);
        let repeats = decision.step.orders.is_empty() && decision.step.reply.is_none();
        if let Some(run) = self.run.as_mut().filter(|run| repeats && run.likeness == likeness) {
            run.times += 1;
            let (now, at) = (decision.facts.now.as_millis(), decision.facts.unix_ms);
            run.last = Some((n, took, decision));
            if now.saturating_sub(run.mentioned) < MENTION_MS {
                return Ok(());
            }
            run.mentioned = now;
            let line = SameLine { same: run.n, times: run.times, at, now };
            let bytes = self.line(&line);
            return write(self, bytes);
        }
        self.end_run(&mut write)?;
        self.run =
            repeats.then(|| Run { n, times: 1, likeness, last: None, mentioned: decision.facts.now.as_millis() });
        let bytes = self.record(n, 1, took, *decision);
        write(self, bytes)
    }

    /// Writes the last of a run of equal decisions: what was known just before something changed.
    pub fn end_run<E>(&mut self, mut write: impl FnMut(&mut Encoder, Line) -> Result<(), E>) -> Result<(), E> {
        let Some(Run { times, last: Some((n, took, decision)), .. }) = self.run.take() else { return Ok(()) };
        let bytes = self.record(n, times, took, *decision);
        write(self, bytes)
    }

    pub fn lost(&mut self, lost: u64, at: i64, why: &str) -> Line {
        self.line(&LostLine { lost, at, why: why.to_owned() })
    }

    /// The same line, if it is the latest, so that it stands for itself: it becomes the first of a file.
    pub fn again(&mut self, line: Line) -> Line {
        match (line.record, &self.base) {
            (Some(head), Some((n, value))) if head.n == *n => {
                let body = Body::Full(value.clone());
                self.chain = 0;
                self.line = line.bytes;
                self.write(&DecisionLine { body, ..head.line() }, Some(head))
            }
            _ => line,
        }
    }

    /// Returns the buffer of a line for the next one.
    pub fn reuse(&mut self, bytes: Vec<u8>) {
        self.line = bytes;
    }

    fn record(&mut self, n: u64, times: u64, took: Took, decision: Decision) -> Line {
        let decision = redact(decision);
        let (at, rule) = (decision.facts.unix_ms, decision.step.report.rule);
        let Ok(value) = decision.to_value() else {
            // Only a map with keys that are no text could do that, and there is none.
            return self.lost(1, at, "a decision could not be written as JSON; please report it as a BUG");
        };
        let base = self.base.take().filter(|_| self.chain < CHAIN);
        let (body, value) = match base {
            Some((of, base)) => {
                let base = carried_on(base);
                let change = delta::between(&base, &value).unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                self.chain += 1;
                (Body::Since(of, change), value)
            }
            None => {
                self.chain = 0;
                (Body::Full(value.clone()), value)
            }
        };
        let head = Head { n, at, rule, times, took };
        self.base = Some((n, value));
        self.write(&DecisionLine { body, ..head.line() }, Some(head))
    }

    fn line(&mut self, line: &impl serde::Serialize) -> Line {
        self.write(line, None)
    }

    fn write(&mut self, line: &impl serde::Serialize, record: Option<Head>) -> Line {
        let mut bytes = std::mem::take(&mut self.line);
        bytes.clear();
        // Into memory it cannot fail.
        let _ = serde_json::to_writer(&mut bytes, line);
        bytes.push(b'\n');
        Line { bytes, record }
    }
}

/// One line with its end.
pub struct Line {
    pub bytes: Vec<u8>,
    record: Option<Head>,
}

#[derive(Clone, Copy)]
struct Head {
    n: u64,
    at: i64,
    rule: u16,
    times: u64,
    took: Took,
}

impl Head {
    fn line(self) -> DecisionLine {
        let Head { n, at, rule, times, took } = self;
        DecisionLine { n, at, rule, times, took, body: Body::Full(Value::Null) }
    }
}

/// What the next decision is compared with: what a step left is what the next one has.
pub(crate) fn carried_on(mut base: Value) -> Value {
    if let Some(left) = base.pointer("/step/memory").cloned() {
        base["memory"] = left;
    }
    base
}

impl Likeness {
    fn of(decision: &Decision) -> Likeness {
        let report = &decision.step.report;
        let mut memory = decision.step.memory.clone();
        // Positions of others are in it.
        memory.known_members = Arc::default();
        Likeness {
            rule: report.rule,
            goal: uncounted(&report.goal),
            steady: report.steady,
            waiting: report.waiting_for.is_empty(),
            seen: Landmarks::of(&decision.facts),
            memory,
        }
    }
}

/// Without its numbers, so that a countdown is one decision and not one each second.
pub fn uncounted(goal: &str) -> String {
    let word = |word: &&str| word.trim_matches(|c| "(),;".contains(c)).parse::<f64>().is_err();
    goal.split_whitespace().filter(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_countdown_is_one_decision() {
        let waiting = |n: u32| uncounted(&format!("Awaiting switchover at 2026-10-01T12:00:00+00:00 (in {n} seconds)"));
        assert_eq!(waiting(3598), waiting(7));
        let following = |name: &str| uncounted(&format!("a secondary, and following a leader ({name})"));
        assert_ne!(following("node1"), following("node2"));
    }
}
