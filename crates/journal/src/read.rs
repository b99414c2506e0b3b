//! Reads a journal, whatever state it is in: what can be read is read, and the rest is named.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::delta;
use crate::encode::carried_on;
use crate::files::segments;
use crate::record::{Body, Decision, DecisionLine, FORMAT, Header, LostLine, Recorded, SameLine};

/// No line that was written as one is longer.
const LONGEST: u64 = 16 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A process begins.
    Header(Header),
    Decision(Box<Recorded>),
    /// The decision before was made so many times by then.
    Same {
        of: u64,
        times: u64,
        at: i64,
    },
    /// So many decisions were not recorded.
    Lost {
        at: i64,
        lost: u64,
        why: String,
    },
}

/// Something that cannot be read, where it is, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0: the file as a whole.
    pub line: u64,
    pub what: String,
    /// What a process that was killed leaves: the end of its last line is missing.
    pub torn: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Goes through the files of a journal in order.
pub struct Reader {
    files: VecDeque<PathBuf>,
    open: Option<(PathBuf, BufReader<File>, u64)>,
    header: Option<Header>,
    /// Records up to the next header are in a format that this program does not know.
    foreign: bool,
    base: Option<(u64, Value)>,
    /// Said already that the records which build on a lost one cannot be read.
    orphaned: bool,
    /// An unreadable line that is only torn if nothing but a header follows.
    pending: Option<Problem>,
    ready: VecDeque<Result<Item, Problem>>,
}

