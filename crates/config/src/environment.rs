//! Environment variables (`spec/config.md §5`). Each has two names, `PATRONI_X` and `SURUS_X`; the second wins.

use std::collections::BTreeMap;

use crate::definition::{self, Kind, ROOT, STORES, Variable};
use crate::finding::{Place, Source};
use crate::reader::{Reader, nearest};
use crate::tree::{self, Entry, Node, NodeValue};
use crate::value;

const PREFIXES: [&str; 2] = ["SURUS_", "PATRONI_"];

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Text,
    Bool,
    Int,
    Real,
    List,
    Map,
    /// A template if a `%(name)` is in it, else a list.
    LogFormat,
}

impl Form {
    pub fn of(kind: &Kind) -> Form {
        match kind {
            Kind::Bool | Kind::Switch => Form::Bool,
            Kind::Int { .. } => Form::Int,
            Kind::Seconds => Form::Real,
            Kind::Texts | Kind::TextsOrCsv | Kind::Addresses => Form::List,
            Kind::Settings | Kind::Words(_) | Kind::Free => Form::Map,
            Kind::LogFormat => Form::LogFormat,
            _ => Form::Text,
        }
    }
}

/// The process environment, less what is not UTF-8.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// A whole configuration in one variable, and that variable's name.
pub(crate) fn whole(env: &BTreeMap<String, String>) -> Option<(String, &str)> {
    PREFIXES.iter().find_map(|prefix| {
        let name = format!("{prefix}CONFIGURATION");
        let text = env.get(&name).filter(|t| !t.is_empty())?;
        Some((name, text.as_str()))
    })
}

/// All recognised variables as one layer. `file` is what it will be laid over.
pub(crate) fn tree(env: &BTreeMap<String, String>, file: Option<&Node>, r: &mut Reader) -> Node {
    let none = Place::of(Source::Environment("PATRONI_*".into()));
    let mut root = Node::new(NodeValue::Map(Vec::new()), none);
    let known = known();
    // Lower precedence first: the second prefix, then the first.
    for prefix in PREFIXES.iter().rev() {
        let found = env.iter().filter_map(|(name, text)| Some((name, name.strip_prefix(prefix)?, text)));
        for (name, suffix, text) in found {
            // The section of a store may be in any letter case.
            let section = suffix.split_once('_').map(|(section, key)| format!("{}_{key}", section.to_uppercase()));
            let store = section
                .filter(|name| STORES.iter().any(|key| name.starts_with(&format!("{}_", key.name.to_uppercase()))));
            let explicit = known.get(suffix).or_else(|| known.get(&store?));
            // Empty is "not set" for variables of one meaning.
            if suffix == "CONFIGURATION" || (explicit.is_some() && text.is_empty()) {
                continue;
            }
            let place = Place::of(Source::Environment(name.as_str().into()));
            let (path, form) = match explicit.cloned().or_else(|| store_variable(suffix)) {
                Some(target) => target,
                None => {
                    misspelt(r, &place, prefix, suffix, &known);
                    continue;
                }
            };
            match parse(text, form, &place) {
                Ok(node) => root.insert(&path.iter().map(String::as_str).collect::<Vec<_>>(), node),
                Err(expected) => r.fault(&place, &path.join("."), format!("expected {expected}")),
            }
        }
    }
    drop_lone_credentials(&mut root, file);
    root
}

/// A user name for a store nothing else speaks of does not choose that store.
fn drop_lone_credentials(root: &mut Node, file: Option<&Node>) {
    let NodeValue::Map(entries) = &mut root.value else { return };
    entries.retain(|entry| {
        !matches!(entry.key.as_str(), "etcd" | "etcd3")
            || file.is_some_and(|f| f.get(&entry.key).is_some())
            || entry.node.entries().unwrap_or_default().iter().any(|e| e.key != "username" && e.key != "password")
    });
}

fn misspelt(r: &mut Reader, place: &Place, prefix: &str, suffix: &str, known: &BTreeMap<String, (Vec<String>, Form)>) {
    // Others may use the prefix for what is no configuration, so only what looks like one of ours is mentioned.
    if let Some(near) = nearest(suffix, known.keys().map(String::as_str)) {
        r.warn(place, "", format!("is not a known variable and is ignored; did you mean {prefix}{near}?"));
    }
}

