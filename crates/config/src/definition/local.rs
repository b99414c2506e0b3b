//! The file of a member (`spec/config.md §4`), but for its stores and its PostgreSQL.

use super::kind::{Kind, Others, Word};
use super::{DYNAMIC, Key, key, postgresql, stores};
use crate::options;

const ANY_SIZE: i64 = u32::MAX as i64;

pub(crate) const ROOT: &[Key] = &[
    key("scope", Kind::Text, "Name of the cluster; PostgreSQL's `cluster_name`")
        .required("the name of the cluster")
        .agent_restart()
        .variable(),
    key("name", Kind::Text, "Name of this member, different from every other in the cluster")
        .required_by_reader()
        .agent_restart()
        .variable(),
    key("namespace", Kind::Text, "Prefix of the cluster's keys in the store").is("service").agent_restart().variable(),
    key("restapi", Kind::Map(RESTAPI, Others::Unknown), "The REST API of this member")
        .required("a section with at least `listen`, the host:port of the REST API"),
    key("ctl", Kind::Map(CTL, Others::Unknown), "How this member and the commands call the REST API of members"),
    stores::STORES[0],
    stores::STORES[1],
    stores::STORES[2],
    stores::STORES[3],
    key(
        "bootstrap",
        Kind::Map(BOOTSTRAP, Others::BootstrapMethods),
        "How a new cluster is made; a member without this section never initialises one",
    )
    .once(),
    key(
        "postgresql",
        Kind::Map(postgresql::POSTGRESQL, Others::ReplicaMethods),
        "The PostgreSQL server of this member",
    )
    .required("a section with at least listen, data_dir and authentication"),
    key(
        "fence",
        Kind::WordOrMap(MODES, FENCE),
        "Whether a member leads only while its fence works: a process that ends PostgreSQL when the agent cannot",
    )
    .is("required")
    .variable()
    .ours(),
    key("watchdog", Kind::Map(WATCHDOG, Others::Unknown), "The watchdog of the machine"),
    key("log", Kind::Map(LOG, Others::Unknown), "The log of the agent"),
    key("recorder", Kind::Map(RECORDER, Others::Unknown), "The journal of decisions").agent_restart().ours(),
    key("loss", Kind::Map(LOSS, Others::Unknown), "What is kept of log that only one member had").ours(),
    key(
        "tags",
        Kind::Map(TAGS, Others::Welcome),
        "What is particular about this member; any other tag is published as it is",
    ),
    key("thread_pool_size", Kind::Int { min: i64::MIN, max: i64::MAX, what: "a whole number" }, "Threads of a pool")
        .moot("work is not done by a pool of that kind")
        .variable(),
    key("thread_stack_size", Kind::Text, "Memory of a thread's stack")
        .moot("threads are few and have the stack they need")
        .variable(),
];

const AUTHENTICATION_OF_API: &[Key] = &[
    key("username", Kind::Text, "User name; needs `password`").named("RESTAPI_USERNAME"),
    key("password", Kind::Secret, "Password; needs `username`").named("RESTAPI_PASSWORD"),
];

const AUTHENTICATION_OF_CTL: &[Key] = &[
    key("username", Kind::Text, "User name; needs `password`").named("CTL_USERNAME"),
    key("password", Kind::Secret, "Password; needs `username`").named("CTL_PASSWORD"),
];

const VERIFY_CLIENT: &[Word] = &[("none", &[]), ("optional", &[]), ("required", &[])];
const TOKENS: &[Word] = &[("original", &[]), ("productonly", &[]), ("minimal", &[])];
const POOL: &str = "connections are not served by a pool of threads";

