//! `completions` and `man`: made of the definition that also parses the command line.

use std::path::Path;

use crate::cli::{Shell, definition};
use crate::failure::{OrFail, Outcome};
use crate::terminal::{Terminal, say};

/// For the name the program was called by, so that the link `patronictl` is completed too.
pub fn completions(terminal: &mut Terminal, shell: Shell) -> Outcome {
    let (mut command, mut script) = (definition(), Vec::new());
    let name = crate::program_name();
    match shell {
        Shell::Bash => clap_complete::generate(clap_complete::shells::Bash, &mut command, name, &mut script),
        Shell::Zsh => clap_complete::generate(clap_complete::shells::Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(clap_complete::shells::Fish, &mut command, name, &mut script),
    }
    terminal.write(&String::from_utf8_lossy(&script))
}

/// One page for the program and one for every verb.
pub fn man(terminal: &mut Terminal, dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir).or_fail_with(format!("the directory {} cannot be made", dir.display()))?;
    let command = definition().disable_help_subcommand(true);
    clap_mangen::generate_to(command, dir)
        .or_fail_with(format!("the man pages cannot be written into {}", dir.display()))?;
    say!(terminal, "The pages are in {0}; read one with: man -l {0}/surus.1", dir.display());
    Ok(())
}
