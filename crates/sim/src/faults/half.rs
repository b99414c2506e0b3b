//! The store is half alive, to one member or to all.

use crate::plan::{Refuses, Who};
use crate::world::World;
use crate::world::clock::True;
use crate::world::network::End;

impl World {
    pub(super) fn read_only_store(&mut self, who: Option<Who>, refuses: Refuses, lasts: True) {
        self.disturbs_store(lasts);
        let node = who.map(|who| self.who(who));
        self.store_refuses(node, refuses);
        // The server that one member speaks to has lost the others: nothing new is seen there.
        let blind = node.filter(|_| refuses != Refuses::Puts);
        blind.into_iter().for_each(|n| self.store.stalled[n] = true);
        self.undo(lasts, move |w| {
            w.store_writes_again(node);
            blind.into_iter().for_each(|n| w.unstall(n));
        });
    }

    pub(super) fn failing_store(&mut self, who: Option<Who>, percent: u64, lasts: True) {
        self.disturbs_store(lasts);
        let node = who.map(|who| self.who(who));
        self.store_errors(node, percent);
        self.undo(lasts, move |w| w.store_errors(node, 0));
    }

    pub(super) fn flapping_store(&mut self, who: Option<Who>, away: True, back: True, lasts: True) {
        self.disturbs_store(lasts);
        let node = who.map(|who| self.who(who));
        self.flap(node, (away, back), self.now + lasts);
    }

    fn flap(&mut self, node: Option<usize>, times: (True, True), end: True) {
        if self.now >= end {
            return;
        }
        self.store_away(node, true);
        let about = |w: &mut World, time: True| time * w.random.between(50, 150) / 100;
        let away = about(self, times.0).min(end - self.now);
        let back = about(self, times.1);
        self.undo(away, move |w| {
            w.store_away(node, false);
            w.undo(back, move |w| w.flap(node, times, end));
        });
    }

    fn store_away(&mut self, node: Option<usize>, away: bool) {
        match node {
            Some(node) if self.group.is_some() => return self.cut_from_group(node, away),
            Some(node) => {
                self.network.set_cut(End::Node(node), End::Store, away);
                self.network.set_cut(End::Store, End::Node(node), away);
            }
            None => {
                self.cut_group(away);
                if away {
                    self.store.down = true;
                } else {
                    let again = self.random.percent(50);
                    self.store_back(again);
                }
            }
        }
        self.links_changed();
    }
}
