//! The text of `postgresql.conf` and its neighbours (`spec/postgres.md §7.1, §18`). Pure.

use std::collections::BTreeMap;

use surus_core::postgres::RECOVERY_SETTINGS;

use crate::config::InstanceConfig;
use crate::conninfo;
use crate::synchronous::NAMES;
use surus_core::server::StartAs;

/// Those of [`RECOVERY_SETTINGS`] that a running server of this version takes over only by a restart.
pub(crate) fn needs_restart(name: &str, version: u32) -> bool {
    match name {
        "primary_conninfo" | "primary_slot_name" => version < 130_000,
        "restore_command" => version < 140_000,
        "archive_cleanup_command" | "recovery_end_command" | "recovery_min_apply_delay" | "promote_trigger_file" => {
            false
        }
        _ => true,
    }
}

/// Of `recovery.conf`, as it was before PostgreSQL 12.
const OLD_RECOVERY_SETTINGS: [&str; 3] = ["standby_mode", "trigger_file", "pause_at_recovery_target"];

/// The recovery block for a role.
pub(crate) fn recovery_settings(config: &InstanceConfig, role: &StartAs, version: u32) -> BTreeMap<String, String> {
    if let StartAs::Recovery { settings, .. } = role {
        return settings
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.clone()))
            .filter(|(name, _)| RECOVERY_SETTINGS.contains(&name.as_str()))
            .filter(|(name, _)| !OLD_RECOVERY_SETTINGS.contains(&name.as_str()))
            .filter(|(name, _)| version < 160_000 || name != "promote_trigger_file")
            .collect();
    }
    let StartAs::Standby { upstream, slot } = role else { return BTreeMap::new() };
    let none = BTreeMap::new();
    let remote = if upstream.as_ref().is_none_or(|u| u.remote) { &config.remote_recovery_conf } else { &none };
    let mut out: BTreeMap<String, String> = config
        .recovery_conf
        .iter()
        .chain(remote)
        .filter(|(name, _)| RECOVERY_SETTINGS.contains(&name.as_str()) && !name.starts_with("recovery_target"))
        .filter(|(name, _)| !OLD_RECOVERY_SETTINGS.contains(&name.as_str()))
        .filter(|(name, _)| version < 160_000 || name.as_str() != "promote_trigger_file")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    out.insert("recovery_target_timeline".into(), "latest".into());
    for name in [
        "recovery_target",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
        "recovery_target_lsn",
    ] {
        out.insert(name.into(), String::new());
    }
    let conninfo = upstream.as_ref().map(|u| conninfo::primary_conninfo(config, u, slot.is_some(), version));
    // Written even when empty: an included file must not bring an upstream of its own.
    out.insert("primary_conninfo".into(), conninfo.unwrap_or_default());
    out.insert("primary_slot_name".into(), slot.clone().filter(|_| upstream.is_some()).unwrap_or_default());
    out
}

pub(crate) fn postgresql_conf(
    config: &InstanceConfig,
    parameters: &BTreeMap<String, String>,
    include: &str,
    recovery: &BTreeMap<String, String>,
) -> String {
    let mut out = String::from(
        "# Written by surus; changes made here are overwritten.\n\
         # Change the settings of the cluster or of this member instead.\n",
    );
    out.push_str(&format!("include {}\n\n", quote(include)));
    out.push_str(&parameter_lines(parameters));
    for (name, file) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] {
        if !parameters.contains_key(name) {
            out.push_str(&line(name, &config.config_dir.join(file).to_string_lossy()));
        }
    }
    if !recovery.is_empty() {
        out.push_str("\n# recovery.conf\n");
        for (name, value) in recovery {
            out.push_str(&line(name, value));
        }
    }
    out
}

pub(crate) fn parameter_lines(parameters: &BTreeMap<String, String>) -> String {
    let ours = parameters.iter().filter(|(name, _)| !RECOVERY_SETTINGS.contains(&name.as_str()));
    ours.map(|(name, value)| line(name, value)).collect()
}

fn line(name: &str, value: &str) -> String {
    format!("{name} = {}\n", quote(value))
}

