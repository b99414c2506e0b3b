//! `check` against a real installation of PostgreSQL and real ports.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use surus_config::{CheckOptions, Severity, check};

use crate::support::{MINIMAL, env};

const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";

struct Setup {
    dir: tempfile::TempDir,
    rest: u16,
}

/// A file whose ports were free a moment ago.
fn setup(extra: &str) -> Setup {
    assert!(Path::new(BIN_DIR).join("postgres").exists(), "install PostgreSQL 15: apt-get install postgresql-15");
    let dir = tempfile::tempdir().unwrap();
    let listeners: Vec<TcpListener> = (0..3).map(|_| free_port()).collect();
    let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
    let text = MINIMAL
        .replace(":8008", &format!(":{}", ports[0]))
        .replace(":5432", &format!(":{}", ports[1]))
        .replace(":7001", &format!(":{}", ports[2]))
        .replace("/data\n", &format!("{}\n{extra}", dir.path().join("data").display()));
    fs::write(dir.path().join("patroni.yml"), text).unwrap();
    Setup { dir, rest: ports[0] }
}

/// Below the ephemeral range, so that no outgoing connection of another test takes it in between.
fn free_port() -> TcpListener {
    let start = 20_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    (start..32_000).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).unwrap()
}

fn run(setup: &Setup, options: CheckOptions) -> Vec<String> {
    let path = setup.dir.path().join("patroni.yml");
    let findings = check(Some(&path), &env(&[("PATH", "/nonexistent")]), options);
    findings.iter().map(|f| format!("{:?} {}: {}", f.severity, f.path, f.message)).collect()
}

fn data(setup: &Setup) -> std::path::PathBuf {
    let dir = setup.dir.path().join("data");
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn a_good_configuration_has_nothing_to_say() {
    let setup = setup(&format!("  bin_dir: {BIN_DIR}\n  use_pg_rewind: true\n"));
    assert_eq!(run(&setup, CheckOptions::default()), Vec::<String>::new());
    fs::create_dir(data(&setup).join("lost+found")).unwrap();
    assert_eq!(run(&setup, CheckOptions::default()), Vec::<String>::new(), "as good as empty");
}

#[test]
fn data_directories_that_will_not_do() {
    let setup = setup(&format!("  bin_dir: {BIN_DIR}\n"));
    let options = CheckOptions { ignore_listen_port: true };
    let dir = data(&setup);
    fs::write(dir.join("holiday.jpg"), "").unwrap();
    let found = run(&setup, options);
    assert!(found[0].contains("is not empty and no data directory of PostgreSQL"), "{found:?}");
    fs::write(dir.join("PG_VERSION"), "14\n").unwrap();
    let found = run(&setup, options);
    assert!(found[0].contains("has a PG_VERSION but no pg_wal"), "{found:?}");
    fs::create_dir(dir.join("pg_wal")).unwrap();
    let found = run(&setup, options);
    assert!(found[0].contains("was made by PostgreSQL 14, and the executables are of 15"), "{found:?}");
    fs::write(dir.join("PG_VERSION"), "15\n").unwrap();
    assert_eq!(run(&setup, options), Vec::<String>::new());
}

#[test]
fn a_port_in_use() {
    let setup = setup(&format!("  bin_dir: {BIN_DIR}\n"));
    let _listener = TcpListener::bind(("127.0.0.1", setup.rest)).unwrap();
    let found = run(&setup, CheckOptions::default());
    assert_eq!(
        found,
        [format!(
            "Error restapi.listen: port {} of 127.0.0.1 is in use; stop what listens there or choose another (if it is \
             this member itself, check with --ignore-listen-port)",
            setup.rest
        )]
    );
    assert_eq!(run(&setup, CheckOptions { ignore_listen_port: true }), Vec::<String>::new());
}

#[test]
fn executables_that_are_not_there() {
    let options = CheckOptions { ignore_listen_port: true };
    let found = run(&setup("  bin_dir: /nonexistent\n"), options);
    assert_eq!(
        found,
        ["Error postgresql.bin_dir: /nonexistent is not a directory; give the one with postgres and initdb in it"]
    );
    let found = run(&setup(&format!("  bin_dir: {BIN_DIR}\n  bin_name: {{initdb: initdb-of-ours}}\n")), options);
    assert!(found[0].contains("there is no initdb-of-ours in /usr/lib/postgresql/15/bin"), "{found:?}");
    assert_eq!(run(&setup(""), options), Vec::<String>::new(), "found below /usr/lib/postgresql without being told");
}

#[test]
fn errors_come_before_warnings() {
    let setup = setup("  bin_dir: /nonexistent\n  tpyo: 1\n");
    let path = setup.dir.path().join("patroni.yml");
    let findings = check(Some(&path), &env(&[]), CheckOptions::default());
    assert_eq!(findings.iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Error, Severity::Warning]);
}

#[test]
fn commands_that_cannot_be_run() {
    let setup = setup(
        "  bin_dir: /usr/lib/postgresql/15/bin\n  callbacks: {on_start: /bin/sh -c x, on_stop: '/no/such \"y'}\n  \
         pre_promote: no-such-program now\n  create_replica_methods: [a, basebackup, b]\n  a: {command: /etc/passwd}\n",
    );
    let found = run(&setup, CheckOptions::default());
    let paths: Vec<&str> = found.iter().filter_map(|f| f.split(": ").next()).collect();
    assert_eq!(
        paths,
        ["Error postgresql.callbacks.on_stop", "Warning postgresql.pre_promote", "Warning postgresql.a.command"],
        "{found:?}"
    );
}
