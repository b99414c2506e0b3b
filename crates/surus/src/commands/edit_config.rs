//! `edit-config`: changes the dynamic configuration by compare-and-set on the version shown.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};
use similar::TextDiff;
use surus_store::TxnOutcome;

use crate::cli::EditConfig;
use crate::commands::plan;
use crate::connect::STORE_DEADLINE;
use crate::context::Context;
use crate::failure::{OrFail, Outcome, failed};
use crate::terminal::{Terminal, say};
use crate::yaml;

/// Everything below is one key, dots and all.
const PARAMETERS: &str = "postgresql.parameters.";

pub async fn edit_config(context: &Context, terminal: &mut Terminal, args: &EditConfig) -> Outcome {
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    let Some(config) = &reading.view.config else {
        return failed(format!("The config key does not exist in the cluster {}", cluster.name));
    };
    let before = yaml::block(&config.value);
    let mut document = config.value.clone();
    let from_stdin = [&args.apply, &args.replace].into_iter().flatten().any(|f| f == "-");
    let changes =
        Changes { apply: args.apply.as_deref(), replace: args.replace.as_deref(), set: &args.set, pg: &args.pg };
    if changes.is_empty() {
        document = edit(&cluster.name, &before)?;
    } else {
        change(terminal, &mut document, &changes)?;
    }
    let after = yaml::block(&document);
    if before == after {
        if !args.quiet {
            say!(terminal, "Not changed");
        }
        return Ok(());
    }
    if !args.quiet {
        show_difference(terminal, &before, &after)?;
        plan::preview(context, terminal, &reading, &config.value, &document).await?;
    }
    if from_stdin && !args.force {
        say!(terminal, "Use --force option to apply changes");
        return Ok(());
    }
    if !args.force && !terminal.confirm("Apply these changes?")? {
        return Ok(());
    }
    let text = serde_json::to_string(&document).or_fail()?;
    let written = cluster.store.compare_and_put("config", Some(config.version), text, STORE_DEADLINE).await;
    match written.map_err(|e| cluster.store_failure(&e))? {
        TxnOutcome::Applied(_) => say!(terminal, "Configuration changed"),
        TxnOutcome::Conflict => return failed("Config modification aborted due to concurrent changes"),
    }
    Ok(())
}

/// What is to be changed, as the command line says it.
pub struct Changes<'a> {
    /// A file to merge.
    pub apply: Option<&'a str>,
    pub replace: Option<&'a str>,
    pub set: &'a [String],
    pub pg: &'a [String],
}

impl Changes<'_> {
    pub fn is_empty(&self) -> bool {
        self.apply.is_none() && self.replace.is_none() && self.set.is_empty() && self.pg.is_empty()
    }
}

pub fn change(terminal: &mut Terminal, document: &mut Value, changes: &Changes<'_>) -> Outcome {
    if let Some(file) = changes.replace {
        *document = read_yaml(terminal, file)?;
    }
    if let Some(file) = changes.apply {
        let patch = read_yaml(terminal, file)?;
        surus_config::patch(document, &patch);
    }
    for pair in changes.set {
        set(document, pair)?;
    }
    for pair in changes.pg {
        set(document, &format!("{PARAMETERS}{}", pair.trim_start()))?;
    }
    Ok(())
}

fn read_yaml(terminal: &mut Terminal, file: &str) -> Outcome<Value> {
    let text = match file {
        "-" => terminal.read_all()?,
        path => std::fs::read_to_string(path).or_fail_with(format!("{path} cannot be read"))?,
    };
    mapping(file, surus_config::read_yaml(file, &text).or_fail()?)
}

fn mapping(what: &str, value: Value) -> Outcome<Value> {
    if value.is_object() {
        Ok(value)
    } else {
        failed(format!("{what} holds no mapping of settings: a dynamic configuration looks like `ttl: 30`"))
    }
}

/// One `key=value`. Missing parents are made, parents that become empty go.
fn set(document: &mut Value, pair: &str) -> Outcome {
    let Some((key, value)) = pair.split_once('=') else {
        return failed(format!("Invalid parameter setting {pair}"));
    };
    let key = key.trim();
    let path: Vec<&str> = match key.strip_prefix(PARAMETERS) {
        Some(parameter) => vec!["postgresql", "parameters", parameter],
        None => key.split('.').collect(),
    };
    if path.iter().any(|part| part.is_empty()) {
        return failed(format!("Invalid parameter setting {pair}"));
    }
    let value = surus_config::read_yaml(&format!("the value in {pair}"), value).or_fail()?;
    put(document, &path, value);
    Ok(())
}