fn parse(text: &str, form: Form, place: &Place) -> Result<Node, &'static str> {
    let node = |value| Node { value, raw: None, place: place.clone() };
    match form {
        Form::Text => Ok(node(NodeValue::Text(text.to_owned()))),
        Form::Bool => value::parse_bool(text.trim()).map(|b| node(NodeValue::Bool(b))).ok_or("true or false"),
        Form::Int => value::parse_int(text).map(|n| node(NodeValue::Number(n.into()))).ok_or("a whole number"),
        Form::Real => text
            .trim()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(|n| node(NodeValue::Number(n)))
            .ok_or("a number"),
        Form::LogFormat if has_placeholder(text) => Ok(node(NodeValue::Text(text.to_owned()))),
        Form::List | Form::LogFormat => {
            let trimmed = text.trim();
            let wrapped = if trimmed.starts_with('-') || trimmed.contains('[') {
                trimmed.to_owned()
            } else {
                format!("[{trimmed}]")
            };
            yaml(&wrapped, place).filter(|n| matches!(n.value, NodeValue::List(_))).ok_or("a list: a, b, c")
        }
        Form::Map => {
            let trimmed = text.trim();
            let wrapped = if trimmed.starts_with('{') { trimmed.to_owned() } else { format!("{{{trimmed}}}") };
            yaml(&wrapped, place).filter(|n| n.entries().is_some()).ok_or("keys and values: a: 1, b: 2")
        }
    }
}

/// Places inside of a variable are of no use; all become the variable's.
fn yaml(text: &str, place: &Place) -> Option<Node> {
    let mut node = tree::parse(text, &place.source, &mut Vec::new()).ok()?;
    forget_lines(&mut node, place);
    Some(node)
}

fn forget_lines(node: &mut Node, place: &Place) {
    node.place = place.clone();
    match &mut node.value {
        NodeValue::List(items) => items.iter_mut().for_each(|item| forget_lines(item, place)),
        NodeValue::Map(entries) => entries.iter_mut().for_each(|Entry { key_place, node, .. }| {
            *key_place = place.clone();
            forget_lines(node, place);
        }),
        _ => {}
    }
}

fn has_placeholder(text: &str) -> bool {
    text.split("%(").skip(1).any(|rest| rest.split_once(')').is_some_and(|(name, _)| !name.is_empty()))
}

/// Variables of one meaning, by what comes after the prefix.
pub(crate) fn known() -> BTreeMap<String, (Vec<String>, Form)> {
    let mut map = BTreeMap::new();
    definition::each(ROOT, "", &mut |path, key| {
        let name = match key.variable {
            Variable::None => return,
            Variable::OfPath => path.replace('.', "_").to_uppercase(),
            Variable::Named(name) => name.to_owned(),
        };
        map.insert(name, (path.split('.').map(str::to_owned).collect(), Form::of(&key.kind)));
    });
    // So that a file with a section `etcd`, which is refused with advice, is not made worse by variables.
    for key in ["username", "password"] {
        map.insert(format!("ETCD_{}", key.to_uppercase()), (vec!["etcd".to_owned(), key.to_owned()], Form::Text));
    }
    // Older names; the newer ones come later in the alphabet and win.
    for (old, key, form) in OLDER {
        map.insert((*old).to_owned(), (vec!["log".to_owned(), (*key).to_owned()], *form));
    }
    map
}

const OLDER: &[(&str, &str, Form)] = &[
    ("LOGLEVEL", "level", Form::Text),
    ("LOGFORMAT", "format", Form::LogFormat),
    ("LOG_DATEFMT", "dateformat", Form::Text),
];

/// `<SECTION>_<SUFFIX>` for the sections that name a store; the section in any letter case.
fn store_variable(suffix: &str) -> Option<(Vec<String>, Form)> {
    let (section, key) = suffix.split_once('_')?;
    let section = section.to_lowercase();
    let kind = match key {
        "HOST"
        | "PROTOCOL"
        | "SRV"
        | "SRV_SUFFIX"
        | "URL"
        | "PROXY"
        | "CACERT"
        | "CERT"
        | "KEY"
        | "KEY_PASSWORD"
        | "TOKEN"
        | "DC"
        | "CONSISTENCY"
        | "SERVICE_CHECK_INTERVAL"
        | "SERVICE_CHECK_TLS_SERVER_NAME"
        | "NAMESPACE"
        | "CONTEXT"
        | "SCOPE_LABEL"
        | "ROLE_LABEL"
        | "LEADER_LABEL_VALUE"
        | "FOLLOWER_LABEL_VALUE"
        | "STANDBY_LEADER_LABEL_VALUE"
        | "TMP_ROLE_LABEL"
        | "POD_IP"
        | "USE_SSL" => Form::Text,
        "PORT" | "GROUP" => Form::Int,
        "HOSTS" | "PORTS" | "CHECKS" | "SERVICE_TAGS" | "RETRIABLE_HTTP_CODES" => Form::List,
        "LABELS" | "BOOTSTRAP_LABELS" | "SET_ACLS" | "AUTH_DATA" => Form::Map,
        "USE_PROXIES" | "REGISTER_SERVICE" | "USE_ENDPOINTS" | "BYPASS_API_SERVICE" | "VERIFY" => Form::Bool,
        "DATABASE" => Form::Text,
        _ => return None,
    };
    let citus_key = matches!(key, "GROUP" | "DATABASE");
    let store = matches!(section.as_str(), "consul" | "etcd" | "exhibitor" | "kubernetes");
    ((section == "citus") == citus_key && (store || section == "citus"))
        .then(|| (vec![section, key.to_lowercase()], kind))
}
