//! How a command ends when it does not end well, and with which exit code (`spec/cli.md §1.4`).

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

#[derive(Debug)]
pub enum Failure {
    /// `Error: <text>` on standard error, exit code 1.
    Message(String),
    /// Wrong usage that the argument parser cannot see, exit code 2.
    Usage(String),
    /// End of input at a prompt, or Ctrl-C.
    Aborted,
    /// The command has said on its output what failed.
    Said,
    /// Standard output could not be written. A closed pipe is the reader's way to say "enough".
    Output(io::Error),
}

pub type Outcome<T = ()> = Result<T, Failure>;

pub fn failed<T>(text: impl Display) -> Outcome<T> {
    Err(Failure::Message(text.to_string()))
}

/// For errors of others whose text stands for itself.
pub trait OrFail<T> {
    fn or_fail(self) -> Outcome<T>;
    fn or_fail_with(self, context: impl Display) -> Outcome<T>;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    fn or_fail(self) -> Outcome<T> {
        self.map_err(|e| Failure::Message(format!("{e:#}")))
    }

    fn or_fail_with(self, context: impl Display) -> Outcome<T> {
        self.map_err(|e| Failure::Message(format!("{context}: {e:#}")))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

impl Failure {
    /// What standard error gets, if anything.
    pub fn text(&self) -> Option<String> {
        match self {
            Failure::Message(text) | Failure::Usage(text) => Some(format!("Error: {text}")),
            // Behind a question that a person did not answer.
            Failure::Aborted if io::stdin().is_terminal() => Some("\nAborted!".to_owned()),
            Failure::Aborted => Some("Aborted!".to_owned()),
            Failure::Said => None,
            Failure::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => None,
            Failure::Output(e) => Some(format!("Error: the output could not be written: {e}")),
        }
    }

    /// Scripts written for `patronictl` know it to end well when a member refused, with a line that says so.
    pub fn exit_code(&self, as_patronictl: bool) -> ExitCode {
        match self {
            Failure::Said if as_patronictl => ExitCode::SUCCESS,
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}
