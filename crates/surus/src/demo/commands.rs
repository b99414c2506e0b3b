//! What can be typed.

use std::io::BufRead;

use tokio::sync::mpsc::UnboundedSender;

pub const HELP: &str = "k N kills node N, r N brings it back, s switches over, q leaves";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Index of the node.
    Kill(usize),
    Start(usize),
    SwitchOver,
    Quit,
    Unknown(String),
}

/// `k 2`, `k2`, `s` ...; nodes count from one.
pub fn parse(text: &str, nodes: usize) -> Command {
    let text = text.trim();
    let mut chars = text.chars();
    let letter = chars.next();
    let number = chars.as_str().trim().trim_start_matches("node");
    let node = number.parse::<usize>().ok().filter(|n| (1..=nodes).contains(n)).map(|n| n - 1);
    match (letter, number.is_empty(), node) {
        (Some('k'), _, Some(node)) => Command::Kill(node),
        (Some('r'), _, Some(node)) => Command::Start(node),
        (Some('s'), true, _) => Command::SwitchOver,
        (Some('q'), true, _) => Command::Quit,
        _ => Command::Unknown(text.to_owned()),
    }
}

/// Without a terminal, commands may come as lines of standard input; its end ends nothing.
pub fn read_lines(nodes: usize, commands: UnboundedSender<Command>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if !line.trim().is_empty() && commands.send(parse(&line, nodes)).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_numbers() {
        for (text, command) in [
            ("k 1", Command::Kill(0)),
            ("k3", Command::Kill(2)),
            (" r  node2 ", Command::Start(1)),
            ("s", Command::SwitchOver),
            ("q", Command::Quit),
            ("k", Command::Unknown("k".into())),
            ("k 4", Command::Unknown("k 4".into())),
            ("k 0", Command::Unknown("k 0".into())),
            ("quit now", Command::Unknown("quit now".into())),
        ] {
            assert_eq!(parse(text, 3), command, "{text}");
        }
    }
}
