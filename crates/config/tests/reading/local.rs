//! The typed result of a member's own file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use surus_config::{
    FenceMode, HostPort, LocalConfig, LogFormat, LogLevel, LogType, StoreConfig, VerifyClient, WatchdogMode,
};

use crate::support::{MINIMAL, env, load, minimal_and, warnings, with_store};

fn address(host: &str, port: u16) -> HostPort {
    HostPort { host: host.to_owned(), port }
}

#[test]
fn a_minimal_file_has_the_documented_defaults() {
    let config = load(MINIMAL).unwrap();
    assert_eq!(config.warnings, vec![]);
    assert_eq!((config.scope.as_str(), config.namespace.as_str(), config.name.as_str()), ("demo", "service", "node1"));
    assert_eq!(config.restapi.connect_address, address("127.0.0.1", 8008));
    assert_eq!(config.restapi.api_url(), "http://127.0.0.1:8008/patroni");
    let StoreConfig::Raft(raft) = &config.store else { panic!("{:?}", config.store) };
    assert_eq!(raft.self_addr, Some(address("127.0.0.1", 7001)));
    assert_eq!(raft.data_dir, Path::new("."));
    let pg = &config.postgresql;
    assert_eq!(pg.pgpass, None);
    assert_eq!(pg.config_dir, Path::new("/data"));
    assert_eq!(pg.authentication.superuser.password.as_ref().map(|p| p.expose()), Some("sup3r"));
    assert_eq!(pg.authentication.rewind, None);
    assert_eq!(config.watchdog.mode, WatchdogMode::Automatic);
    assert!(config.bootstrap.is_none());
    assert!(config.tags.0.is_empty());
    assert_eq!(
        config.source_of("postgresql.data_dir").map(ToString::to_string).unwrap().rsplit('/').next(),
        Some("patroni.yml:9:13")
    );
}

#[test]
fn the_fence_is_a_word_or_a_section() {
    for (text, mode) in [
        ("", FenceMode::Required),
        ("fence: off\n", FenceMode::Off),
        ("fence: automatic\n", FenceMode::Automatic),
        ("fence: required\n", FenceMode::Required),
        ("fence:\n  mode: off\n", FenceMode::Off),
    ] {
        assert_eq!(load(&minimal_and(text)).unwrap().fence, mode, "{text}");
    }
    assert!(load(&minimal_and("fence: perhaps\n")).unwrap_err().to_string().contains("fence: expected one of off"));
}

#[test]
fn etcd3_in_all_its_spellings() {
    for (section, endpoints) in [
        ("etcd3: {host: 10.0.0.1}", vec!["http://10.0.0.1:2379"]),
        ("etcd3: {host: '10.0.0.1:4001', port: 5}", vec!["http://10.0.0.1:4001"]),
        ("etcd3: {hosts: 'a:1, b', port: 2}", vec!["http://a:1", "http://b:2"]),
        (
            "etcd3: {hosts: [a, 'b:7', '[::1]:8'], protocol: https}",
            vec!["https://a:2379", "https://b:7", "https://[::1]:8"],
        ),
        ("etcd3: {hosts: ['https://a:1/']}", vec!["https://a:1"]),
        ("etcd3: {url: 'https://u:p@a', host: b}", vec!["https://a:2379"]),
        ("etcd3: {proxy: 'http://a:1', hosts: b}", vec!["http://a:1"]),
        ("etcd3: {srv: example.org}", vec![]),
    ] {
        let config = load(&with_store(&format!("{section}\n"))).unwrap_or_else(|e| panic!("{section}: {e}"));
        let StoreConfig::Etcd3(etcd) = config.store else { panic!("{section}") };
        assert_eq!(etcd.endpoints, endpoints, "{section}");
        assert_eq!(etcd.srv.is_some(), endpoints.is_empty());
        assert_eq!(etcd.use_proxies, section.contains("proxy"));
        if section.contains("u:p@") {
            assert_eq!((etcd.username.as_deref(), etcd.protocol.as_str()), (Some("u"), "https"));
            assert_eq!(etcd.password.as_ref().map(|p| p.expose()), Some("p"));
        }
    }
}

