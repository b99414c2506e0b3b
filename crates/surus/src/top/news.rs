//! What happened, told from the history in the store and from the difference of two readings.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use surus_core::cluster::Member;

use crate::context::Reading;

/// Changes of leaders that the history tells of.
const PAST: usize = 5;

/// When, and what.
pub fn past(reading: &Reading, zone: &TimeZone) -> Vec<(String, String)> {
    let entries = reading.view.history.as_ref().map(|h| h.0.as_slice()).unwrap_or_default();
    let told = entries.iter().filter_map(|entry| {
        let leader = entry.new_leader.as_deref()?;
        let at = entry.timestamp.as_deref()?.parse::<Timestamp>().ok()?.to_zoned(zone.clone());
        Some((
            at.strftime("%m-%d %H:%M:%S").to_string(),
            format!("{leader} took over from timeline {}", entry.timeline),
        ))
    });
    let mut told: Vec<_> = told.collect();
    told.drain(..told.len().saturating_sub(PAST));
    told
}

pub fn between(before: &Reading, after: &Reading) -> Vec<String> {
    let mut news = Vec::new();
    let (old, new) = (before.view.leader_name(), after.view.leader_name());
    if old != new {
        news.push(match (old, new) {
            (Some(old), None) => format!("{old} gave the lead up: nobody leads"),
            (_, Some(new)) => format!("{new} has taken the lead"),
            (None, None) => String::new(),
        });
    }
    match (before.settings.pause, after.settings.pause) {
        (false, true) => news.push("the cluster is paused".to_owned()),
        (true, false) => news.push("the cluster is resumed".to_owned()),
        _ => {}
    }
    for (name, now) in &after.view.members {
        match before.view.members.get(name) {
            None => news.push(format!("{name} is here: {}", state(now))),
            Some(then) => {
                if state(then) != state(now) {
                    news.push(format!("{name}: {}", state(now)));
                }
                if let (Some(then), Some(now)) = (then.timeline, now.timeline)
                    && then != now
                {
                    news.push(format!("{name}: on timeline {now}"));
                }
                if now.pending_restart && !then.pending_restart {
                    news.push(format!("{name}: waits for a restart"));
                }
                if now.loss.is_some() && then.loss.is_none() {
                    news.push(format!("{name}: had what nobody else has: surus loss list"));
                }
            }
        }
    }
    for name in before.view.members.keys().filter(|name| !after.view.members.contains_key(*name)) {
        news.push(format!("{name} is gone: its agent does not renew its key"));
    }
    let scheduled = |r: &Reading| r.document.scheduled_switchover.as_ref().map(|s| s.at.clone());
    match (scheduled(before), scheduled(after)) {
        (old, Some(at)) if old.as_ref() != Some(&at) => news.push(format!("a switchover is scheduled at {at}")),
        (Some(_), None) => news.push("no switchover is scheduled any more".to_owned()),
        _ => {}
    }
    news
}

/// Role and state, as far as they are worth a line when they change.
fn state(member: &Member) -> String {
    format!("{}, {}", member.role.as_str(), member.state.as_str())
}
