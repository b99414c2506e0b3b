//! `store migrate`: the cluster moves to another store while it runs.

mod section;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use surus_agent::migrate::{DRY_RUN, attempt::obstacle, kind, store_of};
use surus_api::{Answer, ClientError, Method};
use surus_core::MemberName;
use surus_core::cluster::{ClusterView, MOVED_LEADER, Migration, MigrationPhase};
use surus_store::TxnOutcome;
use tokio::time::Instant;

use super::API_LIMIT;
use super::journal::own_api;
use crate::cli::Migrate;
use crate::connect::STORE_DEADLINE;
use crate::context::{Cluster, Context, Reading};
use crate::failure::{OrFail, Outcome, failed};
use crate::terminal::{Terminal, say};
use section::Sections;

/// A group of agents forms within this time.
const FORMED: Duration = Duration::from_secs(60);
/// A store that runs already answers within this time, though it may be electing a leader.
const ANSWERED: Duration = Duration::from_secs(15);
/// Attempts, copies and answers of two stores.
const MOVE: Duration = Duration::from_secs(60);
const ARRIVED: Duration = Duration::from_secs(60);
/// Nothing is said about members that are on their way.
const QUIET: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(300);
const ATTEMPTS: usize = 5;

/// What a member says about its part.
#[derive(Clone, Debug, Deserialize)]
struct Part {
    id: Option<String>,
    phase: String,
    configured: bool,
    #[serde(default)]
    answers: Option<bool>,
    #[serde(default)]
    taken: Option<bool>,
    #[serde(default)]
    why: Option<String>,
}

struct Run<'a> {
    context: &'a Context,
    cluster: &'a Cluster,
    terminal: &'a mut Terminal,
}

pub async fn migrate(context: &Context, terminal: &mut Terminal, args: &Migrate) -> Outcome {
    let cluster = context.cluster(args.cluster_name.as_deref(), None)?;
    let reading = cluster.look().await?;
    let mut run = Run { context, cluster: &cluster, terminal };
    match (&args.to, args.abort, args.clean) {
        (Some(to), false, false) => run.to(&reading, to, args).await,
        (None, true, false) => run.abort(&reading).await,
        (None, false, true) => run.clean(&reading, args.force).await,
        _ => failed(
            "name the new store with --to FILE, or give a move up with --abort, or remove the keys of one with --clean",
        ),
    }
}

