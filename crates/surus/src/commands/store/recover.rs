//! `store recover`: a new group out of what one stopped node has, after a majority was lost for good.

use surus_config::{ClientConfig, RaftConfig};
use surus_store_raft::{Others, StartError, Survivor, position};

use crate::cli::StoreRecover;
use crate::failure::{OrFail, Outcome, failed};
use crate::terminal::{Terminal, say};

const SENTENCE: &str = "Yes I am aware";

pub async fn recover(
    config: &ClientConfig,
    raft: &RaftConfig,
    args: &StoreRecover,
    terminal: &mut Terminal,
) -> Outcome {
    let Some(me) = raft.self_addr.as_ref().map(ToString::to_string) else {
        return failed("raft.self_addr is not set: run this on the node whose log is to go on, with its configuration");
    };
    let survivor = match Survivor::open(&raft.data_dir) {
        Err(StartError::InUse { path }) => {
            return failed(format!(
                "nothing was changed: {} is in use, so the node runs. Stop its agent (or witness) first",
                path.display()
            ));
        }
        other => other.or_fail()?,
    };
    say!(
        terminal,
        "This node ({me}) has the log of group {} up to {}, revision {}",
        survivor.group,
        survivor.position(),
        survivor.revision()
    );
    for (addr, votes) in survivor.others() {
        say!(terminal, "  with {addr}, {}", if votes { "a voter" } else { "which follows" });
    }
    let mut said = Others { survivors: Vec::new(), lost: args.lost.clone() };
    for given in &args.survivor {
        let parsed = given.split_once('=').and_then(|(addr, at)| Some((addr.to_owned(), position(at)?)));
        let Some(survivor) = parsed else {
            return failed(format!(
                "--survivor {given}: expected HOST:PORT=POSITION, as this command without options shows it on that node"
            ));
        };
        said.survivors.push(survivor);
    }
    if said.survivors.is_empty() && said.lost.is_empty() {
        say!(terminal, "To compare it elsewhere: --survivor {me}={}", survivor.position());
    }
    if let Some(why) = survivor.objection(&said) {
        return failed(format!("nothing was changed: {why}"));
    }
    let answering = survivor.answering(&me).await;
    if !answering.is_empty() {
        return failed(format!(
            "nothing was changed: something answers at {}. If that is a node of the group it is not lost, or a majority may still \
             be there: stop it, and look again",
            answering.join(", ")
        ));
    }
    say!(
        terminal,
        "What only the lost nodes had is given up: changes of the store that this log does not reach, a change of leader among \
         them. PostgreSQL's data is not touched.\n\
         If {} run on behind a broken network, there will be two clusters with a primary each. Make sure that they and their \
         PostgreSQL are off.\n\
         Every cluster in the store is paused, so that nobody is promoted before you have looked.",
        said.lost.join(", ")
    );
    if terminal.ask(&format!("To make a new group of this node alone, please type: \"{SENTENCE}\""), None)? != SENTENCE
    {
        return failed(format!("nothing was changed: you did not exactly type \"{SENTENCE}\""));
    }
    let (group, kept) = survivor.recover(&me, &said.lost, paused).or_fail()?;
    say!(terminal, "The store group {group} begins with this node. The log as it was is kept as {}", kept.display());
    say!(terminal, "1. Start the agent (or witness) of this node.");
    say!(terminal, "2. On every other node: move raft.data_dir away, then start it; it joins.");
    say!(
        terminal,
        "3. surus list{}: is there one primary at the most, and who has the most WAL? Then: surus resume",
        config.scope.as_ref().map(|s| format!(" {s}")).unwrap_or_default()
    );
    Ok(())
}

fn paused(key: &str, value: &[u8]) -> Option<Vec<u8>> {
    key.ends_with("/config").then(|| with_pause(value)).flatten()
}

/// The configuration of a cluster, with the pause in it. `None` if it is no such document.
pub fn with_pause(value: &[u8]) -> Option<Vec<u8>> {
    let mut document: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(value).ok()?;
    document.insert("pause".into(), true.into());
    serde_json::to_vec(&document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configurations_are_changed_and_only_by_the_pause() {
        let value = |v: Option<Vec<u8>>| serde_json::from_slice::<serde_json::Value>(&v.unwrap()).unwrap();
        let with_ttl = serde_json::json!({"pause": true, "ttl": 30});
        assert_eq!(value(paused("/service/a/config", b"{\"ttl\":30}")), with_ttl);
        assert_eq!(value(paused("/service/a/config", b"{\"pause\":false,\"ttl\":30}")), with_ttl);
        assert_eq!(paused("/service/a/config", b"no document"), None);
        assert_eq!(paused("/service/a/sync", b"{}"), None);
    }
}
