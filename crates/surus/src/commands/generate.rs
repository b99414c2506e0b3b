//! `generate-config`: the first configuration of a member, from a running server or from nothing.

mod document;
mod dsn;
mod render;

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use surus_postgres::{Credentials, Server, bin_dir_of, look, version_of};

use self::dsn::Connection;
use crate::cli::GenerateConfig;
use crate::failure::{OrFail, Outcome, failed};
use crate::terminal::Terminal;

const LIMIT: Duration = Duration::from_secs(30);
/// Stands for what only an operator knows, as in what `patroni` generates: scripts look for it.
pub(super) const FIXME: &str = "#FIXME";

/// Where this machine is reached, as far as can be guessed.
pub(super) struct Machine {
    pub name: String,
    pub address: String,
}

pub async fn generate(terminal: &mut Terminal, args: &GenerateConfig) -> Outcome {
    let env = surus_config::environment();
    let machine = this_machine();
    let environment = surus_config::merged(None, &env).or_fail()?;
    let document = if args.sample {
        document::sample(&machine, &environment, sample_version(&environment, &env)?)
    } else {
        let (connection, server) = connect(terminal, args.dsn.as_deref(), &env).await?;
        if !server.superuser {
            return failed("The provided user does not have superuser privilege");
        }
        let data_dir = PathBuf::from(server.setting("data_directory").unwrap_or_default());
        let found = document::Found {
            bin_dir: bin_dir_of(&data_dir).or_fail()?,
            hba: document::own_file(&server, "hba_file", "pg_hba.conf", &data_dir)?,
            ident: document::own_file(&server, "ident_file", "pg_ident.conf", &data_dir)?,
            server,
            connection,
        };
        document::of_server(&machine, &environment, &found)
    };
    let text = render::render(&document);
    match &args.file {
        Some(file) => {
            if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                std::fs::create_dir_all(dir).or_fail_with(format!("{} cannot be made", dir.display()))?;
            }
            write_privately(file, &text).or_fail_with(format!("{} cannot be written", file.display()))?;
        }
        None => terminal.write(&text)?,
    }
    if !["consul", "etcd", "etcd3", "exhibitor", "kubernetes", "raft", "zookeeper"]
        .iter()
        .any(|s| document.get(s).is_some())
    {
        crate::warn(
            "there is no store in it yet: add a section `consul:` (a Consul cluster), `etcd3:` (an etcd cluster) or `raft:` (the embedded store)",
        );
    }
    Ok(())
}

/// There are passwords in it.
fn write_privately(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}

fn this_machine() -> Machine {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let mut addresses: Vec<_> = (name, 0).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    addresses.sort_by_key(std::net::SocketAddr::is_ipv6);
    match addresses.first() {
        Some(address) if address.is_ipv6() => Machine { name: name.to_owned(), address: format!("[{}]", address.ip()) },
        Some(address) => Machine { name: name.to_owned(), address: address.ip().to_string() },
        None => Machine { name: FIXME.to_owned(), address: FIXME.to_owned() },
    }
}

fn sample_version(environment: &serde_json::Value, env: &BTreeMap<String, String>) -> Outcome<u32> {
    let text = |pointer: &str| environment.pointer(pointer).and_then(|v| v.as_str());
    let configured = text("/postgresql/bin_dir").map(Path::new);
    let data_dir = Path::new(text("/postgresql/data_dir").unwrap_or("/"));
    let dir = surus_config::find_bin_dir(configured, data_dir, env.get("PATH").map(String::as_str));
    let program = text("/postgresql/bin_name/postgres").unwrap_or("postgres");
    version_of(&dir.map_or_else(|| PathBuf::from(program), |dir| dir.join(program))).or_fail()
}

/// A password is asked for when the server wants one and none is known.
async fn connect(
    terminal: &mut Terminal,
    dsn: Option<&str>,
    env: &BTreeMap<String, String>,
) -> Outcome<(Connection, Server)> {
    let mut connection = match dsn {
        Some(dsn) => Connection::parse(dsn).or_fail_with("Failed to parse DSN string")?,
        None => Connection::default(),
    };
    connection.complete(env);
    loop {
        let user = Credentials {
            username: connection.user.clone(),
            password: connection.password.clone(),
            options: connection.options.clone(),
        };
        match look(&connection.host, connection.port, &user, &connection.database, LIMIT).await {
            Ok(server) => return Ok((connection, server)),
            Err(e) if connection.password.is_none() && wants_password(&e.to_string()) => {
                let question = format!("Please enter the user password for {}", connection.user);
                connection.password = Some(terminal.ask_hidden(&question)?);
            }
            Err(e) => return failed(format!("Failed to establish PostgreSQL connection: {e}")),
        }
    }
}

fn wants_password(error: &str) -> bool {
    error.contains("password")
}
