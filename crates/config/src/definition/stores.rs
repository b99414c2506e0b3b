//! The sections that name a store (`spec/config.md §4.6`).

use super::kind::{Kind, Others, PORT, Word};
use super::{Key, consul, key};

pub(crate) const STORES: [Key; 4] = [
    consul::SECTION,
    key("etcd3", Kind::Map(ETCD3, Others::Unknown), "An etcd cluster, over its v3 interface").agent_restart(),
    key("raft", Kind::Map(RAFT, Others::Unknown), "The embedded store: every member is a voter").agent_restart(),
    key("zookeeper", Kind::Map(ZOOKEEPER, Others::Unknown), "A ZooKeeper ensemble, version 3.6 or newer")
        .agent_restart(),
];

const PROTOCOLS: &[Word] = &[("http", &[]), ("https", &[])];

const ETCD3: &[Key] = &[
    key("hosts", Kind::TextsOrCsv, "Servers, `host:port` each").agent_restart().variable(),
    key("host", Kind::Text, "One server").agent_restart().variable(),
    key("url", Kind::Text, "URL of one server; may have user and password").agent_restart().variable(),
    key("srv", Kind::Text, "Domain whose SRV records name the servers").agent_restart().variable(),
    key("srv_suffix", Kind::Text, "Suffix of the names of those records").agent_restart().variable(),
    key("proxy", Kind::Text, "URL of a proxy; implies `use_proxies`").agent_restart().variable(),
    key("use_proxies", Kind::Bool, "The servers named are proxies: others are not asked for")
        .is("false")
        .agent_restart()
        .variable(),
    key("port", PORT, "Port of servers that are named without one").is("2379").agent_restart().variable(),
    key("protocol", Kind::Word(PROTOCOLS), "How servers are spoken to that are named without it")
        .is("http")
        .agent_restart()
        .variable(),
    key("username", Kind::Text, "User of etcd").variable(),
    key("password", Kind::Secret, "Password of that user").variable(),
    key("cacert", Kind::Path, "Authorities that certificates of servers are checked with").variable(),
    key("cert", Kind::Path, "Client certificate").variable(),
    key("key", Kind::Path, "Its key").variable(),
    key("discovery_srv", Kind::Text, "Older name of `srv`").agent_restart().older(),
    key("srv_domain", Kind::Text, "Older name of `srv`").agent_restart().older(),
];

const ZOOKEEPER: &[Key] = &[
    key(
        "hosts",
        Kind::TextsOrCsv,
        "Servers, `host:port` each, port 2181 if left out; a path after the last one is put before every key",
    )
    .required_by_reader()
    .agent_restart()
    .variable(),
    key("use_ssl", Kind::Bool, "TLS; the ports are then those of `secureClientPort`")
        .is("false")
        .agent_restart()
        .variable(),
    key("cacert", Kind::Path, "Authorities that certificates of servers are checked with").agent_restart().variable(),
    key("cert", Kind::Path, "Client certificate; may hold the key as well").agent_restart().variable(),
    key("key", Kind::Path, "Its key").agent_restart().variable(),
    key("key_password", Kind::Secret, "Of an encrypted key").never(ENCRYPTED).variable(),
    key("verify", Kind::Bool, "Whether certificates of servers are checked").is("true").agent_restart().variable(),
    key("auth_data", Kind::Free, "Credential for each scheme, such as `digest: \"user:password\"`")
        .agent_restart()
        .variable(),
    key(
        "set_acls",
        Kind::Free,
        "Permissions for each principal, on every znode that is made: a list of `CREATE`, `READ`, `WRITE`, `DELETE`, \
         `ADMIN`, `ALL`. A principal is `scheme:id`; without a scheme it is the subject of a certificate (`x509`)",
    )
    .otherwise("everybody may do everything")
    .agent_restart()
    .variable(),
];

const ENCRYPTED: &str =
    "encrypted keys are refused: decrypt the key with `openssl pkey` and protect the file by its mode";

const RHYTHM: &str =
    "the times of the voters are built in, because voters that disagree about them are worse than any choice";

const RAFT: &[Key] = &[
    key("self_addr", Kind::Address { port: None }, "Where the other voters reach this one; its name among them")
        .required_by_reader()
        .agent_restart()
        .variable(),
    key("bind_addr", Kind::Address { port: None }, "Where it listens")
        .otherwise("`self_addr`")
        .agent_restart()
        .variable(),
    key("partner_addrs", Kind::Addresses, "The other voters; one's own address among them does no harm")
        .agent_restart()
        .variable(),
    key("data_dir", Kind::Path, "The durable log; each voter needs its own").is(".").agent_restart().variable(),
    key(
        "password",
        Kind::Secret,
        "The same for all voters; without it and without TLS whoever reaches the port is let in",
    )
    .agent_restart()
    .variable(),
    key("certfile", Kind::Path, "TLS between voters: certificate; all three or none").agent_restart().variable().ours(),
    key("keyfile", Kind::Path, "TLS between voters: key").agent_restart().variable().ours(),
    key("cafile", Kind::Path, "TLS between voters: authorities").agent_restart().variable().ours(),
    key("min_timeout", Kind::Seconds, "Least time without a leader before an election").never(RHYTHM).variable(),
    key("max_timeout", Kind::Seconds, "Longest time without a leader before an election").never(RHYTHM).variable(),
    key("connection_timeout", Kind::Seconds, "After which a silent connection is given up").never(RHYTHM).variable(),
    key("append_entries_period", Kind::Seconds, "Time between heartbeats").never(RHYTHM).variable(),
    key("connection_retry_time", Kind::Seconds, "Time between attempts to connect").never(RHYTHM).variable(),
    key("leader_fallback_timeout", Kind::Seconds, "After which a leader without followers steps down")
        .never(RHYTHM)
        .variable(),
];
