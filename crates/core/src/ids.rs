use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const INVALID: Lsn = Lsn(0);

    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// How many bytes `self` is behind `other`; zero if it is not behind.
    pub fn behind(self, other: Lsn) -> u64 {
        other.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLsn(pub String);

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a WAL position of the form X/X", self.0)
    }
}

impl std::error::Error for InvalidLsn {}

impl FromStr for Lsn {
    type Err = InvalidLsn;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parse =
            |part: &str| u32::from_str_radix(part, 16).ok().filter(|_| !part.is_empty() && !part.starts_with('+'));
        let (hi, lo) = s.trim().split_once('/').ok_or_else(|| InvalidLsn(s.to_owned()))?;
        match (parse(hi), parse(lo)) {
            (Some(hi), Some(lo)) => Ok(Lsn((u64::from(hi) << 32) | u64::from(lo))),
            _ => Err(InvalidLsn(s.to_owned())),
        }
    }
}

/// A PostgreSQL timeline; 0 stands for "not known" in the stored formats and is never built here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl Timeline {
    pub fn known(n: u64) -> Option<Timeline> {
        u32::try_from(n).ok().filter(|n| *n != 0).map(Timeline)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The name of a member, as configured by `name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberName(pub String);

impl MemberName {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The replication slot that belongs to this member (`spec/ha.md §17.1`).
    pub fn slot_name(&self) -> String {
        let mut slot = String::new();
        for c in self.0.to_lowercase().chars() {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => slot.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        slot.truncate(63);
        slot
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// The system identifier that `initdb` gave a cluster: at least ten decimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(String);

impl SystemId {
    pub fn parse(text: &str) -> Option<SystemId> {
        let text = text.trim();
        (text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit())).then(|| SystemId(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips() {
        for (text, value) in [("0/3000060", 50_331_744), ("1/0", 1 << 32), ("16/B374D848", 0x16_B374_D848)] {
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in ["", "/", "1", "1/", "/1", "G/0", "1/1FFFFFFFF", "+1/0", "0/+1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn slot_names_follow_the_contract() {
        let long = "x".repeat(80);
        for (name, slot) in [("Node-1.dc", "node_1_dc"), ("a b", "au0032b"), ("p0", "p0"), (long.as_str(), &long[..63])]
        {
            assert_eq!(MemberName::from(name).slot_name(), slot);
        }
    }

    #[test]
    fn system_ids_have_ten_digits_or_more() {
        assert!(SystemId::parse("7277694203142172922").is_some());
        for bad in ["", "123456789", "72776942031421729x"] {
            assert!(SystemId::parse(bad).is_none(), "{bad}");
        }
    }
}