impl Run<'_> {
    async fn to(&mut self, reading: &Reading, file: &Path, args: &Migrate) -> Outcome {
        let text = std::fs::read_to_string(file).or_fail_with(file.display().to_string())?;
        let document = surus_config::read_yaml(&file.display().to_string(), &text)
            .map_err(|e| crate::failure::Failure::Message(e.to_string()))?;
        let view = &reading.view;
        let members = self.members(view).await?;
        let sections = Sections::read(&document, &members)?;
        for (name, section) in sections.all() {
            store_of(section).or_fail_with(format!("{} (for {name})", file.display()))?;
        }
        if let Some(moved) = view.moved() {
            // Whoever was away gets to know the store, and sees the rest by itself.
            let (id, to) = (moved.id.clone(), moved.to.clone());
            say!(
                self.terminal,
                "The cluster has moved to {to} by the move {id}; telling the members that are still here"
            );
            self.prepare(&id, &sections, &members).await?;
            return self.arrive(&id, &members).await;
        }
        if let Some(why) = view.preparing().is_none().then(|| obstacle(view)).flatten() {
            return failed(format!("the cluster cannot be moved now: {why}"));
        }
        let Some(leader) = view.leader_name().filter(|leader| members.contains_key(leader)).cloned() else {
            return failed("nobody leads the cluster now; it is the leader that moves it");
        };
        let earlier = view.preparing().map(|(migration, _)| migration.clone());
        let id = match &earlier {
            Some(earlier) if earlier.to == sections.kind() => earlier.id.clone(),
            Some(earlier) => {
                return failed(format!(
                    "a move to {} is being prepared ({}); go on with it by its own file, or give it up with --abort",
                    earlier.to, earlier.id
                ));
            }
            None => format!("{}-{}", jiff::Timestamp::now().as_millisecond(), std::process::id()),
        };
        say!(self.terminal, "Cluster {}: {} members, {leader} leads", self.cluster.name, members.len());
        say!(self.terminal, "It is to move to {}, by the move {id}:", sections.kind());
        for text in [
            "1. every member opens the new store and keeps its section beside its data directory",
            "2. the leader copies the cluster's keys, takes the lead there, and closes this store for good",
            "3. every member goes over; PostgreSQL is not restarted",
        ] {
            say!(self.terminal, "  {text}");
        }
        if earlier.is_some() {
            say!(self.terminal, "It goes on with what an earlier run has begun.");
        }
        if args.dry_run {
            let id = format!("{DRY_RUN}{id}");
            let tried = self.prepare(&id, &sections, &members).await;
            self.forget(&id, &members).await;
            tried?;
            say!(self.terminal, "Nothing was changed (--dry-run); the move can be made");
            return Ok(());
        }
        if !args.force && !self.terminal.confirm("Do you want to move the cluster?")? {
            return failed("The cluster was not moved");
        }
        let migration = Migration {
            id: id.clone(),
            phase: MigrationPhase::Preparing,
            to: sections.kind(),
            attempt: earlier.map_or(0, |m| m.attempt + 1),
            by: None,
            members: members.clone(),
        };
        let written = self.cluster.store.prepare_migration(&migration, view.migration_version, STORE_DEADLINE).await;
        if written.map_err(|e| self.cluster.store_failure(&e))? == TxnOutcome::Conflict {
            return failed("somebody else began, gave up or made a move at the same moment; look again");
        }
        if let Err(failure) = self.prepare(&id, &sections, &members).await {
            say!(
                self.terminal,
                "Nothing has moved. Run the command again to go on, or `surus store migrate --abort` to give it up"
            );
            return Err(failure);
        }
        self.make(&id).await?;
        self.arrive(&id, &members).await
    }

    /// Everybody takes part, or nobody.
    async fn members(&mut self, view: &ClusterView) -> Outcome<BTreeMap<MemberName, String>> {
        let mut members = BTreeMap::new();
        let moved = view.moved().is_some();
        let mut out = Vec::new();
        for member in view.members.values().filter(|m| !moved || m.api_url.is_some()) {
            let name = &member.name;
            let url = match own_api(member) {
                Ok(url) => url,
                Err(why) => {
                    out.push(format!("{name}: {why}"));
                    continue;
                }
            };
            match self.context.api.get(url, "/migrate", API_LIMIT).await {
                Ok(answer) if answer.code == 200 && answer.json::<Part>().is_ok() => {}
                Ok(answer) => out.push(format!(
                    "{name}: it knows nothing of moves between stores (status {}); is it an older version?",
                    answer.code
                )),
                Err(e) => out.push(format!("{name}: it does not answer: {e}")),
            }
            members.insert(name.clone(), url.to_owned());
        }
        if !out.is_empty() {
            return failed(format!(
                "every member has to go over, and not all can. Replace these by Surus, start them, or remove them, first: {}",
                out.join("; ")
            ));
        }
        if members.is_empty() {
            return failed("no member runs on this store");
        }
        Ok(members)
    }

    /// Every member opens the new store, which then has to answer.
    async fn prepare(&mut self, id: &str, sections: &Sections, members: &BTreeMap<MemberName, String>) -> Outcome {
        let before = self.parts(members).await;
        for (name, url) in members {
            let arrived = |part: &Part| part.phase == "arrived" && part.id.as_deref() == Some(id);
            if before.iter().any(|(n, part)| n == name && part.as_ref().is_ok_and(arrived)) {
                continue;
            }
            let body = json!({"id": id, "section": sections.of(name)});
            let answer = self.context.api.post(url, "/migrate", &body, API_LIMIT * 2).await;
            if let Some(why) = refused(&answer) {
                return failed(format!("{name} cannot open the new store: {why}"));
            }
            say!(self.terminal, "{} {name} has opened the new store", crate::when::stamp());
        }
        let patience = if sections.kind() == "raft" { FORMED } else { ANSWERED };
        let (end, mut shown) = (Instant::now() + patience, String::new());
        loop {
            let parts = self.parts(members).await;
            let waits = parts.iter().filter_map(|(name, part)| match part {
                Ok(part) if part.id.as_deref() == Some(id) && part.answers == Some(true) => None,
                Ok(part) if part.id.as_deref() == Some(id) && part.phase == "arrived" => None,
                Ok(part) => Some(format!("{name}: {}", part.why.clone().unwrap_or_else(|| "it is not open".into()))),
                Err(why) => Some(format!("{name}: {why}")),
            });
            let waits = waits.collect::<Vec<_>>().join("; ");
            if waits.is_empty() {
                say!(self.terminal, "{} the new store answers every member", crate::when::stamp());
                return Ok(());
            }
            let taken = parts.iter().any(|(_, part)| part.as_ref().is_ok_and(|part| part.taken == Some(true)));
            if Instant::now() >= end || taken {
                return failed(format!("the new store cannot be used: {waits}"));
            }
            if shown != waits {
                say!(self.terminal, "{} waiting for the new store: {waits}", crate::when::stamp());
                shown = waits;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn parts(&self, members: &BTreeMap<MemberName, String>) -> Vec<(MemberName, Result<Part, String>)> {
        let asked = members.iter().map(|(name, url)| async move {
            let answer = self.context.api.get(url, "/migrate", API_LIMIT).await;
            let part = match answer {
                Ok(answer) => answer.json::<Part>().map_err(|_| format!("status {}: {}", answer.code, answer.body)),
                Err(e) => Err(e.to_string()),
            };
            (name.clone(), part)
        });
        join_all(asked).await
    }

    /// The leader makes it; another one may lead meanwhile.
    async fn make(&mut self, id: &str) -> Outcome {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let view = self.cluster.look().await?.view;
            if view.moved().is_some_and(|m| m.id == id) {
                say!(self.terminal, "{} the cluster has moved", crate::when::stamp());
                return Ok(());
            }
            if view.preparing().is_none_or(|(m, _)| m.id != id) {
                return failed("the move was given up by somebody else");
            }
            if let Some(url) = view.leader_member().and_then(|leader| leader.api_url.clone()) {
                let body = json!({"id": id}).to_string();
                let answer = self.context.api.call(Method::Put, &url, "/migrate", Some(body), MOVE).await;
                let Some(why) = refused(&answer) else { continue };
                if last != why {
                    say!(self.terminal, "{} not moved: {why}", crate::when::stamp());
                }
                last = why;
            }
            tokio::time::sleep(POLL * 4).await;
        }
        let view = self.cluster.look().await?.view;
        if view.moved().is_some_and(|m| m.id == id) {
            return Ok(());
        }
        failed(format!(
            "the cluster has not moved: {last}. It runs on as before; run the command again to go on, or `surus store migrate \
             --abort` to give it up"
        ))
    }

    async fn arrive(&mut self, id: &str, members: &BTreeMap<MemberName, String>) -> Outcome {
        let (begun, mut told, mut shown) = (Instant::now(), Vec::new(), String::new());
        let end = begun + ARRIVED;
        loop {
            let parts = self.parts(members).await;
            let there = |part: &Result<Part, String>| {
                part.as_ref().is_ok_and(|p| p.phase == "arrived" && p.id.as_deref() == Some(id))
            };
            for (name, _) in parts.iter().filter(|(_, part)| there(part)) {
                if !told.contains(name) {
                    say!(self.terminal, "{} {name} uses the new store", crate::when::stamp());
                    told.push(name.clone());
                }
            }
            if parts.iter().all(|(_, part)| there(part)) {
                break;
            }
            let late = parts.iter().filter(|(_, part)| !there(part)).map(|(name, part)| match part {
                Ok(part) if part.id.as_deref() == Some(id) => format!("{name}: it ends first what it is doing"),
                Ok(_) => format!("{name}: it does not know the new store; run the command again"),
                Err(why) => format!("{name}: {why}"),
            });
            let late = late.collect::<Vec<_>>().join("; ");
            if Instant::now() >= end {
                return failed(format!(
                    "the cluster has moved, and works in the new store; these members have not gone over yet: {late}. A member \
                     that has opened the new store does so by itself, also after a restart (`surus explain` tells what it does)"
                ));
            }
            if shown != late && Instant::now() >= begun + QUIET {
                say!(self.terminal, "{} waiting for {late}", crate::when::stamp());
                shown = late;
            }
            tokio::time::sleep(POLL).await;
        }
        say!(
            self.terminal,
            "Now name the new store in the configuration of every member in place of the old one, and for these"
        );
        say!(
            self.terminal,
            "commands. When all do, `surus store migrate --clean` with the old configuration removes what is left here."
        );
        Ok(())
    }

    async fn forget(&mut self, id: &str, members: &BTreeMap<MemberName, String>) -> bool {
        let mut all = true;
        for (name, url) in members {
            let body = json!({"id": id}).to_string();
            let answer = self.context.api.call(Method::Delete, url, "/migrate", Some(body), API_LIMIT).await;
            if let Some(why) = refused(&answer) {
                crate::warn(&format!("{name} has not closed the new store: {why}"));
                all = false;
            }
        }
        all
    }

    async fn abort(&mut self, reading: &Reading) -> Outcome {
        let view = &reading.view;
        if let Some(moved) = view.moved() {
            return failed(format!("the cluster has moved to {} already; move it back with another move", moved.to));
        }
        let Some((migration, version)) = view.preparing() else { return failed("no move is being prepared") };
        let done = self.cluster.store.abandon_migration(version, STORE_DEADLINE).await;
        if done.map_err(|e| self.cluster.store_failure(&e))? == TxnOutcome::Conflict {
            return failed("the move went on at the same moment; look again");
        }
        say!(self.terminal, "The move {} is given up; the cluster stays where it is", migration.id);
        let members = migration.members.clone();
        if self.forget(&migration.id.clone(), &members).await {
            say!(self.terminal, "Every member has closed the new store");
        }
        Ok(())
    }

    /// Whoever came late is in this store with all the data, and would take a lead that nobody has any more.
    async fn nobody_here(&self, view: &ClusterView, id: &str) -> Outcome {
        // Whoever the leader key names is a member of the view, also what it was given to for ever.
        let members = view.members.values().filter(|member| member.name.as_str() != MOVED_LEADER);
        let asked = members.map(|member| async move {
            let name = &member.name;
            let url = match own_api(member) {
                Ok(url) => url,
                Err(why) => return Some(format!("{name}: {why}")),
            };
            // The key of one that has gone over ends a ttl later.
            match self.context.api.get(url, "/migrate", API_LIMIT).await.map(|answer| answer.json::<Part>()) {
                Ok(Ok(part)) if part.phase == "arrived" && part.id.as_deref() == Some(id) => None,
                Ok(_) => Some(format!("{name}: it has not gone over by this move")),
                Err(e) => Some(format!("{name}: it does not answer: {e}")),
            }
        });
        let here: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
        if here.is_empty() {
            return Ok(());
        }
        failed(format!(
            "there are members in this store, who would go on here as a cluster of their own if what the move has left were \
             removed: {}. Stop them, or tell them of the new store (`surus store migrate --to FILE` once more), and come back: \
             the key of one that was stopped or lost is gone after a ttl",
            here.join("; ")
        ))
    }

    async fn clean(&mut self, reading: &Reading, force: bool) -> Outcome {
        let view = &reading.view;
        let (Some(moved), Some(version)) = (view.moved(), view.migration_version) else {
            return failed("the cluster has not moved away from this store; nothing was removed");
        };
        self.nobody_here(view, &moved.id).await?;
        let not_yet: Vec<String> = self
            .parts(&moved.members)
            .await
            .into_iter()
            .filter_map(|(name, part)| match part {
                Ok(part) if part.configured && part.phase != "prepared" => None,
                Ok(_) => Some(format!("{name}: its configuration still names this store")),
                Err(why) => Some(format!("{name}: {why}")),
            })
            .collect();
        if !not_yet.is_empty() && !force {
            return failed(format!(
                "a member that starts with the old configuration would find nothing here and begin a cluster of its own, beside the \
                 one that moved. Not removed, because of {}. Correct that; for members that certainly do not come back: --force",
                not_yet.join("; ")
            ));
        }
        let done = self.cluster.store.clean_moved(version, STORE_DEADLINE).await;
        if done.map_err(|e| self.cluster.store_failure(&e))? == TxnOutcome::Conflict {
            return failed("the keys changed at the same moment; look again");
        }
        say!(self.terminal, "Removed what the cluster {} had left here", self.cluster.name);
        Ok(())
    }
}

fn refused(answer: &Result<Answer, ClientError>) -> Option<String> {
    match answer {
        Ok(answer) if answer.is_success() => None,
        Ok(answer) => Some(answer.body.clone()),
        Err(e) => Some(e.to_string()),
    }
}

impl Sections {
    fn kind(&self) -> String {
        self.all().next().map(|(_, section)| kind(section)).unwrap_or_default()
    }
}
