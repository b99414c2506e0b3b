//! The flight recorder: the decisions of one member in a bounded journal on disk, and what can be read out of it.
//!
//! A decision is recorded whole: memory, facts, and what the step made of them. So it can be taken again
//! later, with the same core, on another machine. Most of one decision is what was there at the one before:
//! a record holds what changed ([`delta`]), and a decision that only repeats the last one is counted.

pub mod delta;
mod digest;
mod encode;
mod files;
mod read;
mod record;
mod recorder;
mod redact;
mod replay;
pub mod timeline;

pub use digest::{Account, Entry, Event, Finished, Landmarks, account};
pub use encode::{Encoder, uncounted};
pub use files::{MIN_SIZE, Segments, segments};
pub use read::{Item, Problem, Reader};
pub use record::{Decision, Header, Recorded, Took, rules_fingerprint};
pub use recorder::{Counters, Handle, Options, Recorder};
pub use redact::redact;
pub use replay::{Difference, changed, replay};
