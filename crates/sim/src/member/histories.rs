//! What a comparison of histories finds, as PostgreSQL can see it: by numbers of timelines, not by what is in them.

use surus_core::divergence::{self, HistoryRow, LocalEnd};
use surus_core::loss;
use surus_core::postgres::ControlState;
use surus_core::server::Divergence;

use crate::world::World;
use crate::world::wal::Log;

pub fn compare(w: &World, node: usize, peer: usize) -> Result<Divergence, String> {
    let (own, theirs) = (&w.nodes[node].postgres, w.postgres_of(peer).ok_or("there is no such server")?);
    if !theirs.server.as_ref().is_some_and(|s| s.primary) {
        return Err("it is not a primary (yet); whether we can follow it is not known".into());
    }
    let (Some(data), Some(source)) = (&own.data, &theirs.data) else { return Err("there is no data".into()) };
    if data.system_id != source.system_id {
        return Err("they are different clusters and cannot follow each other".into());
    }
    let end = match (&own.server, data.control) {
        (Some(server), _) if server.primary => return Err("the local server is a running primary".into()),
        (Some(_), _) => LocalEnd::Replayed(data.log.lsn()),
        (None, ControlState::ShutDown) => {
            LocalEnd::Checkpoint { start: surus_core::Lsn(data.checkpoint.1), end: Some(data.log.lsn()) }
        }
        (None, ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery) => {
            LocalEnd::Replayed(data.log.lsn())
        }
        // Its log is read record by record.
        (None, _) => LocalEnd::Replayed(data.log.lsn()),
    };
    let (past, history) = (rows(&data.log), rows(&source.log));
    Ok(divergence::compare_past((data.log.timeline(), &past), end, (source.log.timeline(), &history)))
}

fn rows(log: &Log) -> Vec<HistoryRow> {
    let row = |(timeline, switch_lsn)| HistoryRow { timeline, switch_lsn, reason: String::new() };
    log.history().into_iter().map(row).collect()
}

/// Where the log here leaves that of a primary, by numbers too: the beginning of what only this one has, if anything.
/// `Err`: cannot be told.
pub fn fork(w: &World, node: usize, peer: usize) -> Result<Option<u64>, String> {
    let end = w.nodes[node].postgres.log().map_or(0, |log| log.end);
    Ok(parted(w, node, peer)?.filter(|at| end > *at))
}

/// The same, also where the log here does not go that far.
pub fn parted(w: &World, node: usize, peer: usize) -> Result<Option<u64>, String> {
    let (own, theirs) = (&w.nodes[node].postgres, w.postgres_of(peer).ok_or("there is no such server")?);
    if !theirs.server.as_ref().is_some_and(|s| s.primary) {
        return Err("it is not a primary".into());
    }
    let (Some(own), Some(theirs)) = (own.log(), theirs.log()) else { return Err("there is no data".into()) };
    let (mine, other) = (rows(own), rows(theirs));
    match loss::fork((own.timeline(), &mine), (theirs.timeline(), &other)) {
        Some((_, Some(at))) => Ok(Some(at.0)),
        Some((_, None)) => Ok(None),
        None => Err("nothing in common".into()),
    }
}
