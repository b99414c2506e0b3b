//! `replay`: takes recorded decisions again with the core of this program.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use surus_journal::{Difference, Header, Item, Reader, Recorded, changed, replay as again, rules_fingerprint};

use super::ended;
use super::journal::order_text;
use crate::cli::{Format, Replay};
use crate::failure::{Failure, OrFail, Outcome};
use crate::terminal::{Terminal, say};
use crate::when::{Since, local, parse_since};

/// What of the journals is asked for.
struct Selection {
    from: i64,
    to: i64,
    rule: Option<u16>,
}

impl Selection {
    fn of(args: &Replay) -> Outcome<Selection> {
        let moment = |text: &Option<String>| text.as_deref().map(parse_since).transpose();
        Ok(Selection {
            from: moment(&args.from)?.map_or(i64::MIN, Since::unix_ms),
            to: moment(&args.to)?.map_or(i64::MAX, Since::unix_ms),
            rule: args.rule,
        })
    }

    fn has(&self, r: &Recorded) -> bool {
        let at = r.decision.facts.unix_ms;
        (self.from..=self.to).contains(&at) && self.rule.is_none_or(|rule| r.decision.step.report.rule == rule)
    }
}

#[derive(Default)]
struct Tally {
    decisions: u64,
    /// With the repetitions that are only counted.
    made: u64,
    different: u64,
    damaged: u64,
    lost: u64,
    rules: BTreeMap<u16, u64>,
}

pub fn replay(terminal: &mut Terminal, args: &Replay) -> Outcome {
    if !matches!(args.format, Format::Pretty | Format::Json) {
        return Err(Failure::Usage("replay has the formats pretty and json".to_owned()));
    }
    let selection = Selection::of(args)?;
    let mut all_well = true;
    for path in &args.journals {
        let tally = one(terminal, args, &selection, path)?;
        all_well &= tally.different == 0 && tally.damaged == 0;
        if args.format == Format::Pretty {
            summary(terminal, path, &tally)?;
        }
    }
    ended(all_well)
}

fn one(terminal: &mut Terminal, args: &Replay, selection: &Selection, path: &Path) -> Outcome<Tally> {
    let mut tally = Tally::default();
    let mut last: Option<Box<Recorded>> = None;
    let listed = args.step || args.from.is_some() || args.to.is_some() || args.rule.is_some();
    for item in Reader::open(path).or_fail_with(path.display())? {
        match item {
            Err(problem) => {
                crate::warn(&problem.to_string());
                tally.damaged += u64::from(!problem.torn);
            }
            Ok(Item::Header(header)) => {
                introduce(terminal, args, &header)?;
                last = None;
            }
            Ok(Item::Same { .. }) => {}
            Ok(Item::Lost { at, lost, why }) => {
                tally.lost += lost;
                if args.format == Format::Pretty && listed {
                    say!(terminal, "{} {lost} decisions were not recorded: {why}", local(at));
                }
                last = None;
            }
            Ok(Item::Decision(recorded)) => {
                if selection.has(&recorded) {
                    let differences = again(&recorded.decision);
                    tally.decisions += 1;
                    // The first of a run has a record of its own.
                    tally.made += if recorded.times > 1 { recorded.times - 1 } else { 1 };
                    tally.different += u64::from(!differences.is_empty());
                    *tally.rules.entry(recorded.decision.step.report.rule).or_default() += 1;
                    match args.format {
                        Format::Pretty if listed || !differences.is_empty() => {
                            show(terminal, args.step, last.as_deref(), &recorded, &differences)?;
                        }
                        Format::Pretty => {}
                        _ => terminal.write(&(object(last.as_deref(), &recorded, &differences) + "\n"))?,
                    }
                }
                last = Some(recorded);
            }
        }
    }
    Ok(tally)
}

fn introduce(terminal: &mut Terminal, args: &Replay, header: &Header) -> Outcome {
    let (own, rules) = (env!("CARGO_PKG_VERSION"), rules_fingerprint());
    if header.version != own || header.rules != rules {
        let which = if header.version == own {
            "another build of Surus, with other rules".to_owned()
        } else {
            format!("Surus {}", header.version)
        };
        crate::warn(&format!(
            "{} of {} (started {}) was {which}, and this is {own}: differences may be changes of the software",
            header.member,
            header.scope,
            local(header.at)
        ));
    }
    if args.format == Format::Pretty {
        say!(
            terminal,
            "{} of {}: Surus {}, pid {}, started {}",
            header.member,
            header.scope,
            header.version,
            header.pid,
            local(header.at)
        );
    }
    Ok(())
}

fn show(
    terminal: &mut Terminal,
    whole: bool,
    last: Option<&Recorded>,
    r: &Recorded,
    differences: &[Difference],
) -> Outcome {
    let (step, facts) = (&r.decision.step, &r.decision.facts);
    let times = if r.times > 1 { format!(", for the {}th time", r.times) } else { String::new() };
    say!(terminal, "{} #{} {} [rule {}]{times}", local(facts.unix_ms), r.n, step.report.goal, step.report.rule);
    if whole {
        for change in last.map(|last| changed(last, r)).unwrap_or_default() {
            say!(terminal, "    {}: {} -> {}", change.what, clipped(&change.recorded), clipped(&change.now));
        }
        say!(terminal, "    because {}", step.report.why);
        for c in &step.report.candidates {
            say!(terminal, "    weighed {}: {}, {}", c.name, if c.fit { "fit" } else { "not fit" }, c.why);
        }
        for order in &step.orders {
            say!(terminal, "    orders {}", order_text(order));
        }
        let (gather, took) = (micros(r.took.gather), micros(r.took.step));
        say!(terminal, "    gathered in {gather}, decided in {took}, again in {:?} at the latest", step.again_in);
    }
    for d in differences {
        say!(terminal, "    DIFFERENT {}: recorded {}, now {}", d.what, clipped(&d.recorded), clipped(&d.now));
    }
    Ok(())
}

fn object(last: Option<&Recorded>, r: &Recorded, differences: &[Difference]) -> String {
    let pairs = |all: &[Difference], old: &str, new: &str| -> Vec<serde_json::Value> {
        all.iter().map(|d| json!({"what": d.what, old: d.recorded, new: d.now})).collect()
    };
    let changes = last.map(|last| changed(last, r)).unwrap_or_default();
    json!({
        "member": r.decision.facts.me,
        "n": r.n,
        "at": r.decision.facts.unix_ms,
        "times": r.times,
        "took": r.took,
        "report": r.decision.step.report,
        "orders": r.decision.step.orders,
        "changed": pairs(&changes, "from", "to"),
        "differences": pairs(differences, "recorded", "now"),
    })
    .to_string()
}

fn summary(terminal: &mut Terminal, path: &Path, tally: &Tally) -> Outcome {
    let Tally { decisions, made, different, damaged, lost, rules } = tally;
    say!(
        terminal,
        "{}: {decisions} decisions ({made} with their repetitions) by {} rules, {different} come out differently",
        path.display(),
        rules.len()
    );
    if *damaged > 0 {
        say!(terminal, "  {damaged} places cannot be read; standard error names them");
    }
    if *lost > 0 {
        say!(terminal, "  {lost} decisions were not recorded");
    }
    Ok(())
}

fn clipped(text: &str) -> String {
    const MOST: usize = 160;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    format!("{} ...", text.chars().take(MOST).collect::<String>())
}

fn micros(micros: u64) -> String {
    format!("{:?}", std::time::Duration::from_micros(micros))
}
