//! House rules that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Longer than this, a source file is more than one reader wants to hold.
const LONG: usize = 600;

#[derive(Default)]
pub struct Found {
    pub broken: Vec<String>,
    pub advice: Vec<String>,
}

pub fn look(root: &Path) -> Result<Found> {
    let mut files = Vec::new();
    walk(root, &mut files)?;
    files.sort();
    let mut found = Found::default();
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let rust = name.ends_with(".rs");
        if !rust && !name.ends_with(".md") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        if rust {
            rust_rules(&name, &text, &mut found);
        } else {
            named_files(root, &name, &text, &mut found);
        }
    }
    Ok(found)
}

fn walk(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), into)?;
        } else {
            into.push(entry.path());
        }
    }
    Ok(())
}

fn rust_rules(name: &str, text: &str, found: &mut Found) {
    let lines = text.lines().count();
    if lines > LONG {
        found.advice.push(format!("{name} has {lines} lines; more than {LONG} is a file to divide"));
    }
    // What decides, and what orders the deeds, works on what it is given: a clock or a runtime in it could not be
    // replayed.
    const IMPURE: [&str; 6] = ["Instant::now", "SystemTime::now", "tokio::", "std::fs", "std::net", "std::process"];
    // The binary and the command-line programs talk to people; a library returns what it has to say.
    let program = name.starts_with("crates/surus/") || name.contains("/bin/") || name.ends_with("/src/main.rs");
    let library = name.starts_with("crates/") && !program;
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let at = format!("{name}:{}", number + 1);
        if name.starts_with("crates/core/src/") || name.starts_with("crates/conduct/src/") {
            for word in IMPURE.into_iter().filter(|word| code.contains(word)) {
                found.broken.push(format!("{at}: {word} in the pure core"));
            }
        }
        if library && name.contains("/src/") && (code.starts_with("println!") || code.starts_with("print!")) {
            found.broken.push(format!("{at}: a library prints to standard output"));
        }
    }
}

/// Links and names of files of this repository in the documentation must lead somewhere.
fn named_files(root: &Path, name: &str, text: &str, found: &mut Found) {
    let here = root.join(name);
    let here = here.parent().unwrap_or(root);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(|target| {
        let file = target.split('#').next().unwrap_or_default().trim();
        (target, here.join(file), file.contains("://") || file.starts_with("mailto:") || file.is_empty())
    });
    let spans = text.split('`').skip(1).step_by(2).filter(|span| {
        ["crates/", "docs/", "xtask/", "bench/", ".ci/"].iter().any(|top| span.starts_with(top))
            && !span.contains([' ', '*', '<', '{', '\n', '…', ':'])
    });
    let missing: Vec<String> = links
        .filter(|(_, file, elsewhere)| !elsewhere && !file.exists())
        .map(|(target, ..)| target.to_owned())
        .chain(spans.filter(|span| !root.join(span).exists()).map(str::to_owned))
        .collect();
    for target in missing {
        found.broken.push(format!("{name} names {target}, which is not there"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_clock_in_the_core_and_printing_in_a_library() {
        let mut found = Found::default();
        rust_rules("crates/core/src/x.rs", "// Instant::now\nlet t = Instant::now();\n", &mut found);
        rust_rules("crates/agent/src/x.rs", "use tokio::net;\nprintln!(\"x\");\n", &mut found);
        rust_rules("crates/surus/src/x.rs", "println!(\"x\");\n", &mut found);
        rust_rules("crates/sim/src/main.rs", "println!(\"x\");\n", &mut found);
        assert_eq!(
            found.broken,
            [
                "crates/core/src/x.rs:2: Instant::now in the pure core",
                "crates/agent/src/x.rs:2: a library prints to standard output"
            ]
        );
    }

    #[test]
    fn sees_names_that_lead_nowhere() {
        let mut found = Found::default();
        let text = "[a](Cargo.toml) [b](nowhere.md#x) [c](https://example.org) `crates/none.rs` `xtask/Cargo.toml`";
        named_files(&crate::run::root(), "README.md", text, &mut found);
        assert_eq!(
            found.broken,
            ["README.md names nowhere.md#x, which is not there", "README.md names crates/none.rs, which is not there"]
        );
    }
}
