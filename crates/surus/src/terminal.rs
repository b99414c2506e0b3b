//! Where a command writes and asks. Prompts work on pipes too: scripts answer them through standard input.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Failure, Outcome};

pub struct Terminal {
    input: Box<dyn BufRead + Send>,
    output: Box<dyn Write + Send>,
    pub is_tty: bool,
}

/// One line on the terminal.
macro_rules! say {
    ($terminal:expr) => { $terminal.line(format_args!(""))? };
    ($terminal:expr, $($arg:tt)*) => { $terminal.line(format_args!($($arg)*))? };
}
pub(crate) use say;

impl Terminal {
    pub fn standard() -> Terminal {
        Terminal {
            input: Box::new(io::BufReader::new(io::stdin())),
            output: Box::new(io::stdout()),
            is_tty: io::stdout().is_terminal(),
        }
    }

    #[cfg(test)]
    pub fn of(input: &'static str, output: Box<dyn Write + Send>) -> Terminal {
        Terminal { input: Box::new(input.as_bytes()), output, is_tty: false }
    }

    pub fn line(&mut self, text: fmt::Arguments<'_>) -> Outcome {
        writeln!(self.output, "{text}")?;
        Ok(self.output.flush()?)
    }

    pub fn write(&mut self, text: &str) -> Outcome {
        self.output.write_all(text.as_bytes())?;
        Ok(self.output.flush()?)
    }

    /// An empty answer means the default; without a default the question is repeated.
    pub fn ask(&mut self, question: &str, default: Option<&str>) -> Outcome<String> {
        loop {
            match default {
                Some(default) => write!(self.output, "{question} [{default}]: ")?,
                None => write!(self.output, "{question}: ")?,
            }
            self.output.flush()?;
            let answer = self.answer()?;
            match (answer.is_empty(), default) {
                (false, _) => return Ok(answer),
                (true, Some(default)) => return Ok(default.to_owned()),
                (true, None) => {}
            }
        }
    }

    /// What is typed does not show, if a person types it.
    pub fn ask_hidden(&mut self, question: &str) -> Outcome<String> {
        write!(self.output, "{question}: ")?;
        self.output.flush()?;
        let Some(hidden) = Hidden::begin() else { return self.answer() };
        let typed = self.typed();
        drop(hidden);
        writeln!(self.output)?;
        typed
    }

    /// A line, byte by byte: while nothing is echoed the kernel edits no line and sends no signal.
    fn typed(&mut self) -> Outcome<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match self.input.read(&mut byte) {
                Ok(1..) => {}
                _ => return Err(Failure::Aborted),
            }
            match byte[0] {
                b'\r' | b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                // Ctrl-C, and Ctrl-D on an empty line.
                3 => return Err(Failure::Aborted),
                4 if line.is_empty() => return Err(Failure::Aborted),
                8 | 127 => {
                    line.pop();
                }
                // Ctrl-U
                21 => line.clear(),
                byte => line.push(byte),
            }
        }
    }

    pub fn confirm(&mut self, question: &str) -> Outcome<bool> {
        loop {
            write!(self.output, "{question} [y/N]: ")?;
            self.output.flush()?;
            match self.answer()?.to_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "" | "n" | "no" => return Ok(false),
                _ => say!(self, "Error: invalid input"),
            }
        }
    }

    pub fn read_all(&mut self) -> Outcome<String> {
        let mut text = String::new();
        self.input
            .read_to_string(&mut text)
            .map_err(|e| Failure::Message(format!("standard input could not be read: {e}")))?;
        Ok(text)
    }

    fn answer(&mut self) -> Outcome<String> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line);
        if !matches!(read, Ok(n) if n > 0) {
            return Err(Failure::Aborted);
        }
        Ok(line.trim().to_owned())
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> Option<Hidden> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet).ok()?;
        Some(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// A buffer that can be read while the terminal owns its other end.
#[cfg(test)]
#[derive(Clone, Default)]
pub struct Captured(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Captured {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn terminal(&self, input: &'static str) -> Terminal {
        Terminal::of(input, Box::new(self.clone()))
    }
}

#[cfg(test)]
impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts() {
        let out = Captured::default();
        let mut terminal = out.terminal("\nb\n\nx\nmaybe\nY\n\n");
        assert_eq!(terminal.ask("Candidate", Some("")).unwrap(), "");
        assert_eq!(terminal.ask("Primary", Some("a")).unwrap(), "b");
        assert_eq!(terminal.ask("Name", None).unwrap(), "x");
        assert!(terminal.confirm("Sure?").unwrap());
        assert!(!terminal.confirm("Sure?").unwrap());
        assert!(matches!(terminal.confirm("Sure?"), Err(Failure::Aborted)));
        assert_eq!(
            out.text(),
            "Candidate []: Primary [a]: Name: Name: Sure? [y/N]: Error: invalid input\nSure? [y/N]: Sure? [y/N]: Sure? [y/N]: "
        );
    }
}
