//! Server parameters that are the cluster's and not a member's (`spec/config.md §8.1`): a standby has to have limits at
//! least as high as its primary's, so they come from the stored document alone.

use crate::value::{parse_bool, parse_int, parse_megabytes};

pub(crate) struct Controlled {
    pub name: &'static str,
    /// `None`: set by Surus from elsewhere, or only from a certain version on.
    pub default: Option<&'static str>,
    pub accepts: Accepts,
    /// First major version that knows it, as `server_version_num` has it.
    pub since: u32,
    pub on_command_line: bool,
}

pub(crate) enum Accepts {
    /// Never from the document; the text says where it comes from.
    Nothing(&'static str),
    WalLevel,
    On,
    Bool,
    AtLeast(i64),
    MegabytesAtLeast(i64),
}

const fn row(
    name: &'static str,
    default: Option<&'static str>,
    accepts: Accepts,
    since: u32,
    on_command_line: bool,
) -> Controlled {
    Controlled { name, default, accepts, since, on_command_line }
}

/// In the order of the command line.
pub(crate) const CONTROLLED: &[Controlled] = &[
    row("listen_addresses", None, Accepts::Nothing("postgresql.listen"), 90_100, true),
    row("port", None, Accepts::Nothing("postgresql.listen"), 90_100, true),
    row("cluster_name", None, Accepts::Nothing("scope"), 90_500, true),
    row("wal_level", Some("replica"), Accepts::WalLevel, 90_100, true),
    row("hot_standby", Some("on"), Accepts::On, 90_100, true),
    row("max_connections", Some("100"), Accepts::AtLeast(25), 90_100, true),
    row("max_wal_senders", Some("10"), Accepts::AtLeast(3), 90_100, true),
    row("wal_keep_segments", None, Accepts::AtLeast(1), 90_100, false),
    row("wal_keep_size", None, Accepts::MegabytesAtLeast(16), 130_000, false),
    row("max_prepared_transactions", Some("0"), Accepts::AtLeast(0), 90_100, true),
    row("max_locks_per_transaction", Some("64"), Accepts::AtLeast(32), 90_100, true),
    row("track_commit_timestamp", Some("off"), Accepts::Bool, 90_500, true),
    row("max_replication_slots", Some("10"), Accepts::AtLeast(4), 90_400, true),
    row("max_worker_processes", Some("8"), Accepts::AtLeast(2), 90_400, true),
    row("wal_log_hints", Some("on"), Accepts::Bool, 90_400, true),
];

pub(crate) fn controlled(name: &str) -> Option<&'static Controlled> {
    CONTROLLED.iter().find(|c| c.name == name)
}

/// Names and defaults of those of a new cluster; `None`: set by Surus from elsewhere.
pub fn cluster_parameters() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    CONTROLLED.iter().map(|rule| (rule.name, rule.default))
}

/// For a server parameter that is the cluster's: the text to use in place of what the document says, or why that is not
/// accepted. `None`: the parameter may be set anywhere.
pub fn judge_parameter(name: &str, text: &str) -> Option<Result<String, String>> {
    controlled(&name.to_lowercase()).map(|rule| rule.validate(text))
}

/// What holds while the document does not say; `None`: PostgreSQL's own default.
pub fn parameter_default(name: &str) -> Option<&'static str> {
    controlled(&name.to_lowercase())?.default
}

/// Set on the command line of the server, which comes before `ALTER SYSTEM`.
pub fn on_command_line(name: &str) -> bool {
    controlled(&name.to_lowercase()).is_some_and(|rule| rule.on_command_line)
}

impl Controlled {
    /// The text to use, or what would have been acceptable.
    pub fn validate(&self, text: &str) -> Result<String, String> {
        let bool_text = |b: bool| if b { "on" } else { "off" }.to_owned();
        match self.accepts {
            Accepts::Nothing(origin) => Err(format!("it always comes from `{origin}`")),
            Accepts::WalLevel => Some(text.trim().to_lowercase())
                .filter(|t| matches!(t.as_str(), "hot_standby" | "replica" | "logical"))
                .ok_or_else(|| "expected replica or logical".to_owned()),
            Accepts::On => parse_bool(text.trim())
                .filter(|on| *on)
                .map(bool_text)
                .ok_or_else(|| "expected on: a standby that accepts no connections cannot be looked after".to_owned()),
            Accepts::Bool => parse_bool(text.trim()).map(bool_text).ok_or_else(|| "expected on or off".to_owned()),
            Accepts::AtLeast(minimum) => parse_int(text)
                .filter(|n| *n >= minimum)
                .map(|n| n.to_string())
                .ok_or_else(|| format!("expected a whole number, at least {minimum}")),
            Accepts::MegabytesAtLeast(minimum) => parse_megabytes(text)
                .filter(|n| *n >= minimum)
                .map(|_| text.trim().to_owned())
                .ok_or_else(|| format!("expected a size of at least {minimum}MB, such as 128MB")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_document_may_say() {
        for (name, text, expected) in [
            ("max_connections", "200", Ok("200")),
            ("max_connections", "24", Err("expected a whole number, at least 25")),
            ("max_connections", "many", Err("expected a whole number, at least 25")),
            ("wal_level", "LOGICAL", Ok("logical")),
            ("wal_level", "minimal", Err("expected replica or logical")),
            ("track_commit_timestamp", "yes", Ok("on")),
            ("wal_keep_size", "1GB", Ok("1GB")),
            ("wal_keep_size", "8MB", Err("expected a size of at least 16MB, such as 128MB")),
            ("port", "5432", Err("it always comes from `postgresql.listen`")),
        ] {
            let result = controlled(name).unwrap().validate(text);
            assert_eq!(result.as_deref().map_err(String::as_str), expected, "{name} = {text}");
        }
        assert!(controlled("hot_standby").unwrap().validate("off").is_err());
    }
}
