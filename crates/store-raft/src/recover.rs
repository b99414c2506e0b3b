//! A lost majority, recovered by hand: a new group is made out of what one node has.
//!
//! **What must hold.** (1) There may never be two groups that both count: the old majority must not exist any more.
//! Nobody can find that out from here, so everybody who might belong to it is named by the operator, as lost or as a
//! stopped survivor, and nobody of them may answer. (2) Those who come back nevertheless are never part of the new
//! group: it has another name, which both ends of a connection compare, and it knows the name of the old one, so that
//! they are told. (3) The survivor with the newest log is the one. A committed entry is on a majority; if that majority
//! had a survivor, its log is the longest by term and index, and so has it.
//!
//! **Leases.** The last changes may be known to the dead only: a renewal, or even that another server took the lead.
//! Every lease starts its full time again, so what a dead holder was promised is over before its key goes; and the
//! caller pauses the cluster (`changes`), because a leader that this log never heard of may still be writing.
//! Revisions go on far above those that the dead may have given out, so that no version of a key names two contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::disk::{Disk, FILE};
use crate::error::StartError;
use crate::form::{GROUP, SETTLED};
use crate::machine::{Machine, State};
use crate::node::is_majority;
use crate::records::{MembersRecord, Position, SnapshotMetaRecord, VoteRecord};
use crate::state::Item;
use crate::types::{Blob, random, to_hex};

/// Above anything that the lost nodes can have given out without this one hearing of it.
const REVISIONS: u64 = 1_000_000;
const KNOCK: Duration = Duration::from_secs(2);
pub const RECOVERED: &str = "recovered";
/// Beside the log; one line for each recovery.
pub const RECORD: &str = "recovery.log";

/// Kept in the file of the new group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recovered {
    pub from: String,
    /// All groups that this one goes back to, the last one last.
    pub replaces: Vec<String>,
    pub at: Position,
    pub unix: u64,
    pub lost: Vec<String>,
}

/// What the log of a stopped node holds.
pub struct Survivor {
    /// Holds the file, so that no node starts on it meanwhile.
    _disk: Disk,
    dir: PathBuf,
    pub group: String,
    pub node: u64,
    pub last: Position,
    term: u64,
    members: MembersRecord,
    state: State,
    replaces: Vec<String>,
}

/// `TERM-NODE-INDEX`: how far a log goes, for one node to be compared with another.
pub fn position(text: &str) -> Option<Position> {
    let mut numbers = text.split('-').map(|n| n.parse::<u64>().ok());
    let at = Position { term: numbers.next()??, node: numbers.next()??, index: numbers.next()?? };
    numbers.next().is_none().then_some(at)
}

fn text(at: Position) -> String {
    format!("{}-{}-{}", at.term, at.node, at.index)
}

fn newer(one: Position, other: Position) -> bool {
    (one.term, one.node, one.index) > (other.term, other.node, other.index)
}

/// The say of the operator about the others.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Stopped, with their log: address and how far it goes.
    pub survivors: Vec<(String, Position)>,
    /// Gone for good.
    pub lost: Vec<String>,
}

impl Survivor {
    /// Of a stopped node; one that runs holds its file.
    pub fn open(dir: &Path) -> Result<Survivor, StartError> {
        let path = dir.join(FILE);
        let refused = |reason: &str| StartError::DataDir { path: path.clone(), reason: reason.to_owned() };
        // Opening would make one.
        if !path.exists() {
            return Err(refused("there is no log in it, so nothing to recover from; is raft.data_dir right?"));
        }
        let disk = Disk::open(dir)?;
        let group = disk.meta::<String>(GROUP);
        let group =
            group.ok_or_else(|| refused("this node never belonged to a store group: there is nothing in it"))?;
        let (state, members, last) =
            Machine::replay(&disk).ok_or_else(|| refused("its log is empty: it joined the group and got nothing"))?;
        let replaces = disk.meta::<Recovered>(RECOVERED).map(|r| r.replaces).unwrap_or_default();
        let term = disk.meta::<VoteRecord>(crate::log_store::VOTE).map_or(0, |v| v.term).max(last.term);
        Ok(Survivor {
            node: disk.node_id(),
            _disk: disk,
            dir: dir.to_owned(),
            group,
            last,
            term,
            members,
            state,
            replaces,
        })
    }

    pub fn position(&self) -> String {
        text(self.last)
    }

    pub fn revision(&self) -> u64 {
        self.state.revision
    }

    /// Address, and whether it votes, of each member but this node.
    pub fn others(&self) -> Vec<(String, bool)> {
        let voters: BTreeSet<u64> = self.members.voters.iter().flatten().copied().collect();
        let others = self.members.nodes.iter().filter(|(id, _)| **id != self.node);
        others.map(|(id, addr)| (addr.clone(), voters.contains(id))).collect()
    }

