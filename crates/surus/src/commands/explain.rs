//! `explain`: what the members say about their own decisions (`GET /explain`), put together, and who
//! could take over.

pub mod candidates;
pub mod failsafe;

use std::fmt::Write;

use futures_util::future::join_all;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};
use surus_core::report::Candidate;

use crate::cli::{Explain, Format};
use crate::commands::{API_LIMIT, journal, without_store};
use crate::context::{Context, Reading};
use crate::failure::{Failure, Outcome};
use crate::table;
use crate::terminal::Terminal;
use crate::when::{Since, parse_since};

/// A member's own account, or why there is none.
type Account = Result<Value, String>;

pub async fn explain(context: &Context, terminal: &mut Terminal, args: &Explain) -> Outcome {
    if args.format == Format::Tsv {
        return Err(Failure::Usage("explain has the formats pretty, json and yaml".to_owned()));
    }
    if let Some(since) = &args.since {
        return since_then(context, terminal, args, since).await;
    }
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = match cluster.read().await {
        Ok(reading) => reading,
        Err(failure) => {
            let accounts = without_store::accounts(context).await;
            if args.format == Format::Pretty && !accounts.is_empty() {
                let mut out = format!("{}\n", without_store::HEAD);
                members(&mut out, &accounts);
                terminal.write(&out)?;
            }
            return Err(failure);
        }
    };
    let asked = reading.view.members.values().map(|member| async move {
        let account = match journal::own_api(member) {
            Err(why) => Err(why),
            Ok(url) => match context.api.get(url, "/explain", API_LIMIT).await {
                Ok(answer) if answer.code == 200 => answer.json::<Value>().map_err(|e| {
                    format!("its answer is no JSON ({e}); only agents of this program explain themselves")
                }),
                Ok(answer) => Err(format!(
                    "it answers with status {}; only agents of this program explain themselves",
                    answer.code
                )),
                Err(error) => Err(error.to_string()),
            },
        };
        (member.name.to_string(), account)
    });
    let (accounts, weighed, complaint): (Vec<(String, Account)>, _, _) =
        tokio::join!(join_all(asked), candidates::weigh(context, &reading), cluster.complaint());
    if args.format != Format::Pretty {
        let members: Vec<Value> = accounts
            .into_iter()
            .map(|(name, account)| account.unwrap_or_else(|error| json!({"member": name, "error": error})))
            .collect();
        let mut whole = json!({
            "scope": cluster.name, "leader": reading.leader_name(), "candidates": weighed, "members": members
        });
        if let Some(complaint) = complaint {
            whole["store"] = json!(complaint);
        }
        return table::objects_out(terminal, args.format, &whole);
    }
    terminal.write(&render(&cluster.name, &reading, complaint.as_deref(), &weighed, &accounts))
}

async fn since_then(context: &Context, terminal: &mut Terminal, args: &Explain, since: &str) -> Outcome {
    let since = parse_since(since)?;
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    let told = journal::ask(context, &reading, since, &[]).await;
    journal::print(terminal, args.format, &told)
}

/// The same from journals on this machine.
pub fn offline(terminal: &mut Terminal, args: &Explain) -> Outcome {
    let since = args.since.as_deref().map(parse_since).transpose()?.map_or(i64::MIN, Since::unix_ms);
    journal::print(terminal, args.format, &journal::read(&args.journal, since))
}

fn render(
    name: &str,
    reading: &Reading,
    complaint: Option<&str>,
    weighed: &[Candidate],
    accounts: &[(String, Account)],
) -> String {
    let mut out = String::new();
    let leader = reading.leader_name();
    match leader {
        Some(leader) => line(&mut out, 0, &format!("Cluster {name}: {leader} leads.")),
        None => line(&mut out, 0, &format!("Cluster {name}: nobody leads.")),
    }
    if let Some((_, Ok(account))) = leader.and_then(|l| accounts.iter().find(|(n, _)| n == l)) {
        decision(&mut out, 1, account);
    }
    if reading.settings.pause {
        line(&mut out, 1, "The cluster is paused: nothing is started, stopped or promoted by itself.");
    }
    if let Some(complaint) = complaint {
        line(&mut out, 1, &format!("The store: {complaint}."));
    }
    for garbage in &reading.view.garbage {
        line(&mut out, 1, &format!("The key {} in the store {}.", garbage.key, garbage.problem));
    }
    if !weighed.is_empty() {
        line(&mut out, 0, "\nWho could take over:");
        for candidate in weighed {
            line(&mut out, 1, &verdict(candidate.fit, candidate.name.as_str(), &candidate.why));
        }
    }
    members(&mut out, accounts);
    out
}

