//! `surus top`: a cluster live on the whole screen.
//!
//! The model and the picture are pure. Reading the cluster, reading keys and carrying out actions each go on by
//! themselves and report; nothing that does not answer holds up the screen.

mod action;
mod feed;
mod model;
mod news;
mod readiness;
#[cfg(test)]
mod tests;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;
use jiff::tz::TimeZone;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::cli::{Global, Top};
use crate::context::Context;
use crate::failure::{OrFail, Outcome, failed};
use crate::full_screen::FullScreen;
use action::Action;
use model::{Key, Model, Response, Seen};

/// So often the screen is drawn at least, and the clock on it goes on.
const TICK: Duration = Duration::from_millis(500);
const SIGNALS: &str = "signals cannot be waited for";

pub async fn top(global: &Global, args: &Top) -> Outcome {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return failed(
            "top needs a terminal for its input and its output; for scripts there are: surus list -f json, surus list -w 1",
        );
    }
    let context = Arc::new(Context::open(global).await?);
    let cluster = Arc::new(context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?);
    let (updates, mut seen) = mpsc::unbounded_channel();
    let (typed, mut keys) = mpsc::unbounded_channel();
    let mut interrupted = signal(SignalKind::interrupt()).or_fail_with(SIGNALS)?;
    let mut terminated = signal(SignalKind::terminate()).or_fail_with(SIGNALS)?;
    let mut hung_up = signal(SignalKind::hangup()).or_fail_with(SIGNALS)?;
    let mut model = Model::new(&cluster.name, TimeZone::system());
    let mut screen = FullScreen::open(move |event| pass_on(&typed, &event));
    feed::start(context.clone(), cluster.clone(), updates.clone());
    let mut tick = tokio::time::interval(TICK);
    loop {
        let now = Zoned::now();
        let clock = now.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let at = now.strftime("%m-%d %H:%M:%S").to_string();
        screen.terminal.draw(|frame| view::draw(frame, &model, &clock)).or_fail_with("the terminal")?;
        tokio::select! {
            Some(seen) = seen.recv() => model.saw(&at, seen),
            key = keys.recv() => match key.map(|key| key.map(|key| model.key(&at, key))) {
                Some(None) | Some(Some(Response::Nothing)) => {}
                Some(Some(Response::Do(action))) => {
                    model.event(&at, format!("{}: asked for", action.short()));
                    begin(&context, &model, action, &updates);
                }
                Some(Some(Response::Quit)) | None => return Ok(()),
            },
            _ = tick.tick() => {}
            _ = interrupted.recv() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        }
    }
}

fn begin(context: &Arc<Context>, model: &Model, action: Action, updates: &UnboundedSender<Seen>) {
    let Some(reading) = &model.reading else { return };
    let (context, addresses, updates) = (context.clone(), action.addresses(reading), updates.clone());
    tokio::spawn(async move {
        for line in action.carry_out(&context.api, &addresses).await {
            let _ = updates.send(Seen::Outcome(line));
        }
    });
}

/// What is typed, and nothing in place of a key when the terminal changed its size: the picture is drawn again.
fn pass_on(typed: &UnboundedSender<Option<Key>>, event: &Event) -> bool {
    let key = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(meaning(key)),
        Event::Resize(..) => None,
        _ => return true,
    };
    typed.send(key).is_ok()
}

fn meaning(key: &KeyEvent) -> Key {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(c) if !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        _ => Key::Other,
    }
}
