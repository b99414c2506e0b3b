//! `postgresql`, in the file and in the stored document (`spec/config.md §4.8`, `§6.5`).

use super::kind::{Kind, Others};
use super::{Key, key};
use crate::options;

pub(crate) const POSTGRESQL: &[Key] = &[
    key("listen", Kind::Listen, "Where PostgreSQL listens: `host[,host...]:port`, or `*:port`")
        .required("host:port for PostgreSQL to listen on, such as 0.0.0.0:5432")
        .file_only()
        .variable(),
    key("connect_address", Kind::Address { port: Some(5432) }, "Where others reach it")
        .otherwise("from `listen`, unless that is `*` or `0.0.0.0`")
        .file_only()
        .variable(),
    key("proxy_address", Kind::Address { port: Some(5432) }, "Published as `proxy_url`").file_only().variable(),
    key("data_dir", Kind::Path, "The data directory")
        .required("the path of the data directory")
        .file_only()
        .agent_restart()
        .variable(),
    key("config_dir", Kind::Path, "Where `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` are")
        .otherwise("`data_dir`")
        .file_only()
        .agent_restart()
        .variable(),
    key("pgpass", Kind::Path, "Password file that the agent writes")
        .otherwise("`~/pgpass` of the user PostgreSQL runs as")
        .file_only()
        .variable(),
    key("authentication", Kind::Map(AUTHENTICATION, Others::Unknown), "Users that Surus and standbys connect as")
        .file_only()
        .required_by_reader(),
    key("bin_dir", Kind::Path, "Directory of PostgreSQL's programs")
        .otherwise("PATH, else the version of the data directory, else the newest, below `/usr/lib/postgresql`")
        .variable(),
    key("bin_name", Kind::Map(BIN_NAMES, Others::Unknown), "Other names of those programs"),
    key("database", Kind::Text, "Database of the agent's own connections").is("postgres"),
    key("config_base_name", Kind::Text, "Name of the configuration file, less `.conf`")
        .is("postgresql")
        .never("the file is always postgresql.conf; include yours from there with custom_conf"),
    key("custom_conf", Kind::Path, "File included in place of `postgresql.base.conf`"),
    key("parameters", Kind::Settings, "Server parameters of all roles"),
    key("parameters_primary", Kind::Settings, "Of a primary, over those"),
    key("parameters_replica", Kind::Settings, "Of a replica, over those"),
    key("parameters_standby_leader", Kind::Settings, "Of the leader of a standby cluster, over those"),
    key("pg_hba", Kind::Texts, "Lines of `pg_hba.conf`").otherwise("the file is left alone"),
    key("pg_hba_primary", Kind::Texts, "Of a primary, in place of those"),
    key("pg_hba_replica", Kind::Texts, "Of a replica, in place of those"),
    key("pg_hba_standby_leader", Kind::Texts, "Of the leader of a standby cluster, in place of those"),
    key("pg_ident", Kind::Texts, "Lines of `pg_ident.conf`").otherwise("the file is left alone"),
    key("pg_ident_primary", Kind::Texts, "Of a primary, in place of those"),
    key("pg_ident_replica", Kind::Texts, "Of a replica, in place of those"),
    key("pg_ident_standby_leader", Kind::Texts, "Of the leader of a standby cluster, in place of those"),
    key("recovery_conf", Kind::Settings, "Recovery settings of a standby"),
    key("callbacks", Kind::Map(CALLBACKS, Others::Unknown), "Commands that are told of events and not waited for"),
    key("pre_promote", Kind::Command, "Runs before a promotion, which its failure prevents"),
    key("before_stop", Kind::Command, "Runs before an orderly stop"),
    key(
        "create_replica_methods",
        Kind::TextsOrCsv,
        "How a replica is made, tried in this order; each may have a section of its name",
    )
    .is("[basebackup]"),
    key("create_replica_method", Kind::TextsOrCsv, "Older name of `create_replica_methods`").older(),
    key("basebackup", Kind::Options(&options::BASEBACKUP), "Options of `pg_basebackup`"),
    key("rewind", Kind::Options(&options::REWIND), "Options of `pg_rewind`"),
    key("use_pg_rewind", Kind::Bool, "A former primary that forked is rewound instead of copied anew").is("false"),
    key("remove_data_directory_on_rewind_failure", Kind::Bool, "It is copied anew if that fails").is("false"),
    key("remove_data_directory_on_diverged_timelines", Kind::Bool, "It is copied anew at once").is("false"),
    key("use_slots", Kind::Bool, "Members replicate through slots").is("true").stored_only(),
    key("pg_ctl_timeout", Kind::Seconds, "How long a start, a stop or a handover may take before it counts as stuck")
        .is("60"),
    key("use_unix_socket", Kind::Bool, "The agent connects by the Unix socket").is("false"),
    key("use_unix_socket_repl", Kind::Bool, "Local replication connections use it as well")
        .is("false")
        .moot("a local replication connection takes whichever way works"),
    key("krbsrvname", Kind::Text, "Kerberos service name of the servers"),
    // Read before there was a map of users.
    key("name", Kind::Text, "Older place of `name`").file_only().older(),
    key("superuser", Kind::Map(SUPERUSER, Others::Unknown), "Older place of `authentication.superuser`")
        .file_only()
        .older(),
    key("replication", Kind::Map(REPLICATION, Others::Unknown), "Older place of `authentication.replication`")
        .file_only()
        .older(),
    key("pg_rewind", Kind::Map(REWIND, Others::Unknown), "Older place of `authentication.rewind`").file_only().older(),
];

