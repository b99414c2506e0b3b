//! Everything below a path as of one moment.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use surus_store::{KeyValue, Snapshot};
use tokio::time::Instant;

use crate::ensemble::Link;
use crate::wire::{Code, Lost, Request, Stat, read_each, with_children};

/// ZooKeeper's own.
const SYSTEM: &str = "/zookeeper";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    pub(crate) stat: Stat,
}

impl Node {
    /// Empty with children, or having had some: it was made only as a parent. Keys never have children.
    pub(crate) fn is_key(&self) -> bool {
        !self.value.is_empty() || self.stat.cversion == 0
    }

    pub(crate) fn lease(&self) -> Option<u64> {
        // A container has no owner either, and says so by this one.
        (self.stat.owner != 0 && self.stat.owner != i64::MIN).then(|| self.stat.owner.cast_unsigned())
    }

    pub(crate) fn version(&self) -> u64 {
        unsigned(self.stat.mzxid)
    }
}

pub(crate) fn unsigned(zxid: i64) -> u64 {
    u64::try_from(zxid).unwrap_or(0)
}

/// The znodes by path, without the chroot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<String, Node>,
    /// The last transaction that created, changed or deleted anything in it.
    pub(crate) revision: u64,
}

pub(crate) fn is_below(root: &str, path: &str) -> bool {
    root == "/" || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

/// The parent of a path; `/` for those at the top.
pub(crate) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &path[..at],
    }
}

/// The path that everything with this prefix is below.
pub(crate) fn directory(prefix: &str) -> &str {
    parent(prefix)
}

