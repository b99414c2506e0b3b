//! Connection strings and password files as libpq reads them (`spec/postgres.md §7.4, §19`).

use std::collections::BTreeMap;
use std::path::Path;

use surus_core::cluster::Upstream;

use crate::config::{Credentials, InstanceConfig};

/// In this order, each from this major version on.
const KEYWORDS: [(&str, u32); 19] = [
    ("dbname", 0),
    ("user", 0),
    ("passfile", 0),
    ("host", 0),
    ("port", 0),
    ("sslmode", 0),
    ("sslcompression", 0),
    ("sslcert", 0),
    ("sslkey", 0),
    ("sslpassword", 130_000),
    ("sslrootcert", 0),
    ("sslcrl", 0),
    ("sslcrldir", 140_000),
    ("application_name", 0),
    ("krbsrvname", 0),
    ("gssencmode", 120_000),
    ("channel_binding", 130_000),
    ("target_session_attrs", 100_000),
    ("sslnegotiation", 170_000),
];

pub(crate) fn format(values: &BTreeMap<&str, String>, version: u32) -> String {
    let pairs: Vec<String> = KEYWORDS
        .iter()
        .filter(|(_, since)| version >= *since)
        .filter_map(|(key, _)| values.get(key).map(|v| format!("{key}={}", escape(v))))
        .collect();
    pairs.join(" ")
}

fn escape(value: &str) -> String {
    if value.is_empty() {
        return "''".to_owned();
    }
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        // Other white space ends an unquoted value just as a blank does.
        if matches!(c, '\'' | '\\') || c.is_ascii_whitespace() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn base<'a>(credentials: &'a Credentials, upstream: &Upstream) -> BTreeMap<&'a str, String> {
    let mut values: BTreeMap<&str, String> = credentials.options.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    if !credentials.username.is_empty() {
        values.insert("user", credentials.username.clone());
    }
    values.insert("host", upstream.host.clone());
    values.insert("port", upstream.port.to_string());
    values
}

/// For the WAL receiver.
pub(crate) fn primary_conninfo(config: &InstanceConfig, upstream: &Upstream, slot: bool, version: u32) -> String {
    let mut values = base(&config.replication, upstream);
    if config.replication.password.is_some() {
        values.insert("passfile", config.pgpass.to_string_lossy().into_owned());
    }
    values.insert("application_name", config.member.0.clone());
    values.insert("dbname", config.database.clone());
    for (key, default) in
        [("sslmode", "prefer"), ("gssencmode", "prefer"), ("channel_binding", "prefer"), ("sslnegotiation", "postgres")]
    {
        values.entry(key).or_insert_with(|| default.to_owned());
    }
    if let Some(name) = &config.krbsrvname {
        values.insert("krbsrvname", name.clone());
    }
    if upstream.host.contains(',') && slot {
        values.insert("target_session_attrs", "read-write".to_owned());
    }
    format(&values, version)
}

/// For a tool that connects to another member; the password goes through the environment.
pub(crate) fn tool_conninfo(
    credentials: &Credentials,
    upstream: &Upstream,
    database: Option<&str>,
    read_write: bool,
    version: u32,
) -> String {
    let mut values = base(credentials, upstream);
    if let Some(database) = database {
        values.insert("dbname", database.to_owned());
    }
    if read_write {
        values.insert("target_session_attrs", "read-write".to_owned());
    }
    format(&values, version)
}

/// The content of a password file for one user on these hosts.
pub(crate) fn pgpass(credentials: &Credentials, host: &str, port: &str) -> Option<String> {
    let password = credentials.password.as_ref()?;
    let field = |v: &str| if v.is_empty() { "*".to_owned() } else { v.replace('\\', "\\\\").replace(':', "\\:") };
    let mut hosts: Vec<&str> = host.split(',').collect();
    if hosts.iter().any(|h| h.starts_with('/')) {
        hosts.push("localhost");
    }
    let line =
        |h: &str| format!("{}:{}:*:{}:{}\n", field(h), field(port), field(&credentials.username), field(password));
    Some(hosts.into_iter().map(line).collect())
}

