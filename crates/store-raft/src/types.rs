//! What travels through the log: our own commands, and the openraft types they instantiate.

use std::fmt;
use std::io::Cursor;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use surus_store as kv;

use crate::format::FIRST;
pub use crate::host::random;

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Membership = openraft::Membership<u64, openraft::BasicNode>;
pub type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;

/// Bytes that are nearly always text: kept readable in the log and on the wire, exact in any case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(&format!("={text}")),
            Err(_) => serializer.serialize_str(&format!("#{}", to_hex(&self.0))),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        let coded = String::deserialize(deserializer)?;
        if let Some(text) = coded.strip_prefix('=') {
            return Ok(Blob(text.as_bytes().to_vec()));
        }
        let bytes = coded.strip_prefix('#').and_then(from_hex);
        bytes.map(Blob).ok_or_else(|| serde::de::Error::custom("neither text nor hexadecimal bytes"))
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// When, on the group's own clock, and by which leadership a command was proposed. See [`crate::clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Drawn anew whenever a process begins to lead.
    pub lead: u64,
    /// The Raft term the proposer believed to lead in.
    pub term: u64,
    /// Milliseconds of replicated time.
    pub now: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    pub stamp: Stamp,
    pub op: Operation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Txn {
        compare: Vec<Compare>,
        then: Vec<Op>,
    },
    /// The id is chosen by the proposer, at random: granting twice is granting once.
    Grant {
        lease: u64,
        ttl_ms: u64,
    },
    Renew {
        lease: u64,
    },
    Revoke {
        lease: u64,
    },
    /// Carries nothing but its stamp: ends what is due.
    Expire,
    /// From here on the group writes this format ([`crate::format`]).
    Format {
        format: u32,
    },
    /// What the version after this one might write.
    #[cfg(test)]
    Later,
}

impl Operation {
    /// Applying it a second time changes nothing that the first did not: it may be sent again after
    /// an answer was lost.
    pub fn repeatable(&self) -> bool {
        !matches!(self, Operation::Txn { .. })
    }

    /// The first format that has it.
    pub fn format(&self) -> u32 {
        match self {
            Operation::Txn { .. }
            | Operation::Grant { .. }
            | Operation::Renew { .. }
            | Operation::Revoke { .. }
            | Operation::Expire => FIRST,
            Operation::Format { format } => *format,
            #[cfg(test)]
            Operation::Later => 2,
        }
    }

    /// Bytes of keys and values in it.
    pub fn size(&self) -> usize {
        let Operation::Txn { compare, then } = self else { return 0 };
        let compared = compare.iter().map(|c| match c {
            Compare::Absent { key } | Compare::Version { key, .. } => key.len(),
            Compare::Value { key, value } => key.len() + value.0.len(),
        });
        let done = then.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.0.len(),
            Op::Delete { key } => key.len(),
            Op::DeletePrefix { prefix } => prefix.len(),
        });
        compared.chain(done).sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    Absent { key: String },
    Version { key: String, version: u64 },
    Value { key: String, value: Blob },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Put { key: String, value: Blob, lease: Option<u64> },
    Delete { key: String },
    DeletePrefix { prefix: String },
}

/// What applying a log entry gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    Done,
    Written {
        revision: u64,
    },
    Conflict,
    LeaseGone,
    /// The entry ended up under another leadership than it was stamped by: it had no effect.
    Misstamped,
}

impl From<kv::Compare> for Compare {
    fn from(c: kv::Compare) -> Compare {
        match c {
            kv::Compare::Absent { key } => Compare::Absent { key },
            kv::Compare::Version { key, version } => Compare::Version { key, version },
            kv::Compare::Value { key, value } => Compare::Value { key, value: Blob(value) },
        }
    }
}

impl From<kv::Op> for Op {
    fn from(op: kv::Op) -> Op {
        match op {
            kv::Op::Put { key, value, lease } => Op::Put { key, value: Blob(value), lease },
            kv::Op::Delete { key } => Op::Delete { key },
            kv::Op::DeletePrefix { prefix } => Op::DeletePrefix { prefix },
        }
    }
}

impl From<kv::Txn> for Operation {
    fn from(txn: kv::Txn) -> Operation {
        Operation::Txn {
            compare: txn.compare.into_iter().map(Compare::from).collect(),
            then: txn.then.into_iter().map(Op::from).collect(),
        }
    }
}

/// Never zero, which stands for "none" in records.
pub fn random_id() -> u64 {
    // 53 bits, so that every JSON tool shows it exactly.
    (u64::from_be_bytes(random()) >> 11).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_being_written_as_text() {
        for bytes in [&b""[..], b"plain", b"=#", "\u{1F418}".as_bytes(), &[0xff, 0x00, 0x80]] {
            let blob = Blob(bytes.to_vec());
            let text = serde_json::to_string(&blob).unwrap();
            assert_eq!(serde_json::from_str::<Blob>(&text).unwrap(), blob, "{text}");
        }
        assert!(serde_json::from_str::<Blob>("\"#zz\"").is_err());
        assert!(serde_json::from_str::<Blob>("\"x\"").is_err());
    }
}