    /// Every key, with how it looks.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.state.keys.iter().map(|(key, item)| (key.as_str(), item.value.0.as_slice()))
    }

    /// Why this is not the moment, or not the node; pure.
    pub fn objection(&self, said: &Others) -> Option<String> {
        objection(self.node, self.last, &self.members, said)
    }

    /// Those of the members that answer at their address, whatever they say: nobody may.
    pub async fn answering(&self, me: &str) -> Vec<String> {
        let knocks = self.others().into_iter().filter(|(addr, _)| addr != me).map(|(addr, _)| async move {
            matches!(timeout(KNOCK, TcpStream::connect(addr.as_str())).await, Ok(Ok(_))).then_some(addr)
        });
        join_all(knocks).await.into_iter().flatten().collect()
    }

    /// Makes the new group, of this node alone, with `changes` written over what the log has. Returns the new group's
    /// name and where the old file is kept. A crash leaves the old file or the new one, whole.
    pub fn recover(
        self,
        addr: &str,
        lost: &[String],
        changes: Vec<(String, Vec<u8>)>,
    ) -> Result<(String, PathBuf), StartError> {
        let fail = |e: std::io::Error| StartError::DataDir { path: self.dir.clone(), reason: e.to_string() };
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let group = to_hex(&random::<8>());
        let draft = self.dir.join("recovery.new");
        if draft.exists() {
            // Of an attempt that was cut short before it counted.
            fs::remove_dir_all(&draft).map_err(fail)?;
        }
        let disk = Disk::open(&draft)?;
        let id = disk.node_id();
        let (mut state, clock) = (self.state.clone(), self.state.clock);
        state.revision += REVISIONS;
        state.leases.values_mut().for_each(|l| l.ends = clock.saturating_add(l.ttl_ms).saturating_add(1));
        for (key, value) in changes {
            let lease = state.keys.get(&key).and_then(|item| item.lease);
            state.keys.insert(key, Item { value: Blob(value), version: state.revision, lease });
        }
        let at = Position { term: self.term + 1, node: id, index: self.last.index + 1 };
        let members =
            MembersRecord { voters: vec![BTreeSet::from([id])], nodes: BTreeMap::from([(id, addr.to_owned())]) };
        let meta = SnapshotMetaRecord { id: format!("recovered-{group}"), at: Some(at), members_at: Some(at), members };
        let replaces = self.replaces.iter().cloned().chain([self.group.clone()]).collect();
        let recovered = Recovered { from: self.group.clone(), replaces, at: self.last, unix, lost: lost.to_vec() };
        let vote = VoteRecord { term: at.term, node: id, committed: false };
        Machine::plant(
            &disk,
            &meta,
            state,
            &[
                (GROUP, disk.encode(GROUP, &group)),
                (SETTLED, disk.encode(SETTLED, &true)),
                (RECOVERED, disk.encode(RECOVERED, &recovered)),
                (crate::log_store::VOTE, disk.encode("vote", &vote)),
                (crate::log_store::PURGED, disk.encode("purged", &at)),
            ],
        );
        drop(disk);

        let (live, kept) = (self.dir.join(FILE), self.dir.join(format!("{FILE}.before-{unix}-{}", self.group)));
        let mut record = fs::OpenOptions::new().create(true).append(true).open(self.dir.join(RECORD)).map_err(fail)?;
        writeln!(
            record,
            "{unix} group {group} made from group {} at {} (revision {}) by node {id} at {addr}; lost: {}; the log before \
             it: {}",
            self.group,
            self.position(),
            self.state.revision,
            lost.join(", "),
            kept.display()
        )
        .and_then(|()| record.sync_all())
        .map_err(fail)?;
        fs::hard_link(&live, &kept).map_err(fail)?;
        fs::rename(draft.join(FILE), &live).map_err(fail)?;
        fs::remove_dir_all(&draft).map_err(fail)?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(fail)?;
        Ok((group, kept))
    }
}

