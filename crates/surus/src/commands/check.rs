//! `check`: what is wrong with a configuration, before it is used.

use std::path::Path;

use surus_config::{CheckOptions, Severity};

use crate::failure::{Failure, Outcome};
use crate::terminal::{Terminal, say};

pub fn check(terminal: &mut Terminal, path: Option<&Path>, ignore_listen_port: bool, quiet: bool) -> Outcome {
    if let Some(path) = path
        && let Err(error) = std::fs::metadata(path)
    {
        return Err(Failure::Message(format!("{}: {error}", path.display())));
    }
    let findings = surus_config::check(path, &surus_config::environment(), CheckOptions { ignore_listen_port });
    let mut wrong = false;
    for finding in &findings {
        if finding.severity == Severity::Error {
            wrong = true;
            crate::complain(&finding.to_string());
        } else {
            crate::warn(&finding.to_string());
        }
    }
    if wrong {
        return Err(Failure::Said);
    }
    if !quiet {
        let what = path.map_or("The configuration from the environment".to_owned(), |p| p.display().to_string());
        say!(terminal, "{what} is valid");
    }
    Ok(())
}