const RESTAPI: &[Key] = &[
    key("listen", Kind::Address { port: None }, "Where the REST API listens")
        .required("host:port of the REST API, for example 0.0.0.0:8008")
        .variable(),
    key("connect_address", Kind::Address { port: Some(8008) }, "Where others reach it; never `*` or `0.0.0.0`")
        .otherwise("`listen`")
        .variable(),
    key(
        "authentication",
        Kind::Map(AUTHENTICATION_OF_API, Others::Unknown),
        "Asked for by requests that change something",
    ),
    key("certfile", Kind::Path, "Certificate; turns https on").variable(),
    key("keyfile", Kind::Path, "Key of the certificate").otherwise("in `certfile`").variable(),
    key("keyfile_password", Kind::Secret, "Password of the key; encrypted keys are refused").variable(),
    key("cafile", Kind::Path, "Authorities that client certificates are checked with").variable(),
    key("ciphers", Kind::Text, "TLS cipher suites")
        .never("the TLS library offers only suites that are considered safe")
        .variable(),
    key(
        "verify_client",
        Kind::Word(VERIFY_CLIENT),
        "Client certificates: `optional` for requests that change something, `required` for all",
    )
    .is("none")
    .variable(),
    key("allowlist", Kind::TextsOrCsv, "Hosts, addresses and CIDR ranges that may send requests that change something")
        .variable(),
    key("allowlist_include_members", Kind::Bool, "The members may as well").is("false").variable(),
    key(
        "allow_unauthenticated",
        Kind::Bool,
        "Requests that change something are taken from every machine although nothing says who asks",
    )
    .is("false")
    .variable()
    .ours(),
    key("http_extra_headers", Kind::Settings, "Headers of every answer").variable(),
    key("https_extra_headers", Kind::Settings, "Headers of every answer over https, over those").variable(),
    key("server_tokens", Kind::Word(TOKENS), "The `Server` header: whole, name only, or least")
        .is("original")
        .variable(),
    key(
        "request_queue_size",
        Kind::Int { min: 0, max: 4096, what: "a number from 0 to 4096" },
        "Connections that wait",
    )
    .moot(POOL)
    .variable(),
    key("thread_pool_size", Kind::Int { min: i64::MIN, max: i64::MAX, what: "a whole number" }, "Threads").moot(POOL),
];

const CTL: &[Key] = &[
    key("authentication", Kind::Map(AUTHENTICATION_OF_CTL, Others::Unknown), "Sent with requests")
        .otherwise("`restapi.authentication`"),
    key("insecure", Kind::Bool, "Certificates of members are not checked").is("false").variable(),
    key("cacert", Kind::Path, "Authorities that certificates of members are checked with")
        .otherwise("`restapi.cafile`")
        .variable(),
    key("certfile", Kind::Path, "Client certificate").variable(),
    key("keyfile", Kind::Path, "Its key; needs `certfile`").variable(),
    key("keyfile_password", Kind::Secret, "Password of the key; encrypted keys are refused").variable(),
];

const BOOTSTRAP: &[Key] = &[
    key("dcs", Kind::Map(DYNAMIC, Others::Unknown), "The dynamic configuration of a new cluster").once(),
    key("method", Kind::Text, "Another way than `initdb`: the name of a section here with a `command`")
        .is("initdb")
        .once(),
    key("initdb", Kind::Options(&options::INITDB), "Options of `initdb`").once(),
    key("pg_hba", Kind::Texts, "Lines added to `pg_hba.conf` of a new cluster").once(),
    key("post_bootstrap", Kind::Command, "Run once in a new cluster, with a connection string as its last argument")
        .once(),
    key("post_init", Kind::Command, "Older name of `post_bootstrap`").once().older(),
    key("users", Kind::Free, "Users to create")
        .never("no users are created from this section any more; create them with post_bootstrap")
        .older(),
];

/// Of the section of a bootstrap method; other keys are handed to its command.
pub(crate) const BOOTSTRAP_METHOD: &[Key] = &[
    key("command", Kind::Command, "What to run").required_by_reader().once(),
    key("no_params", Kind::Bool, "Without the arguments `--scope` and `--datadir`").is("false").once(),
    key("keep_existing_recovery_conf", Kind::Bool, "The recovery settings that the command leaves behind count")
        .is("false")
        .once(),
    key("recovery_conf", Kind::Settings, "Recovery settings of the first start").once(),
    key("scope", Kind::Text, "Always the cluster's").older(),
    key("datadir", Kind::Text, "Always the member's").older(),
];

pub(crate) const MODES: &[Word] =
    &[("off", &["disable", "disabled", "false", "no"]), ("automatic", &["auto"]), ("required", &["require"])];
const DRIVERS: &[Word] = &[("default", &[]), ("testing", &[])];

const FENCE: &[Key] = &[key("mode", Kind::Word(MODES), "The same").is("required")];

const WATCHDOG: &[Key] = &[
    key(
        "mode",
        Kind::Word(MODES),
        "Whether the watchdog is used, if there is one, or has to be there for a member to lead",
    )
    .is("automatic"),
    key("device", Kind::Path, "Its device").is("/dev/watchdog"),
    key(
        "safety_margin",
        Kind::Int { min: -1, max: ANY_SIZE, what: "a whole number of seconds, or -1 for half of ttl" },
        "It fires so many seconds before the lead ends; -1 is half of `ttl`",
    )
    .otherwise("`5`, or a quarter of a `ttl` that is shorter than 20"),
    key("driver", Kind::Word(DRIVERS), "`testing`: a file in place of the device").is("default"),
];

