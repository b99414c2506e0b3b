//! Which of the configured parameters the server's program takes (`spec/config.md §8.3`).
//!
//! One parameter that it does not know, or one value, keeps a server from starting, and a cluster may be set for another
//! version than this member has. No table of names knows a version better than the program itself, so it is asked: it
//! reads a file with the parameters in it and names every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use crate::conf_text::parameter_lines;
use crate::config::{InstanceConfig, beside};
use crate::disk::{IO_LIMIT, blocking, make_dirs, replace_file};
use crate::instance::{Instance, PROBE_LIMIT};
use crate::version::major_text;
use crate::{ErrorKind, PgError, Result};

/// The parameters of each role, before and after a change of them.
const REMEMBERED: usize = 4;

/// What is to be done about the parameters before a file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    left_out: BTreeSet<String>,
    /// Outside of what the server takes: the nearest value it does.
    bounded: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    program: PathBuf,
    modified: Option<SystemTime>,
    parameters: BTreeMap<String, String>,
}

impl Judged {
    pub fn apply(&self, config: &mut InstanceConfig) {
        config.parameters.retain(|name, _| !self.left_out.contains(name));
        config.command_line.retain(|(name, _)| !self.left_out.contains(name));
        for (name, value) in &self.bounded {
            config.parameters.insert(name.clone(), value.clone());
            for (_, old) in config.command_line.iter_mut().filter(|(on_line, _)| on_line == name) {
                old.clone_from(value);
            }
        }
    }
}

impl Instance {
    /// Asks the program once for each set of parameters. What cannot be asked is taken as it is.
    pub(crate) async fn judged(&self, version: u32) -> Judged {
        let config = self.config();
        let program = config.bin("postgres");
        let path = program.clone();
        let look = move || Ok(std::fs::metadata(path).and_then(|m| m.modified()).ok());
        let modified = blocking("looking at PostgreSQL's program", IO_LIMIT, look).await.ok().flatten();
        let asked = Asked { program, modified, parameters: config.parameters.clone() };
        // One at a time: the file that is read has one name.
        let mut known = self.inner.judged.lock().await;
        if let Some((_, judged)) = known.iter().find(|(of, _)| *of == asked) {
            return judged.clone();
        }
        let tried = match tokio::time::timeout(PROBE_LIMIT, self.try_parameters(&config, version)).await {
            Ok(tried) => tried,
            Err(_) => Err(PgError::new(ErrorKind::TimedOut, format!("no answer within {PROBE_LIMIT:?}"))),
        };
        match tried {
            Ok(judged) => {
                known.truncate(REMEMBERED - 1);
                known.insert(0, (asked, judged.clone()));
                judged
            }
            Err(e) => {
                tracing::warn!("the parameters are used without having been tried: {e}");
                Judged::default()
            }
        }
    }

    /// The command line that a server is started with now.
    pub async fn command_line(&self) -> Vec<(String, String)> {
        let config = self.config();
        let known = self.inner.judged.lock().await;
        let judged = known.iter().find(|(of, _)| of.parameters == config.parameters).map(|(_, judged)| judged.clone());
        let mut config = InstanceConfig::clone(&config);
        judged.unwrap_or_default().apply(&mut config);
        config.command_line
    }

    async fn try_parameters(&self, config: &InstanceConfig, version: u32) -> Result<Judged> {
        let (user, file) = (self.user().await?, beside(&config.conf(), ".surus.check"));
        let mut judged = Judged::default();
        // Values are looked at only once every name is known.
        for _ in 0..4 {
            let mut tried = config.clone();
            judged.apply(&mut tried);
            let (text, path, owner) = (parameter_lines(&tried.parameters), file.clone(), user.clone());
            blocking("writing parameters to be tried", IO_LIMIT, move || {
                if let Some(dir) = path.parent() {
                    make_dirs(dir, owner.as_ref())?;
                }
                replace_file(&path, &text, 0o600, owner.as_ref())
            })
            .await?;
            let mut option = std::ffi::OsString::from("--config-file=");
            option.push(&file);
            let tool = self.tool("postgres").await?.arg("-D").arg(&config.data_dir).arg(option);
            // What the parameters themselves say about the log comes after this: faults are told here, and in English.
            let heard = ["--lc_messages=C", "--log_destination=stderr", "--log_min_messages=warning"];
            let output = tool.args(heard).args(["-C", "port"]).run(Some(PROBE_LIMIT), None).await?;
            if output.status.success() || !judged.take_in(&tried.parameters, &output.stderr, version) {
                break;
            }
        }
        let _ = std::fs::remove_file(&file);
        Ok(judged)
    }
}

