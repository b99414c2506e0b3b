//! The demo without a terminal: one line for each event.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

use super::model::Model;

#[derive(Default)]
pub struct Plain {
    greeted: bool,
    shown: usize,
}

impl Plain {
    /// False: nobody reads any more, which ends the demo as `q` does.
    pub fn show(&mut self, model: &Model) -> Result<bool> {
        let mut out = std::io::stdout().lock();
        let mut print = || -> std::io::Result<()> {
            if !self.greeted {
                self.greeted = true;
                let names: Vec<&str> = model.members.iter().map(|member| member.name.as_str()).collect();
                writeln!(out, "{} agree through the {} store", names.join(", "), model.store)?;
                writeln!(out, "a session on the primary: {}", model.psql)?;
                writeln!(out, "the ordinary commands: surus -c {} list", model.dir.join("node1.yml").display())?;
            }
            for event in &model.events[self.shown..] {
                writeln!(out, "{:>7.1} s  {}", event.after.as_secs_f64(), event.text)?;
            }
            self.shown = model.events.len();
            out.flush()
        };
        match print() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            printed => printed.map(|()| true).context("cannot write to standard output"),
        }
    }
}
