//! What a comparison of histories finds, as PostgreSQL can see it: by numbers of timelines, not by what is in them.

use surus_core::divergence::{self, HistoryRow, LocalEnd};
use surus_core::postgres::ControlState;
use surus_core::server::Divergence;

use crate::world::World;

pub fn compare(w: &World, node: usize, peer: usize) -> Result<Divergence, String> {
    let (own, theirs) = (&w.nodes[node].postgres, &w.nodes[peer].postgres);
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
        (None, state) => return Err(format!("the server was not shut down cleanly ({state:?})")),
    };
    let history: Vec<HistoryRow> = source
        .log
        .history()
        .into_iter()
        .map(|(timeline, switch_lsn)| HistoryRow { timeline, switch_lsn, reason: String::new() })
        .collect();
    Ok(divergence::compare(data.log.timeline(), end, source.log.timeline(), &history))
}