impl Reader {
    /// A journal's directory, or single files of one.
    pub fn open(path: &Path) -> io::Result<Reader> {
        let files = if path.is_dir() {
            let found = segments(path)?;
            if found.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "no journal is in this directory (00000001.jsonl ...)",
                ));
            }
            found.into_iter().map(|(_, path)| path).collect()
        } else {
            File::open(path)?;
            VecDeque::from([path.to_owned()])
        };
        Ok(Reader {
            files,
            open: None,
            header: None,
            foreign: false,
            base: None,
            orphaned: false,
            pending: None,
            ready: VecDeque::new(),
        })
    }

    /// Without the files that were written to their end before then (Unix milliseconds), but for the last of them: it knows
    /// what was going on.
    pub fn open_since(path: &Path, since: i64) -> io::Result<Reader> {
        let mut reader = Reader::open(path)?;
        let over = |path: &PathBuf| {
            let written = std::fs::metadata(path).and_then(|m| m.modified()).ok()?;
            let unix = written.duration_since(std::time::UNIX_EPOCH).ok()?;
            Some(i64::try_from(unix.as_millis()).ok()? < since)
        };
        while reader.files.get(1).is_some_and(|second| over(second) == Some(true)) {
            reader.files.pop_front();
        }
        Ok(reader)
    }

    /// Of the process whose records come now.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.open.is_none() {
                let path = self.files.pop_front()?;
                match File::open(&path) {
                    Ok(file) => self.open = Some((path, BufReader::new(file), 0)),
                    // The writer gives the oldest file up when it needs room, also while it is being read.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => self.ready.push_back(Err(Problem {
                        file: path,
                        line: 0,
                        what: format!("cannot be opened: {e}"),
                        torn: false,
                    })),
                }
                // Segments stand for themselves.
                self.base = None;
                self.orphaned = false;
                if self.open.is_none() {
                    return Some(Vec::new());
                }
            }
            let (path, reader, number) = self.open.as_mut()?;
            let mut bytes = Vec::new();
            let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut bytes);
            *number += 1;
            let (file, line) = (path.clone(), *number);
            let problem = |what: String, torn| Err(Problem { file, line, what, torn });
            match read {
                Ok(0) => {
                    self.open = None;
                    self.pending_is(true);
                    continue;
                }
                Ok(_) if bytes.ends_with(b"\n") => return Some(bytes),
                Ok(n) if n as u64 >= LONGEST => {
                    self.ready.push_back(problem("is not a journal: a line does not end".to_owned(), false));
                    self.open = None;
                }
                Ok(_) => {
                    let what =
                        "the last record is not whole: it was being written when the agent was killed, or is now";
                    self.ready.push_back(problem(what.to_owned(), true));
                    self.open = None;
                }
                Err(e) => {
                    self.ready.push_back(problem(format!("cannot be read: {e}"), false));
                    self.open = None;
                }
            }
            return Some(Vec::new());
        }
    }

    /// Decides what an unreadable line was.
    fn pending_is(&mut self, torn: bool) {
        if let Some(mut problem) = self.pending.take() {
            if torn {
                problem.what = "the last record of a process that was killed is not whole".to_owned();
                problem.torn = true;
            }
            self.ready.push_back(Err(problem));
        }
    }

    fn problem(&self, what: String) -> Problem {
        let (file, line) = self.open.as_ref().map(|(path, _, line)| (path.clone(), *line)).unwrap_or_default();
        Problem { file, line, what, torn: false }
    }

    fn take(&mut self, bytes: &[u8]) {
        let value: Value = match serde_json::from_slice(bytes) {
            Ok(value) => value,
            Err(e) => {
                self.pending_is(false);
                self.pending = Some(self.problem(format!("is no record of a journal ({e})")));
                self.base = None;
                self.orphaned = false;
                return;
            }
        };
        let has = |key: &str| value.get(key).is_some();
        let is_header = has("journal");
        self.pending_is(is_header);
        let item = if is_header {
            let before = self.header.take();
            match self.take_header(&value) {
                // Every segment of a process repeats its header.
                Ok(header) if before.as_ref() == Some(&header) => return,
                header => header.map(Item::Header),
            }
        } else if self.foreign {
            return;
        } else if has("n") {
            match self.take_decision(value) {
                Some(item) => item,
                None => return,
            }
        } else if has("same") {
            SameLine::deserialize(&value).map(|s| Item::Same { of: s.same, times: s.times, at: s.at }).map_err(text)
        } else if has("lost") {
            LostLine::deserialize(&value).map(|l| Item::Lost { at: l.at, lost: l.lost, why: l.why }).map_err(text)
        } else {
            Err("is JSON but no record of a journal".to_owned())
        };
        let item = item.map_err(|what| self.problem(what));
        self.ready.push_back(item);
    }

    fn take_header(&mut self, value: &Value) -> Result<Header, String> {
        self.base = None;
        self.orphaned = false;
        let format = value.get("journal").and_then(Value::as_u64);
        self.foreign = format != Some(u64::from(FORMAT));
        if self.foreign {
            let version = value.get("version").and_then(Value::as_str).unwrap_or("an unknown version");
            return Err(format!(
                "what follows was written in format {} by Surus {version}, and this program reads format {FORMAT}: use \
                 the program that wrote it",
                format.map_or_else(|| "?".to_owned(), |f| f.to_string())
            ));
        }
        let header = Header::deserialize(value).map_err(|e| {
            self.foreign = true;
            format!("the header of a process cannot be read ({e}); its records are left out")
        })?;
        self.header = Some(header.clone());
        Ok(header)
    }

    /// `None`: it builds on a record that is missing, which was said.
    fn take_decision(&mut self, value: Value) -> Option<Result<Item, String>> {
        let line = match DecisionLine::deserialize(value) {
            Ok(line) => line,
            Err(e) => {
                self.base = None;
                return Some(Err(format!("is no record of a decision ({e})")));
            }
        };
        let whole = match line.body {
            Body::Full(whole) => whole,
            Body::Since(of, change) => match self.base.take().filter(|(n, _)| *n == of) {
                Some((_, base)) => {
                    let mut whole = carried_on(base);
                    delta::apply(&mut whole, change);
                    whole
                }
                None if self.orphaned => return None,
                None => {
                    self.orphaned = true;
                    return Some(Err(format!(
                        "decision {} and those after it up to the next whole record cannot be read: they build on \
                         decision {of}, which is missing or damaged",
                        line.n
                    )));
                }
            },
        };
        self.orphaned = false;
        let decision = Decision::from_value(&whole).map_err(|e| match &self.header {
            Some(header)
                if header.version != env!("CARGO_PKG_VERSION") || header.rules != crate::rules_fingerprint() =>
            {
                format!(
                    "decision {} was recorded by another build (Surus {}) and is not understood: {e}",
                    line.n, header.version
                )
            }
            _ => format!("decision {} is not understood: {e}", line.n),
        });
        self.base = Some((line.n, whole));
        Some(decision.map(|decision| {
            Item::Decision(Box::new(Recorded { n: line.n, times: line.times, took: line.took, decision }))
        }))
    }
}

fn text(e: serde_json::Error) -> String {
    format!("is no record of a journal ({e})")
}

impl Iterator for Reader {
    type Item = Result<Item, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            match self.line() {
                Some(bytes) if !bytes.is_empty() => self.take(&bytes),
                Some(_) => {}
                None => return self.ready.pop_front(),
            }
        }
    }
}
