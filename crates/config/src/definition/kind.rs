//! What a value may be: the judgement and the words for it.

use std::time::Duration;

use surus_core::settings::Reserve;

use super::Key;
use crate::address;
use crate::options::Rules;
use crate::reader::{found, is_empty, whole_number};
use crate::timing;
use crate::tree::{Node, NodeValue};
use crate::value::{self, TimeUnit, parse_bool};

/// A word, and others that mean the same.
pub type Word = (&'static str, &'static [&'static str]);

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text,
    /// Never shown.
    Secret,
    Path,
    /// Split as a shell would, and run without one.
    Command,
    Bool,
    /// Of a tag: peers take any text for true.
    Switch,
    Int {
        min: i64,
        max: i64,
        what: &'static str,
    },
    /// A number of seconds, whole or not.
    Seconds,
    /// A number of seconds whose fraction is cut off; the bounds are `check_timing`'s.
    WholeSeconds,
    /// Seconds, or a time with its unit.
    Time,
    /// A number of bytes, with or without unit.
    Size {
        least: u64,
        what: &'static str,
    },
    /// What is to stay free of a disk.
    Reserve,
    Word(&'static [Word]),
    /// `host:port`; the port may be left out if there is a default.
    Address {
        port: Option<u16>,
    },
    /// `host[,host...]:port` or `*:port`.
    Listen,
    /// A list of texts.
    Texts,
    /// The same, or one text with commas between.
    TextsOrCsv,
    Addresses,
    /// Names with one value each, as PostgreSQL reads them.
    Settings,
    /// Names with one of these words each.
    Words(&'static [Word]),
    /// Options of a program of PostgreSQL.
    Options(&'static Rules),
    LogFormat,
    Slots,
    /// A list of maps.
    Maps(&'static [Key]),
    /// Names and values of any kind.
    Free,
    Map(&'static [Key], Others),
    /// A word, or a section with the word under `mode`.
    WordOrMap(&'static [Word], &'static [Key]),
}

/// What keys mean that a section does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    Unknown,
    /// They are as good as the known ones.
    Welcome,
    /// Sections of replica creation methods, if listed or if they look like one.
    ReplicaMethods,
    /// Sections of bootstrap methods, if they look like one.
    BootstrapMethods,
}

pub(crate) const PORT: Kind = Kind::Int { min: 1, max: 65535, what: "a port from 1 to 65535" };

impl Kind {
    /// What is wrong with a value: `expected ..., found ...`. What is empty is as good as absent. The contents of lists
    /// and maps are not looked at.
    pub(crate) fn judge(&self, node: &Node) -> Result<(), String> {
        if is_empty(node) {
            return Ok(());
        }
        let is_map = || node.entries().is_some();
        let is_list = || matches!(node.value, NodeValue::List(_));
        let scalar = node.scalar_text();
        let good = match self {
            Kind::Text | Kind::Secret | Kind::Path | Kind::Command => scalar.is_some(),
            Kind::Switch => scalar.is_some(),
            Kind::Bool => boolean(node).is_some(),
            Kind::Int { min, max, .. } => whole_number(node).is_some_and(|n| (*min..=*max).contains(&n)),
            Kind::Seconds => seconds(node).is_some(),
            Kind::WholeSeconds => timing::whole_seconds(&node.to_json()).is_some(),
            Kind::Time => time(node).is_some(),
            Kind::Size { least, .. } => size(node).is_some_and(|n| n >= *least),
            Kind::Reserve => reserve(node).is_some(),
            Kind::Word(words) => word(words, node).is_some(),
            Kind::WordOrMap(words, _) => is_map() || word(words, node).is_some(),
            Kind::Address { port } => {
                let why = scalar.map(|text| address::split_one(&text, *port).map(|_| ()));
                return match why {
                    Some(Ok(())) => Ok(()),
                    Some(Err(why)) => Err(format!("expected host:port ({why}), found {}", found(node))),
                    None => Err(format!("expected host:port, found {}", found(node))),
                };
            }
            Kind::Listen => return listen(scalar.as_deref(), node),
            Kind::Texts => is_list(),
            Kind::TextsOrCsv | Kind::Addresses => is_list() || matches!(node.value, NodeValue::Text(_)),
            Kind::LogFormat => is_list() || scalar.is_some(),
            Kind::Maps(_) => is_list(),
            Kind::Options(_) => true,
            Kind::Settings | Kind::Words(_) | Kind::Slots | Kind::Free | Kind::Map(..) => is_map(),
        };
        // A text in place of a section may be a secret that was indented too little.
        let found = if self.is_section() { node.kind().to_owned() } else { found(node) };
        if good { Ok(()) } else { Err(format!("expected {}{} found {found}", self.what(), self.comma())) }
    }

    fn is_section(&self) -> bool {
        matches!(self, Kind::Settings | Kind::Words(_) | Kind::Slots | Kind::Maps(_) | Kind::Free | Kind::Map(..))
    }

    /// After a list of alternatives a comma would belong to the last of them.
    fn comma(&self) -> &'static str {
        if matches!(self, Kind::Reserve) { ";" } else { "," }
    }

    /// What is expected, in words.
    pub fn what(&self) -> String {
        match self {
            Kind::Text | Kind::Secret | Kind::Path | Kind::Command => "text",
            Kind::Bool | Kind::Switch => "true or false",
            Kind::Int { what, .. } | Kind::Size { what, .. } => what,
            Kind::Seconds => "a number of seconds, 0 or more",
            Kind::WholeSeconds => "a whole number of seconds",
            Kind::Time => "seconds or a time such as 30min",
            Kind::Reserve => "a share such as 5% (50% at the most), a size such as 10GB, or off",
            Kind::Word(words) | Kind::WordOrMap(words, _) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                return format!("one of {}", words.join(", "));
            }
            Kind::Address { .. } => "host:port",
            Kind::Listen => "host:port",
            Kind::Texts => "a list (one `- item` per line)",
            Kind::TextsOrCsv | Kind::Addresses => "a list, or text with commas between",
            Kind::LogFormat => "a template, or a list of fields",
            Kind::Maps(_) => "a list of maps",
            Kind::Options(_) => "a list of `- option` and `- option: value`",
            Kind::Settings | Kind::Words(_) | Kind::Slots | Kind::Free | Kind::Map(..) => "a map of keys and values",
        }
        .to_owned()
    }
}

fn listen(text: Option<&str>, node: &Node) -> Result<(), String> {
    let wrong = |what: String| Err(format!("expected {what}, found {}", found(node)));
    match text.map(|text| address::split(text, Some(5432))) {
        Some(Ok(listen)) if listen.hosts.len() > 1 && listen.hosts.iter().any(|h| h == "*") => {
            wrong("`*` alone or a list of hosts without it".to_owned())
        }
        Some(Ok(_)) => Ok(()),
        Some(Err(why)) => wrong(format!("host:port ({why})")),
        None => wrong("host:port".to_owned()),
    }
}

pub(crate) fn boolean(node: &Node) -> Option<bool> {
    match &node.value {
        NodeValue::Bool(b) => Some(*b),
        _ => node.scalar_text().and_then(|t| parse_bool(t.trim())),
    }
}

pub(crate) fn seconds(node: &Node) -> Option<Duration> {
    let number = match &node.value {
        NodeValue::Number(n) => n.as_f64(),
        NodeValue::Text(t) => t.trim().parse().ok(),
        _ => None,
    };
    // The bound keeps sums with a point in time from overflowing.
    number.filter(|n| *n < 1e9).and_then(|n| Duration::try_from_secs_f64(n).ok())
}

pub(crate) fn time(node: &Node) -> Option<Duration> {
    let seconds = match &node.value {
        NodeValue::Number(n) => n.as_i64(),
        NodeValue::Text(t) => value::parse_time(t, TimeUnit::Seconds),
        _ => None,
    };
    let seconds = seconds.filter(|n| (0..=i64::from(u32::MAX)).contains(n))?;
    Some(Duration::from_secs(seconds.unsigned_abs()))
}

pub(crate) fn size(node: &Node) -> Option<u64> {
    value::parse_bytes(node.scalar_text()?.trim()).and_then(|n| u64::try_from(n).ok())
}

/// `5%`, `10GB`, or `off`.
pub(crate) fn reserve(node: &Node) -> Option<Reserve> {
    let text = node.scalar_text()?;
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.trim().parse::<u8>().ok().filter(|n| *n <= 50)?;
        return Some(Reserve { percent, least: 0, most: u64::MAX });
    }
    if parse_bool(&text) == Some(false) {
        return Some(Reserve::OFF);
    }
    let bytes = value::parse_bytes(&text).and_then(|n| u64::try_from(n).ok())?;
    Some(Reserve { percent: 0, least: bytes, most: bytes })
}

/// The first of the words that mean the same.
pub(crate) fn word(words: &[Word], node: &Node) -> Option<&'static str> {
    let text = node.scalar_text()?.trim().to_lowercase();
    words.iter().find(|(word, others)| *word == text || others.contains(&text.as_str())).map(|(word, _)| *word)
}