fn quote(value: &str) -> String {
    // The server reads line by line; a line break survives only as an escape.
    let value = value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n").replace('\r', "\\r");
    format!("'{value}'")
}

pub(crate) fn listed(lines: &[String]) -> String {
    let mut out = String::from("# Written by surus; changes made here are overwritten.\n");
    for line in lines {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The recovery settings of a file we (or a predecessor of ours) wrote.
pub(crate) fn read_recovery(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(assignment).filter(|(name, _)| RECOVERY_SETTINGS.contains(&name.as_str())).collect()
}

/// The synchronous standbys in a file we (or a predecessor of ours) wrote.
pub(crate) fn read_names(text: &str) -> Option<String> {
    let mut named = text.lines().filter_map(assignment).filter(|(name, _)| name == NAMES);
    named.next_back().map(|(_, value)| value)
}

/// `postgresql.auto.conf` without recovery settings: they would win over ours. `None`: nothing to remove.
pub(crate) fn without_recovery(text: &str) -> Option<String> {
    let recovery = |l: &str| assignment(l).is_some_and(|(name, _)| RECOVERY_SETTINGS.contains(&name.as_str()));
    text.lines()
        .any(recovery)
        .then(|| text.lines().filter(|l| !recovery(l)).fold(String::new(), |out, l| out + l + "\n"))
}

fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let Some(quoted) = rest.strip_prefix('\'') else {
        let value = rest.split(['#', ' ', '\t']).next().unwrap_or_default();
        return (!value.is_empty()).then(|| (name.to_ascii_lowercase(), value.to_owned()));
    };
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Some((name.to_ascii_lowercase(), value)),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> InstanceConfig {
        InstanceConfig {
            config_dir: "/c".into(),
            parameters: [("b", "it's"), ("a", "C:\\x"), ("restore_command", "no")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            recovery_conf: [("restore_command", "cp %f"), ("recovery_target_name", "x"), ("primary_conninfo", "y")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..InstanceConfig::default()
        }
    }

    #[test]
    fn whole_file() {
        let c = config();
        let text = postgresql_conf(&c, &c.parameters, "postgresql.base.conf", &BTreeMap::new());
        let body: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            body,
            [
                "include 'postgresql.base.conf'",
                "",
                "a = 'C:\\\\x'",
                "b = 'it''s'",
                "hba_file = '/c/pg_hba.conf'",
                "ident_file = '/c/pg_ident.conf'",
            ]
        );
    }

    #[test]
    fn recovery_block() {
        assert!(recovery_settings(&config(), &StartAs::Primary, 150_000).is_empty());
        let lone = recovery_settings(&config(), &StartAs::Standby { upstream: None, slot: Some("s".into()) }, 150_000);
        for (name, value) in [
            ("restore_command", "cp %f"),
            ("primary_conninfo", ""),
            ("primary_slot_name", ""),
            ("recovery_target_name", ""),
            ("recovery_target_timeline", "latest"),
        ] {
            assert_eq!(lone.get(name).map(String::as_str), Some(value), "{name}");
        }
        let text = postgresql_conf(&config(), &BTreeMap::new(), "x", &lone);
        assert_eq!(read_recovery(&text), lone);
    }

    #[test]
    fn auto_conf() {
        assert_eq!(without_recovery("# c\nwork_mem = '1MB'\n"), None);
        let text = "# c\nprimary_conninfo = 'a=b'\nwork_mem = '1MB'\nRestore_Command 'x'\n";
        assert_eq!(without_recovery(text).as_deref(), Some("# c\nwork_mem = '1MB'\n"));
    }

    #[test]
    fn what_needs_a_restart() {
        assert!(!needs_restart("primary_conninfo", 130_000));
        assert!(needs_restart("restore_command", 130_000) && !needs_restart("restore_command", 140_000));
        assert!(needs_restart("recovery_target_timeline", 180_000));
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(value in "[^\u{0}\t]*") {
            let text = line("restore_command", &value);
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert_eq!(read_recovery(&text).remove("restore_command"), Some(value));
        }
    }
}
