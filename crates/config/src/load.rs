//! Finds the layers of the local configuration and merges them (`spec/config.md §1`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::environment;
use crate::finding::{ConfigErrors, Finding, Place, Severity, Source};
use crate::reader::Reader;
use crate::tree::{self, Node, NodeValue};

/// The merged tree, and a reader that holds the warnings so far. Nothing at all to read is an error.
pub(crate) fn tree(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<(Node, Reader), ConfigErrors> {
    let (root, reader) = tree_or_nothing(path, env)?;
    if path.is_none() && root.entries().is_none_or(<[_]>::is_empty) {
        return Err(one(
            Place::of(Source::Environment("PATRONI_*".into())),
            "there is no configuration; give the path of a file or directory, or set PATRONI_* or SURUS_* variables",
        ));
    }
    Ok((root, reader))
}

pub(crate) fn tree_or_nothing(
    path: Option<&Path>,
    env: &BTreeMap<String, String>,
) -> Result<(Node, Reader), ConfigErrors> {
    let mut r = Reader::strict();
    let root = match path {
        Some(path) => {
            let mut root = read_path(path, &mut r)?;
            let variables = environment::tree(env, Some(&root), &mut r);
            root.merge(variables);
            // Not the place of a fault, only of what is absent.
            root.place = Place::of(Source::File(Arc::new(path.to_owned())));
            root
        }
        None => match environment::whole(env) {
            Some((name, text)) => {
                let source = Source::Environment(name.into());
                let root = mapping(tree::parse(text, &source, &mut r.findings), &source)?;
                Node { place: Place::of(source), ..root }
            }
            None => environment::tree(env, None, &mut r),
        },
    };
    let (faults, warnings): (Vec<_>, Vec<_>) = r.findings.into_iter().partition(|f| f.severity == Severity::Error);
    r.findings = warnings;
    // A variable that cannot be read makes everything that depends on it look wrong as well.
    if faults.is_empty() { Ok((root, r)) } else { Err(ConfigErrors(faults)) }
}

/// The file or directory with the environment over it, as one document without defaults.
pub fn merged(path: Option<&Path>, env: &BTreeMap<String, String>) -> Result<serde_json::Value, ConfigErrors> {
    let (root, _) = tree_or_nothing(path, env)?;
    Ok(if root.entries().is_some() { root.to_json() } else { serde_json::json!({}) })
}

/// A text of YAML by the rules of configuration files, in which `on` is true and `y` is a text. `what` stands where the
/// name of a file would in the message.
pub fn read_yaml(what: &str, text: &str) -> Result<serde_json::Value, Finding> {
    tree::parse(text, &Source::File(Arc::new(what.into())), &mut Vec::new()).map(|root| root.to_json())
}

/// A text that is a mapping, and a reader that holds the warnings so far.
pub(crate) fn text(what: &str, text: &str) -> Result<(Node, Reader), ConfigErrors> {
    let mut r = Reader::strict();
    let source = Source::File(Arc::new(what.into()));
    let root = mapping(tree::parse(text, &source, &mut r.findings), &source)?;
    Ok((root, r))
}

fn read_path(path: &Path, r: &mut Reader) -> Result<Node, ConfigErrors> {
    let source = Source::File(Arc::new(path.to_owned()));
    let here = || Place::of(source.clone());
    let metadata = fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            one(here(), "does not exist; give the path of the configuration file, or of a directory of .yml files")
        }
        _ => one(here(), format!("cannot be read: {e}; make it readable for the user Surus runs as")),
    })?;
    if metadata.is_file() {
        return read_file(path, r);
    }
    if !metadata.is_dir() {
        return Err(one(here(), "is neither a file nor a directory"));
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .map_err(|e| one(here(), format!("cannot be listed: {e}")))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.is_file() && p.extension().is_some_and(|e| e == "yml" || e == "yaml"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(one(here(), "has no .yml or .yaml file in it"));
    }
    let mut root = Node::new(NodeValue::Map(Vec::new()), here());
    let mut faults = Vec::new();
    for file in files {
        match read_file(&file, r) {
            Ok(layer) => root.merge(layer),
            Err(errors) => faults.extend(errors.0),
        }
    }
    if faults.is_empty() { Ok(root) } else { Err(ConfigErrors(faults)) }
}

fn read_file(path: &Path, r: &mut Reader) -> Result<Node, ConfigErrors> {
    let source = Source::File(Arc::new(path.to_owned()));
    let here = || Place::of(source.clone());
    let bytes = fs::read(path)
        .map_err(|e| one(here(), format!("cannot be read: {e}; make it readable for the user Surus runs as")))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let before = &e.as_bytes()[..good];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        one(Place { source: source.clone(), line, column }, "is not UTF-8 text here; save the file as UTF-8")
    })?;
    mapping(tree::parse(&text, &source, &mut r.findings), &source)
}

fn mapping(parsed: Result<Node, Finding>, source: &Source) -> Result<Node, ConfigErrors> {
    let root = parsed.map_err(|fault| ConfigErrors(vec![fault]))?;
    if root.entries().is_none() {
        let kind = root.kind();
        return Err(one(Place::of(source.clone()), format!("expected sections such as `scope: name`, found {kind}")));
    }
    Ok(root)
}

fn one(place: Place, message: impl Into<String>) -> ConfigErrors {
    ConfigErrors(vec![Finding { severity: Severity::Error, place, path: String::new(), message: message.into() }])
}
