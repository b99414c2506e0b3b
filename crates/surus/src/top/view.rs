//! The model as a picture.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap};
use surus_api::ClusterMember;

use super::model::{Model, Overlay};
use super::readiness::{self, Verdict};
use crate::listing::{self, describe, size};

const KEYS: &str = " ↑↓ select  s switchover  r restart  l reload  p pause  i reinit  ? help  q quit";
const HELP: [&str; 16] = [
    "↑ ↓ j k  select a member",
    "s        hand the lead over to the selected member",
    "r        restart the members that wait for a restart",
    "l        make the selected member read its configuration",
    "p        pause the cluster, or resume it",
    "i        copy the selected replica anew",
    "q Ctrl-C leave; the cluster goes on as it is",
    "",
    "Every action asks first; y does it, any other key leaves",
    "it alone. The outcome appears among the events.",
    "",
    "Graph: how far the replay was behind, a sample a second,",
    "▁ nothing  ▂ under 64 kB  ▃ 1 MB  ▄ 16 MB  ▅ 128 MB",
    "▆ 1 GB     ▇ 8 GB         █ more   blank: not known",
    "",
    "Any key closes this.",
];

pub fn draw(frame: &mut Frame, model: &Model, now: &str) {
    let area = frame.area();
    let verdict = readiness::of(model);
    let readiness_height = u16::try_from(verdict.why.len().min(4)).unwrap_or(4) + 3;
    let members = u16::try_from(model.rows().len()).unwrap_or(u16::MAX).max(1);
    let most = area.height.saturating_sub(readiness_height + 7).max(4);
    let [head, table, ready, events, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(members.saturating_add(3).min(most)),
        Constraint::Length(readiness_height),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(header(model, now), head);
    draw_members(frame, model, table);
    draw_readiness(frame, &verdict, ready);
    draw_events(frame, model, events);
    frame.render_widget(Paragraph::new(KEYS).style(dim()), foot);
    match &model.overlay {
        None => {}
        Some(Overlay::Help) => popup(frame, " help ", &HELP.map(str::to_owned)),
        Some(Overlay::Confirm(action)) => {
            popup(
                frame,
                " sure? ",
                &[action.question(), String::new(), "y  do it     any other key  leave it".to_owned()],
            );
        }
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn header<'a>(model: &Model, now: &str) -> Line<'a> {
    match &model.problem {
        Some(problem) => {
            Line::styled(format!(" {now}  not read, what follows is older: {problem}"), Style::new().fg(Color::Red))
        }
        None if model.reading.is_none() => Line::raw(format!(" {now}  reading cluster {} ...", model.cluster)),
        None => Line::raw(format!(" {now}")),
    }
}

fn draw_members(frame: &mut Frame, model: &Model, area: Rect) {
    let title = match &model.reading {
        Some(reading) => format!(" {} ", listing::title(&model.cluster, None, reading)),
        None => format!(" Cluster: {} ", model.cluster),
    };
    let mut block = Block::bordered().title(title);
    if let Some(reading) = &model.reading {
        if reading.document.pause {
            block = block.title(Line::styled(" Maintenance mode: on ", Style::new().fg(Color::Yellow)).right_aligned());
        } else if let Some(scheduled) = &reading.document.scheduled_switchover {
            block = block.title(Line::raw(format!(" Switchover scheduled at: {} ", scheduled.at)).right_aligned());
        }
    }
    let rows = model.rows();
    let name_width = rows.iter().map(|r| r.shown.chars().count()).max().unwrap_or(6).clamp(6, 24);
    let state_width = if area.width < 100 { 20 } else { 44 };
    let widths = [
        Constraint::Length(u16::try_from(name_width).unwrap_or(24)),
        Constraint::Length(14),
        Constraint::Length(state_width),
        Constraint::Length(3),
        Constraint::Length(7),
        Constraint::Fill(1),
    ];
    let columns = Layout::horizontal(widths).spacing(1).split(block.inner(area));
    let graph_width = columns.last().map_or(0, |c| usize::from(c.width));
    let lines: Vec<Row> = rows
        .iter()
        .map(|row| {
            let member = row.member;
            let lag = listing::lag(member);
            Row::new([
                row.shown.clone(),
                listing::role(member.role).to_owned(),
                state(model, member),
                member.timeline.map(|t| format!("{:>3}", t.0)).unwrap_or_default(),
                lag.map(|bytes| format!("{:>7}", size(bytes))).unwrap_or_default(),
                graph(model.lags(&member.name), graph_width),
            ])
            .style(colour(member))
        })
        .collect();
    let header = Row::new(["Member", "Role", "State", " TL", "    Lag", "Lag over time"]).style(dim());
    let table = Table::new(lines, widths)
        .header(header)
        .block(block)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(model.position());
    frame.render_stateful_widget(table, area, &mut state);
}

fn state(model: &Model, member: &ClusterMember) -> String {
    let mut text = member.state.clone();
    if let Some(progress) = model.progresses.get(&member.name) {
        text = format!("{text} {}", describe(progress)).trim_end().to_owned();
    }
    if member.pending_restart {
        text.push_str(" *restart");
    }
    text
}

fn colour(member: &ClusterMember) -> Style {
    match (member.role.is_leader(), member.state.as_str()) {
        (true, "running") => Style::new().fg(Color::Green),
        (_, "streaming" | "in archive recovery") => Style::new(),
        (_, "stopped" | "crashed" | "start failed" | "stop failed") => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    }
}

/// The newest samples, one character each, the latest at the right end. The steps are the same for all members and
/// at all times, so that graphs can be compared.
fn graph(lags: impl DoubleEndedIterator<Item = Option<u64>>, width: usize) -> String {
    let newest: Vec<char> = lags.rev().take(width).map(bar).collect();
    let blanks = " ".repeat(width - newest.len());
    blanks + &newest.into_iter().rev().collect::<String>()
}

fn bar(lag: Option<u64>) -> char {
    const MB: u64 = 1 << 20;
    match lag {
        None => ' ',
        Some(0) => '▁',
        Some(bytes) => {
            let steps =
                [(64 << 10, '▂'), (MB, '▃'), (16 * MB, '▄'), (128 * MB, '▅'), (1024 * MB, '▆'), (8192 * MB, '▇')];
            steps.iter().find(|(below, _)| bytes < *below).map_or('█', |(_, bar)| *bar)
        }
    }
}

fn draw_readiness(frame: &mut Frame, verdict: &Verdict, area: Rect) {
    let style = match verdict.ready {
        Some(true) => Style::new().fg(Color::Green),
        Some(false) => Style::new().fg(Color::Red),
        None => dim(),
    };
    let mut lines = vec![Line::styled(verdict.text.clone(), style)];
    lines.extend(verdict.why.iter().map(|why| Line::raw(why.as_str())));
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" If the leader failed now ")), area);
}

fn draw_events(frame: &mut Frame, model: &Model, area: Rect) {
    let room = usize::from(area.height.saturating_sub(2));
    let latest = model.events.iter().skip(model.events.len().saturating_sub(room));
    let lines: Vec<Line> = latest
        .map(|event| Line::from(vec![Span::styled(format!("{}  ", event.at), dim()), Span::raw(event.text.as_str())]))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Events ")), area);
}

fn popup(frame: &mut Frame, title: &str, lines: &[String]) {
    let area = frame.area();
    let longest = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    let width = u16::try_from(longest + 4).unwrap_or(u16::MAX).min(area.width);
    let inner = usize::from(width.saturating_sub(4)).max(1);
    let wrapped: usize = lines.iter().map(|l| l.chars().count().div_ceil(inner).max(1)).sum();
    let height = u16::try_from(wrapped + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let text: Vec<Line> = lines.iter().map(|l| Line::raw(format!(" {l}"))).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(Block::bordered().title(title)), place);
}
