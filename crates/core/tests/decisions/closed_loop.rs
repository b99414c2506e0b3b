//! Three members decide against each other: what an operator expects to see happen, for many seeds.

use crate::model::{Server, World};

const SEEDS: u64 = 40;

/// A cluster that was bootstrapped and is well.
fn cluster(seed: u64) -> World {
    let mut w = World::new(seed);
    w.until(20_000, "a new cluster", |w| w.reigns.len() == 1 && w.well());
    w.run(1000);
    w
}

fn leader(w: &World) -> String {
    w.primary().map(|n| n.name.to_string()).expect("a primary")
}

fn other(w: &World) -> String {
    let primary = leader(w);
    w.nodes.iter().map(|n| n.name.to_string()).find(|n| *n != primary).expect("three members")
}

fn each_seed(story: impl Fn(World)) {
    for seed in 1..=SEEDS {
        story(cluster(seed));
    }
}

fn recovers(w: &mut World, what: &str) {
    w.until(40_000, what, World::well);
    w.run(3000);
    assert!(w.well(), "it does not stay well after {what}\n{}", w.story());
}

#[test]
fn a_new_cluster_has_one_leader_and_stays_quiet() {
    each_seed(|mut w| {
        let (lines, first) = (w.trace.len(), leader(&w));
        w.run(60_000);
        assert_eq!((leader(&w), w.reigns.len(), w.trace.len() - lines), (first, 1, 0), "{}", w.story());
    });
}

#[test]
fn a_switchover_goes_to_whom_it_names() {
    each_seed(|mut w| {
        let (from, to) = (leader(&w), other(&w));
        w.ask_failover(Some(from.as_str().into()), Some(to.as_str().into()));
        w.run(1000);
        recovers(&mut w, "a switchover");
        assert_eq!((leader(&w), w.reigns.len()), (to, 2));
    });
}

#[test]
fn a_switchover_that_names_nobody_and_a_manual_failover() {
    each_seed(|mut w| {
        let from = leader(&w);
        w.ask_failover(Some(from.as_str().into()), None);
        w.run(1000);
        recovers(&mut w, "a switchover to anybody");
        assert_ne!(leader(&w), from);
        let to = other(&w);
        w.ask_failover(None, Some(to.as_str().into()));
        w.run(1000);
        recovers(&mut w, "a manual failover");
        assert_eq!((leader(&w), w.reigns.len()), (to, 3));
    });
}

#[test]
fn a_switchover_survives_a_member_that_does_not_answer() {
    each_seed(|mut w| {
        let (from, to) = (leader(&w), other(&w));
        let third = w.nodes.iter().map(|n| n.name.to_string()).find(|n| *n != from && *n != to).expect("three");
        w.kill(&third);
        w.ask_failover(Some(from.as_str().into()), None);
        w.until(15_000, "the other member to lead", |w| w.primary().is_some_and(|n| n.name.as_str() == to));
        w.boot(&third);
        recovers(&mut w, "the third member's return");
    });
}

#[test]
fn a_dead_leader_is_replaced_once_and_rewinds_when_it_returns() {
    each_seed(|mut w| {
        let old = leader(&w);
        w.kill(&old);
        w.until(14_000, "a new leader", |w| w.primary().is_some());
        w.run(10_000);
        assert_eq!(w.reigns.len(), 2, "exactly one new leader\n{}", w.story());
        // It holds what nobody else has.
        w.node(&old).log.as_mut().expect("data").end += 10_000;
        w.boot(&old);
        recovers(&mut w, "the old leader's return");
        assert!(w.trace.iter().any(|t| t.contains(&format!(" {old} ")) && t.contains("rewind from")), "{}", w.story());
    });
}

#[test]
fn a_crashed_primary_is_started_again_where_it_was() {
    each_seed(|mut w| {
        let old = leader(&w);
        w.crash_server(&old);
        recovers(&mut w, "a crash of the primary");
        assert_eq!((leader(&w), w.reigns.len()), (old, 1), "{}", w.story());
    });
}

#[test]
fn all_members_restart_at_once() {
    each_seed(|mut w| {
        for name in ["a", "b", "c"] {
            w.kill(name);
        }
        let away = if w.now.is_multiple_of(200) { 2000 } else { 12_000 };
        w.run(away);
        for name in ["a", "b", "c"] {
            w.boot(name);
        }
        recovers(&mut w, "a restart of everything");
    });
}

#[test]
fn agents_restart_and_postgres_does_not_notice() {
    each_seed(|mut w| {
        let first = leader(&w);
        for name in ["a", "b", "c"] {
            w.boot(name);
            w.node(name).streaming = w.node(name).server != Server::Primary;
        }
        w.run(12_000);
        assert!(w.well() && leader(&w) == first && w.reigns.len() == 1, "{}", w.story());
    });
}

#[test]
fn a_leader_that_ends_hands_over() {
    each_seed(|mut w| {
        let old = leader(&w);
        w.node(&old).shutdown = true;
        w.until(8000, "the agent's end and a successor", |w| w.at(&old.as_str().into()).exited && w.well());
        assert_eq!(w.reigns.len(), 2);
        assert_eq!(w.at(&old.as_str().into()).server, Server::Down);
        w.boot(&old);
        recovers(&mut w, "its return");
        assert!(!w.trace.iter().any(|t| t.contains("rewind")), "nothing was lost\n{}", w.story());
    });
}

#[test]
fn the_store_is_away_for_longer_than_a_lease() {
    each_seed(|mut w| {
        w.store_down = true;
        w.run(12_000);
        assert!(w.primary().is_none(), "a primary without a lease\n{}", w.story());
        w.run(5000);
        assert!(w.nodes.iter().all(|n| n.server != Server::Down), "reads are served meanwhile\n{}", w.story());
        w.store_down = false;
        recovers(&mut w, "the store's return");
    });
}

