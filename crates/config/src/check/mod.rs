//! `surus check`: everything that can be found out about a configuration without starting anything.

mod bin_dir;
mod commands;
mod data_dir;
mod ports;

use std::collections::BTreeMap;
use std::path::Path;

pub use bin_dir::find_bin_dir;

use crate::finding::{Finding, Place, Severity, Source};
use crate::local::LocalConfig;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Do not try whether the listen addresses are free: the member may be running.
    pub ignore_listen_port: bool,
}

/// Errors first, then warnings. Empty: nothing to complain about.
pub fn check(path: Option<&Path>, env: &BTreeMap<String, String>, options: CheckOptions) -> Vec<Finding> {
    let config = match LocalConfig::load(path, env) {
        Ok(config) => config,
        Err(errors) => return errors.0,
    };
    let mut checks = Checks { config: &config, env, findings: config.warnings.clone() };
    let version = checks.executables();
    checks.data_dir(version);
    checks.commands();
    if let Some(warning) = config.restapi.closed_to_others() {
        checks.report(Severity::Warning, "restapi", warning);
    }
    if !options.ignore_listen_port {
        checks.ports();
    }
    let mut findings = checks.findings;
    findings.sort_by_key(|f| f.severity);
    findings
}

struct Checks<'a> {
    config: &'a LocalConfig,
    env: &'a BTreeMap<String, String>,
    findings: Vec<Finding>,
}

impl Checks<'_> {
    fn report(&mut self, severity: Severity, path: &str, message: impl Into<String>) {
        let place = self.config.source_of(path).or_else(|| self.config.source_of("")).cloned();
        let place = place.unwrap_or_else(|| Place::of(Source::Default));
        self.findings.push(Finding { severity, place, path: path.to_owned(), message: message.into() });
    }

    fn error(&mut self, path: &str, message: impl Into<String>) {
        self.report(Severity::Error, path, message);
    }
}
