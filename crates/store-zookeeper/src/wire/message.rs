//! Requests and their answers.

use super::jute::{Malformed, Reader, Writer};

/// A code that ZooKeeper answers with, by its number (`KeeperException.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) i32);

impl Code {
    pub(crate) const NO_NODE: Code = Code(-101);
    pub(crate) const NO_AUTH: Code = Code(-102);
    pub(crate) const BAD_VERSION: Code = Code(-103);
    pub(crate) const NO_CHILDREN_FOR_EPHEMERALS: Code = Code(-108);
    pub(crate) const NODE_EXISTS: Code = Code(-110);
    pub(crate) const NOT_EMPTY: Code = Code(-111);
    pub(crate) const SESSION_EXPIRED: Code = Code(-112);
    pub(crate) const INVALID_ACL: Code = Code(-114);
    pub(crate) const AUTH_FAILED: Code = Code(-115);
    pub(crate) const SESSION_MOVED: Code = Code(-118);
    pub(crate) const NOT_READ_ONLY: Code = Code(-119);
    pub(crate) const QUOTA_EXCEEDED: Code = Code(-125);
    pub(crate) const THROTTLED: Code = Code(-127);
    pub(crate) const UNIMPLEMENTED: Code = Code(-6);

    pub(crate) fn text(self) -> &'static str {
        match self {
            Code::NO_NODE => "the znode does not exist",
            Code::NO_AUTH => "not allowed by the znode's ACL",
            Code::BAD_VERSION => "the znode has another version",
            Code::NO_CHILDREN_FOR_EPHEMERALS => "an ephemeral znode can have no children",
            Code::NODE_EXISTS => "the znode exists already",
            Code::NOT_EMPTY => "the znode has children",
            Code::SESSION_EXPIRED => "the session has expired",
            Code::INVALID_ACL => "the ACL is not valid",
            Code::AUTH_FAILED => "authentication failed",
            Code::SESSION_MOVED => "the session was moved to another connection",
            Code::NOT_READ_ONLY => "the server has no quorum and is read-only",
            Code::QUOTA_EXCEEDED => "the quota is exceeded",
            Code::THROTTLED => "the server is overloaded",
            Code::UNIMPLEMENTED => "the server does not know this request",
            _ => "the server failed",
        }
    }

    /// The server looked at the request and said no: it had no effect.
    pub(crate) fn is_definite(self) -> bool {
        self.0 <= -100 || self == Code::UNIMPLEMENTED
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.text(), self.0)
    }
}

/// What is known of a znode beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The transaction that created it.
    pub(crate) czxid: i64,
    /// The transaction that last wrote its value.
    pub(crate) mzxid: i64,
    /// The transaction that last created or deleted a child.
    pub(crate) pzxid: i64,
    /// Of the value: starts again at 0 when a znode is made again.
    pub(crate) version: i32,
    /// Counts its children's coming and going.
    pub(crate) cversion: i32,
    pub(crate) owner: i64,
}

impl Stat {
    fn read(reader: &mut Reader<'_>) -> Result<Stat, Malformed> {
        let (czxid, mzxid) = (reader.long()?, reader.long()?);
        let _times = (reader.long()?, reader.long()?);
        let (version, cversion, _aversion) = (reader.int()?, reader.int()?, reader.int()?);
        let owner = reader.long()?;
        let _lengths = (reader.int()?, reader.int()?);
        let pzxid = reader.long()?;
        Ok(Stat { czxid, mzxid, pzxid, version, cversion, owner })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    pub(crate) permissions: i32,
    pub(crate) scheme: String,
    pub(crate) id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Persistent,
    Ephemeral,
}

/// The kind of a request and its body.
pub(crate) struct Request {
    pub(crate) kind: i32,
    pub(crate) body: Vec<u8>,
}

const CREATE2: i32 = 15;
const DELETE: i32 = 2;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_CHILDREN2: i32 = 12;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const MULTI_READ: i32 = 22;
const ADD_WATCH: i32 = 106;
const CLOSE: i32 = -11;
const FAILED: i32 = -1;

const WATCH_RECURSIVE: i32 = 1;

fn request(kind: i32, write: impl FnOnce(&mut Writer)) -> Request {
    let mut writer = Writer::default();
    write(&mut writer);
    Request { kind, body: writer.into_bytes() }
}

impl Request {
    pub(crate) fn children(path: &str) -> Request {
        request(GET_CHILDREN2, |w| {
            w.text(path).flag(false);
        })
    }

    /// Values of several znodes at one moment.
    pub(crate) fn read_each<'a>(paths: impl IntoIterator<Item = &'a str>) -> Request {
        request(MULTI_READ, |w| {
            for path in paths {
                w.int(GET_DATA).flag(false).int(-1).text(path).flag(false);
            }
            w.int(-1).flag(true).int(-1);
        })
    }

    /// Tells of every change at and below a path, until the connection ends.
    pub(crate) fn watch_below(path: &str) -> Request {
        request(ADD_WATCH, |w| {
            w.text(path).int(WATCH_RECURSIVE);
        })
    }