fn child(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

impl Tree {
    pub(crate) fn keys(&self, prefix: &str) -> BTreeMap<String, KeyValue> {
        let ours = self.nodes.iter().filter(|(path, node)| path.starts_with(prefix) && node.is_key());
        ours.map(|(path, node)| {
            let kv =
                KeyValue { key: path.clone(), value: node.value.clone(), version: node.version(), lease: node.lease() };
            (path.clone(), kv)
        })
        .collect()
    }

    pub(crate) fn snapshot(&self, prefix: &str) -> Snapshot {
        Snapshot { revision: self.revision, keys: self.keys(prefix).into_values().collect() }
    }
}

/// What goes wrong with a reading.
#[derive(Debug)]
pub(crate) enum Unread {
    Lost(Lost),
    /// By ACL or by version of the server.
    Refused(String),
}

impl From<Lost> for Unread {
    fn from(lost: Lost) -> Unread {
        Unread::Lost(lost)
    }
}

/// Reads what begins with `prefix`: first which znodes there are, then all of them by one request, which a server answers
/// between two transactions. If children came or went meanwhile, once more.
pub(crate) async fn collect(link: &Link, prefix: &str, end: Instant) -> Result<Tree, Unread> {
    loop {
        if let Some(tree) = try_collect(link, prefix, end).await? {
            return Ok(tree);
        }
        if Instant::now() >= end {
            let text = format!("what is below {prefix} changes faster than it can be read");
            return Err(Unread::Lost(Lost::Unsent(text)));
        }
    }
}

async fn try_collect(link: &Link, prefix: &str, end: Instant) -> Result<Option<Tree>, Unread> {
    let root = directory(prefix);
    let Some(listed) = list(link, root, prefix, end).await? else { return Ok(None) };
    if listed.is_empty() {
        return absent(link, root, end).await;
    }
    let read = read(link, listed.keys().map(String::as_str), end).await?;
    let mut tree = Tree::default();
    for ((path, listed), node) in listed.into_iter().zip(read) {
        match node {
            Some(node) if node.stat.pzxid == listed.pzxid && node.stat.czxid == listed.czxid => {
                let Stat { czxid, mzxid, pzxid, .. } = node.stat;
                tree.revision = tree.revision.max(unsigned(czxid.max(mzxid).max(pzxid)));
                tree.nodes.insert(path, node);
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(tree))
}

/// The znodes there are. `None`: one went while its children were asked for. Empty: there is no root.
async fn list(link: &Link, root: &str, prefix: &str, end: Instant) -> Result<Option<BTreeMap<String, Stat>>, Unread> {
    let mut listed = BTreeMap::new();
    let mut level = vec![root.to_owned()];
    while !level.is_empty() {
        let asked = level.iter().map(|path| children(link, path, end));
        let mut next = Vec::new();
        for (path, answer) in level.iter().zip(join_all(asked).await) {
            match answer? {
                Some((names, stat)) => {
                    let paths = names.iter().map(|name| child(path, name));
                    let wanted = paths.filter(|path| path != SYSTEM && (path.starts_with(prefix)));
                    next.extend(wanted);
                    listed.insert(path.clone(), stat);
                }
                None if path == root => return Ok(Some(BTreeMap::new())),
                None => return Ok(None),
            }
        }
        level = next;
    }
    Ok(Some(listed))
}

async fn children(link: &Link, path: &str, end: Instant) -> Result<Option<(Vec<String>, Stat)>, Unread> {
    let answer = link.ask_patiently(Request::children(&link.ensemble().znode(path)), end).await?;
    match answer.code {
        Code(0) => Ok(Some(with_children(&answer.body).map_err(|_| link.malformed())?)),
        Code::NO_NODE => Ok(None),
        code => Err(refusal(link, path, code)),
    }
}

/// Of a root that does not exist, the last change is its parent's, if that exists: it may have been its deletion.
async fn absent(link: &Link, root: &str, end: Instant) -> Result<Option<Tree>, Unread> {
    let mut missing = root;
    while missing != "/" {
        let above = parent(missing);
        if let Some((names, stat)) = children(link, above, end).await? {
            // Made between the two questions?
            let there = names.iter().any(|name| child(above, name) == missing);
            let revision = unsigned(stat.pzxid);
            return Ok((!there).then(|| Tree { revision, ..Tree::default() }));
        }
        missing = above;
    }
    let text = format!("{}: the path after the hosts (chroot) does not exist: create it", link.ensemble().znode("/"));
    Err(Unread::Refused(text))
}

/// Several znodes as of one moment.
pub(crate) async fn read<'a>(
    link: &Link,
    paths: impl Iterator<Item = &'a str> + Clone,
    end: Instant,
) -> Result<Vec<Option<Node>>, Unread> {
    let znodes: Vec<String> = paths.clone().map(|path| link.ensemble().znode(path)).collect();
    let answer = link.ask_patiently(Request::read_each(znodes.iter().map(String::as_str)), end).await?;
    if answer.code == Code::UNIMPLEMENTED {
        let text = format!("{} is older than ZooKeeper 3.6, which is needed: upgrade the ensemble", link.host());
        return Err(Unread::Refused(text));
    }
    if answer.code != Code(0) {
        return Err(refusal(link, "a reading", answer.code));
    }
    let each = read_each(&answer.body).map_err(|_| link.malformed())?;
    if each.len() != znodes.len() {
        return Err(link.malformed().into());
    }
    let node = |(path, read): (&str, Result<(Vec<u8>, Stat), Code>)| match read {
        Ok((value, stat)) => Ok(Some(Node { value, stat })),
        Err(Code::NO_NODE) => Ok(None),
        Err(code) => Err(refusal(link, path, code)),
    };
    paths.zip(each).map(node).collect()
}

fn refusal(link: &Link, path: &str, code: Code) -> Unread {
    let text = format!("{} at {}: {code}", link.ensemble().znode(path), link.host());
    match code {
        Code::THROTTLED | Code::SESSION_MOVED | Code::NOT_READ_ONLY => Unread::Lost(Lost::Unsent(text)),
        code if code.is_definite() => Unread::Refused(text),
        _ => Unread::Lost(Lost::Unsent(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_whole_names_only() {
        assert!(is_below("/a", "/a/b") && is_below("/", "/a"));
        assert!(!is_below("/a", "/ab") && !is_below("/a", "/a"));
        assert_eq!((parent("/a/b"), parent("/a"), directory("/a/b/")), ("/a", "/", "/a/b"));
        assert_eq!((directory("/"), directory("/x"), child("/", "a").as_str()), ("/", "/", "/a"));
    }

    #[test]
    fn a_parent_is_no_key() {
        let node = |value: &str, cversion| Node { value: value.into(), stat: Stat { cversion, ..Stat::default() } };
        assert!(node("", 0).is_key() && node("x", 0).is_key() && node("x", 3).is_key());
        assert!(!node("", 1).is_key());
    }
}
