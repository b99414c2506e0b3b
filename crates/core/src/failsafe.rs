//! Who vouches for a primary that cannot reach the store, and whose consent another member needs to lead meanwhile.
//!
//! A member that vouches for a primary, or consents to a candidate, gives the same thing: a *promise* to one member, for a
//! time, and to nobody else meanwhile. The `failsafe` key names those whose promises count, N of them. A primary goes on
//! while V of them vouch for it, itself included; whoever is to become one instead needs C = N - V + 1 consents. Any V and
//! any C of N names have one in common, and that one has promised to one of the two only.
//!
//! - The primary counts from when it asked, the others from when they were asked: its time is over first.
//! - Only a right that has not ended is prolonged. So whoever was vouched for at some moment was so, or had its lease,
//!   at every moment before, back to the lease; and a moment at which another held the lease in the store and C consents
//!   ended that for good.
//! - The `vouching` key says whom members may vouch for at all, and how many of them must: written by the leader, in one
//!   transaction with the list, before it relies on it. When it gives the lead up it says that nobody is vouched for any
//!   more. A member that is named there itself needs no consent: nobody else can go on without the store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterView;
use crate::facts::Facts;
use crate::ids::MemberName;
use crate::memory::Memory;
use crate::time::BootTime;

/// How long a consent lasts: longer than taking the lead takes, and no longer than others can wait when nothing came of it.
pub const CONSENT: Duration = Duration::from_secs(5);

/// What whoever asked for a promise of this length makes of it, for clocks that run at different speeds.
pub fn good_for(length: Duration) -> Duration {
    length - length / 10
}

/// The setting, by its name in the dynamic configuration.
pub const SETTING: &str = "failsafe_mode";

/// That configuration with the mode switched on, if it says nothing about it. The default of a cluster of Surus members is
/// written, not taken for granted: a Patroni member reads what is not written as off, takes a lead that is free without
/// asking, and may be started while the primary that lives on the default cannot see it.
pub fn switched_on(config: &serde_json::Value) -> Option<serde_json::Value> {
    let mut config = config.as_object().filter(|c| c.get(SETTING).is_none_or(serde_json::Value::is_null))?.clone();
    config.insert(SETTING.to_owned(), true.into());
    Some(config.into())
}

/// How many of the list a primary without the store needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// Nobody is vouched for: the leader has given the lead up, or failsafe mode is off.
    None,
    /// Patroni's protocol: all of them. Its candidates ask nobody.
    All,
    Majority,
}

/// The `vouching` key. Not known to Patroni.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouching {
    pub leader: MemberName,
    pub of: Of,
}

impl Vouching {
    pub fn parse(text: &str) -> Result<Vouching, String> {
        serde_json::from_str(text).map_err(|e| format!("is no JSON object with leader and of ({e})"))
    }

    pub fn to_text(&self) -> String {
        serde_json::json!({"leader": self.leader, "of": self.of}).to_string()
    }
}

/// Whose promises count: names and where they are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    pub names: BTreeMap<MemberName, String>,
    pub of: Of,
}

impl List {
    /// For the `failsafe` key.
    pub fn to_text(&self) -> String {
        serde_json::json!(self.names).to_string()
    }

    /// So many must vouch, the primary among them. With `None` no number is enough.
    pub fn vouchers(&self) -> usize {
        match self.of {
            Of::None => self.names.len() + 1,
            Of::All => self.names.len(),
            Of::Majority => self.names.len() / 2 + 1,
        }
    }

    /// So many must consent, the candidate among them.
    pub fn consents(&self) -> usize {
        (self.names.len() + 1).saturating_sub(self.vouchers())
    }

    pub fn counts(&self, by: &BTreeSet<MemberName>) -> usize {
        self.names.keys().filter(|name| by.contains(*name)).count()
    }
}

/// Whom a primary without the store asks, and who is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electors {
    /// Changes with the lists.
    pub epoch: u64,
    /// Each list that may be the one in the store: while the outcome of a write is not known there are two or more.
    pub lists: Vec<List>,
    /// Members that Patroni drives, as far as is known: they ask nobody before they lead, so each must vouch, also one that
    /// is not in the list yet.
    pub foreign: BTreeMap<MemberName, String>,
}

impl Electors {
    pub fn to_ask(&self, me: &MemberName) -> BTreeMap<MemberName, String> {
        let all = self.lists.iter().flat_map(|l| &l.names).chain(&self.foreign);
        all.filter(|(name, _)| *name != me).map(|(name, url)| (name.clone(), url.clone())).collect()
    }