#[test]
fn the_store_is_away_for_a_moment_and_nothing_happens() {
    each_seed(|mut w| {
        let first = leader(&w);
        w.store_down = true;
        w.run(4000);
        w.store_down = false;
        w.run(5000);
        assert!(w.well() && leader(&w) == first && w.reigns.len() == 1, "{}", w.story());
    });
}

#[test]
fn a_leader_cut_off_from_the_store_steps_down_and_is_replaced() {
    each_seed(|mut w| {
        let old = leader(&w);
        w.node(&old).cut = true;
        w.until(20_000, "another leader", |w| w.primary().is_some_and(|n| n.name.as_str() != old));
        w.run(5000);
        w.node(&old).cut = false;
        recovers(&mut w, "the network's return");
    });
}

#[test]
fn paused_means_hands_off_and_a_named_switchover_still_works() {
    each_seed(|mut w| {
        let (from, to) = (leader(&w), other(&w));
        w.settings.pause = true;
        w.run(1000);
        w.ask_failover(Some(from.as_str().into()), Some(to.as_str().into()));
        w.run(1000);
        recovers(&mut w, "a switchover while paused");
        assert_eq!(leader(&w), to, "{}", w.story());
        w.kill(&to);
        w.run(30_000);
        assert!(w.primary().is_none(), "nobody is promoted while paused\n{}", w.story());
        w.settings.pause = false;
        w.run(15_000);
        assert!(w.primary().is_none(), "for all they know, it goes on as it was promised\n{}", w.story());
        w.boot(&to);
        recovers(&mut w, "the end of the pause");
    });
}

#[test]
fn a_member_that_cannot_be_promoted_lets_somebody_else() {
    each_seed(|mut w| {
        let (old, bad) = (leader(&w), other(&w));
        w.node(&bad).promotion_fails = true;
        w.kill(&old);
        // The bad one is ahead of the good one.
        let ahead = w.node(&old).log.clone();
        w.node(&bad).log = ahead;
        w.until(40_000, "a leader that can be promoted", |w| w.primary().is_some());
        assert_ne!(leader(&w), bad);
        w.boot(&old);
        recovers(&mut w, "the old leader's return");
    });
}

#[test]
fn the_last_member_tries_again_after_a_failed_promotion() {
    each_seed(|mut w| {
        let (old, last) = (leader(&w), other(&w));
        let third = w.nodes.iter().map(|n| n.name.to_string()).find(|n| *n != old && *n != last).expect("three");
        w.kill(&old);
        w.kill(&third);
        w.node(&last).promotion_fails = true;
        w.run(30_000);
        w.node(&last).promotion_fails = false;
        w.until(20_000, "a promotion", |w| w.primary().is_some());
    });
}

#[test]
fn a_handover_that_is_given_up_leaves_the_leader_where_it_is() {
    each_seed(|mut w| {
        let first = leader(&w);
        w.node(&first).handover_fails = true;
        w.ask_failover(Some(first.as_str().into()), None);
        w.run(1000);
        recovers(&mut w, "a handover that was given up");
        assert_eq!((leader(&w), w.reigns.len()), (first.clone(), 1));
        let tries = w.trace.iter().filter(|t| t.contains("hand over to")).count();
        assert_eq!(tries, 1, "a request is carried out once\n{}", w.story());
    });
}

#[test]
fn a_candidate_that_dies_during_the_handover_is_replaced() {
    each_seed(|mut w| {
        let (from, to) = (leader(&w), other(&w));
        w.ask_failover(Some(from.as_str().into()), Some(to.as_str().into()));
        w.until(10_000, "the handover to begin", |w| w.primary().is_none());
        w.kill(&to);
        w.until(30_000, "some leader", |w| w.primary().is_some());
        w.boot(&to);
        recovers(&mut w, "a candidate's death");
    });
}

/// Faults at random, then none: safety all the time, and everything comes back by itself.
/// `SURUS_SEEDS` asks for more of them.
#[test]
fn whatever_happens_it_comes_back() {
    let seeds = std::env::var("SURUS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    for seed in 1..=seeds {
        let mut w = cluster(seed);
        for _ in 0..25 {
            let name = ["a", "b", "c"][w.pick(3)];
            let on = w.node(name).up && !w.node(name).exited;
            match w.pick(12) {
                0 if on => w.kill(name),
                1 if on => w.boot(name),
                // An agent that ends while paused leaves a primary behind that is nobody's any more.
                2 if on && !w.settings.pause => w.node(name).shutdown = true,
                3 if on => w.crash_server(name),
                0 | 1 | 3 => w.boot(name),
                4 | 5 => w.node(name).cut ^= true,
                6 => w.store_down ^= true,
                7 if w.nodes.iter().all(|n| !n.shutdown) => w.settings.pause ^= true,
                2 | 7 => {}
                8 => w.node(name).promotion_fails ^= true,
                9 => w.node(name).handover_fails ^= true,
                10 => w.ask_failover(None, Some(name.into())),
                _ => {
                    let leader = w.store.leader_name().cloned();
                    w.ask_failover(leader, None);
                }
            }
            let ms = [100, 500, 2000, 6000, 15_000][w.pick(5)];
            w.run(ms);
        }
        w.heal();
        w.until(90_000, &format!("everything to come back, seed {seed}"), World::well);
        w.run(20_000);
        assert!(w.well(), "it does not stay well, seed {seed}\n{}", w.story());
    }
}
