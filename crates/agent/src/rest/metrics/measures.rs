//! Durations, as histograms, and what a failover would cost now.

use std::fmt::Write;

use super::super::facts::Facts;
use super::super::readiness::readiness;
use super::{Page, escape};
use crate::measure::Histogram;

pub fn measures(facts: &Facts<'_>, page: &mut Page) {
    let measures = &facts.published.measures;
    page.histogram(
        "surus_leader_change_phase_seconds",
        "Duration of one phase of a change of leader: of a switchover checkpoint, stop, catch_up and release on the old \
         leader, of each change race, prepare and promote on the new one.",
        measures.phases().map(|(phase, planned, histogram)| {
            let kind = if planned { "switchover" } else { "failover" };
            (format!("kind=\"{kind}\",phase=\"{}\"", phase.word()), histogram)
        }),
    );
    page.histogram(
        "surus_store_request_seconds",
        "Duration of requests to the store; renew is the renewal of the lease.",
        measures.requests().map(|(operation, histogram)| (format!("operation=\"{}\"", operation.word()), histogram)),
    );
    let failures = measures.requests().map(|(operation, histogram)| (operation.word(), histogram.failures() as f64));
    let help = "Requests to the store that it refused or did not answer in time.";
    page.for_each("surus_store_request_failures_total", help, "counter", "operation", failures);
    let rules = measures.rules(facts.now);
    let rules: Vec<_> = rules.iter().map(|(rule, time)| (rule.to_string(), time.as_secs_f64())).collect();
    let help = "Time for which this rule was the one that decided what this member does.";
    page.for_each("surus_rule_seconds_total", help, "counter", "rule", rules.iter().map(|(r, t)| (r.as_str(), *t)));
}

pub fn failover(facts: &Facts<'_>, page: &mut Page) {
    let Some((ready, successors)) = readiness(facts) else { return };
    page.flag("surus_failover_ready", "Value is 1 on a leader from which another member could take over now.", ready);
    let fit = successors.iter().map(|s| (s.name, f64::from(u8::from(s.fit))));
    let help = "Value is 1 on a leader for each member that could take over now, 0 for each that could not.";
    page.for_each("surus_failover_candidate_fit", help, "gauge", "member", fit);
    let loses = successors.iter().filter_map(|s| Some((s.name, s.loses? as f64)));
    let help =
        "WAL that this leader has and the member has not, which is lost if it takes over from a leader that is gone.";
    page.for_each("surus_failover_loss_bytes", help, "gauge", "member", loses);
}

impl Page {
    /// Label sets as text, each with its histogram.
    fn histogram<'a>(&mut self, name: &str, help: &str, of: impl Iterator<Item = (String, &'a Histogram)>) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let common = self.labels.trim_end_matches('}').to_owned();
        for (labels, histogram) in of {
            let buckets = histogram.buckets();
            for (bound, count) in &buckets {
                let bound = bound.map_or("+Inf".to_owned(), |b| b.to_string());
                let _ = writeln!(self.text, "{name}_bucket{common},{labels},le=\"{bound}\"}} {count}");
            }
            let count = buckets.last().map_or(0, |(_, count)| *count);
            let _ = writeln!(self.text, "{name}_sum{common},{labels}}} {}", histogram.sum());
            let _ = writeln!(self.text, "{name}_count{common},{labels}}} {count}");
        }
    }

    /// One series with a label more, for each of several things; nothing without any.
    pub fn for_each<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, f64)>,
    ) {
        for (i, (thing, value)) in values.enumerate() {
            if i == 0 {
                let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            }
            let labels = self.labels.trim_end_matches('}');
            let _ = writeln!(self.text, "{name}{labels},{label}=\"{}\"}} {value}", escape(thing));
        }
    }
}
