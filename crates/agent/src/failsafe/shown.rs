//! What people see of failsafe mode: `GET /patroni`, `/explain`, `/metrics`.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};
use surus_conduct::failsafe::{Answers, Asking};
use surus_core::BootTime;

use super::Failsafe;

/// What this member has to do with a primary without the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// Nothing: the store does what it should.
    Idle,
    /// This one goes on, while members vouch for it: until then unless they go on doing so.
    Active { until: BootTime, answers: Answers },
    /// This one holds the lead until then, and too few have vouched for it.
    Blocked { until: BootTime, answers: Answers },
    /// This member vouches for another one.
    Vouches { to: String, until: BootTime },
}

impl Failsafe {
    pub fn shown(&self, now: BootTime) -> Shown {
        let lease = self.0.lease.borrow().clone();
        let answers = self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lead = lease.lead.filter(|lead| now < lead.until && Asking::needed(&lease));
        match (lease.vouched.filter(|v| now < v.until), lead, answers) {
            (Some(vouched), _, answers) => {
                let mut answers = answers.unwrap_or_default();
                for name in vouched.by {
                    answers.of.entry(name).or_insert(Ok(()));
                }
                Shown::Active { until: vouched.until, answers }
            }
            (None, Some(lead), Some(answers)) if !answers.enough => Shown::Blocked { until: lead.until, answers },
            _ => match self.vouches_for() {
                Some(promise) => Shown::Vouches { to: promise.to.to_string(), until: promise.until },
                None => Shown::Idle,
            },
        }
    }

    /// `None`: there is nothing to say.
    pub fn document(&self, now: BootTime) -> Option<Value> {
        let left = |until: BootTime| json!((until.since(now).as_secs_f64() * 10.0).round() / 10.0);
        let answered = |state: &str, until: BootTime, answers: &Answers| {
            let vouching: Vec<&str> =
                answers.of.iter().filter(|(_, said)| said.is_ok()).map(|(name, _)| name.as_str()).collect();
            let not: Map<String, Value> = answers
                .of
                .iter()
                .filter_map(|(name, said)| Some((name.to_string(), json!(said.as_ref().err()?))))
                .collect();
            json!({"state": state, "seconds_left": left(until), "vouched_by": vouching, "not_vouching": not})
        };
        match self.shown(now) {
            Shown::Idle => None,
            Shown::Active { until, answers } => Some(answered("active", until, &answers)),
            Shown::Blocked { until, answers } => Some(answered("blocked", until, &answers)),
            Shown::Vouches { to, until } => Some(json!({"state": "vouching", "for": to, "seconds_left": left(until)})),
        }
    }
}
