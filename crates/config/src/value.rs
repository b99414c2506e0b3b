//! Values as people and PostgreSQL write them (`spec/config.md §0`).

/// The base unit a number is wanted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Milliseconds,
    Seconds,
    Minutes,
}

pub fn parse_bool(_text: &str) -> Option<bool> {
    unimplemented!()
}

/// Without a unit; `0x1f`, `010` (octal) and `1e3` are numbers.
pub fn parse_int(_text: &str) -> Option<i64> {
    unimplemented!()
}

pub fn parse_bytes(_text: &str) -> Option<i64> {
    unimplemented!()
}

/// In `base`; a unit may follow the number, `base` is meant without one.
pub fn parse_seconds(_text: &str, _base: TimeUnit) -> Option<i64> {
    unimplemented!()
}