fn members(out: &mut String, accounts: &[(String, Account)]) {
    for (member, account) in accounts {
        out.push('\n');
        match account {
            Err(why) => line(out, 0, &format!("{member}: does not explain itself: {why}")),
            Ok(account) => one_member(out, member, account),
        }
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    let _ = writeln!(out, "{}{text}", "  ".repeat(depth));
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str).filter(|s| !s.is_empty())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `goal`, and below it the rule and its reason.
fn decision(out: &mut String, depth: usize, account: &Value) {
    if let Some(goal) = text(account, "goal") {
        line(out, depth, goal);
    }
    if let Some(why) = text(account, "why") {
        line(out, depth, &format!("because {why}"));
    }
    if let Some(rule) = rule(account) {
        line(out, depth, &rule);
    }
}

fn rule(account: &Value) -> Option<String> {
    let id = account.get("rule").map(table::text).filter(|t| !t.is_empty())?;
    let section = text(account, "section").map(|s| format!(", {s}")).unwrap_or_default();
    let name = text(account, "name").map(|n| format!(": {n}")).unwrap_or_default();
    Some(format!("(rule {id}{section}{name})"))
}

fn verdict(fit: bool, name: &str, why: &str) -> String {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    format!("{} {name}{why}", if fit { "yes" } else { "no " })
}

/// Local time to the millisecond; what is no time is shown as it is.
fn time(value: Option<&Value>) -> String {
    let text = value.map(table::text).unwrap_or_default();
    match text.parse::<Timestamp>() {
        Ok(at) => {
            let at = at.to_zoned(TimeZone::system());
            format!("{}.{:03}", at.strftime("%Y-%m-%d %H:%M:%S"), at.millisecond())
        }
        Err(_) => text,
    }
}

fn one_member(out: &mut String, member: &str, account: &Value) {
    let at = time(account.get("at"));
    line(out, 0, &if at.is_empty() { member.to_owned() } else { format!("{member}, decided at {at}") });
    decision(out, 1, account);
    let waiting: Vec<&str> = list(account, "waiting_for").iter().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        line(out, 1, &format!("waits for {}", waiting.join("; ")));
    }
    for candidate in list(account, "candidates") {
        let fit = candidate.get("fit").and_then(Value::as_bool).unwrap_or(false);
        let (name, why) = (text(candidate, "name").unwrap_or("?"), text(candidate, "why").unwrap_or_default());
        line(out, 1, &format!("weighed: {}", verdict(fit, name, why)));
    }
    let facts = account.get("facts").and_then(Value::as_object).map(facts_line).unwrap_or_default();
    if !facts.is_empty() {
        line(out, 1, &format!("facts: {facts}"));
    }
    if let Some(fence) = account.get("fence").and_then(fence_line) {
        line(out, 1, &fence);
    }
    if let Some(watchdog) = account.get("watchdog").and_then(watchdog_line) {
        line(out, 1, &watchdog);
    }
    if let Some(failsafe) = account.get("failsafe").and_then(failsafe::failsafe_line) {
        line(out, 1, &failsafe);
    }
    for loss in account.get("loss").map(|l| list(l, "receipts")).unwrap_or_default() {
        let (id, what) = (text(loss, "id").unwrap_or("?"), text(loss, "what").unwrap_or_default());
        line(out, 1, &format!("lost and not acknowledged: {what} (surus loss show {id})"));
    }
    if let Some(slots) = account.get("logical_slots").and_then(slots_line) {
        line(out, 1, &slots);
    }
    for wanting in list(account, "wanting").iter().filter_map(Value::as_str) {
        line(out, 1, &format!("wanting: {wanting}"));
    }
    if let Some(warning) = account.get("certificate").and_then(|certificate| text(certificate, "warning")) {
        line(out, 1, warning);
    }
    for stall in account.get("stalls").map(stall_lines).unwrap_or_default() {
        line(out, 1, &stall);
    }
    // The newest of them may be the decision above.
    let recent: Vec<&Value> = list(account, "recent").iter().filter(|e| e.get("at") != account.get("at")).collect();
    if !recent.is_empty() {
        line(out, 1, "before that:");
        for earlier in recent {
            let at = time(earlier.get("at"));
            let goal = text(earlier, "goal").or_else(|| text(earlier, "why")).unwrap_or("?");
            let rule = earlier.get("rule").map(|r| format!(" (rule {})", table::text(r))).unwrap_or_default();
            line(out, 2, format!("{at} {goal}{rule}").trim_start());
        }
    }
}

