//! A primary without the store, and those who vouch for it: what the agent does on its tasks and in its REST server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_conduct::failsafe::{ANSWER, Asking};
use surus_core::facts::Facts;
use surus_core::failsafe::{self, Kind};
use surus_core::{BootTime, MemberName};

use super::Member;
use super::wait::{pause, sleep, until};
use crate::bug::Bug;
use crate::world::World;
use crate::world::clock::MS;
use crate::world::network::End;

const WRITE: Duration = Duration::from_secs(2);

impl World {
    /// As the agent there answers it.
    fn promise(&mut self, node: usize, to: &MemberName, kind: Kind, length: Duration) -> Result<(), String> {
        let now = self.boot(node);
        let me = self.nodes[node].name.clone();
        let leads = self.lease(node).lead.is_some_and(|l| now < l.until);
        let n = &mut self.nodes[node];
        if leads || n.postgres.server.as_ref().is_some_and(|s| s.primary) {
            return Err("Running as a leader".into());
        }
        let Some(agent) = &mut n.agent else { return Err("it is gone".into()) };
        if kind == Kind::Vouch && !agent.failsafe_mode || n.promises_last < length {
            return Err("failsafe mode is off on this member".into());
        }
        let given = agent.promises.give(&me, to, kind, length, now);
        self.tell(node, || format!("{kind:?} to {to}: {given:?}"));
        given
    }
}

impl Member {
    /// What the keeper has to know of a decision.
    pub(super) fn note_clearance(&self, facts: &Facts) {
        let known = facts.store.view.as_deref().is_some_and(|v| v.vouching.is_some());
        let lead = self.mind().conduct.memory().cleared.filter(|_| known);
        let (electors, epoch) = {
            let mind = self.mind();
            (mind.conduct.electors(facts), mind.conduct.electors_epoch())
        };
        self.sim.with(|w| {
            if let Some(desk) = w.desk(self.node) {
                desk.keeper.unvouches(lead);
                desk.keeper.electors(epoch);
            }
            let one = w.is(Bug::OneVouches);
            if let Some(agent) = &mut w.nodes[self.node].agent {
                agent.electors = electors.map(|mut e| {
                    if one {
                        e.lists.iter_mut().for_each(|l| l.names.retain(|name, _| *name == self.me));
                    }
                    e
                });
            }
        });
    }

    pub(super) fn promise_to_myself(&self, firm: bool) -> bool {
        let kind = if firm { Kind::Vouch } else { Kind::Consent };
        self.sim.with(|w| {
            let now = w.boot(self.node);
            let agent = w.nodes[self.node].agent.as_mut();
            agent.is_some_and(|a| a.promises.give(&self.me, &self.me, kind, failsafe::CONSENT, now).is_ok())
        })
    }

    pub(super) fn ask_consent(self: &Arc<Member>, at: BootTime, whom: BTreeMap<MemberName, String>, firm: bool) {
        if !self.promise_to_myself(firm) {
            return;
        }
        if whom.is_empty() {
            self.sim.with(|w| {
                if let Some(agent) = &mut w.nodes[self.node].agent {
                    agent.inbox.wake = true;
                }
                w.nodes[self.node].stir();
            });
        }
        for (name, url) in whom {
            let member = self.clone();
            let ask = async move {
                let asked = member.promised(&url, Kind::Consent, failsafe::CONSENT).await;
                let said = asked.map(|()| at + failsafe::good_for(failsafe::CONSENT));
                member.sim.with(|w| {
                    if let Some(agent) = &mut w.nodes[member.node].agent {
                        agent.inbox.consents.push((name, said));
                    }
                    w.nodes[member.node].stir();
                });
            };
            self.sim.with(|w| w.spawn(self.pid, Box::pin(ask)));
        }
    }

