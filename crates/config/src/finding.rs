//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Error,
    Warning,
}

/// Which layer a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Built in.
    Default,
    /// The document in the store.
    Dynamic,
    File(Arc<PathBuf>),
    /// The variable's name.
    Environment(Arc<str>),
}

/// Where a value was written. Line and column count from 1; 0 is "not known".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub source: Source,
    pub line: usize,
    pub column: usize,
}

impl Place {
    pub fn of(source: Source) -> Place {
        Place { source, line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Default => write!(f, "built-in default"),
            Source::Dynamic => write!(f, "dynamic configuration"),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::File(path) if self.line == 0 => write!(f, "{}", path.display()),
            Source::File(path) => write!(f, "{}:{}:{}", path.display(), self.line, self.column),
        }
    }
}

/// One problem. `Display` is one line: `patroni.yml:12:10: bootstrap.dcs.ttl: expected ..., found ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub place: Place,
    /// Dotted; empty when the problem is the file itself.
    pub path: String,
    pub message: String,
}

pub type Warning = Finding;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that keeps a configuration from being used; one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Finding>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