    pub(crate) fn close() -> Request {
        Request { kind: CLOSE, body: Vec::new() }
    }
}

/// Children and stat, of an answer to [`Request::children`].
pub(crate) fn with_children(body: &[u8]) -> Result<(Vec<String>, Stat), Malformed> {
    let mut reader = Reader(body);
    let count = reader.int()?.max(0);
    let children = (0..count).map(|_| reader.text()).collect::<Result<_, _>>()?;
    Ok((children, Stat::read(&mut reader)?))
}

fn data(reader: &mut Reader<'_>) -> Result<(Vec<u8>, Stat), Malformed> {
    Ok((reader.bytes()?.to_vec(), Stat::read(reader)?))
}

/// A value and its stat, or why there is none.
pub(crate) type ReadOne = Result<(Vec<u8>, Stat), Code>;

/// Value and stat of each, or why there is none; of an answer to [`Request::read_each`].
pub(crate) fn read_each(body: &[u8]) -> Result<Vec<ReadOne>, Malformed> {
    let mut reader = Reader(body);
    let mut each = Vec::new();
    loop {
        let (kind, done, _) = (reader.int()?, reader.flag()?, reader.int()?);
        match kind {
            _ if done => return Ok(each),
            GET_DATA => each.push(Ok(data(&mut reader)?)),
            FAILED => each.push(Err(Code(reader.int()?))),
            _ => return Err(Malformed),
        }
    }
}

/// Checks and changes that all happen or do not, in one transaction of the ensemble.
#[derive(Default)]
pub(crate) struct Multi {
    body: Writer,
    /// What each is about, for the message if it fails.
    pub(crate) paths: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MultiOutcome {
    /// The transaction that wrote, if a value was written.
    Done(Option<i64>),
    /// The first that was refused, and why. Nothing happened.
    Refused(usize, Code),
}

impl Multi {
    fn add(&mut self, kind: i32, path: &str) -> &mut Writer {
        self.paths.push(path.to_owned());
        self.body.int(kind).flag(false).int(-1).text(path)
    }

    pub(crate) fn check(&mut self, path: &str, version: i32) {
        self.add(CHECK, path).int(version);
    }

    pub(crate) fn set(&mut self, path: &str, value: &[u8], version: i32) {
        self.add(SET_DATA, path).bytes(value).int(version);
    }

    pub(crate) fn delete(&mut self, path: &str, version: i32) {
        self.add(DELETE, path).int(version);
    }

    pub(crate) fn create(&mut self, path: &str, value: &[u8], mode: Mode, acls: &[Acl]) {
        let writer = self.add(CREATE2, path).bytes(value);
        writer.int(i32::try_from(acls.len()).unwrap_or(i32::MAX));
        for acl in acls {
            writer.int(acl.permissions).text(&acl.scheme).text(&acl.id);
        }
        writer.int(i32::from(mode == Mode::Ephemeral));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub(crate) fn request(self) -> (Request, Vec<String>) {
        let mut body = self.body;
        body.int(-1).flag(true).int(-1);
        (Request { kind: MULTI, body: body.into_bytes() }, self.paths)
    }

    pub(crate) fn outcome(body: &[u8]) -> Result<MultiOutcome, Malformed> {
        let mut reader = Reader(body);
        let mut written = None;
        for index in 0.. {
            let (kind, done, _) = (reader.int()?, reader.flag()?, reader.int()?);
            match kind {
                _ if done => break,
                CREATE2 => {
                    reader.text()?;
                    Stat::read(&mut reader)?;
                }
                // Some servers answer a `create2` within a transaction as a `create`.
                1 => drop(reader.text()?),
                SET_DATA => written = Some(Stat::read(&mut reader)?.mzxid),
                DELETE | CHECK => {}
                FAILED => match reader.int()? {
                    0 => {}
                    code => return Ok(MultiOutcome::Refused(index, Code(code))),
                },
                _ => return Err(Malformed),
            }
        }
        Ok(MultiOutcome::Done(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_that_failed_is_found() {
        let mut writer = Writer::default();
        for code in [0, -103, -2] {
            writer.int(FAILED).flag(false).int(code).int(code);
        }
        writer.int(-1).flag(true).int(-1);
        let outcome = Multi::outcome(&writer.into_bytes()).unwrap();
        assert_eq!(outcome, MultiOutcome::Refused(1, Code::BAD_VERSION));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_no_answer() {
        let mut writer = Writer::default();
        writer.int(CHECK).flag(false).int(0);
        assert!(Multi::outcome(&writer.into_bytes()).is_err());
        assert!(read_each(&[0, 0]).is_err() && with_children(&[0, 0, 0, 1]).is_err());
    }

    #[test]
    fn only_the_servers_own_failures_leave_the_outcome_open() {
        for code in [-101, -102, -103, -110, -112, -118, -127, -6] {
            assert!(Code(code).is_definite(), "{code}");
        }
        for code in [-1, -2, -4, -7] {
            assert!(!Code(code).is_definite(), "{code}");
        }
    }
}