pub(crate) const LEVELS: &[Word] =
    &[("debug", &[]), ("info", &[]), ("warning", &["warn"]), ("error", &[]), ("critical", &["fatal"])];
const TRACEBACK_LEVELS: &[Word] = &[("error", &[]), ("debug", &[])];
const TYPES: &[Word] = &[("plain", &[]), ("json", &[])];

const LOG: &[Key] = &[
    key("type", Kind::Word(TYPES), "Lines for people or for programs").is("plain").variable(),
    key("level", Kind::Word(LEVELS), "The least level that is written").is("info").variable(),
    key("traceback_level", Kind::Word(TRACEBACK_LEVELS), "At which level the causes of an error are written")
        .is("error")
        .variable(),
    key(
        "format",
        Kind::LogFormat,
        "Python's template, or with `type: json` a list of fields, each with another name if wanted",
    )
    .is("%(asctime)s %(levelname)s: %(message)s")
    .variable(),
    key("dateformat", Kind::Text, "`strftime` format of the time").otherwise("`2026-10-01 12:00:00,000`").variable(),
    key("static_fields", Kind::Free, "Fields added to every line of `type: json`").variable(),
    key(
        "max_queue_size",
        Kind::Int { min: 1, max: ANY_SIZE, what: "a number of records, at least 1" },
        "Lines that wait to be written; more are dropped and counted",
    )
    .is("1000")
    .variable(),
    key("dir", Kind::Path, "Directory of `patroni.log`").otherwise("standard error").variable(),
    key(
        "mode",
        Kind::Int { min: 0, max: 0o777, what: "permission bits from 0 to 0777 (a leading 0 makes the number octal)" },
        "Permission bits of the file",
    )
    .otherwise("0666 less the umask")
    .variable(),
    key(
        "file_num",
        Kind::Int { min: 0, max: ANY_SIZE, what: "a number of files, 0 or more" },
        "Rotated files that are kept",
    )
    .is("4")
    .variable(),
    key(
        "file_size",
        Kind::Int { min: 1, max: i64::MAX, what: "a number of bytes, at least 1" },
        "Bytes at which the file is rotated",
    )
    .is("25000000")
    .variable(),
    key("loggers", Kind::Words(LEVELS), "Levels of parts of the program").variable(),
    key("deduplicate_heartbeat_logs", Kind::Bool, "A line of a round in which nothing happened is not repeated")
        .is("false")
        .variable(),
];

const RECORDER: &[Key] = &[
    key("enabled", Kind::Bool, "Whether the journal is kept").is("true").agent_restart().ours(),
    key("directory", Kind::Path, "Where; not inside of the data directory")
        .otherwise("`<data_dir>.surus.journal`")
        .agent_restart()
        .ours(),
    key(
        "max_size",
        Kind::Size { least: 1 << 20, what: "a size of at least 1MB, such as 16MB" },
        "All files together never take more",
    )
    .is("16MB")
    .agent_restart()
    .ours(),
];

const LOSS: &[Key] = &[
    key("directory", Kind::Path, "Where receipts go; not inside of the data directory")
        .otherwise("`<data_dir>.surus.loss`")
        .agent_restart()
        .ours(),
    key(
        "keep_wal",
        Kind::Size { least: 0, what: "a size, such as 1GB, or 0 to keep none" },
        "Log that is kept with receipts that are not acknowledged",
    )
    .is("1GB")
    .ours(),
];

const PRIORITY: Kind = Kind::Int { min: i32::MIN as i64, max: i32::MAX as i64, what: "a whole number" };

const TAGS: &[Key] = &[
    key("nofailover", Kind::Switch, "Never leads").is("false"),
    key("failover_priority", PRIORITY, "Of two that are as far the higher one leads; 0 never leads").is("1"),
    key("nosync", Kind::Switch, "Is never a synchronous standby").is("false"),
    key("sync_priority", PRIORITY, "Of two that are as far the higher one is synchronous; 0 never").is("1"),
    key("noloadbalance", Kind::Switch, "`GET /replica` answers 503").is("false"),
    key("clonefrom", Kind::Switch, "New members are copied from this one, if it runs").is("false"),
    key("replicatefrom", Kind::Text, "Name of the member to replicate from"),
    key("nostream", Kind::Bool, "Replicates from the archive only").is("false"),
];