fn put(document: &mut Value, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(map) = document else { return };
    if rest.is_empty() {
        if value.is_null() {
            map.shift_remove(*first);
        } else {
            map.insert((*first).to_owned(), value);
        }
        return;
    }
    let child = map.entry(*first).or_insert_with(|| Value::Object(Map::new()));
    put(child, rest, value);
    if child.as_object().is_some_and(Map::is_empty) {
        map.shift_remove(*first);
    }
}

fn difference(before: &str, after: &str) -> String {
    TextDiff::from_lines(before, after).unified_diff().context_radius(3).header("", "").to_string()
}

fn show_difference(terminal: &mut Terminal, before: &str, after: &str) -> Outcome {
    let text = difference(before, after);
    if !terminal.is_tty {
        return terminal.write(&text);
    }
    let coloured: String = text
        .lines()
        .map(|line| match line.as_bytes().first() {
            Some(b'+') => format!("\x1b[32m{line}\x1b[0m\n"),
            Some(b'-') => format!("\x1b[31m{line}\x1b[0m\n"),
            Some(b'@') => format!("\x1b[36m{line}\x1b[0m\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    match std::env::var("PAGER").ok().filter(|p| !p.is_empty()) {
        Some(pager) => page(&pager, &coloured),
        None => terminal.write(&coloured),
    }
}

fn page(pager: &str, text: &str) -> Outcome {
    let mut child = Command::new("sh")
        .args(["-c", pager])
        .env("LESS", "-FRX")
        .stdin(Stdio::piped())
        .spawn()
        .or_fail_with(format!("the pager \"{pager}\" ($PAGER) cannot be started"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A reader that leaves early has seen enough.
        let _ = stdin.write_all(text.as_bytes());
    }
    child.wait().or_fail_with(format!("the pager \"{pager}\""))?;
    Ok(())
}

/// The text comes back as the operator left it in an editor.
fn edit(cluster: &str, before: &str) -> Outcome<Value> {
    let editor = match std::env::var("EDITOR").ok().filter(|e| !e.is_empty()) {
        Some(editor) => editor,
        None => match ["editor", "vi"].into_iter().find(|name| in_path(name)) {
            Some(name) => name.to_owned(),
            None => return failed("EDITOR environment variable is not set. editor or vi are not available"),
        },
    };
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{}-config-", cluster.replace('/', "_")))
        .suffix(".yaml")
        .tempfile()
        .or_fail_with("no temporary file for the editor")?;
    file.write_all(before.as_bytes()).or_fail_with("the temporary file for the editor")?;
    // By a shell, because $EDITOR may hold arguments.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .or_fail_with(format!("the editor \"{editor}\" cannot be started"))?;
    if !status.success() {
        return failed(format!("Editor exited with return code {}", status.code().unwrap_or(-1)));
    }
    // By its name: editors replace files.
    let text = std::fs::read_to_string(file.path()).or_fail_with("the edited file cannot be read")?;
    mapping("the edited file", surus_config::read_yaml("the edited file", &text).or_fail()?)
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_by_dotted_path() {
        let mut document = json!({"ttl": 30, "postgresql": {"parameters": {"a": 1}, "use_slots": true}, "x": 1});
        for pair in [
            " ttl =20",
            "postgresql.parameters.my.own = on",
            "postgresql.parameters.a=null",
            "standby_cluster.host=h",
            "x.y=[1, b]",
            "empty=",
            "eq=a=b",
        ] {
            set(&mut document, pair).unwrap();
        }
        assert_eq!(
            document,
            json!({"ttl": 20, "postgresql": {"parameters": {"my.own": true}, "use_slots": true}, "x": {"y": [1, "b"]}, "standby_cluster": {"host": "h"}, "eq": "a=b"})
        );
        set(&mut document, "standby_cluster.host=null").unwrap();
        set(&mut document, "none.there=null").unwrap();
        assert_eq!(document.get("standby_cluster"), None, "a parent that becomes empty goes");
        assert_eq!(document.get("none"), None);
        for bad in ["ttl", "=1", "a..b=1", "a={"] {
            assert!(set(&mut document.clone(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_difference_is_shown_as_peers_do() {
        let (mut after, before) = (json!({"ttl": 30, "postgresql": {"parameters": {"a": 1}}}), json!({"ttl": 30}));
        set(&mut after, "postgresql.parameters.superuser_reserved_connections=6").unwrap();
        let text = difference(&yaml::block(&before), &yaml::block(&after));
        assert_eq!(
            text,
            "--- \n+++ \n@@ -1 +1,5 @@\n+postgresql:\n+  parameters:\n+    a: 1\n+    superuser_reserved_connections: 6\n ttl: 30\n"
        );
    }
}
