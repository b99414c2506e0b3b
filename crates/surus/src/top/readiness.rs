//! Whether somebody could take over now, who, and what would be lost.

use surus_core::settings::SynchronousMode;

use super::model::Model;
use crate::context::Reading;
use crate::listing::{self, size};

/// Reasons beyond these are for `surus explain`.
const REASONS: usize = 3;

pub struct Verdict {
    /// `None`: not known yet, or no question.
    pub ready: Option<bool>,
    pub text: String,
    pub why: Vec<String>,
}

pub fn of(model: &Model) -> Verdict {
    let verdict = |ready, text: &str| Verdict { ready, text: text.to_owned(), why: Vec::new() };
    let (Some(reading), Some(candidates)) = (&model.reading, &model.candidates) else {
        return verdict(None, "asking the members ...");
    };
    let others = candidates.iter().filter(|c| Some(&c.name) != reading.view.leader_name());
    let (fit, unfit): (Vec<_>, Vec<_>) = others.partition(|c| c.fit);
    let mut why: Vec<String> = unfit.iter().map(|c| format!("not {}: {}", c.name, c.why)).collect();
    if why.len() > REASONS {
        let more = why.len() - (REASONS - 1);
        why.truncate(REASONS - 1);
        why.push(format!("and {more} more: surus explain"));
    }
    let mut verdict = match (reading.settings.pause, fit.first()) {
        (true, _) => verdict(Some(false), "nobody would take over: the cluster is paused"),
        (_, None) => verdict(Some(false), "nobody could take over"),
        (_, Some(_)) if fit.len() <= quorum(reading) => {
            verdict(Some(false), "nobody could take over: too few members could vouch for what was acknowledged")
        }
        (_, Some(best)) => {
            let mut verdict = verdict(Some(true), &format!("{} would take over ({})", best.name, best.why));
            verdict.why.push(format!("lost: {}", loss(reading, best.name.as_str())));
            verdict
        }
    };
    verdict.why.append(&mut why);
    verdict
}

/// How many members more than one have to be reachable, while a quorum decides.
fn quorum(reading: &Reading) -> usize {
    let asked_for = reading.settings.synchronous_mode != SynchronousMode::Off && !reading.settings.standby_cluster;
    let sync = reading.view.sync.as_ref().filter(|_| asked_for);
    sync.map_or(0, |s| usize::try_from(s.value.quorum).unwrap_or(usize::MAX))
}

fn loss(reading: &Reading, name: &str) -> String {
    let synchronous = reading.settings.synchronous_mode != SynchronousMode::Off;
    if synchronous && reading.view.sync.as_ref().is_some_and(|s| s.value.lists(&name.into())) {
        return "nothing that was acknowledged".to_owned();
    }
    let member = reading.document.members.iter().find(|m| m.name.as_str() == name);
    match member.and_then(listing::received_lag) {
        Some(0) => "nothing, as far as is known".to_owned(),
        Some(bytes) => format!("about the last {}", size(bytes)),
        None => "not known how much".to_owned(),
    }
}
