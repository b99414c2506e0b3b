//! The accounts of members, asked of them or read from their journals, and how they are shown.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use futures_util::future::join_all;
use serde_json::{Value, json};
use surus_core::cluster::Member;
use surus_journal::{Account, Entry, Event, Reader, account};

use crate::cli::Format;
use crate::commands::API_LIMIT;
use crate::context::{Context, Reading};
use crate::failure::{Failure, OrFail, Outcome};
use crate::table;
use crate::terminal::Terminal;
use crate::when::{Since, local};

/// Events of one journal that are looked at when it is read from the disk.
const EVENTS: usize = 1_000_000;

/// A member's own account, or why there is none.
pub type Told = Vec<(String, Result<Account, String>)>;

/// Where to ask a member for what only our agents know, or why it cannot be asked.
pub fn own_api(member: &Member) -> Result<&str, String> {
    match (&member.api_url, &member.version) {
        (None, _) => Err("it has not said where its REST API is".to_owned()),
        (Some(_), Some(version)) if member.is_foreign() => Err(format!("Patroni {version} drives it")),
        (Some(url), _) => Ok(url),
    }
}

/// Asks the members named, or all.
pub async fn ask(context: &Context, reading: &Reading, since: Since, only: &[String]) -> Told {
    let path = format!("/explain?since={}", since.parameter().replace('+', "%2B"));
    let wanted = |name: &str| only.is_empty() || only.iter().any(|n| n == name);
    let members = reading.view.members.values().filter(|m| wanted(m.name.as_str()));
    let asked = members.map(|member| {
        let path = path.clone();
        async move {
            let account = match own_api(member) {
                Err(why) => Err(why),
                Ok(url) => match context.api.get(url, &path, API_LIMIT).await {
                    Ok(answer) if answer.code == 200 => answer.json::<Account>().map_err(|e| {
                        format!("its answer is no account of decisions ({e}); it runs another program or version")
                    }),
                    Ok(answer) => Err(format!("it answers with status {}: {}", answer.code, answer.body)),
                    Err(error) => Err(error.to_string()),
                },
            };
            (member.name.to_string(), account)
        }
    });
    let mut told: Told = join_all(asked).await;
    gone(&mut told, only);
    let unknown: Vec<_> = only.iter().filter(|n| told.iter().all(|(t, _)| t != *n)).collect();
    told.extend(unknown.into_iter().map(|n| (n.clone(), Err("the store knows no member of this name".to_owned()))));
    told
}

/// Names those that others tell of and that the store does not know any more: they may have most to tell.
fn gone(told: &mut Told, only: &[String]) {
    let mut names = BTreeSet::new();
    for account in told.iter().filter_map(|(_, account)| account.as_ref().ok()) {
        for event in &account.events {
            if let Event::Decided(entry) = event {
                names.extend(entry.seen.members.keys().map(ToString::to_string));
            }
        }
    }
    names.retain(|name| told.iter().all(|(t, _)| t != name) && (only.is_empty() || only.contains(name)));
    let why = "its key is not in the store, so its agent does not run; read its journal with --journal";
    told.extend(names.into_iter().map(|name| (name, Err(why.to_owned()))));
}

/// Reads journals on this machine.
pub fn read(journals: &[PathBuf], since: i64) -> Told {
    let one = |path: &PathBuf| {
        let place = path.display().to_string();
        match Reader::open(path) {
            Ok(reader) => {
                let account = account(reader, since, EVENTS);
                let name = account.member.to_string();
                (if name.is_empty() { place } else { name }, Ok(account))
            }
            Err(e) => (place.clone(), Err(format!("{place} cannot be read: {e}"))),
        }
    };
    journals.iter().map(one).collect()
}

/// Those that told something. Who did not is named on standard error; if nobody did, that is a failure.
pub fn accounts(told: &Told) -> Outcome<Vec<Account>> {
    for (name, why) in told.iter().filter_map(|(name, account)| Some((name, account.as_ref().err()?))) {
        crate::warn(&format!("{name} tells nothing: {why}"));
    }
    for (name, account) in told.iter().filter_map(|(name, account)| Some((name, account.as_ref().ok()?))) {
        for problem in &account.problems {
            crate::warn(&format!("{name}: {problem}"));
        }
        if account.shortened {
            crate::warn(&format!("{name} has more to tell than fits into an answer; its journal has all of it"));
        }
    }
    let accounts: Vec<Account> = told.iter().filter_map(|(_, account)| account.as_ref().ok().cloned()).collect();
    if accounts.is_empty() {
        return Err(Failure::Message("no member tells anything".to_owned()));
    }
    Ok(accounts)
}

/// Every decision, member by member.
pub fn print(terminal: &mut Terminal, format: Format, told: &Told) -> Outcome {
    let accounts = accounts(told)?;
    match format {
        Format::Pretty => terminal.write(&accounts.iter().map(render).collect::<Vec<_>>().join("\n")),
        Format::Tsv => Err(Failure::Usage("explain has the formats pretty, json and yaml".to_owned())),
        Format::Json | Format::Yaml => {
            let silent = told.iter().filter_map(|(name, a)| Some(json!({"member": name, "error": a.as_ref().err()?})));
            let mut members: Vec<Value> =
                accounts.iter().map(serde_json::to_value).collect::<Result<_, _>>().or_fail()?;
            members.extend(silent);
            table::objects_out(terminal, format, &Value::Array(members))
        }
    }
}

fn render(account: &Account) -> String {
    let mut out = format!("{} of {}:\n", account.member, account.scope);
    let mut last: Option<&Entry> = None;
    for event in &account.events {
        // Writing to a `String` cannot fail.
        let _ = match event {
            Event::Started(h) => {
                writeln!(out, "  {} the agent starts: Surus {}, pid {}", local(h.at), h.version, h.pid)
            }
            Event::Same { at, times } => writeln!(out, "  {} the same, {times} times by now", local(*at)),
            Event::Lost { at, lost, why } => writeln!(out, "  {} {lost} decisions are not recorded: {why}", local(*at)),
            Event::Decided(entry) => {
                decided(&mut out, last, entry);
                last = Some(entry);
                Ok(())
            }
        };
    }
    if account.events.is_empty() {
        out.push_str("  nothing in its journal\n");
    }
    out
}

fn decided(out: &mut String, last: Option<&Entry>, entry: &Entry) {
    let times = if entry.times > 1 { format!(", for the {}th time", entry.times) } else { String::new() };
    let _ = writeln!(out, "  {} {} [rule {}]{times}", local(entry.at), entry.goal, entry.rule);
    if last.is_none_or(|l| l.rule != entry.rule) {
        let _ = writeln!(out, "      because {}", entry.why);
    }
    for c in &entry.candidates {
        let _ = writeln!(out, "      weighed {}: {}, {}", c.name, if c.fit { "fit" } else { "not fit" }, c.why);
    }
    if !entry.waiting_for.is_empty() {
        let _ = writeln!(out, "      waits for {}", entry.waiting_for.join("; "));
    }
    for order in &entry.orders {
        let _ = writeln!(out, "      orders {}", order_text(order));
    }
}

/// An order in one line, for people.
pub fn order_text(order: &surus_core::order::Order) -> String {
    use surus_core::order::Order;
    match order {
        Order::Begin { task, epoch } => format!("task {epoch}: {}", task.name()),
        other => match serde_json::to_value(other) {
            Ok(Value::String(name)) => name,
            Ok(value) => value.to_string(),
            Err(_) => format!("{other:?}"),
        },
    }
}