fn objection(node: u64, last: Position, members: &MembersRecord, said: &Others) -> Option<String> {
    let known = |addr: &String| members.nodes.values().any(|a| a == addr);
    let own = members.nodes.get(&node);
    let mut named = said.survivors.iter().map(|(addr, _)| addr).chain(&said.lost);
    if let Some(stranger) = named.clone().find(|addr| !known(addr)) {
        let all: Vec<&str> = members.nodes.values().map(String::as_str).collect();
        return Some(format!("{stranger} is no member of the group; the members are {}", all.join(", ")));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = named.find(|addr| !seen.insert(*addr) || own == Some(addr)) {
        return Some(format!("{twice} is named twice, or is this node itself: it is either lost or a survivor"));
    }
    let silent = members.voters.iter().flatten().filter_map(|id| Some((id, members.nodes.get(id)?)));
    let silent: BTreeSet<&String> =
        silent.filter(|(id, addr)| **id != node && !seen.contains(addr)).map(|(_, addr)| addr).collect();
    if !silent.is_empty() {
        let all: Vec<&str> = silent.into_iter().map(String::as_str).collect();
        return Some(format!(
            "nothing is said about {}: name each voter, with --lost if its data_dir is gone for good, with --survivor if it \
             is there and stopped",
            all.join(", ")
        ));
    }
    let alive = |id: &u64| {
        *id == node || members.nodes.get(id).is_some_and(|addr| said.survivors.iter().any(|(a, _)| a == addr))
    };
    if members.voters.iter().all(|set| is_majority(set, alive)) {
        return Some(
            "the survivors are a majority of the group: nothing is lost. Start them, and they go on where they stopped"
                .into(),
        );
    }
    let best = said.survivors.iter().filter(|(_, at)| newer(*at, last)).max_by_key(|(_, p)| (p.term, p.node, p.index));
    best.map(|(addr, at)| {
        format!(
            "{addr} has the newer log ({}, this one {}): recover there, and let this node join it",
            text(*at),
            text(last)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Position {
        Position { term, node: 1, index }
    }

    fn members(voters: &[&[u64]], nodes: u64) -> MembersRecord {
        MembersRecord {
            voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
            nodes: (1..=nodes).map(|id| (id, format!("n{id}:1"))).collect(),
        }
    }

    /// Every way to speak of the other four of five: recovered exactly where the rest is no majority, all are spoken of,
    /// and nobody has more.
    #[test]
    fn exactly_a_lost_majority_is_recovered_from_its_newest_log() {
        let members = members(&[&[1, 2, 3, 4, 5]], 5);
        for ways in 0..4u32.pow(4) {
            let (mut said, mut silent, mut newest) = (Others::default(), 0, true);
            for (place, id) in (2..=5).enumerate() {
                let addr = format!("n{id}:1");
                match ways / 4u32.pow(place as u32) % 4 {
                    0 => silent += 1,
                    1 => said.lost.push(addr),
                    2 => said.survivors.push((addr, at(2, 10))),
                    _ => {
                        newest = false;
                        said.survivors.push((addr, at(3, 1)));
                    }
                }
            }
            let right = silent == 0 && said.survivors.len() < 2 && newest;
            assert_eq!(objection(1, at(2, 10), &members, &said).is_none(), right, "{said:?}");
        }
    }

    #[test]
    fn objections_say_what_to_do() {
        let three = members(&[&[1, 2, 3]], 4);
        let say = |lost: &[&str], survivors: &[(&str, Position)]| {
            let said = Others {
                lost: lost.iter().map(|a| (*a).to_owned()).collect(),
                survivors: survivors.iter().map(|(a, p)| ((*a).to_owned(), *p)).collect(),
            };
            objection(1, at(2, 10), &three, &said).unwrap_or_default()
        };
        assert!(say(&[], &[]).contains("nothing is said about n2:1, n3:1"));
        assert!(say(&["n2:1"], &[]).contains("nothing is said about n3:1"));
        assert!(say(&["n9:1"], &[]).contains("n9:1 is no member of the group; the members are n1:1, n2:1"));
        assert!(say(&["n2:1"], &[("n2:1", at(1, 1))]).contains("named twice"));
        assert!(say(&["n1:1", "n2:1", "n3:1"], &[]).contains("this node itself"));
        assert!(say(&["n2:1"], &[("n3:1", at(1, 1))]).contains("majority"));
        assert!(
            say(&["n2:1", "n3:1"], &[("n4:1", at(2, 11))]).contains("n4:1 has the newer log (2-1-11, this one 2-1-10)")
        );
        assert_eq!(say(&["n2:1", "n3:1"], &[("n4:1", at(2, 10))]), "");
        // In the middle of a change: a majority of one set is not enough to go on.
        let joint = members(&[&[1, 2, 3], &[1, 4, 5]], 5);
        let said = Others {
            lost: vec!["n4:1".into(), "n5:1".into(), "n3:1".into()],
            survivors: vec![("n2:1".into(), at(2, 10))],
        };
        assert_eq!(objection(1, at(2, 10), &joint, &said), None);
    }

    #[test]
    fn positions_are_read_as_they_are_shown() {
        assert_eq!(position("3-77-1204"), Some(Position { term: 3, node: 77, index: 1204 }));
        assert_eq!(text(position("3-77-1204").unwrap()), "3-77-1204");
        for wrong in ["", "3-77", "3-77-1204-1", "a-b-c", "3/77/1204"] {
            assert_eq!(position(wrong), None, "{wrong}");
        }
    }
}