const AUTHENTICATION: &[Key] = &[
    key("superuser", Kind::Map(SUPERUSER, Others::Unknown), "What the agent does in the server"),
    key("replication", Kind::Map(REPLICATION, Others::Unknown), "What standbys replicate as").required_by_reader(),
    key("rewind", Kind::Map(REWIND, Others::Unknown), "What `pg_rewind` connects as").otherwise("`superuser`"),
];

/// The keys of one user, by the prefix of their variables.
macro_rules! credentials {
    ($name:ident, $user:literal, $username:expr) => {
        const $name: &[Key] = &[
            $username.named(concat!($user, "_USERNAME")),
            key("password", Kind::Secret, "Password").named(concat!($user, "_PASSWORD")),
            key("sslmode", Kind::Text, "As in libpq").named(concat!($user, "_SSLMODE")),
            key("sslcert", Kind::Text, "Client certificate").named(concat!($user, "_SSLCERT")),
            key("sslkey", Kind::Text, "Its key").named(concat!($user, "_SSLKEY")),
            key("sslpassword", Kind::Secret, "Password of the key (PostgreSQL 13)")
                .named(concat!($user, "_SSLPASSWORD")),
            key("sslrootcert", Kind::Text, "Authorities").named(concat!($user, "_SSLROOTCERT")),
            key("sslcrl", Kind::Text, "Revoked certificates").named(concat!($user, "_SSLCRL")),
            key("sslcrldir", Kind::Text, "Directory of those (PostgreSQL 14)").named(concat!($user, "_SSLCRLDIR")),
            key("gssencmode", Kind::Text, "As in libpq (PostgreSQL 12)").named(concat!($user, "_GSSENCMODE")),
            key("channel_binding", Kind::Text, "As in libpq (PostgreSQL 13)").named(concat!($user, "_CHANNEL_BINDING")),
            key("sslnegotiation", Kind::Text, "As in libpq (PostgreSQL 17)").named(concat!($user, "_SSLNEGOTIATION")),
        ];
    };
}

credentials!(
    SUPERUSER,
    "SUPERUSER",
    key("username", Kind::Text, "User").otherwise("the operating system's user that Surus runs as")
);
credentials!(REPLICATION, "REPLICATION", key("username", Kind::Text, "User").required_by_reader());
credentials!(REWIND, "REWIND", key("username", Kind::Text, "User"));

pub(crate) const BIN_NAMES: &[Key] = &[
    key("pg_ctl", Kind::Text, "Name of `pg_ctl`").named("POSTGRESQL_BIN_PG_CTL"),
    key("initdb", Kind::Text, "Name of `initdb`").named("POSTGRESQL_BIN_INITDB"),
    key("pg_controldata", Kind::Text, "Name of `pg_controldata`").named("POSTGRESQL_BIN_PG_CONTROLDATA"),
    key("pg_basebackup", Kind::Text, "Name of `pg_basebackup`").named("POSTGRESQL_BIN_PG_BASEBACKUP"),
    key("postgres", Kind::Text, "Name of `postgres`").named("POSTGRESQL_BIN_POSTGRES"),
    key("pg_isready", Kind::Text, "Name of `pg_isready`").moot("it is not run").named("POSTGRESQL_BIN_PG_ISREADY"),
    key("pg_rewind", Kind::Text, "Name of `pg_rewind`").named("POSTGRESQL_BIN_PG_REWIND"),
    key("pg_waldump", Kind::Text, "Name of `pg_waldump`"),
];

pub(crate) const CALLBACKS: &[Key] = &[
    key("on_start", Kind::Command, "The server was started"),
    key("on_stop", Kind::Command, "It was stopped"),
    key("on_restart", Kind::Command, "It was restarted"),
    key("on_reload", Kind::Command, "Its configuration was reloaded because a file changed"),
    key("on_role_change", Kind::Command, "It was promoted or demoted"),
];

/// Of the section of a replica creation method; other keys are handed to its command.
pub(crate) const METHOD: &[Key] = &[
    key("command", Kind::Command, "What to run").otherwise("the name of the method"),
    key("no_params", Kind::Bool, "Without the arguments that say where to and from").is("false"),
    key("no_leader", Kind::Bool, "Needs no running member to copy from").is("false"),
    key("keep_data", Kind::Bool, "The data directory is not emptied before").is("false"),
];
