//! What a journal is made of.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use surus_core::MemberName;
use surus_core::facts::Facts;
use surus_core::memory::Memory;
use surus_core::step::Step;

/// Raised when a reader of the old one could misunderstand the new one.
pub const FORMAT: u32 = 1;

/// Opens the records of one process.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Header {
    /// The format of what follows.
    pub journal: u32,
    /// Of the software that decided.
    pub version: String,
    /// Of its table of rules: builds of one version may differ in it.
    pub rules: String,
    pub scope: String,
    pub member: MemberName,
    /// Points on the boot-time clock compare only within one boot.
    pub boot: String,
    pub pid: u32,
    /// Wall clock, Unix milliseconds.
    pub at: i64,
}

impl Header {
    /// For records of this program.
    pub fn now() -> Header {
        Header { journal: FORMAT, rules: rules_fingerprint(), ..Header::default() }
    }
}

/// One decision: everything it was made on, and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub memory: Memory,
    pub facts: Facts,
    pub step: Step,
}

/// How long the shell was busy with it, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Took {
    pub gather: u64,
    pub step: u64,
}

impl Took {
    pub fn new(gather: Duration, step: Duration) -> Took {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Took { gather: micros(gather), step: micros(step) }
    }
}

/// A decision in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Counts the decisions of one process, also those that are not in the journal.
    pub n: u64,
    /// It is the last of so many equal ones, the recorded one before it included; 1 when it stands for itself.
    pub times: u64,
    pub took: Took,
    pub decision: Decision,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DecisionLine {
    pub n: u64,
    /// Wall clock, and the rule: for those who read the file itself.
    pub at: i64,
    pub rule: u16,
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u64,
    pub took: Took,
    #[serde(flatten)]
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Body {
    /// The whole decision.
    Full(Value),
    /// What changed since the record before it, whose number this is.
    Since(u64, Value),
}

/// The decision that was recorded last was made again, so many times by now. Written now and then, for those who want to
/// know until when a process that was killed had lived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SameLine {
    pub same: u64,
    pub times: u64,
    pub at: i64,
    pub now: u64,
}

/// Decisions that were not recorded: the disk was slower than they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostLine {
    pub lost: u64,
    pub at: i64,
    pub why: String,
}

fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_once(times: &u64) -> bool {
    *times == 1
}

impl Decision {
    pub(crate) fn to_value(&self) -> Result<Value, String> {
        serde_json::to_value(self).map_err(|e| e.to_string())
    }

    pub(crate) fn from_value(value: &Value) -> Result<Decision, String> {
        let mut decision = Decision::deserialize(value).map_err(|e| e.to_string())?;
        // A member's name is the key it stands under, and is not written a second time.
        name_members(Arc::make_mut(&mut decision.memory.known_members));
        name_members(Arc::make_mut(&mut decision.step.memory.known_members));
        if let Some(view) = &mut decision.facts.store.view {
            name_members(&mut Arc::make_mut(view).members);
        }
        Ok(decision)
    }
}

fn name_members(members: &mut std::collections::BTreeMap<MemberName, surus_core::cluster::Member>) {
    for (name, member) in members {
        member.name = name.clone();
    }
}

/// Tells tables of rules apart.
pub fn rules_fingerprint() -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for rule in surus_core::rules::table() {
        add(&rule.id.to_le_bytes());
        add(rule.name.as_bytes());
        add(rule.why.as_bytes());
    }
    format!("{hash:016x}")
}