#[test]
fn zookeeper_as_patroni_reads_it() {
    let section = "zookeeper:
  hosts: 'a:2181, b, [::1]:7/pg'
  use_ssl: yes
  cert: /c
  verify: 'off'
  auth_data: {digest: 'pg:secret'}
  set_acls: {'CN=pg,O=x': [all], 'digest:pg:hash': READ}
";
    let StoreConfig::ZooKeeper(read) = load(&with_store(section)).unwrap().store else { panic!() };
    assert_eq!(read.hosts, ["a:2181", "b", "[::1]:7/pg"]);
    assert!(read.use_ssl && !read.verify && read.cert.is_some() && read.key.is_none());
    assert_eq!((read.auth_data[0].0.as_str(), read.auth_data[0].1.expose()), ("digest", "pg:secret"));
    let acls =
        [("CN=pg,O=x".to_owned(), vec!["ALL".to_owned()]), ("digest:pg:hash".to_owned(), vec!["READ".to_owned()])];
    assert_eq!(read.set_acls, acls);
    assert!(!format!("{read:?}").contains("secret"));
}

#[test]
fn the_alphabetically_first_store_counts() {
    let config = load(&with_store("raft:\n  self_addr: 127.0.0.1:1\netcd3:\n  host: 127.0.0.1\n")).unwrap();
    assert!(matches!(config.store, StoreConfig::Etcd3(_)));
}

#[test]
fn raft_voters() {
    let section = "raft:\n  self_addr: 10.0.0.1:7001\n  bind_addr: 0.0.0.0:7001\n  partner_addrs: ['10.0.0.1:7001', '10.0.0.2:7001']\n  \
                   password: p\n  data_dir: /var/raft\n  certfile: /c\n  keyfile: /k\n  cafile: /a\n";
    let text =
        with_store(section).replace("127.0.0.1:8008", "10.0.0.1:8008").replace("127.0.0.1:5432", "10.0.0.1:5432");
    let config = load(&text).unwrap();
    assert_eq!(config.warnings, vec![]);
    let StoreConfig::Raft(raft) = config.store else { panic!() };
    assert_eq!(raft.partner_addrs, [address("10.0.0.2", 7001)], "a voter is not its own partner");
    assert_eq!(raft.bind_addr, Some(address("0.0.0.0", 7001)));
    assert_eq!(raft.tls.unwrap().cafile, Path::new("/a"));
    let open =
        warnings(&text.replace("  password: p\n", "").replace("  certfile: /c\n  keyfile: /k\n  cafile: /a\n", ""));
    assert!(open[0].contains("raft.password: is missing, and so is TLS"), "{open:?}");
}

#[test]
fn loopback_addresses_are_told_when_the_store_is_elsewhere() {
    let warnings = warnings(&with_store("etcd3: {host: 10.0.0.9}\n"));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("postgresql.connect_address: 127.0.0.1:5432 is this machine only"), "{warnings:?}");
}

#[test]
fn rest_api_with_tls() {
    let text = MINIMAL.replace(
        "restapi:\n",
        "restapi:\n  connect_address: '[fe80::1]:8008'\n  certfile: /c\n  keyfile: /k\n  keyfile_password: 123\n  cafile: /a\n  \
         verify_client: Required\n  allowlist: [10.0.0.0/8, host]\n  allowlist_include_members: on\n  http_extra_headers: {X-A: 1}\n  \
         server_tokens: ProductOnly\n  authentication: {username: u, password: p}\n  request_queue_size: 5\n",
    );
    let config = load(&text).unwrap();
    assert_eq!(config.warnings, vec![]);
    assert_eq!(config.restapi.api_url(), "https://[fe80::1]:8008/patroni");
    let tls = config.restapi.tls.unwrap();
    assert_eq!(tls.verify_client, VerifyClient::Required);
    assert_eq!(tls.keyfile_password.unwrap().expose(), "123");
    assert_eq!(config.restapi.allowlist, ["10.0.0.0/8", "host"]);
    assert_eq!(config.restapi.http_extra_headers, BTreeMap::from([("X-A".to_owned(), "1".to_owned())]));
    assert_eq!(config.ctl.cacert, Some(PathBuf::from("/a")));
    assert_eq!(config.ctl.authentication.unwrap().username, "u");
}

