//! `store recover`: a new group out of what one stopped node has, after a majority was lost for good.

use std::collections::BTreeMap;

use surus_config::{ClientConfig, RaftConfig};
use surus_core::Timeline;
use surus_core::cluster::Announced;
use surus_store_raft::{Others, StartError, Survivor, position};

use crate::cli::StoreRecover;
use crate::failure::{OrFail, Outcome, failed};
use crate::terminal::{Terminal, say};

/// More promotions than a survivor will ever have missed, and each number of them left out costs one small file.
const UNHEARD_OF: u32 = 100;
/// In place of a leader's name, where nobody announced anything.
const RECOVERY: &str = "store recover";
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
         Every cluster in the store is paused, so that nobody is promoted before you have looked. The next promotion leaves \
         {UNHEARD_OF} numbers of timelines out, because the lost nodes may have heard of some.",
        said.lost.join(", ")
    );
    if terminal.ask(&format!("To make a new group of this node alone, please type: \"{SENTENCE}\""), None)? != SENTENCE
    {
        return failed(format!("nothing was changed: you did not exactly type \"{SENTENCE}\""));
    }
    let changes = changes(&survivor.keys().collect());
    let (group, kept) = survivor.recover(&me, &said.lost, changes).or_fail()?;
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

/// What is written over the old state. Every cluster is paused; and since the lost nodes may have heard of promotions that
/// this one has not, room is left for the numbers of their timelines.
fn changes(keys: &BTreeMap<&str, &[u8]>) -> Vec<(String, Vec<u8>)> {
    let configs = keys.iter().filter(|(key, _)| key.ends_with("/config"));
    let paused = configs.filter_map(|(key, value)| Some(((*key).to_owned(), with_pause(value)?)));
    let clusters = keys.keys().filter_map(|key| key.strip_suffix("initialize").filter(|prefix| prefix.ends_with('/')));
    let numbered = clusters.filter_map(|prefix| {
        let key = format!("{prefix}timeline");
        let value = match keys.get(key.as_str()) {
            Some(announced) => with_room(announced)?,
            // Nobody was promoted, as far as is known here.
            None => with_room(
                &serde_json::to_vec(&Announced { timeline: known(keys, prefix), leader: RECOVERY.into() }).ok()?,
            )?,
        };
        Some((key, value))
    });
    paused.chain(numbered).collect()
}

/// The highest timeline that a member of the cluster says to be on.
fn known(keys: &BTreeMap<&str, &[u8]>, prefix: &str) -> Timeline {
    let members = keys.iter().filter(|(key, _)| key.strip_prefix(prefix).is_some_and(|k| k.starts_with("members/")));
    let documents = members.filter_map(|(_, value)| serde_json::from_slice::<serde_json::Value>(value).ok());
    let said = documents.filter_map(|d| u32::try_from(d.get("timeline")?.as_u64()?).ok());
    Timeline(said.max().unwrap_or(1).max(1))
}

/// The key of announced timelines, so much higher that the numbers between may have been given by a promotion that nobody
/// remembers. `None` if it is no such document.
pub fn with_room(value: &[u8]) -> Option<Vec<u8>> {
    let mut announced = Announced::parse(std::str::from_utf8(value).ok()?).ok()?;
    announced.timeline = Timeline(announced.timeline.0.saturating_add(UNHEARD_OF));
    Some(announced.to_text().into_bytes())
}

/// The configuration of a cluster, with the pause in it. `None` if it is no such document.
pub fn with_pause(value: &[u8]) -> Option<Vec<u8>> {
    let mut document: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(value).ok()?;
    document.insert("pause".into(), true.into());
    serde_json::to_vec(&document).ok()
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::MOST_SKIPPED;

    use super::*;

    fn changed(keys: &[(&'static str, &'static str)]) -> Vec<(String, serde_json::Value)> {
        let keys: BTreeMap<&str, &[u8]> = keys.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
        let parsed = changes(&keys).into_iter().map(|(key, value)| (key, serde_json::from_slice(&value).unwrap()));
        parsed.collect()
    }

    #[test]
    fn configurations_are_changed_only_by_the_pause() {
        let with_ttl = [("/service/a/config".to_owned(), serde_json::json!({"pause": true, "ttl": 30}))];
        assert_eq!(changed(&[("/service/a/config", r#"{"ttl":30}"#), ("/service/a/sync", "{}")]), with_ttl);
        assert_eq!(changed(&[("/service/a/config", r#"{"pause":false,"ttl":30}"#)]), with_ttl);
        assert_eq!(changed(&[("/service/a/config", "no document")]), []);
    }

    #[test]
    fn there_is_room_for_timelines_that_only_the_lost_nodes_heard_of() {
        let numbers = |keys: &[(&'static str, &'static str)]| -> Vec<(String, u64)> {
            changed(keys).into_iter().map(|(key, value)| (key, value["timeline"].as_u64().unwrap())).collect()
        };
        let key = |cluster: &str| format!("/service/{cluster}/timeline");
        // Each cluster by itself; what is no announcement is not made one.
        let several = [
            ("/service/a/initialize", "7"),
            ("/service/a/members/n1", r#"{"timeline":3}"#),
            ("/service/a/timeline", r#"{"timeline":5,"leader":"n1"}"#),
            ("/service/b/initialize", "8"),
            ("/service/b/members/n1", r#"{"timeline":2}"#),
            ("/service/b/members/n2", r#"{"timeline":4}"#),
            ("/service/c/initialize", "9"),
            ("/service/d/initialize", "9"),
            ("/service/d/timeline", "nonsense"),
        ];
        assert_eq!(numbers(&several), [(key("a"), 105), (key("b"), 104), (key("c"), 101)]);
    }

    /// A promotion believes it, even after some recoveries in a row.
    #[test]
    fn the_room_is_less_than_what_a_promotion_leaves_out() {
        const { assert!(UNHEARD_OF * 5 <= MOST_SKIPPED) };
    }
}
