//! Where a command writes and asks. Prompts work on pipes too: scripts answer them through standard input.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

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
        let Some(hidden) = Changed::hidden() else { return self.answer() };
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
                INTERRUPT => return Err(Failure::Aborted),
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
        let changed = Changed::interruptible();
        let line = self.line_typed();
        drop(changed);
        match line.as_deref() {
            None | Some([.., INTERRUPT]) => Err(Failure::Aborted),
            Some(line) => Ok(String::from_utf8_lossy(line).trim().to_owned()),
        }
    }

    /// Up to the end of the line or to Ctrl-C, and with that; nothing at the end of the input.
    fn line_typed(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let read = match self.input.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read.ok()?,
            };
            let end = read.iter().position(|byte| [b'\n', INTERRUPT].contains(byte));
            let taken = end.map_or(read.len(), |at| at + 1);
            line.extend_from_slice(&read[..taken]);
            self.input.consume(taken);
            if end.is_some() || taken == 0 {
                return Some(line).filter(|line| !line.is_empty());
            }
        }
    }
}

/// Ctrl-C
const INTERRUPT: u8 = 3;

/// A terminal that behaves in another way, until this is dropped.
struct Changed(Termios);

impl Changed {
    /// Shows nothing of what is typed.
    fn hidden() -> Option<Changed> {
        Changed::to(|t| t.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG))
    }

    /// Ctrl-C ends the line instead of the process: whoever asked says that nothing was done, with the status of that.
    fn interruptible() -> Option<Changed> {
        Changed::to(|t| {
            t.special_codes[SpecialCodeIndex::VINTR] = 0;
            t.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        })
    }

    fn to(change: impl FnOnce(&mut Termios)) -> Option<Changed> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut after = before.clone();
        change(&mut after);
        // What was typed ahead stays.
        tcsetattr(io::stdin(), OptionalActions::Drain, &after).ok()?;
        Some(Changed(before))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
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
