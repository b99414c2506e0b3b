//! `loss`: receipts of what only one member had, asked of the members or read from their disks. Of those whose disk is
//! gone, what the store remembers.

mod render;

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use surus_core::MemberName;
use surus_core::cluster::ClusterView;
use surus_core::loss::{Receipt, Remembered};
use surus_postgres::loss;
use surus_store::TxnOutcome;

use super::{API_LIMIT, journal};
use crate::cli::{Format, Loss, LossCommand, LossSource};
use crate::context::{Cluster, Context};
use crate::failure::{OrFail, Outcome, failed};
use crate::listing::size;
use crate::table;
use crate::terminal::{Terminal, say};

/// What one member, or one directory, has to say.
#[derive(Deserialize)]
struct Told {
    /// Absent for a directory on this machine.
    #[serde(skip)]
    api_url: Option<String>,
    directory: PathBuf,
    receipts: Vec<Receipt>,
    /// What the store may still tell of.
    #[serde(default)]
    acknowledged: Vec<String>,
    problems: Vec<String>,
}

/// A receipt that only the store remembers.
struct Gone {
    member: MemberName,
    receipt: Remembered,
    /// Why the receipt itself is not to be had.
    why: String,
}

pub async fn loss(context: &Context, terminal: &mut Terminal, args: &Loss) -> Outcome {
    let cluster = context.cluster(args.source().cluster.as_deref(), args.source().group)?;
    let reading = cluster.read().await?;
    let asked = reading.view.members.values().map(|member| async move {
        let url = journal::own_api(member)?;
        let answer = context.api.get(url, "/loss", API_LIMIT).await.map_err(|e| e.to_string())?;
        let told = answer.json::<Told>().ok().filter(|_| answer.code == 200);
        let told = told.ok_or_else(|| format!("it knows no loss receipts (status {})", answer.code))?;
        Ok(Told { api_url: Some(url.to_owned()), ..told })
    });
    let answers: Vec<Result<Told, String>> = join_all(asked).await;
    let (mut told, mut silent) = (BTreeMap::new(), vec![]);
    for (name, answer) in reading.view.members.keys().zip(answers) {
        match answer {
            Ok(answer) => drop(told.insert(name.clone(), answer)),
            Err(why) => {
                crate::warn(&format!("{name} tells nothing: {why}; read its receipts with --dir"));
                silent.push(name);
            }
        }
    }
    let gone = gone(&reading.view, &told, &silent);
    let told = told.into_values().collect();
    perform(Some((context, &cluster)), terminal, args, told, gone).await
}

/// What the store remembers and no member has.
fn gone(view: &ClusterView, told: &BTreeMap<MemberName, Told>, silent: &[&MemberName]) -> Vec<Gone> {
    let mut all = vec![];
    for (member, remembered) in &view.losses {
        for receipt in &remembered.value {
            let why = match told.get(member) {
                Some(told)
                    if told.receipts.iter().any(|r| r.id == receipt.id) || told.acknowledged.contains(&receipt.id) =>
                {
                    continue;
                }
                Some(_) => format!("{member} does not have it any more: its disk was replaced"),
                None if silent.contains(&member) => format!("it lies on {member}, which does not answer"),
                None => format!("it was on {member}, which is gone"),
            };
            all.push(Gone { member: member.clone(), receipt: receipt.clone(), why });
        }
    }
    all
}

/// The same from directories on this machine.
pub async fn offline(terminal: &mut Terminal, args: &Loss) -> Outcome {
    let one = |dir: &PathBuf| -> Outcome<Told> {
        // Also the data directory itself may be named: that is what people know.
        let named = if dir.join("PG_VERSION").exists() { loss::directory(dir) } else { dir.clone() };
        let (receipts, problems) = loss::receipts(&named).or_fail()?;
        Ok(Told { api_url: None, directory: named, receipts, acknowledged: vec![], problems })
    };
    let told = args.source().dir.iter().map(one).collect::<Outcome<Vec<Told>>>()?;
    perform(None, terminal, args, told, vec![]).await
}