impl Judged {
    /// `false`: there is nothing about these parameters in what was said.
    fn take_in(&mut self, parameters: &BTreeMap<String, String>, said: &str, version: u32) -> bool {
        let before = self.clone();
        for line in said.lines() {
            let named = |after: &str| {
                let name = line.split_once(after)?.1.split('"').next()?.to_lowercase();
                parameters.contains_key(&name).then_some(name)
            };
            if let Some(name) = named("unrecognized configuration parameter \"") {
                tracing::warn!(
                    "postgresql.parameters.{name} is left out: PostgreSQL {} has no such parameter",
                    major_text(version)
                );
                self.left_out.insert(name);
            } else if let Some(name) = named("is outside the valid range for parameter \"") {
                let value = &parameters[&name];
                match nearest(line) {
                    Some(bound) if before.bounded.get(&name) != Some(&bound) => {
                        tracing::warn!(
                            "postgresql.parameters.{name} is {bound} instead of {value}, which is more or less than \
                             PostgreSQL {} takes",
                            major_text(version)
                        );
                        self.bounded.insert(name, bound);
                    }
                    _ => self.leave_out(name, value),
                }
            } else if let Some(name) =
                named("invalid value for parameter \"").or_else(|| named(" requires a numeric value for parameter \""))
            {
                let value = &parameters[&name];
                self.leave_out(name, value);
            }
        }
        *self != before
    }

    fn leave_out(&mut self, name: String, value: &str) {
        tracing::warn!("postgresql.parameters.{name} is left out: PostgreSQL does not take the value {value:?}");
        // Also a bound that is none, beside other settings.
        self.bounded.remove(&name);
        self.left_out.insert(name);
    }
}

/// From `1 8kB is outside the valid range for parameter "shared_buffers" (16 8kB .. 1073741823 8kB)`: a bare number, so in
/// the parameter's own unit.
fn nearest(line: &str) -> Option<String> {
    let (value, range) = line.split_once(" is outside the valid range for parameter ")?;
    // Behind the time and the severity, and with a unit behind it.
    let words: Vec<&str> = value.split(' ').collect();
    let value = words.iter().rev().find_map(|word| word.parse::<f64>().ok())?;
    let (low, high) = range.rsplit_once('(')?.1.trim_end_matches(')').split_once(" .. ")?;
    let bound = |text: &str| text.split(' ').next().map(str::to_owned);
    let (low, high) = (bound(low)?, bound(high)?);
    if value < low.parse().ok()? { Some(low) } else { Some(high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_says_is_understood() {
        let said = "\
2026-11-26 10:47:17.953 GMT [15333] LOG:  skipping missing configuration file \"/d/postgresql.auto.conf\"
2026-11-26 10:47:17.953 GMT [15333] LOG:  unrecognized configuration parameter \"foo\" in file \"/c.conf\" line 2
2026-11-26 10:47:17.953 GMT [15333] LOG:  unrecognized configuration parameter \"theirs\" in file \"/d/auto.conf\" line 2
2026-11-26 10:47:25.730 GMT [16481] LOG:  invalid value for parameter \"work_mem\": \"abc\"
2026-11-26 10:47:25.730 GMT [16481] LOG:  9999999 is outside the valid range for parameter \"max_connections\" (1 .. 262143)
2026-11-26 10:47:25.730 GMT [16481] LOG:  1 8kB is outside the valid range for parameter \"shared_buffers\" (16 .. 1073741823)
2026-11-26 10:47:25.730 GMT [16481] LOG:  0 kB is outside the valid range for parameter \"temp_buffers\" (100 8kB .. 1073741823 8kB)
2026-11-26 10:47:25.730 GMT [16481] LOG:  -0.5 is outside the valid range for parameter \"seq_page_cost\" (0 .. 1.79769e+308)
2026-11-26 10:47:25.731 GMT [16481] HINT:  Available values: minimal, replica, logical.
2026-11-26 10:47:25.731 GMT [16481] FATAL:  configuration file \"/c.conf\" contains errors
";
        let names = ["foo", "work_mem", "max_connections", "shared_buffers", "temp_buffers", "seq_page_cost", "port"];
        let parameters: BTreeMap<String, String> = names.map(|n| (n.to_owned(), "x".to_owned())).into();
        let mut judged = Judged::default();
        assert!(judged.take_in(&parameters, said, 150_000));
        assert_eq!(judged.left_out, ["foo", "work_mem"].map(str::to_owned).into());
        let bounds =
            [("max_connections", "262143"), ("shared_buffers", "16"), ("temp_buffers", "100"), ("seq_page_cost", "0")];
        assert_eq!(judged.bounded, bounds.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
        assert!(!judged.clone().take_in(&parameters, "FATAL: something else", 150_000));

        let mut config = InstanceConfig {
            parameters,
            command_line: vec![("max_connections".into(), "9999999".into()), ("port".into(), "1".into())],
            ..InstanceConfig::default()
        };
        judged.apply(&mut config);
        assert_eq!(
            config.command_line,
            [("max_connections", "262143"), ("port", "1")].map(|(n, v)| (n.into(), v.into()))
        );
        assert!(!config.parameters.contains_key("foo") && config.parameters["shared_buffers"] == "16");
    }
}