    /// Those who vouch are enough, whichever list is in the store.
    pub fn suffice(&self, by: &BTreeSet<MemberName>) -> bool {
        !self.lists.is_empty()
            && self.foreign.keys().all(|name| by.contains(name))
            && self.lists.iter().all(|list| list.counts(by) >= list.vouchers())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It leads and goes on without the store.
    Vouch,
    /// It may take the lead.
    Consent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub to: MemberName,
    pub kind: Kind,
    pub until: BootTime,
}

/// What this member has promised. Lost with its process: a new one makes no promise until those of an earlier one are over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    given: Option<Promise>,
    silent_until: Option<BootTime>,
}

impl Promises {
    /// `silent_until`: until then a promise of an earlier process may be in force.
    pub fn new(silent_until: Option<BootTime>) -> Promises {
        Promises { given: None, silent_until }
    }

    pub fn in_force(&self, now: BootTime) -> Option<&Promise> {
        self.given.as_ref().filter(|p| now < p.until)
    }

    pub fn silent_until(&self, now: BootTime) -> Option<BootTime> {
        self.silent_until.filter(|until| now < *until)
    }

    /// `Err`: why not, in words for whoever asked. Whether I lead, or run as a primary, is for the caller to know: then it
    /// promises nobody but itself anything.
    pub fn give(
        &mut self,
        me: &MemberName,
        to: &MemberName,
        kind: Kind,
        length: Duration,
        now: BootTime,
    ) -> Result<(), String> {
        if let Some(until) = self.silent_until(now) {
            let left = until.since(now).as_secs_f64();
            return Err(format!(
                "{me} was just started and may have promised something before, for another {left:.1} s"
            ));
        }
        let held = self.in_force(now).cloned();
        if let Some(held) = held.as_ref().filter(|held| held.to != *to) {
            // Nothing rests on my wish to lead alone. Two that would like to, and both need each other, must not wait
            // for each other.
            let gives_way = held.to == *me && held.kind == Kind::Consent && (kind == Kind::Vouch || to < me);
            if !gives_way {
                let left = held.until.since(now).as_secs_f64();
                let what = if held.kind == Kind::Vouch { "vouches for" } else { "has consented to" };
                return Err(format!("{me} {what} {} for another {left:.1} s", held.to));
            }
        }
        let same = held.filter(|held| held.to == *to);
        let until = same.as_ref().map_or(now + length, |held| held.until.max(now + length));
        let vouches = kind == Kind::Vouch || same.is_some_and(|held| held.kind == Kind::Vouch);
        let kind = if vouches { Kind::Vouch } else { Kind::Consent };
        self.given = Some(Promise { to: to.clone(), kind, until });
        Ok(())
    }
}

/// What a step is shown of all that.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fact {
    /// In force now.
    pub given: Option<Promise>,
    pub silent_until: Option<BootTime>,
    /// Until when others have consented to me, counted from before they were asked; or why they have not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consents: BTreeMap<MemberName, Result<BootTime, String>>,
    /// From this revision on a reading has the list and the `vouching` key that count under my lead. `None`: from the
    /// version of the lead on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_from: Option<u64>,
    /// The leader key ended in the store, and I hold the lead by what members say alone.
    #[serde(default)]
    pub unbound: bool,
    /// Who vouches for me, while my lead is good by that and not by a lease.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vouched_by: BTreeSet<MemberName>,
}

/// May I become the primary, as far as one that goes on without the store is concerned?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clearance {
    Clear,
    /// These must be asked first, and I must promise it to myself.
    Ask {
        whom: Vec<MemberName>,
        why: String,
    },
    Wait {
        why: String,
    },
}

/// The list that counts, with whom members may vouch for. Absent or empty: nobody can be vouched for.
pub fn list(facts: &Facts, memory: &Memory, view: &ClusterView) -> Option<List> {
    let names = view.failsafe.clone().filter(|names| !names.is_empty())?;
    let foreign = led_by_foreigner(memory, view);
    // Patroni leaves the list where it is when the mode is switched off.
    if foreign && !facts.settings.failsafe_mode {
        return None;
    }
    let of = match &view.vouching {
        Some(vouching) if !foreign => vouching.value.of,
        _ => Of::All,
    };
    Some(List { names, of })
}