/// The first entry of `listen_addresses` that reaches us from this machine.
pub(crate) fn local_host(listen_addresses: &str) -> Option<String> {
    let all: Vec<&str> = listen_addresses.split(',').map(str::trim).filter(|a| !a.is_empty()).collect();
    let wild = all.iter().any(|a| matches!(*a, "*" | "localhost" | "0.0.0.0" | "127.0.0.1" | "::"));
    if wild { Some("localhost".to_owned()) } else { all.first().map(|a| (*a).to_owned()) }
}

/// Why the server could not open its socket there: the kernel takes 107 bytes.
pub(crate) fn socket_path_fault(dir: &Path, port: u16) -> Option<String> {
    let path = dir.join(format!(".s.PGSQL.{port}"));
    let length = path.as_os_str().len();
    (length > 107).then(|| {
        format!(
            "the path of the Unix socket, {}, has {length} bytes and the system takes 107; set a shorter directory in \
             postgresql.parameters.unix_socket_directories",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> InstanceConfig {
        InstanceConfig {
            database: "postgres".into(),
            member: "node 1".into(),
            pgpass: "/p/pg pass".into(),
            replication: Credentials {
                username: "rep'l".into(),
                password: Some("a:b\\c".into()),
                options: [("sslmode".to_owned(), "require".to_owned())].into(),
            },
            ..InstanceConfig::default()
        }
    }

    fn to(host: &str) -> Upstream {
        Upstream { name: "n".into(), host: host.into(), port: 5433, remote: false }
    }

    #[test]
    fn wal_receivers_string() {
        assert_eq!(
            primary_conninfo(&config(), &to("10.0.0.1"), true, 150_000),
            "dbname=postgres user=rep\\'l passfile=/p/pg\\ pass host=10.0.0.1 port=5433 sslmode=require \
             application_name=node\\ 1 gssencmode=prefer channel_binding=prefer"
        );
        assert!(
            primary_conninfo(&config(), &to("a,b"), true, 170_000)
                .ends_with("channel_binding=prefer target_session_attrs=read-write sslnegotiation=postgres")
        );
        let trust = InstanceConfig { replication: Credentials::default(), ..config() };
        assert!(!primary_conninfo(&trust, &to("a"), false, 150_000).contains("passfile"));
    }

    #[test]
    fn tools_string_has_no_password() {
        let text = tool_conninfo(&config().replication, &to("h"), Some("db"), true, 150_000);
        assert_eq!(text, "dbname=db user=rep\\'l host=h port=5433 sslmode=require target_session_attrs=read-write");
    }

    #[test]
    fn password_file() {
        let c = config().replication;
        assert_eq!(pgpass(&c, "h", "5433").unwrap(), "h:5433:*:rep'l:a\\:b\\\\c\n");
        assert_eq!(pgpass(&c, "/run,h", "").unwrap().lines().count(), 3);
        assert!(pgpass(&c, "", "1").unwrap().starts_with("*:1:*:"));
        assert_eq!(pgpass(&Credentials::default(), "h", "1"), None);
    }

    #[test]
    fn local_addresses() {
        for (listen, want) in [
            ("*", Some("localhost")),
            ("10.0.0.1,127.0.0.1", Some("localhost")),
            ("10.0.0.1, 10.0.0.2", Some("10.0.0.1")),
            ("0.0.0.0", Some("localhost")),
            ("", None),
        ] {
            assert_eq!(local_host(listen).as_deref(), want, "{listen}");
        }
        assert!(socket_path_fault(Path::new("/tmp"), 5432).is_none());
        assert!(socket_path_fault(Path::new(&"/x".repeat(60)), 5432).unwrap().contains("107"));
    }
}
