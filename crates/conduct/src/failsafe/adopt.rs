//! Failsafe mode on by default: the leader of a cluster of Surus members writes it into a configuration that says nothing
//! about it.
//!
//! All read one document, so there is no member that has the mode on by default beside one that has it off, whatever version
//! either is of, and nobody relies on it before the store has it: it comes into force as if an operator had set it.

use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::facts::Facts;
use surus_core::{BootTime, failsafe};

/// All members are ours for so long first: those that Patroni drives may only be restarted, or their sessions be lost.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Adoption {
    /// Since when it could be written, or when it was last.
    since: Option<BootTime>,
}

impl Adoption {
    /// What to write, over this version of `config`, and only while I lead.
    pub fn due(&mut self, facts: &Facts) -> Option<(String, KeyVersion)> {
        let Some(written) = wanted(facts) else {
            self.since = None;
            return None;
        };
        let since = *self.since.get_or_insert(facts.now);
        if facts.now.since(since) < PATIENCE.max(facts.settings.timing.ttl * 2) {
            return None;
        }
        self.since = Some(facts.now);
        Some(written)
    }
}

fn wanted(facts: &Facts) -> Option<(String, KeyVersion)> {
    let view = facts.store.view.as_deref().filter(|_| facts.store.broken.is_none())?;
    let primary = facts.postgres.observed().is_some_and(|o| !o.in_recovery);
    let leads = facts.lead.is_some() && primary && view.leader_name() == Some(&facts.me);
    // A key without a version of ours is Patroni's, or one that nobody can read.
    let ours = !view.members.is_empty() && view.members.values().all(|m| m.surus.is_some());
    if !leads || !ours || facts.settings.pause {
        return None;
    }
    let config = view.config.as_ref()?;
    Some((failsafe::switched_on(&config.value)?.to_string(), config.version))
}
