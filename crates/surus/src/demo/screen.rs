//! The demo on a terminal: a live table, the latest events, and keys.

use anyhow::Result;
use ratatui::Frame;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, Wrap};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::commands::{self, Command};
use super::model::{Model, Shown, bytes};
use crate::full_screen::FullScreen;

pub struct Screen {
    screen: FullScreen,
    typed: watch::Receiver<String>,
}

impl Screen {
    pub fn open(commands: UnboundedSender<Command>, nodes: usize) -> Screen {
        let (typing, typed) = watch::channel(String::new());
        let mut line = String::new();
        let screen = FullScreen::open(move |event| {
            let more = take(&mut line, &event, nodes, &commands);
            typing.send_replace(line.clone());
            more
        });
        Screen { screen, typed }
    }

    pub fn show(&mut self, model: &Model) -> Result<()> {
        let typed = self.typed.borrow().clone();
        self.screen.terminal.draw(|frame| draw(frame, model, &typed))?;
        Ok(())
    }
}

/// `false`: nobody takes commands any more.
fn take(line: &mut String, event: &Event, nodes: usize, commands: &UnboundedSender<Command>) -> bool {
    let Event::Key(key) = event else { return true };
    if key.kind == KeyEventKind::Release {
        return true;
    }
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => "q".clone_into(line),
        KeyCode::Char(c) => line.push(c),
        KeyCode::Backspace => {
            line.pop();
        }
        KeyCode::Esc => line.clear(),
        KeyCode::Enter => {}
        _ => return true,
    }
    if complete(line, nodes) || (key.code == KeyCode::Enter && !line.trim().is_empty()) {
        let command = commands::parse(line, nodes);
        line.clear();
        return commands.send(command).is_ok();
    }
    true
}

/// Nothing that could follow would change it, so no Enter is needed.
fn complete(line: &str, nodes: usize) -> bool {
    match commands::parse(line, nodes) {
        Command::Quit | Command::SwitchOver => true,
        Command::Kill(_) | Command::Start(_) => nodes < 10,
        Command::Unknown(text) => !matches!(text.chars().next(), None | Some('k' | 'r')),
    }
}

fn draw(frame: &mut Frame, model: &Model, typed: &str) {
    let height = u16::try_from(model.members.len()).unwrap_or(u16::MAX).saturating_add(3);
    let [table, events, foot] =
        Layout::vertical([Constraint::Length(height), Constraint::Min(3), Constraint::Length(6)]).areas(frame.area());
    let dim = Style::new().add_modifier(Modifier::DIM);
    let header = Row::new(["member", "port", "role", "state", "TL", "lag", "what it is doing"]).style(dim);
    let rows = model.members.iter().enumerate().map(|(i, member)| row(model, i, member));
    let widths = [
        Constraint::Length(7),
        Constraint::Length(5),
        Constraint::Length(13),
        Constraint::Length(20),
        Constraint::Length(3),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let title = format!(" {} store, {} s ", model.store, model.elapsed().as_secs());
    frame.render_widget(Table::new(rows, widths).header(header).block(Block::bordered().title(title)), table);

    let room = usize::from(events.height.saturating_sub(2));
    let latest = &model.events[model.events.len().saturating_sub(room)..];
    let lines: Vec<Line> = latest
        .iter()
        .map(|event| {
            Line::from(vec![
                Span::styled(format!("{:>7.1} s  ", event.after.as_secs_f64()), dim),
                Span::raw(event.text.as_str()),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" events ")), events);

    let list = format!("surus -c {} list", model.dir.join("node1.yml").display());
    let help = vec![
        Line::from(vec![Span::styled("keys     ", dim), Span::raw(commands::HELP), Span::raw(format!("   > {typed}"))]),
        Line::from(vec![Span::styled("session  ", dim), Span::raw(model.psql.as_str())]),
        Line::from(vec![Span::styled("commands ", dim), Span::raw(list)]),
    ];
    frame.render_widget(Paragraph::new(help).wrap(Wrap { trim: false }), foot);
}

fn row<'a>(model: &Model, node: usize, member: &'a Shown) -> Row<'a> {
    let style = if member.is_primary() {
        Style::new().fg(Color::Green)
    } else if !member.is_up() {
        Style::new().fg(Color::Red)
    } else if member.state() == "streaming" {
        Style::new()
    } else {
        Style::new().fg(Color::Yellow)
    };
    Row::new([
        member.name.clone(),
        member.port.to_string(),
        member.role().to_owned(),
        member.state().to_owned(),
        member.timeline().map(|timeline| timeline.to_string()).unwrap_or_default(),
        model.lag(node).map(bytes).unwrap_or_default(),
        member.doing(),
    ])
    .style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_where_nothing_more_can_follow() {
        for (line, nodes, done) in [
            ("k", 3, false),
            ("k ", 3, false),
            ("k 1", 3, true),
            ("k 1", 12, false),
            ("s", 3, true),
            ("", 3, false),
            ("x", 3, true),
        ] {
            assert_eq!(complete(line, nodes), done, "{line:?} of {nodes}");
        }
    }
}
