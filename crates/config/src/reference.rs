//! The tables of settings as pages for people, and the schema for their editors.

use std::fmt::Write;

use crate::definition::{
    self, BOOTSTRAP_METHOD, Counts, DYNAMIC, Default, Key, Kind, METHOD, Only, ROOT, Required, STORES, Variable,
};
use crate::parameters::{Accepts, CONTROLLED};

/// Name and text of every file below `docs/reference`.
pub fn files() -> Vec<(&'static str, String)> {
    let mut schema = serde_json::to_string_pretty(&crate::schema()).unwrap_or_default();
    schema.push('\n');
    vec![
        ("README.md", index()),
        ("member.md", member()),
        ("stores.md", stores()),
        ("postgresql.md", postgresql()),
        ("dynamic.md", dynamic()),
        ("environment.md", environment()),
        ("patroni.schema.json", schema),
    ]
}

fn index() -> String {
    "# Reference of settings

Every setting, generated from the same tables that Surus reads and checks configurations by (`cargo xtask docs`). How they work together
is told in [Configuration](../configuration.md).

| Page | |
|---|---|
| [member.md](member.md) | the file of a member |
| [stores.md](stores.md) | its sections `consul`, `etcd3`, `raft` and `zookeeper` |
| [postgresql.md](postgresql.md) | `postgresql`, in the file and in the dynamic configuration |
| [dynamic.md](dynamic.md) | the dynamic configuration, and `bootstrap.dcs` |
| [environment.md](environment.md) | variables |
| [patroni.schema.json](patroni.schema.json) | a JSON schema of the file, for editors; also `surus check --schema` |

An editor with a YAML language server checks and completes a file that begins with

    # yaml-language-server: $schema=patroni.schema.json

Of each key the tables say what it may be, its default, and when a change of it counts:

- **reload**: after `surus reload` or `SIGHUP`; in the dynamic configuration at once.
- **agent restart**: after a restart of the agent. PostgreSQL goes on meanwhile.
- **once**: only when a cluster is initialised.
- **no effect**: read for the sake of files that have it.

Settings marked *Surus* are not known to Patroni. Which of PostgreSQL's own parameters need a restart of PostgreSQL `surus plan` says.
"
    .to_owned()
}

fn member() -> String {
    let mut out = "# The file of a member\n\n## At the top\n\n".to_owned();
    let sections: Vec<&Key> = ROOT.iter().filter(|key| !key.keys().is_empty()).collect();
    table(&mut out, ROOT.iter().filter(|key| key.keys().is_empty() || matches!(key.kind, Kind::WordOrMap(..))));
    let elsewhere = |key: &Key| matches!(key.name, "postgresql" | "fence") || STORES.iter().any(|s| s.name == key.name);
    for key in sections.into_iter().filter(|key| !elsewhere(key)) {
        section(&mut out, 2, key.name, key, Only::Stored);
        if key.name == "bootstrap" {
            let _ = write!(
                out,
                "\n### A method of one's own: `bootstrap.<method>`\n\nOther keys become arguments of the command, `--key=value`.\n\n"
            );
            table(&mut out, BOOTSTRAP_METHOD.iter());
        }
    }
    out
}

fn stores() -> String {
    let mut out =
        "# Stores\n\nExactly one section is used: if there are several, the alphabetically first one.\n".to_owned();
    for key in &STORES {
        section(&mut out, 2, key.name, key, Only::Stored);
    }
    out
}

fn postgresql() -> String {
    let mut out = "# `postgresql`\n\nIn the file of a member and in the dynamic configuration. A key of the file replaces the stored one whole; only `parameters` are merged name by name.\n".to_owned();
    if let Some(key) = definition::find(ROOT, "postgresql") {
        let _ = write!(out, "\n## Only in the file\n\n");
        table(&mut out, key.keys().iter().filter(|key| key.only == Only::File));
        let _ = write!(out, "\n## In both\n\n");
        table(&mut out, key.keys().iter().filter(|key| key.only == Only::Both));
        let _ = write!(out, "\n## Only in the dynamic configuration\n\n");
        table(&mut out, key.keys().iter().filter(|key| key.only == Only::Stored));
        let sections = key.keys().iter().filter(|key| !key.older && !key.keys().is_empty());
        for below in sections {
            section(&mut out, 2, &format!("postgresql.{}", below.name), below, Only::Stored);
        }
    }
    let _ = write!(
        out,
        "\n## A replica creation method: `postgresql.<method>`\n\nAll keys but `command` become arguments of the command, `--key=value`.\n\n"
    );
    table(&mut out, METHOD.iter());
    let _ = write!(
        out,
        "\n## Parameters that are the cluster's\n\nA standby's limits must not be lower than its primary's, so these count in the dynamic configuration alone, under \
         `postgresql.parameters`. A value that is not accepted is told, and the default is used.\n\n\
         | Parameter | Default | Accepted | PostgreSQL |\n|---|---|---|---|\n"
    );
    for row in CONTROLLED {
        let default = row.default.map_or_else(String::new, |d| format!("`{d}`"));
        let accepted = match row.accepts {
            Accepts::Nothing(from) => format!("nothing: always from `{from}`"),
            Accepts::WalLevel => "`replica`, `logical`".to_owned(),
            Accepts::On => "`on`".to_owned(),
            Accepts::Bool => "`on`, `off`".to_owned(),
            Accepts::AtLeast(least) => format!("at least {least}"),
            Accepts::MegabytesAtLeast(least) => format!("at least {least}MB"),
        };
        let since = match (row.since, row.name) {
            (_, "wal_keep_segments") => "before 13".to_owned(),
            (since, _) if since >= 100_000 => format!("from {}", since / 10_000),
            _ => String::new(),
        };
        let _ = writeln!(out, "| `{}` | {default} | {accepted} | {since} |", row.name);
    }
    out
}