/// The last leader was driven by Patroni, which writes the list and knows nothing of `vouching`, and none of ours has led
/// since: it would have written that key before it relied on anybody.
fn led_by_foreigner(memory: &Memory, view: &ClusterView) -> bool {
    memory.foreign_led_over == Some(view.vouching_version.unwrap_or(0))
}

pub fn clearance(facts: &Facts, memory: &Memory, view: &ClusterView) -> Clearance {
    let (fact, me, now) = (&facts.failsafe, &facts.me, facts.now);
    let vouching = view.vouching.as_ref().map(|v| &v.value);
    let list = list(facts, memory, view);
    let released = |name: &MemberName| vouching.is_some_and(|v| v.leader == *name && v.of == Of::None);
    if let Some(given) = fact.given.as_ref().filter(|p| now < p.until && p.to != *me && !released(&p.to)) {
        let left = given.until.since(now).as_secs_f64();
        let why = match given.kind {
            Kind::Vouch => {
                format!("{} goes on as the leader without the store, I vouch for it for another {left:.1} s", given.to)
            }
            Kind::Consent => format!("I have consented to {} taking the lead, for another {left:.1} s", given.to),
        };
        return Clearance::Wait { why };
    }
    let Some(list) = list else { return Clearance::Clear };
    if !list.names.contains_key(me) {
        let why = "I am not in the failsafe list, so the last leader may go on without asking me".into();
        return Clearance::Wait { why };
    }
    // Only one that Patroni drives can be vouched for without being named, and by all: by me, too.
    let foreigners = list.names.keys().any(|name| {
        let member = view.members.get(name).or(memory.known_members.get(name));
        member.is_some_and(crate::cluster::Member::is_foreign)
    });
    let alone = list.names.len() == 1;
    if alone || !foreigners && vouching.is_some_and(|v| v.leader == *me || v.of == Of::None) {
        return Clearance::Clear;
    }
    if let Some(until) = fact.silent_until.filter(|until| now < *until) {
        let left = until.since(now).as_secs_f64();
        let why =
            format!("this agent was just started and may have vouched for somebody before, for another {left:.1} s");
        return Clearance::Wait { why };
    }
    let needed = list.consents().max(1);
    let mut by: BTreeSet<MemberName> =
        fact.consents.iter().filter(|(_, c)| matches!(c, Ok(until) if now < *until)).map(|(n, _)| n.clone()).collect();
    by.extend(fact.given.as_ref().filter(|p| now < p.until && p.to == *me).map(|_| me.clone()));
    let found = list.counts(&by);
    if found >= needed {
        return Clearance::Clear;
    }
    let whom: Vec<MemberName> =
        if needed > 1 { list.names.keys().filter(|n| *n != me && !by.contains(*n)).cloned().collect() } else { vec![] };
    let whose = vouching.map_or("the last leader".to_owned(), |v| v.leader.to_string());
    let refused: Vec<String> =
        fact.consents.iter().filter_map(|(n, c)| c.as_ref().err().map(|why| format!("{n}: {why}"))).collect();
    let refused = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) };
    let why = format!(
        "{whose} may go on without the store: {needed} of {} members must consent that another leads, {found} do{refused}",
        list.names.len()
    );
    Clearance::Ask { whom, why }
}

/// Who may vouch for me, the leader, by what the store shows of the members.
pub fn wanted(facts: &Facts, view: &ClusterView) -> List {
    let present = view.members.values().filter_map(|m| Some((m.name.clone(), m.api_url.clone()?)));
    let mut names: BTreeMap<MemberName, String> = present.collect();
    // My own key can be missing for a moment.
    if let Some(url) = view.failsafe.as_ref().and_then(|f| f.get(&facts.me)) {
        names.entry(facts.me.clone()).or_insert_with(|| url.clone());
    }
    let of = match (switched(facts, view) && names.contains_key(&facts.me), foreign(view).is_empty()) {
        (false, _) => Of::None,
        (true, false) => Of::All,
        (true, true) => Of::Majority,
    };
    List { names, of }
}

/// The mode is on for everybody who reads the store. My settings may be those of a file, where the store has none.
pub fn switched(facts: &Facts, view: &ClusterView) -> bool {
    facts.settings.failsafe_mode && view.config.is_some()
}

/// Members that Patroni drives.
pub fn foreign(view: &ClusterView) -> BTreeMap<MemberName, String> {
    let foreign = view.members.values().filter(|m| m.is_foreign());
    foreign.filter_map(|m| Some((m.name.clone(), m.api_url.clone()?))).collect()
}

#[cfg(test)]
mod tests;
