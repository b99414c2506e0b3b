//! The texts of faults. They are what an operator sees first, so they are kept word by word.

use std::path::Path;

use surus_config::{ClientConfig, LocalConfig};

use crate::support::{MINIMAL, env, faults, load_with, minimal_and, warnings, with_store};

#[test]
fn a_value_of_the_wrong_type() {
    assert_eq!(
        faults(&minimal_and("bootstrap:\n  dcs:\n    ttl: abc\n")),
        "patroni.yml:15:10: bootstrap.dcs.ttl: expected a whole number of seconds, found \"abc\""
    );
    assert_eq!(
        faults(&minimal_and("bootstrap:\n  dcs:\n    loop_wait: 10s\n")),
        "patroni.yml:15:16: bootstrap.dcs.loop_wait: expected a whole number of seconds, found \"10s\""
    );
}

#[test]
fn several_faults_are_told_together() {
    assert_eq!(
        faults(
            "name: node1\nrestapi:\n  listen: nowhere\nraft:\n  self_addr: [a]\npostgresql:\n  listen: 5432\n  \
             use_pg_rewind: perhaps\n  pg_hba: local all all trust\nwatchdog:\n  mode: sometimes\ntags:\n  failover_priority: high\n"
        ),
        "\
patroni.yml: scope: is missing; expected the name of the cluster
patroni.yml:3:11: restapi.listen: expected host:port (the port is missing), found \"nowhere\"
patroni.yml:5:14: raft.self_addr: expected host:port, found a list
patroni.yml:7:3: postgresql.data_dir: is missing; expected the path of the data directory
patroni.yml:7:3: postgresql.authentication.replication.username: is missing; expected the user that standbys replicate as
patroni.yml:8:18: postgresql.use_pg_rewind: expected true or false, found \"perhaps\"
patroni.yml:9:11: postgresql.pg_hba: expected a list (one `- item` per line), found \"local all all trust\"
patroni.yml:11:9: watchdog.mode: expected one of off, automatic, required, found \"sometimes\"
patroni.yml:13:22: tags.failover_priority: expected a whole number, found \"high\""
    );
}

#[test]
fn timing_that_contradicts_itself() {
    assert_eq!(
        faults(&minimal_and("bootstrap:\n  dcs:\n    loop_wait: 10\n    ttl: 20\n    retry_timeout: 10\n")),
        "patroni.yml:16:10: bootstrap.dcs.ttl: loop_wait + 2 * retry_timeout must not exceed ttl, found 10 + 2 * 10 = \
         30 > 20; raise ttl to 30 or lower the others"
    );
    assert_eq!(
        faults(&minimal_and("bootstrap:\n  dcs: {ttl: 2, loop_wait: 0}\n")),
        "patroni.yml:14:14: bootstrap.dcs.ttl: expected at least 5 seconds, found 2\n\
         patroni.yml:14:28: bootstrap.dcs.loop_wait: expected at least 1 seconds, found 0"
    );
}

#[test]
fn malformed_yaml_has_line_and_column() {
    assert_eq!(
        faults("scope: demo\npostgresql:\n  data_dir: \"/data\n"),
        "patroni.yml:4:1: not valid YAML: invalid indentation in multiline quoted scalar; look for a quote further up \
         that is not closed"
    );
    assert_eq!(
        faults("scope: demo\nname: a: b\n"),
        "patroni.yml:2:8: not valid YAML: mapping values are not allowed in this context; check indentation, colons \
         and quotes here and on the line before"
    );
    assert_eq!(faults("- a\n"), "patroni.yml: expected sections such as `scope: name`, found a list");
    assert_eq!(faults(""), "patroni.yml: expected sections such as `scope: name`, found nothing");
}

#[test]
fn no_fault_shows_a_secret() {
    for text in [
        "scope: demo\npostgresql:\n  authentication:\n    superuser:\n      password: \"hunter2\n",
        &minimal_and("ctl:\n  authentication:\n    password: [hunter2]\n"),
        &minimal_and("ctl:\n  authentication: hunter2\n"),
        &MINIMAL.replace("{username: replicator, password: repl1}", "{password: hunter2}"),
        &with_store("etcd3:\n  url: ftp://root:hunter2@etcd:2379\n"),
        &with_store("etcd3:\n  url: http://root:hunter2@:99999\n"),
        &with_store("raft:\n  password: {hunter2: 1}\n"),
    ] {
        let message = faults(text);
        assert!(!message.contains("hunter2"), "{message}");
    }
    let config = load_with(MINIMAL, &[("PATRONI_RAFT_PASSWORD", "hunter2")]).unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("sup3r"), "{shown}");
}

