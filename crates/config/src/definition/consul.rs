//! The section `consul` (`spec/config.md §4.6`).

use super::kind::{Kind, Others, PORT, Word};
use super::{Key, key};

pub(crate) const SECTION: Key = key("consul", Kind::Map(CONSUL, Others::Unknown), "A Consul cluster").agent_restart();

const SCHEMES: &[Word] = &[("http", &[]), ("https", &[])];
const CONSISTENCIES: &[Word] = &[("default", &[]), ("consistent", &[]), ("stale", &[])];

const CONSUL: &[Key] = &[
    key("host", Kind::Text, "The agent that is asked, `host:port`").agent_restart().variable(),
    key("hosts", Kind::TextsOrCsv, "Several agents: if one does not answer, the next is asked")
        .agent_restart()
        .variable()
        .ours(),
    key("url", Kind::Text, "URL of the agent; instead of `host`, `port` and `scheme`").agent_restart().variable(),
    key("port", PORT, "Port of the agent; wins over one in `host`").otherwise("8500").agent_restart().variable(),
    key("scheme", Kind::Word(SCHEMES), "How agents are spoken to").is("http").agent_restart().variable(),
    key("token", Kind::Secret, "ACL token, sent as `X-Consul-Token`").variable(),
    key("verify", Kind::Bool, "Whether certificates of agents are checked").is("true").variable(),
    key("cacert", Kind::Path, "Authorities that they are checked with").variable(),
    key("cert", Kind::Path, "Client certificate").variable(),
    key("key", Kind::Path, "Its key; without it looked for in `cert`").variable(),
    key("dc", Kind::Text, "Datacenter that is asked, if not the agent's own").variable(),
    key(
        "consistency",
        Kind::Word(CONSISTENCIES),
        "How fresh what members are told of changes is; whatever is decided is read and written `consistent`",
    )
    .is("default")
    .variable(),
    key(
        "checks",
        Kind::TextsOrCsv,
        "Health checks of the agent's node that end this member's session when they fail, and its lead with it, at once",
    )
    .otherwise("none")
    .agent_restart()
    .variable(),
    key("register_service", Kind::Bool, "Registers this member as a service with the agent").is("false").variable(),
    key("service_tags", Kind::TextsOrCsv, "Tags of the service beside its role").variable(),
    key("service_check_interval", Kind::Text, "How often Consul checks the service, as Consul writes times")
        .is("5s")
        .variable(),
    key("service_check_tls_server_name", Kind::Text, "Name the certificate of the REST API is checked for").variable(),
];