async fn perform(
    online: Option<(&Context, &Cluster)>,
    terminal: &mut Terminal,
    args: &Loss,
    told: Vec<Told>,
    gone: Vec<Gone>,
) -> Outcome {
    told.iter().flat_map(|t| &t.problems).for_each(|problem| crate::warn(problem));
    match &args.command {
        LossCommand::List { format, .. } => list(terminal, *format, &told, &gone),
        LossCommand::Show { id, format, .. } => {
            if let Some(gone) = gone.iter().find(|g| g.receipt.id == *id) {
                return match format {
                    Format::Pretty | Format::Tsv => terminal.write(&render::gone(gone)),
                    format => table::objects_out(terminal, *format, &gone.document()),
                };
            }
            let (told, receipt) = find(&told, id)?;
            // They are nobody's business on the network: the API does not need a password for reading.
            let rows = match told.api_url {
                None => Some(loss::rows(&told.directory, id).or_fail()?),
                Some(_) => None,
            };
            match format {
                Format::Pretty | Format::Tsv => {
                    terminal.write(&render::receipt(receipt, &told.directory))?;
                    rows.iter().flatten().try_for_each(|row| terminal.write(&format!("{row}\n")))
                }
                format => {
                    let mut document = serde_json::to_value(receipt).or_fail()?;
                    if let Some(rows) = rows {
                        document["rows"]["lines"] = rows.into();
                    }
                    table::objects_out(terminal, *format, &document)
                }
            }
        }
        LossCommand::Ack { id, .. } => {
            if let (Some(gone), Some((_, cluster))) = (gone.iter().find(|g| g.receipt.id == *id), online) {
                forget(cluster, &gone.member, id).await?;
                say!(terminal, "Removed {id} of {} from the store: {}. {}", gone.member, gone.receipt.what, gone.why);
                return Ok(());
            }
            let (told, receipt) = find(&told, id)?;
            match (&told.api_url, online) {
                (Some(url), Some((context, cluster))) => {
                    let path = format!("/loss/{id}");
                    let answer = context.api.delete(url, &path, API_LIMIT * 4).await.or_fail()?;
                    if !answer.is_success() {
                        return failed(format!("{} did not remove {id}: {}", receipt.member, answer.body));
                    }
                    // The member does that as well, in a moment.
                    forget(cluster, &receipt.member, id).await?;
                }
                _ => loss::acknowledge(&told.directory, id).or_fail()?,
            }
            say!(
                terminal,
                "Removed {id} of {}: {}, and {} of log kept with it",
                receipt.member,
                receipt.summary(),
                size(receipt.wal.bytes)
            );
            Ok(())
        }
    }
}

/// Has the store forget a receipt.
async fn forget(cluster: &Cluster, member: &MemberName, id: &str) -> Outcome {
    for _ in 0..5 {
        let view = cluster.read().await?.view;
        let Some(known) = view.losses.get(member).filter(|k| k.value.iter().any(|r| r.id == id)) else { return Ok(()) };
        let rest: Vec<Remembered> = known.value.iter().filter(|r| r.id != id).cloned().collect();
        let written = cluster.store.remember_losses_of(member, &rest, Some(known.version), API_LIMIT).await;
        if let TxnOutcome::Applied(_) = written.or_fail()? {
            return Ok(());
        }
    }
    failed(format!("the store's memory of {member}'s receipts changes all the time; try `surus loss ack {id}` again"))
}

impl Gone {
    fn document(&self) -> Value {
        let mut document = json!(self.receipt);
        document["member"] = json!(self.member);
        document["gone"] = json!(self.why);
        document
    }
}

fn find<'a>(told: &'a [Told], id: &str) -> Outcome<(&'a Told, &'a Receipt)> {
    let all = told.iter().flat_map(|t| t.receipts.iter().map(move |r| (t, r)));
    let found: Vec<_> = all.filter(|(_, r)| r.id == id).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            failed(format!("no member that answers has a loss receipt {id}; `surus loss list` shows those there are"))
        }
        many => {
            let names: Vec<String> = many.iter().map(|(t, _)| t.directory.display().to_string()).collect();
            failed(format!("more than one member has a loss receipt {id}; name one of {} by --dir", names.join(", ")))
        }
    }
}

