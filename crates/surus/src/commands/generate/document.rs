//! What is in a generated configuration (`spec/config.md §11`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use surus_postgres::Server;

use super::dsn::Connection;
use super::{FIXME, Machine};
use crate::failure::{OrFail, Outcome};

/// What was found on the machine of a running server.
pub struct Found {
    pub server: Server,
    pub connection: Connection,
    pub bin_dir: PathBuf,
    /// Lines of the files; `None`: they are not where Surus would write them.
    pub hba: Option<String>,
    pub ident: Option<String>,
}

/// Parameters that belong to a machine, not to the cluster.
const LOCAL: [&str; 7] = [
    "archive_command",
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "ssl_passphrase_command",
    "hba_file",
    "ident_file",
];

/// Set by Surus from other keys, or decided by it anew; one of them holds a password.
const ELSEWHERE: [&str; 8] = [
    "listen_addresses",
    "port",
    "cluster_name",
    "data_directory",
    "config_file",
    "wal_keep_segments",
    "primary_conninfo",
    "primary_slot_name",
];

fn template(machine: &Machine) -> Value {
    let at = |port: u16| format!("{}:{port}", machine.address);
    json!({
        "scope": FIXME,
        "name": machine.name,
        "log": {
            "type": "plain", "level": "INFO", "traceback_level": "ERROR",
            "format": "%(asctime)s %(levelname)s: %(message)s", "max_queue_size": 1000,
        },
        "restapi": {"listen": at(8008), "connect_address": at(8008)},
        "bootstrap": {"dcs": {"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "postgresql": {"use_slots": true}}},
        "postgresql": {
            "data_dir": FIXME, "listen": at(5432), "connect_address": at(5432), "bin_dir": "",
            "authentication": {
                "superuser": {"username": "postgres", "password": FIXME},
                "replication": {"username": "replicator", "password": FIXME},
            },
        },
        "tags": {
            "failover_priority": 1, "sync_priority": 1, "noloadbalance": false, "clonefrom": true, "nosync": false,
            "nostream": false,
        },
    })
}

/// Sections are merged, everything else replaces.
fn lay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// A number where it is one, as the document has it for members that compare.
fn value(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from)
}

pub fn sample(machine: &Machine, environment: &Value, version: u32) -> Value {
    let method = if version >= 100_000 { "scram-sha-256" } else { "md5" };
    let mut parameters: Map<String, Value> = surus_config::cluster_parameters()
        .filter_map(|(name, default)| Some((name.to_owned(), value(default?))))
        .collect();
    match version >= 130_000 {
        true => parameters.insert("wal_keep_size".to_owned(), json!("128MB")),
        false => parameters.insert("wal_keep_segments".to_owned(), json!(8)),
    };
    let level = if version >= 90_600 { "replica" } else { "hot_standby" };
    parameters.insert("wal_level".to_owned(), json!(level));
    let mut document = template(machine);
    let mut authentication = json!({});
    if version >= 110_000 {
        authentication = json!({"rewind": {"username": "rewind_user", "password": FIXME}});
    }
    lay(
        &mut document,
        &json!({
            "bootstrap": {"dcs": {"postgresql": {"parameters": parameters, "use_pg_rewind": true}}},
            "postgresql": {"parameters": {"password_encryption": method}, "authentication": authentication},
        }),
    );
    lay(&mut document, environment);
    let user = document.pointer("/postgresql/authentication/replication/username").and_then(Value::as_str);
    let lines = json!([
        format!("host all all all {method}"),
        format!("host replication {} all {method}", user.unwrap_or("replicator")),
    ]);
    lay(&mut document, &json!({"postgresql": {"pg_hba": lines}}));
    document
}

pub fn of_server(machine: &Machine, environment: &Value, found: &Found) -> Value {
    let (server, connection) = (&found.server, &found.connection);
    let setting = |name: &str| server.setting(name).unwrap_or_default();
    let (mut cluster, mut local) = (Map::new(), Map::new());
    let ours: Vec<&str> = surus_config::cluster_parameters().map(|(name, _)| name).collect();
    for found in &server.settings {
        let name = found.name.as_str();
        let set = matches!(found.source.as_str(), "configuration file" | "command line" | "environment variable");
        let theirs = set && found.context != "internal" && found.category != "Write-Ahead Log / Recovery Target";
        if ELSEWHERE.contains(&name) || !(theirs || ours.contains(&name)) || found.value == "(disabled)" {
            continue;
        }
        // What Surus would not take, its default stands in for.
        if surus_config::judge_parameter(name, &found.value).is_some_and(|judged| judged.is_err()) {
            continue;
        }
        let parameters = if LOCAL.contains(&name) { &mut local } else { &mut cluster };
        parameters.insert(name.to_owned(), value(&found.value));
    }
    let port = setting("port");
    let mut superuser = json!({"username": connection.user});
    superuser["password"] = connection.password.as_deref().unwrap_or(FIXME).into();
    for (key, text) in &connection.options {
        superuser[key] = text.as_str().into();
    }
    let data_dir = Path::new(setting("data_directory"));
    let mut postgresql = json!({
        "data_dir": data_dir, "bin_dir": found.bin_dir, "parameters": local,
        "listen": format!("{}:{port}", setting("listen_addresses")),
        "connect_address": format!("{}:{}", machine.address, connection.port),
    });
    let config_dir = Path::new(setting("config_file")).parent().unwrap_or(data_dir);
    if config_dir != data_dir {
        postgresql["config_dir"] = json!(config_dir);
    }
    for (key, text) in [("pg_hba", &found.hba), ("pg_ident", &found.ident)] {
        let lines = text.as_deref().map(|text| lines(key, text, server.version)).unwrap_or_default();
        if !lines.is_empty() {
            postgresql[key] = lines.into();
        }
    }
    let mut document = template(machine);
    lay(&mut document, environment);
    lay(
        &mut document,
        &json!({"bootstrap": {"dcs": {"postgresql": {"parameters": cluster}}}, "postgresql": postgresql}),
    );
    let users = &mut document["postgresql"]["authentication"];
    users["superuser"] = superuser;
    users["replication"] = json!({"username": FIXME, "password": FIXME});
    if !setting("cluster_name").is_empty() {
        document["scope"] = setting("cluster_name").into();
    }
    document
}

/// The file, if it is in its usual place: elsewhere it is not ours to write.
pub fn own_file(server: &Server, setting: &str, name: &str, data_dir: &Path) -> Outcome<Option<String>> {
    let path = Path::new(server.setting(setting).unwrap_or_default());
    let config_dir = server.setting("config_file").and_then(|file| Path::new(file).parent());
    if ![Some(data_dir), config_dir].into_iter().flatten().any(|dir| path == dir.join(name)) {
        return Ok(None);
    }
    std::fs::read_to_string(path).or_fail_with(format!("{} cannot be read", path.display())).map(Some)
}

fn lines(key: &str, text: &str, version: u32) -> Vec<String> {
    let kinds = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    let includes = ["include", "include_if_exists", "include_dir"];
    let wanted = |line: &&str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        match key {
            "pg_hba" => kinds.contains(&word) || (version >= 160_000 && includes.contains(&word)),
            _ => !word.is_empty() && !word.starts_with('#'),
        }
    };
    text.lines().map(str::trim).filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use surus_postgres::FoundSetting;

    use super::*;

    fn machine() -> Machine {
        Machine { name: "db1".to_owned(), address: "10.0.0.1".to_owned() }
    }

    #[test]
    fn a_sample_depends_on_the_version() {
        let environment =
            json!({"scope": "orders", "postgresql": {"authentication": {"replication": {"username": "r"}}}});
        let new = sample(&machine(), &environment, 150_004);
        assert_eq!(new["scope"], "orders");
        assert_eq!(new["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_keep_size"], "128MB");
        assert_eq!(new["bootstrap"]["dcs"]["postgresql"]["parameters"]["max_connections"], 100);
        assert_eq!(new["postgresql"]["pg_hba"][1], "host replication r all scram-sha-256");
        assert_eq!(new["postgresql"]["authentication"]["rewind"]["username"], "rewind_user");
        let old = sample(&machine(), &json!({}), 90_500);
        assert_eq!(old["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_keep_segments"], 8);
        assert_eq!(old["bootstrap"]["dcs"]["postgresql"]["parameters"]["wal_level"], "hot_standby");
        assert_eq!(old["postgresql"]["pg_hba"][0], "host all all all md5");
        assert!(old["postgresql"]["authentication"].get("rewind").is_none());
    }

    #[test]
    fn a_running_server_is_told_as_it_is() {
        let setting = |name: &str, value: &str, source: &str| FoundSetting {
            name: name.into(),
            value: value.into(),
            source: source.into(),
            context: "sighup".into(),
            category: String::new(),
        };
        let server = Server {
            version: 150_004,
            superuser: true,
            settings: vec![
                setting("archive_command", "cp %p /a/%f", "configuration file"),
                setting("cluster_name", "orders", "configuration file"),
                setting("config_file", "/etc/postgresql/15/main/postgresql.conf", "command line"),
                setting("data_directory", "/var/lib/postgresql/15/main", "configuration file"),
                setting("listen_addresses", "*", "configuration file"),
                setting("max_connections", "200", "default"),
                setting("port", "5433", "configuration file"),
                setting("shared_buffers", "1GB", "configuration file"),
                setting("wal_keep_size", "0", "default"),
                setting("work_mem", "4MB", "default"),
            ],
        };
        let found = Found {
            server,
            connection: Connection { user: "postgres".into(), port: 5433, ..Connection::default() },
            bin_dir: "/usr/lib/postgresql/15/bin".into(),
            hba: Some("# comment\nlocal all all peer\n\nsamerole x\n".into()),
            ident: Some("# only a comment\n".into()),
        };
        let document = of_server(&machine(), &json!({}), &found);
        assert_eq!(document["scope"], "orders");
        let parameters = &document["bootstrap"]["dcs"]["postgresql"]["parameters"];
        assert_eq!(parameters, &json!({"max_connections": 200, "shared_buffers": "1GB"}));
        let postgresql = &document["postgresql"];
        assert_eq!(postgresql["parameters"], json!({"archive_command": "cp %p /a/%f"}));
        assert_eq!(
            (&postgresql["listen"], &postgresql["connect_address"]),
            (&json!("*:5433"), &json!("10.0.0.1:5433"))
        );
        assert_eq!(postgresql["config_dir"], "/etc/postgresql/15/main");
        assert_eq!(postgresql["pg_hba"], json!(["local all all peer"]));
        assert!(postgresql.get("pg_ident").is_none());
        assert_eq!(postgresql["authentication"]["superuser"], json!({"username": "postgres", "password": FIXME}));
    }
}