#[test]
fn files_that_cannot_be_read() {
    let load = |path: &Path| LocalConfig::load(Some(path), &env(&[])).unwrap_err().to_string();
    assert_eq!(
        load(Path::new("/nonexistent/patroni.yml")),
        "/nonexistent/patroni.yml: does not exist; give the path of the configuration file, or of a directory of .yml \
         files"
    );
    assert_eq!(load(Path::new("/dev/null")), "/dev/null: is neither a file nor a directory");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()), format!("{}: has no .yml or .yaml file in it", dir.path().display()));
    let latin = dir.path().join("latin.yml");
    std::fs::write(&latin, b"scope: demo\nname: caf\xe9\n").unwrap();
    assert_eq!(load(&latin), format!("{}:2:10: is not UTF-8 text here; save the file as UTF-8", latin.display()));
    assert_eq!(
        LocalConfig::load(None, &env(&[])).unwrap_err().to_string(),
        "environment variable PATRONI_*: there is no configuration; give the path of a file or directory, or set \
         PATRONI_* or SURUS_* variables"
    );
}

#[test]
fn stores_that_are_not_there_yet() {
    for (section, expected) in [
        (
            "",
            "patroni.yml: names no store; add a section `raft:` (the embedded store), or one for a store that runs already: `consul:`, `etcd3:` or `zookeeper:`",
        ),
        (
            "etcd:\n  hosts: a:2379\n",
            "patroni.yml:6:3: etcd: the v2 protocol of etcd is not supported; rename the section to `etcd3` (the keys \
             are the same, and so is the port of an etcd 3.4 or newer)",
        ),
        (
            "kubernetes:\n  namespace: a\n",
            "patroni.yml:6:3: kubernetes: this store is not supported; use a section `consul:`, `etcd3:`, `raft:` or `zookeeper:` in \
             its place",
        ),
        (
            "exhibitor:\n  hosts: [a]\n  port: 8181\n",
            "patroni.yml:6:3: exhibitor: Exhibitor is not supported, which only said where ZooKeeper is; name the \
             servers under `zookeeper: hosts`, the other keys are the same",
        ),
        (
            "zookeeper:\n  use_ssl: true\n",
            "patroni.yml:6:3: zookeeper.hosts: is missing; expected the servers, a list of host:port",
        ),
        (
            "zookeeper:\n  hosts: a\n  set_acls: {me: [LIST]}\n  auth_data: [x]\n",
            "patroni.yml:7:19: zookeeper.set_acls.me: expected a list of CREATE, READ, WRITE, DELETE, ADMIN and ALL, \
             found \"LIST\"\npatroni.yml:8:14: zookeeper.auth_data: expected a map of keys and values, found a list",
        ),
        (
            "exhibitor:\n  hosts: [a]\nraft:\n  self_addr: 127.0.0.1:7001\n",
            "patroni.yml:6:3: exhibitor: this store is not supported, and it is chosen before `raft` when both sections \
             are there; remove this section",
        ),
        (
            "etcd3: {}\n",
            "patroni.yml:5:8: etcd3: names no server; expected one of `hosts` (list of host:port), `host`, `url`, \
             `srv` (a domain) or `proxy`",
        ),
        (
            "raft:\n  partner_addrs: [10.0.0.2]\n  certfile: a\n  keyfile: b\n",
            "patroni.yml:6:3: raft.self_addr: is missing; expected the host:port at which the other voters reach this \
             one\n\
             patroni.yml:6:3: raft.cafile: is missing; expected a path: TLS between voters needs certfile, keyfile and \
             cafile\n\
             patroni.yml:6:19: raft.partner_addrs.0: expected host:port (the port is missing), found \"10.0.0.2\"",
        ),
    ] {
        assert_eq!(faults(&with_store(section)), expected, "{section}");
    }
}

