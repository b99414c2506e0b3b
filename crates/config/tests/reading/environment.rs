//! Variables over the file, and instead of it.

use surus_config::{LocalConfig, LogFormat, LogLevel, StoreConfig};

use crate::support::{MINIMAL, env, load_with};

#[test]
fn variables_win_over_the_file_and_surus_over_patroni() {
    let config = load_with(
        MINIMAL,
        &[
            ("PATRONI_NAME", "from-patroni"),
            ("SURUS_NAME", "from-surus"),
            ("PATRONI_SCOPE", "other"),
            ("SURUS_SCOPE", ""),
            ("PATRONI_NAMESPACE", ""),
            ("PATRONI_SUPERUSER_PASSWORD", "secret"),
            ("PATRONI_POSTGRESQL_BIN_PG_CTL", "pg_ctl15"),
            ("PATRONI_RESTAPI_ALLOWLIST", "10.0.0.1, 10.0.0.2"),
            ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "X-A: b, X-C: d"),
            ("PATRONI_LOG_MODE", "0640"),
            ("PATRONI_LOGLEVEL", "ERROR"),
            ("PATRONI_LOG_LEVEL", "DEBUG"),
            ("PATRONI_LOG_FORMAT", "%(message)s"),
            ("PATRONI_CTL_INSECURE", "on"),
            ("PATRONI_RAFT_PARTNER_ADDRS", "'127.0.0.1:2', '127.0.0.1:3'"),
        ],
    )
    .unwrap();
    assert_eq!(
        (config.name.as_str(), config.scope.as_str(), config.namespace.as_str()),
        ("from-surus", "other", "service")
    );
    let superuser = &config.postgresql.authentication.superuser;
    assert_eq!(superuser.username.as_deref(), Some("postgres"), "the file's other keys stay");
    assert_eq!(superuser.password.as_ref().map(|p| p.expose()), Some("secret"));
    assert_eq!(config.postgresql.settings.bin_name.as_ref().unwrap()["pg_ctl"], "pg_ctl15");
    assert_eq!(config.restapi.allowlist, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(config.restapi.http_extra_headers.len(), 2);
    assert_eq!((config.log.mode, config.log.level), (Some(0o640), LogLevel::Debug));
    assert_eq!(config.log.format, LogFormat::Template("%(message)s".to_owned()));
    assert!(config.ctl.insecure);
    let StoreConfig::Raft(raft) = &config.store else { panic!() };
    assert_eq!(raft.partner_addrs.len(), 2);
    assert_eq!(config.source_of("name").unwrap().to_string(), "environment variable SURUS_NAME");
    assert_eq!(config.warnings, vec![]);
}

#[test]
fn a_store_from_variables_alone() {
    let file = MINIMAL.replace("raft:\n  self_addr: 127.0.0.1:7001\n", "");
    let config =
        load_with(&file, &[("PATRONI_etcd3_HOSTS", "127.0.0.1:1,127.0.0.1:2"), ("PATRONI_ETCD3_USERNAME", "u")])
            .unwrap();
    let StoreConfig::Etcd3(etcd) = config.store else { panic!() };
    assert_eq!(etcd.endpoints, ["http://127.0.0.1:1", "http://127.0.0.1:2"]);
    assert_eq!(etcd.username.as_deref(), Some("u"));
    let variables = [
        ("PATRONI_ZOOKEEPER_HOSTS", "'127.0.0.1:1','127.0.0.1:2'"),
        ("PATRONI_ZOOKEEPER_USE_SSL", "true"),
        ("PATRONI_ZOOKEEPER_VERIFY", "false"),
        ("PATRONI_ZOOKEEPER_SET_ACLS", "{\"CN=pg\": [ALL]}"),
        ("PATRONI_ZOOKEEPER_AUTH_DATA", "digest: 'u:p'"),
    ];
    let StoreConfig::ZooKeeper(read) = load_with(&file, &variables).unwrap().store else { panic!() };
    assert_eq!(read.hosts, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert!(read.use_ssl && !read.verify);
    assert_eq!(read.set_acls, [("CN=pg".to_owned(), vec!["ALL".to_owned()])]);
    assert_eq!(read.auth_data[0].1.expose(), "u:p");
    let config = load_with(MINIMAL, &[("PATRONI_ETCD3_PASSWORD", "p")]).unwrap();
    assert!(matches!(config.store, StoreConfig::Raft(_)), "credentials alone do not choose a store");
}

#[test]
fn a_whole_configuration_in_one_variable_stands_alone() {
    let load = |pairs: &[(&str, &str)]| LocalConfig::load(None, &env(pairs));
    let config = load(&[("PATRONI_CONFIGURATION", MINIMAL), ("PATRONI_NAME", "ignored")]).unwrap();
    assert_eq!(config.name.as_str(), "node1");
    let message = load(&[("PATRONI_CONFIGURATION", "scope: [")]).unwrap_err().to_string();
    assert!(message.starts_with("environment variable PATRONI_CONFIGURATION: not valid YAML"), "{message}");
    let config = load_with(MINIMAL, &[("PATRONI_CONFIGURATION", "scope: x")]).unwrap();
    assert_eq!(config.scope, "demo", "a file makes it count for nothing");
}

#[test]
fn everything_from_single_variables() {
    let config = LocalConfig::load(
        None,
        &env(&[
            ("PATRONI_SCOPE", "demo"),
            ("PATRONI_NAME", "n"),
            ("PATRONI_RESTAPI_LISTEN", "127.0.0.1:8008"),
            ("PATRONI_POSTGRESQL_LISTEN", "127.0.0.1:5432"),
            ("PATRONI_POSTGRESQL_DATA_DIR", "/data"),
            ("PATRONI_REPLICATION_USERNAME", "r"),
            ("PATRONI_SUPERUSER_USERNAME", "s"),
            ("PATRONI_ETCD3_URL", "http://127.0.0.1:2379"),
        ]),
    )
    .unwrap();
    assert_eq!(config.postgresql.data_dir.to_str(), Some("/data"));
}

#[test]
fn variables_that_cannot_be_read() {
    let faults = load_with(
        MINIMAL,
        &[("PATRONI_CTL_INSECURE", "maybe"), ("SURUS_LOG_FILE_NUM", "many"), ("PATRONI_RAFT_PARTNER_ADDRS", "[secret")],
    )
    .unwrap_err();
    assert_eq!(
        faults.to_string(),
        "environment variable PATRONI_CTL_INSECURE: ctl.insecure: expected true or false\n\
         environment variable PATRONI_RAFT_PARTNER_ADDRS: raft.partner_addrs: expected a list: a, b, c\n\
         environment variable SURUS_LOG_FILE_NUM: log.file_num: expected a whole number"
    );
    let config = load_with(MINIMAL, &[("PATRONI_POSTGRESQL_LISTN", "x"), ("PATRONI_PORT_8008_TCP", "x")]).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["environment variable PATRONI_POSTGRESQL_LISTN: is not a known variable and is ignored; did you mean \
             PATRONI_POSTGRESQL_LISTEN?"]
    );
}
