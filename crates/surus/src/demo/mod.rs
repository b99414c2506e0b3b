//! `surus demo`: a real cluster on this machine, to watch and to break.
//!
//! Every member is an ordinary `surus run` on an ordinary `patroni.yml`; the demo only writes the files, starts and
//! kills the processes and shows what the members say of themselves over REST. Whatever it started ends with it: on
//! `q`, a signal, a panic, the end of the time given.

mod commands;
mod model;
mod plain;
mod plan;
mod processes;
mod screen;
mod watch;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use surus_api::{Client, ClientOptions, SwitchoverRequest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use commands::Command;
use model::Model;
use plan::Plan;
use processes::Processes;

#[derive(clap::Args, Clone, Debug)]
pub struct DemoArgs {
    /// How many members [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=20))]
    pub nodes: Option<u16>,
    /// Where the members agree: inside themselves, or in an etcd started along with them [default: embedded]
    #[arg(long, value_enum)]
    pub store: Option<Store>,
    /// Work in this directory and keep it; a demo found there is started again [default: a temporary directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    pub for_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    Embedded,
    Etcd,
}

/// A directory that goes away with the demo, unless it was asked for by name.
enum Place {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::Temporary(dir) => dir.path(),
            Place::Kept(dir) => dir,
        }
    }
}

pub async fn run(args: DemoArgs) -> Result<()> {
    let place = match &args.dir {
        Some(dir) => Place::Kept(plan::directory(dir)?),
        None => Place::Temporary(plan::temporary_directory()?),
    };
    let (plan, _claims) = Plan::at(place.path(), &args)?;
    plan.write(place.path())?;
    // After `place`, so that a panic ends the processes before their directory goes.
    let mut processes = Processes::new(place.path(), &plan)?;
    let shown = show(&args, &plan, place.path(), &mut processes).await;
    say(&format!("stopping {} members", plan.nodes.len()));
    processes.stop_all().await;
    drop(processes);
    if let Place::Kept(dir) = &place {
        say(&format!("kept in {0}; to start it again: surus demo --dir {0}", dir.display()));
    }
    shown
}

/// Last words; whoever read them may be gone.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

enum View {
    Plain(plain::Plain),
    Screen(Box<screen::Screen>),
}

async fn show(args: &DemoArgs, plan: &Plan, dir: &Path, processes: &mut Processes) -> Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let client = Client::new(&ClientOptions::default())?;
    let mut model = Model::new(plan, dir);
    let interactive = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let (command_tx, mut commands) = mpsc::unbounded_channel();
    let mut view = if interactive {
        View::Screen(Box::new(screen::Screen::open(command_tx, plan.nodes.len())))
    } else {
        commands::read_lines(plan.nodes.len(), command_tx);
        View::Plain(plain::Plain::default())
    };
    processes.start_store(plan).await?;
    for node in 0..plan.nodes.len() {
        processes.start(node)?;
    }
    let mut updates = watch::start(&client, plan);
    let (outcome_tx, mut outcomes) = mpsc::unbounded_channel::<String>();
    let end = args.for_seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            Some((node, seen)) = updates.recv() => model.saw(node, seen),
            Some(outcome) = outcomes.recv() => model.event(outcome),
            Some(command) = commands.recv() => match command {
                Command::Quit => return Ok(()),
                Command::Kill(node) => {
                    processes.kill(node)?;
                    model.killed(node);
                }
                Command::Start(node) => match processes.start(node) {
                    Ok(true) => model.started(node),
                    Ok(false) => model.event(format!("{} runs already", plan.nodes[node].name)),
                    Err(error) => model.event(format!("{error:#}")),
                },
                Command::SwitchOver => switch_over(&client, plan, &mut model, &outcome_tx),
                Command::Unknown(text) => model.event(format!("\"{text}\" is no command; {}", commands::HELP)),
            },
            _ = tick.tick() => {
                for (node, status) in processes.ended()? {
                    model.ended(node, &status, processes.last_words(node));
                }
            }
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
            () = async { tokio::time::sleep_until(end.unwrap_or_else(Instant::now)).await }, if end.is_some() => return Ok(()),
        }
        match &mut view {
            View::Plain(plain) => {
                if !plain.show(&model)? {
                    return Ok(());
                }
            }
            View::Screen(screen) => screen.show(&model)?,
        }
    }
}

/// Asked of the leader in the background; the answer becomes an event.
fn switch_over(client: &Client, plan: &Plan, model: &mut Model, outcomes: &mpsc::UnboundedSender<String>) {
    let Some(leader) = model.leader() else {
        model.event("nobody leads at the moment: nothing to switch over".to_owned());
        return;
    };
    let name = plan.nodes[leader].name.clone();
    model.event(format!("asking {name} to hand over to the best candidate"));
    let (client, url, outcomes) = (client.clone(), plan.api_url(leader), outcomes.clone());
    tokio::spawn(async move {
        let request = SwitchoverRequest { leader: Some(name), ..SwitchoverRequest::default() };
        let answer = client.post(&url, "/switchover", &request, Duration::from_secs(120)).await.context("switchover");
        let _ = outcomes.send(match answer {
            Ok(answer) => answer.body,
            Err(error) => format!("{error:#}"),
        });
    });
}
