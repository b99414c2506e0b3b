//! Who could take the lead now: every other member is asked as in a race, and weighed by the code that
//! decides one.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use surus_core::candidate;
use surus_core::cluster::Tags;
use surus_core::facts::{Answer, Facts, PeerAnswer, PeerFact, PostgresFact, StoreFact};
use surus_core::postgres::{DataDir, ProcessState};
use surus_core::report::Candidate;
use surus_core::{BootTime, MemberName};

use crate::context::{Context, Reading};

/// As long as members wait for each other.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// The answers are from now, whenever that is.
const NOW: BootTime = BootTime::from_millis(0);

pub async fn weigh(context: &Context, reading: &Reading) -> Vec<Candidate> {
    let asked = reading.view.members.values().filter_map(|member| {
        let url = member.api_url.as_deref()?;
        Some(async move {
            let answer = context.api.probe(url, PROBE_LIMIT).await;
            let answer = answer.map_err(|e| e.to_string()).map(|peer| PeerAnswer {
                in_recovery: peer.in_recovery,
                position: peer.position,
                timeline: peer.timeline,
                tags: peer.tags,
                watchdog_failed: peer.watchdog_failed,
                room: None,
                unready_slots: peer.unready_slots,
                forked: peer.forked,
            });
            (member.name.clone(), PeerFact { asked: NOW, answer })
        })
    });
    let peers = join_all(asked).await.into_iter().collect();
    candidate::weigh(&outsider(reading, peers), &reading.view, None)
}

/// What the holder of the lead would know, less what only it knows: its position is the one in the store.
fn outsider(reading: &Reading, peers: BTreeMap<MemberName, PeerFact>) -> Facts {
    let unknown = "asked from outside".to_owned();
    Facts {
        now: NOW,
        unix_ms: 0,
        me: reading.view.leader_name().cloned().unwrap_or_default(),
        tags: Tags::default(),
        settings: reading.settings.clone(),
        may_bootstrap: false,
        store: StoreFact { view: None, broken: None, session: false },
        lead: None,
        postgres: PostgresFact {
            data_dir: DataDir::Unreadable(unknown.clone()),
            process: ProcessState::NotRunning,
            since: NOW,
            orphans: false,
            replay: None,
            stand_alone: false,
            answer: Answer::Unknown(NOW, unknown),
        },
        task: None,
        finished: None,
        peers,
        request: None,
        inherited: None,
        unguarded: false,
        failsafe: Default::default(),
        fence: Default::default(),
        watchdog: Default::default(),
        stalls: Default::default(),
        room: None,
        missing_slots: vec![],
        unready_slots: vec![],
        synchronous: Default::default(),
        shutdown: false,
        failover_due: None,
    }
}

#[cfg(test)]
mod tests {
    use surus_core::Lsn;
    use surus_core::cluster::{ClusterView, RawKey};

    use super::*;

    #[test]
    fn verdicts_are_those_of_a_race() {
        let raw = |key: &str, value: &str| RawKey { key: key.into(), value: value.into(), version: 1, lease: None };
        let url = r#"{"api_url":"http://h/patroni"}"#;
        let keys = [
            raw("leader", "a"),
            raw("status", r#"{"optime":9000000}"#),
            raw("members/b", url),
            raw("members/c", url),
            raw("members/d", url),
            raw("members/e", r#"{"api_url":"http://h/patroni","tags":{"nofailover":true}}"#),
        ];
        let reading = Reading::of("x", ClusterView::read(1, &keys));
        let at = |lsn| {
            let answer = PeerAnswer {
                in_recovery: true,
                position: Lsn(lsn),
                timeline: None,
                tags: Tags::default(),
                watchdog_failed: false,
                room: None,
                unready_slots: vec![],
                forked: None,
            };
            PeerFact { asked: NOW, answer: Ok(answer) }
        };
        let gone = PeerFact { asked: NOW, answer: Err("refused".into()) };
        let peers = BTreeMap::from([("b".into(), at(9_000_000)), ("c".into(), at(1)), ("d".into(), gone)]);
        let weighed = candidate::weigh(&outsider(&reading, peers), &reading.view, None);
        let verdicts: Vec<_> = weighed.iter().map(|c| (c.name.as_str(), c.fit)).collect();
        assert_eq!(verdicts, [("b", true), ("c", false), ("d", false), ("e", false)]);
    }
}
