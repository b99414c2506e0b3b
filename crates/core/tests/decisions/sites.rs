//! A standby cluster and the server that it follows: whatever happens, none of its members becomes a primary before the
//! whole cluster is promoted.

use crate::model::{FAR, Server, World};

fn cluster(seed: u64) -> World {
    let mut w = World::following(seed);
    w.until(20_000, "a new standby cluster", World::follows);
    w
}

fn promoted(w: &mut World) {
    w.follow(false);
    w.until(40_000, "one primary", World::well);
    w.run(5000);
    assert!(w.well(), "it does not stay well\n{}", w.story());
}

#[test]
fn it_is_promoted_and_demoted_as_a_whole() {
    for seed in 1..=40 {
        let mut w = cluster(seed);
        w.run(5000);
        assert!(w.reigns.is_empty() && w.follows(), "{}", w.story());
        let leader = w.store.leader_name().cloned();
        promoted(&mut w);
        assert_eq!(w.reigns, leader.clone().into_iter().collect::<Vec<_>>(), "the standby leader is promoted, once");
        // The other site takes over from there, and this one writes a little too much.
        let log = w.primary().and_then(|n| n.log.clone());
        w.run(1000);
        w.node(FAR).log = log.map(|mut log| {
            log.timelines.push((log.end, seed));
            log
        });
        w.follow(true);
        w.until(60_000, "a standby cluster again", World::follows);
        assert_eq!((w.reigns.len(), w.store.leader_name()), (1, leader.as_ref()), "{}", w.story());
        promoted(&mut w);
    }
}

#[test]
fn a_switchover_in_it_stops_nobody() {
    for seed in 1..=40 {
        let mut w = cluster(seed);
        let from = w.store.leader_name().cloned();
        w.ask_failover(from.clone(), None);
        w.until(20_000, "another standby leader", |w| w.follows() && w.store.leader_name() != from.as_ref());
        let stopped = w.trace.iter().filter(|t| t.contains("demote") || t.contains("hand over")).count();
        assert_eq!(stopped, 0, "{}", w.story());
    }
}

#[test]
fn no_member_is_a_primary_whatever_happens() {
    let seeds = std::env::var("SURUS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    for seed in 1..=seeds {
        let mut w = cluster(seed);
        for _ in 0..20 {
            let name = ["a", "b", "c"][w.pick(3)];
            let on = w.node(name).up && !w.node(name).exited;
            match w.pick(11) {
                0 if on => w.kill(name),
                1 if on => w.boot(name),
                2 if on && !w.settings.pause => w.node(name).shutdown = true,
                3 if on => w.crash_server(name),
                0 | 1 | 3 => w.boot(name),
                4 => w.node(name).cut ^= true,
                5 => w.store_down ^= true,
                6 if w.nodes.iter().all(|n| !n.shutdown) => w.settings.pause ^= true,
                2 | 6 => {}
                7 => w.ask_failover(None, Some(name.into())),
                8 => {
                    let leader = w.store.leader_name().cloned();
                    w.ask_failover(leader, None);
                }
                9 if w.node(FAR).server == Server::Down => w.come_back(),
                9 => w.crash_server(FAR),
                // It fails over, and what it had last is lost with its former primary.
                _ => {
                    let lost = w.pick(2) == 1;
                    w.fail_over(if lost { 40 } else { 0 }, seed);
                }
            }
            let ms = [100, 500, 2000, 6000, 15_000][w.pick(5)];
            w.run(ms);
            assert!(w.reigns.is_empty(), "{:?} was promoted, seed {seed}\n{}", w.reigns, w.story());
        }
        w.heal();
        w.come_back();
        w.until(90_000, &format!("everything to follow again, seed {seed}"), World::follows);
        assert!(w.primary().is_none() && w.reigns.is_empty(), "{}", w.story());
    }
}
