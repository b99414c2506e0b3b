//! `timeline`: what happened in a cluster, from the journals of its members put together.

use std::fmt::Write;

use serde_json::{Value, json};
use surus_journal::timeline::{self, Change, Timeline};

use super::journal::{self, Told};
use crate::cli::{self, Format};
use crate::context::Context;
use crate::failure::{OrFail, Outcome};
use crate::table;
use crate::terminal::Terminal;
use crate::when::{Since, local, parse_since};

/// How far back to look when nothing is said.
const DEFAULT: Since = Since::Ago(3600);

pub async fn timeline(context: &Context, terminal: &mut Terminal, args: &cli::Timeline) -> Outcome {
    let since = args.since.as_deref().map(parse_since).transpose()?.unwrap_or(DEFAULT);
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    let told = journal::ask(context, &reading, since, &args.member).await;
    print(terminal, args, &told)
}

pub fn offline(terminal: &mut Terminal, args: &cli::Timeline) -> Outcome {
    let since = args.since.as_deref().map(parse_since).transpose()?.map_or(i64::MIN, Since::unix_ms);
    let mut told = journal::read(&args.journal, since);
    told.retain(|(name, _)| args.member.is_empty() || args.member.contains(name));
    print(terminal, args, &told)
}

fn print(terminal: &mut Terminal, args: &cli::Timeline, told: &Told) -> Outcome {
    let accounts = journal::accounts(told)?;
    let merged = timeline::merge(&accounts);
    match args.format {
        Format::Pretty => {
            let names: Vec<&str> = accounts.iter().map(|a| a.member.as_str()).collect();
            let silent: Vec<&str> = told.iter().filter(|(_, a)| a.is_err()).map(|(name, _)| name.as_str()).collect();
            terminal.write(&render(&merged, &names, &silent, args.changes))
        }
        Format::Tsv => {
            let rows = merged.lines.iter().map(|line| {
                let member = line.member.as_ref().map(ToString::to_string).unwrap_or_default();
                let rule = line.rule.map(|r| r.to_string()).unwrap_or_default();
                vec![local(line.at), member, rule, line.what.replace(['\t', '\n'], " ")]
            });
            terminal.write(&table::tsv(&["Time", "Member", "Rule", "What"], rows))
        }
        Format::Json | Format::Yaml => {
            let mut whole = serde_json::to_value(&merged).or_fail()?;
            whole["members"] = accounts.iter().map(|a| json!(a.member)).collect::<Value>();
            let silent = told.iter().filter_map(|(name, a)| Some(json!({"member": name, "error": a.as_ref().err()?})));
            whole["silent"] = silent.collect::<Value>();
            table::objects_out(terminal, args.format, &whole)
        }
    }
}

fn render(merged: &Timeline, names: &[&str], silent: &[&str], only_changes: bool) -> String {
    let mut out = format!("Told by {}", names.join(", "));
    if !silent.is_empty() {
        let _ = write!(out, "; nothing from {}", silent.join(", "));
    }
    out.push_str(".\n");
    for clock in &merged.clocks {
        let (by, where_) = (duration(clock.ahead_ms.abs()), if clock.ahead_ms < 0 { "behind" } else { "ahead" });
        let sure = if clock.certain { "is" } else { "seems to be" };
        let _ = writeln!(
            out,
            "The clock of {} {sure} {by} {where_} of the others ({} changes in the store seen by both say so); its times \
             are corrected.",
            clock.member, clock.seen
        );
    }
    if !only_changes {
        out.push('\n');
        let width = merged.lines.iter().filter_map(|l| Some(l.member.as_ref()?.as_str().len())).max().unwrap_or(0);
        for line in &merged.lines {
            let member = line.member.as_ref().map_or("*", |m| m.as_str());
            let rule = line.rule.map(|r| format!(" [rule {r}]")).unwrap_or_default();
            let _ = writeln!(out, "{} {member:width$} {}{rule}", local(line.at), line.what);
        }
    }
    for change in &merged.changes {
        out.push('\n');
        one_change(&mut out, change);
    }
    if merged.changes.is_empty() {
        out.push_str("\nThe lead stayed where it was.\n");
    }
    out
}

fn one_change(out: &mut String, change: &Change) {
    let from = change.from.as_ref().map_or_else(|| ":".to_owned(), |m| format!(" from {m} to"));
    let mut kind = change.kind.to_owned();
    kind[..1].make_ascii_uppercase();
    let _ = write!(out, "{kind}{from} {}", change.to);
    if let Some(took) = change.took_ms {
        let _ = write!(out, ": {} until it accepted writes", duration(took));
    }
    if let Some(leaderless) = change.leaderless_ms {
        let _ = write!(out, ", {} without a leader", duration(leaderless));
    }
    out.push('\n');
    let first = change.phases.first().map_or(0, |p| p.at);
    for phase in &change.phases {
        let member = phase.member.as_ref().map(ToString::to_string).unwrap_or_default();
        let after = format!("+{}", duration(phase.at - first));
        let _ = writeln!(out, "  {} {after:>11} {:10} {member} {}", local(phase.at), phase.name, phase.what);
    }
}

fn duration(ms: i64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}
