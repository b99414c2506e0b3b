//! A line as words with their columns, and the error that points at one.

use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub column: usize,
    /// The word that stands there; `None` at the end of the line.
    pub found: Option<String>,
    pub expected: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found.as_ref().map_or("the line ends".to_owned(), |word| format!("\"{word}\""));
        write!(f, "line {}, column {}: expected {}, found {found}", self.line, self.column, self.expected)
    }
}

impl std::error::Error for SyntaxError {}

pub type Parsed<T> = Result<T, SyntaxError>;

/// Reads one line from left to right.
pub struct Words<'a> {
    line: usize,
    words: Vec<(usize, &'a str)>,
    next: usize,
    end: usize,
}

impl<'a> Words<'a> {
    /// Everything from `#` on is a comment; commas are for the reader's eye.
    pub fn of(line: usize, text: &'a str) -> Words<'a> {
        let code = text.split('#').next().unwrap_or_default();
        let separator = |c: char| c.is_whitespace() || c == ',';
        let mut words = Vec::new();
        let mut begin = None;
        for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
            match (separator(c), begin) {
                (false, None) => begin = Some(at),
                (true, Some(from)) => {
                    words.push((code[..from].chars().count() + 1, &code[from..at]));
                    begin = None;
                }
                _ => {}
            }
        }
        Words { line, words, next: 0, end: code.trim_end().chars().count() + 1 }
    }

    pub fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    /// Whether this word follows the next one.
    pub fn is_next(&self, word: &str) -> bool {
        self.words.get(self.next + 1).is_some_and(|(_, there)| *there == word)
    }

    pub fn is_done(&self) -> bool {
        self.next == self.words.len()
    }

    pub fn word(&mut self, expected: &str) -> Parsed<&'a str> {
        let word = self.peek().ok_or_else(|| self.error(expected))?;
        self.next += 1;
        Ok(word)
    }

    /// Takes all these words, or none of them.
    pub fn take(&mut self, phrase: &str) -> bool {
        let wanted: Vec<&str> = phrase.split(' ').collect();
        let there = self.words.get(self.next..self.next + wanted.len());
        let same = there.is_some_and(|there| there.iter().map(|(_, word)| *word).eq(wanted.iter().copied()));
        if same {
            self.next += wanted.len();
        }
        same
    }

    pub fn must(&mut self, phrase: &str) -> Parsed<()> {
        for word in phrase.split(' ') {
            if !self.take(word) {
                return Err(self.error(&format!("\"{word}\"")));
            }
        }
        Ok(())
    }

    /// The error at the next word.
    pub fn error(&self, expected: &str) -> SyntaxError {
        let (column, found) = match self.words.get(self.next) {
            Some((column, word)) => (*column, Some((*word).to_owned())),
            None => (self.end, None),
        };
        SyntaxError { line: self.line, column, found, expected: expected.to_owned() }
    }

    /// `2s`, `1500ms`, `5min`, `1h`, also `2 seconds`.
    pub fn duration(&mut self) -> Parsed<Duration> {
        const EXPECTED: &str = "a time such as 500ms, 10s, 2min or 1h";
        let at = self.next;
        let word = self.word(EXPECTED)?;
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, mut unit) = word.split_at(digits);
        if unit.is_empty() && !number.is_empty() {
            unit = self.word("a unit: ms, s, min or h")?;
        }
        let scale = match unit {
            "ms" | "milliseconds" => Some(1),
            "s" | "second" | "seconds" => Some(1000),
            "min" | "minute" | "minutes" => Some(60_000),
            "h" | "hour" | "hours" => Some(3_600_000),
            _ => None,
        };
        let millis = number.parse::<u64>().ok().zip(scale).and_then(|(number, scale)| number.checked_mul(scale));
        millis.map(Duration::from_millis).ok_or_else(|| {
            self.next = at;
            self.error(EXPECTED)
        })
    }

    pub fn number(&mut self, expected: &str) -> Parsed<usize> {
        let number = self.peek().and_then(|word| word.parse().ok()).ok_or_else(|| self.error(expected))?;
        self.next += 1;
        Ok(number)
    }

    pub fn finish(&self) -> Parsed<()> {
        if self.is_done() { Ok(()) } else { Err(self.error("the end of the line")) }
    }
}