#[test]
fn addresses_nobody_can_connect_to() {
    for host in ["0.0.0.0", "'*'", "'[::]'"] {
        let bare = host.trim_matches(['\'', '[', ']']).trim_start_matches('[').trim_end_matches(']');
        let text = MINIMAL.replace("restapi:\n", &format!("restapi:\n  connect_address: {}\n", quoted(host)));
        assert_eq!(
            faults(&text),
            format!(
                "patroni.yml:4:20: restapi.connect_address: expected the address at which other machines reach this \
                 one, found {bare:?}, which stands for all of them"
            )
        );
    }
    assert_eq!(
        faults(&MINIMAL.replace("listen: 127.0.0.1:5432", "listen: '*:5432'")),
        "patroni.yml:8:3: postgresql.connect_address: is missing; expected the host:port at which other machines \
         reach this one, because listen is *:5432"
    );
    assert_eq!(
        faults(
            &MINIMAL.replace("listen: 127.0.0.1:5432", "listen: '*,10.0.0.1:5432'\n  connect_address: 10.0.0.1:5432")
        ),
        "patroni.yml:8:11: postgresql.listen: expected `*` alone or a list of hosts without it, found \
         \"*,10.0.0.1:5432\""
    );
}

fn quoted(host: &str) -> String {
    format!("'{}:8008'", host.trim_matches('\''))
}

#[test]
fn initdb_options_that_are_not_the_operators() {
    assert_eq!(
        faults(&minimal_and(
            "bootstrap:\n  initdb:\n  - pgdata: /x\n  - pwfile\n  - encoding: [UTF8]\n  - data-checksums: true\n  - 5\n"
        )),
        "\
patroni.yml:15:13: bootstrap.initdb.0: the option pgdata is not yours to set here; remove it
patroni.yml:16:5: bootstrap.initdb.1: the option pwfile is not yours to set here; remove it
patroni.yml:17:15: bootstrap.initdb.2: expected text, found a list; an option without a value is written `- encoding`
patroni.yml:18:21: bootstrap.initdb.3: expected text, found a boolean; an option without a value is written `- data-checksums`
patroni.yml:19:5: bootstrap.initdb.4: expected `- option` or `- option: value`, found a number"
    );
}

#[test]
fn unknown_keys_are_warned_of_with_the_nearest_known() {
    assert_eq!(
        warnings(&minimal_and(
            "ttl: 30\nwatchdg: {}\nbootstrap:\n  dcs:\n    tll: 30\n    postgresql:\n      parameters: {port: 1}\n      listen: a:1\n"
        )),
        [
            "patroni.yml:13:6: ttl: only counts in the dynamic configuration and is ignored here; put it into \
             bootstrap.dcs before the cluster is initialised, or change it with `surus edit-config` afterwards",
            "patroni.yml:14:1: watchdg: is not a known key and is ignored; did you mean `watchdog`?",
            "patroni.yml:17:5: bootstrap.dcs.tll: is not a known key and is ignored; did you mean `ttl`?",
            "patroni.yml:19:26: bootstrap.dcs.postgresql.parameters.port: is ignored: it always comes from \
             `postgresql.listen`",
            "patroni.yml:20:15: bootstrap.dcs.postgresql.listen: only counts in a member's own file and is ignored here",
        ]
    );
}

#[test]
fn contradictory_tags_are_told_in_the_words_peers_use() {
    for (tags, expected) in [
        (
            "nofailover: true\n  failover_priority: 1",
            Some("nofailover: True and failover_priority: 1. Defaulting to nofailover: True"),
        ),
        (
            "nofailover: false\n  failover_priority: 0",
            Some("nofailover: False and failover_priority: 0. Defaulting to nofailover: False"),
        ),
        ("nosync: true\n  sync_priority: 2", Some("nosync: True and sync_priority: 2. Defaulting to nosync: True")),
        ("nofailover: true\n  failover_priority: 0", None),
        ("nofailover: false\n  failover_priority: 1", None),
    ] {
        let warnings = warnings(&minimal_and(&format!("tags:\n  {tags}\n")));
        let expected: Vec<String> = expected
            .map(|e| {
                format!(
                    "patroni.yml:14:{}: tags.{}: Conflicting configuration between {e}",
                    e.find(": ").unwrap() + 5,
                    &e[..e.find(':').unwrap()]
                )
            })
            .into_iter()
            .collect();
        assert_eq!(warnings, expected, "{tags}");
    }
}

#[test]
fn a_client_needs_nothing_but_what_it_uses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("client.yml");
    std::fs::write(
        &path,
        "scope: demo\netcd3: {host: etcd}\nrestapi: {cafile: /ca, authentication: {username: u, password: p}}\n",
    )
    .unwrap();
    let client = ClientConfig::load(Some(&path), &env(&[])).unwrap();
    assert_eq!(client.scope.as_deref(), Some("demo"));
    assert_eq!(client.ctl.cacert.as_deref(), Some(Path::new("/ca")));
    assert_eq!(client.ctl.authentication.unwrap().username, "u");
    assert_eq!(ClientConfig::load(None, &env(&[])).unwrap().store, None);
}
