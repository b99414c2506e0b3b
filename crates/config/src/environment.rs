//! Environment variables (`spec/config.md §5`). Each has two names, `PATRONI_X` and `SURUS_X`; the second wins.

use std::collections::BTreeMap;

use crate::finding::{Place, Source};
use crate::reader::{Reader, nearest};
use crate::tree::{self, Entry, Node, NodeValue};
use crate::value;

const PREFIXES: [&str; 2] = ["SURUS_", "PATRONI_"];

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Text,
    Bool,
    Int,
    Real,
    List,
    Map,
    /// A template if a `%(name)` is in it, else a list.
    LogFormat,
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
            let explicit = known.get(suffix);
            // Empty is "not set" for variables of one meaning.
            if suffix == "CONFIGURATION" || (explicit.is_some() && text.is_empty()) {
                continue;
            }
            let place = Place::of(Source::Environment(name.as_str().into()));
            let (path, kind) = match explicit.cloned().or_else(|| store_variable(suffix)) {
                Some(target) => target,
                None => {
                    misspelt(r, &place, prefix, suffix, &known);
                    continue;
                }
            };
            match parse(text, kind, &place) {
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

fn misspelt(r: &mut Reader, place: &Place, prefix: &str, suffix: &str, known: &BTreeMap<String, (Vec<String>, Kind)>) {
    // Others may use the prefix for what is no configuration, so only what looks like one of ours is mentioned.
    if let Some(near) = nearest(suffix, known.keys().map(String::as_str)) {
        r.warn(place, "", format!("is not a known variable and is ignored; did you mean {prefix}{near}?"));
    }
}

fn parse(text: &str, kind: Kind, place: &Place) -> Result<Node, &'static str> {
    let node = |value| Node { value, raw: None, place: place.clone() };
    match kind {
        Kind::Text => Ok(node(NodeValue::Text(text.to_owned()))),
        Kind::Bool => value::parse_bool(text.trim()).map(|b| node(NodeValue::Bool(b))).ok_or("true or false"),
        Kind::Int => value::parse_int(text).map(|n| node(NodeValue::Number(n.into()))).ok_or("a whole number"),
        Kind::Real => text
            .trim()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(|n| node(NodeValue::Number(n)))
            .ok_or("a number"),
        Kind::LogFormat if has_placeholder(text) => Ok(node(NodeValue::Text(text.to_owned()))),
        Kind::List | Kind::LogFormat => {
            let trimmed = text.trim();
            let wrapped = if trimmed.starts_with('-') || trimmed.contains('[') {
                trimmed.to_owned()
            } else {
                format!("[{trimmed}]")
            };
            yaml(&wrapped, place).filter(|n| matches!(n.value, NodeValue::List(_))).ok_or("a list: a, b, c")
        }
        Kind::Map => {
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

/// Variables of one meaning.
fn known() -> BTreeMap<String, (Vec<String>, Kind)> {
    let mut map = BTreeMap::new();
    let mut add = |prefix: &str, path: &[&str], keys: &str, kind: Kind| {
        for key in keys.split_whitespace() {
            let path = path.iter().copied().chain([key]).map(str::to_owned).collect();
            map.insert(format!("{prefix}{}", key.to_uppercase()), (path, kind));
        }
    };
    add("", &[], "name namespace scope fence thread_pool_size thread_stack_size", Kind::Text);
    let keys = "listen connect_address certfile keyfile keyfile_password cafile ciphers verify_client server_tokens";
    add("RESTAPI_", &["restapi"], keys, Kind::Text);
    add("RESTAPI_", &["restapi"], "request_queue_size", Kind::Int);
    add("RESTAPI_", &["restapi"], "allowlist", Kind::List);
    add("RESTAPI_", &["restapi"], "allowlist_include_members allow_unauthenticated", Kind::Bool);
    add("RESTAPI_", &["restapi"], "http_extra_headers https_extra_headers", Kind::Map);
    add("RESTAPI_", &["restapi", "authentication"], "username password", Kind::Text);
    add("CTL_", &["ctl", "authentication"], "username password", Kind::Text);
    add("CTL_", &["ctl"], "cacert certfile keyfile keyfile_password", Kind::Text);
    add("CTL_", &["ctl"], "insecure", Kind::Bool);
    let keys = "listen connect_address proxy_address config_dir data_dir pgpass bin_dir";
    add("POSTGRESQL_", &["postgresql"], keys, Kind::Text);
    let keys = "pg_ctl initdb pg_controldata pg_basebackup postgres pg_isready pg_rewind";
    add("POSTGRESQL_BIN_", &["postgresql", "bin_name"], keys, Kind::Text);
    for user in ["superuser", "replication", "rewind"] {
        let prefix = format!("{}_", user.to_uppercase());
        let keys = "username password sslmode sslcert sslkey sslpassword sslrootcert sslcrl sslcrldir gssencmode \
                    channel_binding sslnegotiation";
        add(&prefix, &["postgresql", "authentication", user], keys, Kind::Text);
    }
    add("LOG_", &["log"], "type level traceback_level dateformat dir", Kind::Text);
    add("LOG_", &["log"], "format", Kind::LogFormat);
    add("LOG_", &["log"], "max_queue_size file_size file_num mode", Kind::Int);
    add("LOG_", &["log"], "static_fields loggers", Kind::Map);
    add("LOG_", &["log"], "deduplicate_heartbeat_logs", Kind::Bool);
    add("RAFT_", &["raft"], "data_dir self_addr bind_addr password certfile keyfile cafile", Kind::Text);
    add("RAFT_", &["raft"], "partner_addrs", Kind::List);
    let keys = "min_timeout max_timeout connection_timeout append_entries_period connection_retry_time \
                leader_fallback_timeout";
    add("RAFT_", &["raft"], keys, Kind::Real);
    for store in ["etcd", "etcd3"] {
        add(&format!("{}_", store.to_uppercase()), &[store], "username password", Kind::Text);
    }
    // Older names; the newer ones come later in the alphabet and win.
    for (old, key, kind) in [
        ("LOGLEVEL", "level", Kind::Text),
        ("LOGFORMAT", "format", Kind::LogFormat),
        ("LOG_DATEFMT", "dateformat", Kind::Text),
    ] {
        map.insert(old.to_owned(), (vec!["log".to_owned(), key.to_owned()], kind));
    }
    map
}

/// `<SECTION>_<SUFFIX>` for the sections that name a store; the section in any letter case.
fn store_variable(suffix: &str) -> Option<(Vec<String>, Kind)> {
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
        | "USE_SSL" => Kind::Text,
        "PORT" | "GROUP" => Kind::Int,
        "HOSTS" | "PORTS" | "CHECKS" | "SERVICE_TAGS" | "RETRIABLE_HTTP_CODES" => Kind::List,
        "LABELS" | "BOOTSTRAP_LABELS" | "SET_ACLS" | "AUTH_DATA" => Kind::Map,
        "USE_PROXIES" | "REGISTER_SERVICE" | "USE_ENDPOINTS" | "BYPASS_API_SERVICE" | "VERIFY" => Kind::Bool,
        "DATABASE" => Kind::Text,
        _ => return None,
    };
    let citus_key = matches!(key, "GROUP" | "DATABASE");
    let store = matches!(section.as_str(), "consul" | "etcd" | "etcd3" | "exhibitor" | "kubernetes" | "zookeeper");
    ((section == "citus") == citus_key && (store || section == "citus"))
        .then(|| (vec![section, key.to_lowercase()], kind))
}