#[test]
fn logs() {
    let text = "log:\n  type: json\n  level: WARN\n  format: [message, {levelname: level}]\n  mode: 0640\n  file_num: 2\n  loggers: {raft: DEBUG}\n  static_fields: {app: x}\n";
    let log = load(&minimal_and(text)).unwrap().log;
    assert_eq!((log.kind, log.level, log.mode, log.file_num), (LogType::Json, LogLevel::Warning, Some(0o640), 2));
    let fields = [("message", "message"), ("levelname", "level")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(log.format, LogFormat::Fields(fields.to_vec()));
    assert_eq!(log.loggers["raft"], LogLevel::Debug);
}

#[test]
fn bootstrap_and_its_methods() {
    let text = minimal_and(
        "bootstrap:\n  method: pgbackrest\n  pgbackrest:\n    command: /restore --all\n    no_params: yes\n    keep_existing_recovery_conf: true\n    \
         recovery_conf: {recovery_target_action: promote}\n    x: 1\n    scope: no\n  other: {command: /x}\n  \
         initdb:\n  - encoding: UTF8\n  - data-checksums\n  - locale: 'C'\n  - --no-sync\n  pg_hba: [host all all all md5]\n  \
         post_init: /after\n  users: {a: {}}\n  dcs: {loop_wait: 5, my_key: {a: 1}}\n",
    );
    let config = load(&text).unwrap();
    let bootstrap = config.bootstrap.unwrap();
    let method = bootstrap.method.unwrap();
    assert_eq!((method.name.as_str(), method.command.as_str()), ("pgbackrest", "/restore --all"));
    assert!(method.no_params && method.keep_existing_recovery_conf);
    assert_eq!(method.arguments, [("x".to_owned(), "1".to_owned())]);
    assert_eq!(bootstrap.initdb, ["--encoding=UTF8", "--data-checksums", "--locale=C", "--no-sync"]);
    assert_eq!(bootstrap.post_bootstrap.as_deref(), Some("/after"));
    assert_eq!(bootstrap.dcs.to_string(), r#"{"loop_wait":5,"my_key":{"a":1}}"#);
    let messages: Vec<String> = config.warnings.iter().map(|w| format!("{}: {}", w.path, w.message)).collect();
    assert_eq!(
        messages,
        [
            "bootstrap.users: has no effect: no users are created from this section any more; create them with post_bootstrap",
            "bootstrap.dcs.my_key: is not a known key and is ignored; remove it, or look it up in the documentation",
        ]
    );
}

#[test]
fn replica_methods_and_options() {
    let text = MINIMAL.replace(
        "  data_dir: /data\n",
        "  data_dir: /data\n  create_replica_methods: [wal_g, basebackup]\n  wal_g:\n    command: /wal-g\n    no_leader: 1\n    threads: 4\n  \
         unlisted: {command: /x, keep_data: true}\n  basebackup:\n  - checkpoint: fast\n  - max-rate: 100M\n  - verbose\n  - host: x\n  \
         rewind: [debug]\n  callbacks: {on_start: /cb, on_strat: /x}\n  pg_ctl_timeout: 1.5\n",
    );
    let config = load(&text).unwrap();
    let settings = &config.postgresql.settings;
    assert_eq!(settings.create_replica_methods.as_deref(), Some(&["wal_g".to_owned(), "basebackup".to_owned()][..]));
    let method = &settings.replica_methods["wal_g"];
    assert!(method.no_leader && !method.no_params && method.command == "/wal-g");
    assert_eq!(method.arguments, [("no_leader", "1"), ("threads", "4")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert!(settings.replica_methods["unlisted"].keep_data);
    assert_eq!(
        settings.basebackup.as_deref(),
        Some(&["--checkpoint=fast", "--max-rate=100M", "--verbose"].map(str::to_owned)[..])
    );
    assert_eq!(settings.rewind.as_deref(), Some(&["--debug".to_owned()][..]));
    assert_eq!(settings.pg_ctl_timeout, Some(Duration::from_millis(1500)));
    let paths: Vec<&str> = config.warnings.iter().map(|w| w.path.as_str()).collect();
    assert_eq!(paths, ["postgresql.basebackup.3", "postgresql.callbacks.on_strat"]);
}

#[test]
fn options_and_arguments_in_every_form() {
    let load = |section: &str| {
        let text = MINIMAL.replace("  data_dir: /data\n", &format!("  data_dir: /data\n{section}"));
        let config = load(&text).unwrap();
        (config.postgresql.settings.clone(), config.warnings.len())
    };
    for (yaml, expected, warnings) in [
        ("{checkpoint: fast, max-rate: '10M'}", vec!["--checkpoint=fast", "--max-rate=10M"], 0),
        ("{verbose: false, label: null, waldir: ''}", vec![], 0),
        ("{verbose: true}", vec![], 1),
        ("[no-verify, {label: \"'a b'\"}]", vec!["--no-verify", "--label=a b"], 0),
        ("[{a: x, b: y}, 3, format, {dbname: x}]", vec![], 4),
        ("text", vec![], 1),
    ] {
        let (settings, found) = load(&format!("  basebackup: {yaml}\n"));
        let options = settings.basebackup.unwrap_or_default();
        assert_eq!((options, found), (expected.into_iter().map(str::to_owned).collect(), warnings), "{yaml}");
    }
    let (settings, _) =
        load("  create_replica_methods: [m]\n  m: {b: true, a: 1.5, c: x y, keep_data: false, no_params: 'off'}\n");
    let method = &settings.replica_methods["m"];
    assert_eq!((method.command.as_str(), method.keep_data, method.no_params), ("m", false, false));
    let arguments: Vec<String> = method.arguments.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(arguments, ["b=True", "a=1.5", "c=x y", "keep_data=False", "no_params=off"]);
}

#[test]
fn what_older_files_say() {
    let text = "name: n\nscope: s\nrestapi: {listen: '127.0.0.1:8008'}\nraft: {self_addr: '127.0.0.1:1'}\npostgresql:\n  listen: localhost\n  data_dir: d\n  \
                superuser: {username: a}\n  replication: {username: b}\n  pg_rewind: {username: c}\n  create_replica_method: [x]\n";
    let config = load(text).unwrap();
    let auth = &config.postgresql.authentication;
    assert_eq!(auth.replication.username.as_deref(), Some("b"));
    assert_eq!(auth.rewind.as_ref().and_then(|c| c.username.as_deref()), Some("c"));
    assert_eq!(config.postgresql.settings.create_replica_methods.as_deref(), Some(&["x".to_owned()][..]));
    assert_eq!(config.postgresql.settings.use_pg_rewind, Some(true));
    assert_eq!(config.postgresql.listen.port, 5432);
}

#[test]
fn what_a_reload_cannot_change() {
    let store = "etcd3: {host: 127.0.0.1, username: u, password: p}\n";
    let old = load(&with_store(store)).unwrap();
    let changed = with_store(store).replace("8008", "8009");
    assert_eq!(old.restart_only_changes(&load(&changed).unwrap()), Vec::<&str>::new());
    let password = with_store(&store.replace("password: p", "password: q"));
    assert_eq!(old.restart_only_changes(&load(&password).unwrap()), Vec::<&str>::new(), "exchanged while it is used");
    let changed =
        changed.replace("host: 127.0.0.1", "host: 127.0.0.2").replace("/data", "/other").replace("node1", "n");
    assert_eq!(
        old.restart_only_changes(&load(&changed).unwrap()),
        ["name", "store", "postgresql.data_dir", "postgresql.config_dir"]
    );
}

#[test]
fn tags_keep_their_order_and_anything_an_operator_adds() {
    let config =
        load(&minimal_and("tags:\n  zone: b\n  nofailover: no\n  az: [1, {x: y}]\n  replicatefrom: n2\n")).unwrap();
    assert_eq!(
        serde_json::to_string(&config.tags.0).unwrap(),
        r#"{"zone":"b","nofailover":false,"az":[1,{"x":"y"}],"replicatefrom":"n2"}"#
    );
}

#[test]
fn a_directory_is_merged_in_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("10-base.yml"), MINIMAL).unwrap();
    fs::write(
        dir.path().join("20-local.yaml"),
        "name: node2\nraft: null\netcd3: {host: 127.0.0.1}\npostgresql: {pg_hba: [a]}\n",
    )
    .unwrap();
    fs::write(dir.path().join("30-hba.yml"), "postgresql: {pg_hba: [b, c]}\n").unwrap();
    fs::write(dir.path().join("99-ignored.txt"), "name: [").unwrap();
    fs::create_dir(dir.path().join("sub.yml")).unwrap();
    let config = LocalConfig::load(Some(dir.path()), &env(&[])).unwrap();
    assert_eq!(config.name.as_str(), "node2");
    assert!(matches!(config.store, StoreConfig::Etcd3(_)), "a null in a later file removes the section");
    assert_eq!(config.postgresql.settings.common.pg_hba.as_deref(), Some(&["b".to_owned(), "c".to_owned()][..]));
    assert!(config.source_of("name").unwrap().to_string().ends_with("20-local.yaml:1:7"));
}