fn dynamic() -> String {
    let mut out = "# The dynamic configuration\n\nOne document in the store for all members: `surus show-config`, `surus edit-config`, `GET` and `PATCH /config`. A new cluster takes it from `bootstrap.dcs`.\n\
        Defaults are those of a document that leaves a key out; a new cluster that says nothing of its timing gets `ttl: 8`, `loop_wait: 2`, `retry_timeout: 3`.\n\n"
        .to_owned();
    table(&mut out, DYNAMIC.iter());
    for key in DYNAMIC.iter().filter(|key| key.name != "postgresql" && !key.keys().is_empty()) {
        section(&mut out, 2, key.name, key, Only::File);
    }
    out
}

fn environment() -> String {
    let mut out = "# Variables\n\nEvery variable has two names, `PATRONI_X` and `SURUS_X`; `SURUS_X` wins, and both win over the file. An empty one counts as not set. Lists are written `a, b, c`, maps \
        `key: value, key: value`. `CONFIGURATION` holds a whole file as YAML; it counts only without a path, and then nothing else does.\n\n| After the prefix | Key | Value |\n|---|---|---|\n"
        .to_owned();
    let mut rows = Vec::new();
    definition::each(ROOT, "", &mut |path, key| {
        if let Some(name) = variable(path, key) {
            rows.push(format!("| `{name}` | `{path}` | {} |\n", cell(&what(key))));
        }
    });
    rows.sort();
    out.extend(rows);
    out.push_str("\nOlder names that are still read: `LOGLEVEL`, `LOGFORMAT`, `LOG_DATEFMT`.\n");
    out
}

fn section(out: &mut String, depth: usize, path: &str, key: &Key, without: Only) {
    let _ = write!(out, "\n{} `{path}`\n\n{}.\n\n", "#".repeat(depth), key.says);
    table(out, key.keys().iter().filter(|key| key.only != without));
    for below in key.keys().iter().filter(|below| !below.keys().is_empty() && below.name != "dcs") {
        section(out, depth + 1, &format!("{path}.{}", below.name), below, without);
    }
}

fn table<'a>(out: &mut String, keys: impl Iterator<Item = &'a Key>) {
    out.push_str("| Key | Value | Default | Change counts | |\n|---|---|---|---|---|\n");
    for key in keys.filter(|key| !key.older) {
        let default = match (key.required, key.default) {
            (Required::Yes(_) | Required::ByReader, _) => "required".to_owned(),
            (_, Default::None) => String::new(),
            (_, Default::Is(text)) => format!("`{text}`"),
            (_, Default::Says(text)) => text.to_owned(),
        };
        let (counts, why) = match key.counts {
            Counts::Reload => ("reload", None),
            Counts::AgentRestart => ("agent restart", None),
            Counts::Once => ("once", None),
            Counts::Never(why) | Counts::Moot(why) => ("no effect", Some(why)),
        };
        let why = why.map_or_else(String::new, |why| format!(". No effect: {why}"));
        let ours = if key.ours { " *Surus*" } else { "" };
        let _ = writeln!(
            out,
            "| `{}`{ours} | {} | {} | {counts} | {}{} |",
            key.name,
            cell(&what(key)),
            cell(&default),
            cell(key.says),
            cell(&why)
        );
    }
}

/// What it may be, in the words of a fault where those say more than the kind.
fn what(key: &Key) -> String {
    match key.kind {
        Kind::Path => "path".to_owned(),
        Kind::Command => "command".to_owned(),
        Kind::Secret => "text, kept secret".to_owned(),
        Kind::Bool | Kind::Switch => "boolean".to_owned(),
        Kind::Word(words) | Kind::WordOrMap(words, _) => {
            words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Texts => "list".to_owned(),
        Kind::Listen => "`host[,host...]:port`".to_owned(),
        Kind::Address { .. } => "`host:port`".to_owned(),
        Kind::Map(..) => "section".to_owned(),
        Kind::Settings | Kind::Words(_) | Kind::Slots | Kind::Free => "map".to_owned(),
        ref kind => kind.what(),
    }
}

fn variable(path: &str, key: &Key) -> Option<String> {
    match key.variable {
        Variable::None => None,
        Variable::OfPath => Some(path.replace('.', "_").to_uppercase()),
        Variable::Named(name) => Some(name.to_owned()),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