/// Each thing that stands still now, and the last times when this member itself did.
fn stall_lines(stalls: &Value) -> Vec<String> {
    let Some(all) = stalls.as_object() else { return vec![] };
    let tell = |stall: &Value| {
        let number = |key: &str| stall.get(key).and_then(Value::as_f64);
        let (what, seconds) = (text(stall, "what")?, number("seconds")?);
        Some(match number("seconds_ago") {
            Some(ago) => format!("stall: {what} for {seconds:.1} s, until {ago:.0} s ago"),
            None => format!("stall: {what}, for {seconds:.1} s now"),
        })
    };
    all.values().filter_map(tell).collect()
}

/// Of a standby: whether readers could go on here after a failover.
fn slots_line(slots: &Value) -> Option<String> {
    let all = slots.as_object()?.iter();
    let of = |ready: bool| {
        let names = all.clone().filter(|(_, r)| r.as_bool() == Some(ready)).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let told = [("ready", of(true)), ("not ready yet", of(false))];
    let told: Vec<String> = told
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {names}"))
        .collect();
    (!told.is_empty()).then(|| format!("logical slots for a failover, {}", told.join("; ")))
}

fn watchdog_line(watchdog: &Value) -> Option<String> {
    let device = text(watchdog, "device")?;
    Some(match text(watchdog, "state")? {
        "running" => {
            let seconds = watchdog.get("timeout").and_then(Value::as_u64).unwrap_or_default();
            format!("watchdog: {device} runs, resets this machine {seconds} s after the last confirmed renewal")
        }
        "ready" => format!("watchdog: {device} is ready"),
        other => {
            format!("watchdog: {other}{}", text(watchdog, "why").map(|why| format!(" ({why})")).unwrap_or_default())
        }
    })
}

fn fence_line(fence: &Value) -> Option<String> {
    let mut out = match text(fence, "state")? {
        "armed" => {
            let left = fence.get("seconds_left").and_then(Value::as_f64).unwrap_or_default();
            format!("fence: armed, ends PostgreSQL in {left:.1} s unless the lead is prolonged")
        }
        "ready" => "fence: ready".to_owned(),
        "off" => "fence: off".to_owned(),
        other => format!("fence: {other}{}", text(fence, "why").map(|why| format!(" ({why})")).unwrap_or_default()),
    };
    if let Some(fired) = fence.get("last_fired").filter(|f| f.is_object()) {
        let ago = fired.get("seconds_ago").and_then(Value::as_f64).unwrap_or_default();
        let silent = fired.get("silent_after_ms").and_then(Value::as_f64).unwrap_or_default();
        let processes = fired.get("processes").and_then(Value::as_u64).unwrap_or_default();
        out.push_str(&format!(
            "; {ago:.0} s ago it ended PostgreSQL ({processes} processes, {silent:.1} ms after the lead)"
        ));
    }
    Some(out)
}

fn facts_line(facts: &Map<String, Value>) -> String {
    let known = facts.iter().filter(|(_, value)| !value.is_null());
    known.map(|(key, value)| format!("{key}={}", table::text(value))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::{ClusterView, RawKey};

    use super::*;

    fn reading() -> Reading {
        let raw = |key: &str, value: &str| RawKey { key: key.into(), value: value.into(), version: 1, lease: None };
        let view = ClusterView::read(1, &[raw("leader", "a"), raw("members/b", "{}"), raw("sync", "7")]);
        let settings = surus_core::settings::ClusterSettings::default();
        Reading { document: surus_api::cluster_document("x", &view, &settings), view, settings }
    }

    #[test]
    fn what_members_say_is_put_together() {
        let a = json!({
            "member": "a", "at": "just now", "rule": 71, "section": "primary", "name": "leads and runs",
            "why": "the lease is held and PostgreSQL is a primary", "goal": "no action",
            "facts": {"lease": "held", "view_age_ms": 120, "sync": null},
            "candidates": [{"name": "c", "fit": false, "why": "tagged nofailover"}],
            "fence": {"mode": "required", "state": "armed", "seconds_left": 7.25, "firings": 0},
            "logical_slots": {"changes": true, "audit": false, "orders": true},
            "waiting_for": [],
            "recent": [{"at": "just now", "goal": "no action"}, {"at": "09:59:58", "rule": 70, "goal": "promoted"}]
        });
        let b = json!({"member": "b", "waiting_for": ["the checkpoint of a", "a slot"], "rule": "r1", "certificate": {"warning": "it ends"}});
        let accounts = [("a".to_owned(), Ok(a)), ("b".to_owned(), Ok(b)), ("c".to_owned(), Err("gone".to_owned()))];
        let weighed = [
            Candidate { name: "b".into(), fit: true, why: "streams, 0 bytes behind".into() },
            Candidate { name: "c".into(), fit: false, why: "tagged nofailover".into() },
        ];
        let expected = "\
Cluster x: a leads.
  no action
  because the lease is held and PostgreSQL is a primary
  (rule 71, primary: leads and runs)
  The store: it refuses every write.
  The key sync in the store is JSON but not an object.

Who could take over:
  yes b: streams, 0 bytes behind
  no  c: tagged nofailover

a, decided at just now
  no action
  because the lease is held and PostgreSQL is a primary
  (rule 71, primary: leads and runs)
  weighed: no  c: tagged nofailover
  facts: lease=held, view_age_ms=120
  fence: armed, ends PostgreSQL in 7.2 s unless the lead is prolonged
  logical slots for a failover, ready: changes, orders; not ready yet: audit
  before that:
    09:59:58 promoted (rule 70)

b
  (rule r1)
  waits for the checkpoint of a; a slot
  it ends

c: does not explain itself: gone
";
        assert_eq!(render("x", &reading(), Some("it refuses every write"), &weighed, &accounts), expected);
    }

    #[test]
    fn what_stands_still_is_told() {
        let stalls = json!({
            "disk": {"what": "the disk does not answer", "seconds": 3.25},
            "unscheduled": {"what": "this agent was not scheduled", "seconds": 31.2, "seconds_ago": 4.6},
        });
        assert_eq!(
            stall_lines(&stalls),
            [
                "stall: the disk does not answer, for 3.2 s now",
                "stall: this agent was not scheduled for 31.2 s, until 5 s ago"
            ]
        );
        assert_eq!(stall_lines(&Value::Null), Vec::<String>::new());
    }

    #[test]
    fn a_fence_that_had_to_act_says_so() {
        let fired = json!({"seconds_ago": 61.2, "processes": 9, "silent_after_ms": 1.44, "gone": true});
        let told = fence_line(&json!({"state": "ready", "last_fired": fired})).unwrap();
        assert_eq!(told, "fence: ready; 61 s ago it ended PostgreSQL (9 processes, 1.4 ms after the lead)");
        let broken = json!({"state": "broken", "why": "it has ended"});
        assert_eq!(fence_line(&broken).as_deref(), Some("fence: broken (it has ended)"));
        assert_eq!(fence_line(&json!({})), None);
        let watchdog = json!({"mode": "required", "state": "running", "device": "/dev/watchdog", "timeout": 25});
        let told = "watchdog: /dev/watchdog runs, resets this machine 25 s after the last confirmed renewal";
        assert_eq!(watchdog_line(&watchdog).as_deref(), Some(told));
    }

    #[test]
    fn nothing_is_needed_of_an_account() {
        for odd in [json!({}), json!([]), json!(null), json!({"candidates": 7, "recent": [{}], "facts": []})] {
            let text = render("x", &reading(), None, &[], &[("a".to_owned(), Ok(odd))]);
            assert!(text.starts_with("Cluster x: a leads.\n"), "{text}");
        }
    }
}