    /// Asks another member for a promise. The answer takes its time, or does not come.
    async fn promised(&self, url: &str, kind: Kind, length: Duration) -> Result<(), String> {
        let me = self.me.clone();
        let peer = self.call(url, ANSWER, move |w, peer| w.promise(peer, &me, kind, length).map(|()| peer)).await?;
        let us =
            self.sim.with(|w| w.random.between(MS, 8 * MS) + w.network.delay(End::Node(peer), End::Node(self.node)));
        pause(&self.sim, us).await;
        let reached = self.sim.with(|w| w.network.both_ways(End::Node(self.node), End::Node(peer)));
        if reached { Ok(()) } else { Err("timeout".into()) }
    }

    /// Asks who vouches for this member, while its lead hangs on that.
    pub async fn keep_vouched(self: Arc<Member>) {
        loop {
            let due = until(&self.sim, self.node, |w| {
                let lease = w.lease(self.node);
                let agent = w.nodes[self.node].agent.as_mut()?;
                if !Asking::needed(&lease) {
                    agent.asking.over(&lease);
                    return None;
                }
                agent.electors.as_ref()?;
                Some(agent.asking.due())
            })
            .await;
            let now = self.now();
            if now < due {
                sleep(&self.sim, self.node, due.since(now)).await;
                continue;
            }
            let ttl = self.mind().timing().ttl;
            let whom = self.sim.with(|w| {
                let agent = w.nodes[self.node].agent.as_mut()?;
                let me_too = agent.promises.give(&self.me, &self.me, Kind::Vouch, ttl, now).is_ok();
                let electors = agent.electors.clone()?;
                Some(agent.asking.begin(&self.me, electors, me_too, now))
            });
            self.vouched(ttl);
            for (name, url) in whom.unwrap_or_default() {
                let member = self.clone();
                let ask = async move {
                    let vouches = member.promised(&url, Kind::Vouch, ttl).await;
                    member.sim.with(|w| {
                        if let Some(agent) = &mut w.nodes[member.node].agent {
                            agent.asking.answered(now, name, vouches);
                        }
                    });
                    member.vouched(ttl);
                };
                self.sim.with(|w| w.spawn(self.pid, Box::pin(ask)));
            }
        }
    }

    fn vouched(&self, ttl: Duration) {
        let timing = self.mind().timing();
        let moment = self.moment();
        self.sim.with(|w| {
            let late = w.is(Bug::VouchedFromTheAnswer);
            let Some(agent) = &mut w.nodes[self.node].agent else { return };
            let Some((sent, by, epoch)) = agent.asking.enough(&timing) else { return };
            let sent = if late { moment.now } else { sent };
            agent.desk.keeper.vouched(moment, sent, ttl, by.clone(), epoch);
            agent.desk.poke();
            let until = agent.desk.keeper.state().lead.map(|l| l.until);
            w.tell(self.node, || format!("vouched for by {by:?}: good until {until:?}, now {:?}", moment.now));
            w.lease_moved(self.node);
        });
    }

    /// Has the store know that failsafe mode is on, and who may vouch for me.
    pub(super) fn note_vouching(self: &Arc<Member>, facts: &Facts) {
        let adopted = self.mind().conduct.failsafe_mode_due(facts);
        if let Some((config, over)) = adopted {
            let member = self.clone();
            let run = async move {
                let written = member.store.compare_and_put_as_leader("config", Some(over), config, WRITE).await;
                member.sim.with(|w| w.tell(member.node, || format!("failsafe mode by default: {written:?}")));
            };
            self.sim.with(|w| w.spawn(self.pid, Box::pin(run)));
        }
        let (lease, now) = self.sim.with(|w| (w.lease(self.node), w.boot(self.node)));
        let write = self.mind().conduct.vouching_due(facts, &lease, now);
        self.note_clearance(facts);
        let Some(write) = write else { return };
        let member = self.clone();
        let run = async move {
            let written = member.store.write_vouching(write.failsafe, write.vouching, write.over, WRITE).await;
            member.sim.with(|w| {
                if let Some(agent) = &mut w.nodes[member.node].agent {
                    agent.inbox.vouching = Some(written);
                }
                w.nodes[member.node].stir();
            });
        };
        self.sim.with(|w| w.spawn(self.pid, Box::pin(run)));
    }
}