const COLUMNS: [&str; 8] =
    ["Receipt", "Member", "Written", "Transactions", "Last commit", "Behind", "Up to", "Kept WAL"];

fn list(terminal: &mut Terminal, format: Format, told: &[Told], gone: &[Gone]) -> Outcome {
    let all: Vec<&Receipt> = told.iter().flat_map(|t| &t.receipts).collect();
    if matches!(format, Format::Json | Format::Yaml) {
        let documents: Vec<Value> = all.iter().map(|r| json!(r)).chain(gone.iter().map(Gone::document)).collect();
        return table::objects_out(terminal, format, &json!(documents));
    }
    gone.iter().for_each(|g| crate::warn(&format!("{} is told from the store: {}", g.receipt.id, g.why)));
    let position = |p: &Option<surus_core::loss::Position>| {
        p.map_or_else(|| "unknown".to_owned(), |p| format!("{} (TL {})", p.lsn, p.timeline))
    };
    let remembered = gone.iter().map(|g| {
        let r = &g.receipt;
        vec![
            r.id.clone().into(),
            g.member.to_string().into(),
            r.at.clone().into(),
            r.transactions.into(),
            r.last_commit.clone().unwrap_or_default().into(),
            position(&r.fork).into(),
            position(&r.to).into(),
            "not to be had".into(),
        ]
    });
    let rows: Vec<Vec<Value>> = all
        .iter()
        .map(|r| {
            vec![
                r.id.clone().into(),
                r.member.to_string().into(),
                r.at.clone().into(),
                r.transactions().into(),
                r.last_commit.clone().unwrap_or_default().into(),
                position(&r.fork).into(),
                position(&r.to).into(),
                size(r.wal.bytes).into(),
            ]
        })
        .chain(remembered)
        .collect();
    table::print(terminal, format, &COLUMNS, &rows, false)
}

impl Loss {
    pub fn source(&self) -> &LossSource {
        match &self.command {
            LossCommand::List { source, .. } | LossCommand::Show { source, .. } | LossCommand::Ack { source, .. } => {
                source
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::Versioned;

    use super::render::tests::receipt;
    use super::*;

    #[test]
    fn what_only_the_store_remembers() {
        let (a, b, c) = (MemberName::from("a"), MemberName::from("b"), MemberName::from("c"));
        let remembered = Remembered::of(&receipt(), "/d.surus.loss");
        let mut view = ClusterView::default();
        for name in [&a, &b, &c] {
            view.losses.insert(name.clone(), Versioned { value: vec![remembered.clone()], version: 1 });
        }
        let told = |receipts, acknowledged| Told {
            api_url: None,
            directory: "/d".into(),
            receipts,
            acknowledged,
            problems: vec![],
        };
        let there: BTreeMap<_, _> = [(a.clone(), told(vec![receipt()], vec![]))].into();
        let found = gone(&view, &there, &[&b]);
        let why: Vec<&str> = found.iter().map(|g| g.why.as_str()).collect();
        assert_eq!(why, ["it lies on b, which does not answer", "it was on c, which is gone"]);
        let text = render::gone(&found[1]);
        for part in
            ["of c, written 2026", "2 transactions behind", "postgres: public.t: 2 inserted", "16 MB of its log"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
        for (acknowledged, left) in [(vec![remembered.id], 2), (vec![], 3)] {
            let there = [(a.clone(), told(vec![], acknowledged))].into();
            assert_eq!(gone(&view, &there, &[]).len(), left);
        }
    }

    #[test]
    fn one_of_that_id() {
        let told =
            |receipts| Told { api_url: None, directory: "/d".into(), receipts, acknowledged: vec![], problems: vec![] };
        let all = [told(vec![receipt()]), told(vec![])];
        assert!(find(&all, "20260101T000000Z-tl1").is_ok());
        assert!(find(&all, "x").is_err());
        assert!(find(&[told(vec![receipt()]), told(vec![receipt()])], "20260101T000000Z-tl1").is_err());
    }
}
