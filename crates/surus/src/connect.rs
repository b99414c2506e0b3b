//! From a configuration to an open store and a client for members. The only place that knows which
//! store adapters there are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use surus_agent::stores;
use surus_api::{Client, ClientOptions, Credentials};
use surus_config::{
    ClientConfig, ConsulConfig, ConsulService, Ctl, Etcd3Config, HostPort, RaftConfig, StoreConfig, ZooKeeperConfig,
};
use surus_store::{Kv, StoreError};
use surus_store_consul::ConsulStore;
use surus_store_etcd::{EtcdOptions, EtcdStore};
use surus_store_raft::{RaftClient, TlsOptions};
use surus_store_zookeeper::ZooKeeperStore;

use crate::failure::{Failure, OrFail, Outcome, failed};

/// How long a command waits for one answer of the store.
pub const STORE_DEADLINE: Duration = Duration::from_secs(5);

pub async fn open_store(config: &StoreConfig) -> Outcome<Arc<dyn Kv>> {
    match config {
        StoreConfig::Raft(raft) => Ok(Arc::new(raft_client(raft).await?)),
        StoreConfig::Etcd3(etcd) => {
            let options = stores::etcd_options(etcd, false).await.or_fail()?;
            // Asking for other endpoints pays for a process that stays; a command is told enough of them.
            let options = EtcdOptions { discover_members: false, ..options };
            Ok(Arc::new(EtcdStore::connect(options).or_fail()?))
        }
        StoreConfig::Consul(consul) => {
            let options = stores::consul::options(consul, "surus").or_fail()?;
            Ok(Arc::new(ConsulStore::connect(options).or_fail()?))
        }
        StoreConfig::ZooKeeper(zookeeper) => {
            let options = stores::zookeeper_options(zookeeper).or_fail()?;
            Ok(Arc::new(ZooKeeperStore::connect(&options).or_fail()?))
        }
    }
}

pub async fn raft_client(config: &RaftConfig) -> Outcome<RaftClient> {
    let password = config.password.as_ref().map(|p| p.expose().to_owned());
    let tls = config.tls.as_ref().map(|tls| TlsOptions {
        certfile: tls.certfile.clone(),
        keyfile: tls.keyfile.clone(),
        cafile: tls.cafile.clone(),
    });
    RaftClient::connect(&raft_addresses(config), password, tls).await.or_fail()
}

fn raft_addresses(config: &RaftConfig) -> Vec<String> {
    config.self_addr.iter().chain(&config.partner_addrs).map(ToString::to_string).collect()
}

pub fn api_client(ctl: &Ctl, insecure: bool) -> Outcome<Client> {
    if ctl.keyfile_password.is_some() && ctl.certfile.is_some() {
        return failed(
            "ctl.keyfile_password: encrypted private keys are not supported; decrypt the key with `openssl pkey`, protect the file by its mode, and remove the password",
        );
    }
    Client::new(&ClientOptions {
        authentication: ctl
            .authentication
            .as_ref()
            .map(|auth| Credentials { username: auth.username.clone(), password: auth.password.expose().to_owned() }),
        insecure: insecure || ctl.insecure,
        cacert: ctl.cacert.clone(),
        certfile: ctl.certfile.clone(),
        keyfile: ctl.keyfile.clone(),
    })
    .or_fail()
}

/// What a client needs of the section when there is no section.
fn unconfigured_raft() -> RaftConfig {
    RaftConfig {
        self_addr: None,
        bind_addr: None,
        partner_addrs: Vec::new(),
        data_dir: Path::new(".").to_owned(),
        password: None,
        tls: None,
    }
}

fn unconfigured_zookeeper() -> ZooKeeperConfig {
    ZooKeeperConfig {
        hosts: Vec::new(),
        use_ssl: false,
        cacert: None,
        cert: None,
        key: None,
        verify: true,
        auth_data: Vec::new(),
        set_acls: Vec::new(),
    }
}

/// The store's complaint, with what to do about it.
pub fn store_failure(config: &StoreConfig, error: &StoreError) -> Failure {
    let advice = match (config, error) {
        (StoreConfig::Raft(raft), e) if e.is_inaccessible() => format!(
            ". The embedded store lives in the agents: none answered at {}, or too few of them run to agree. Start them, or check raft.self_addr, raft.partner_addrs and raft.password",
            raft_addresses(raft).join(", ")
        ),
        (StoreConfig::Etcd3(etcd), e) if e.is_inaccessible() => {
            format!(". Check that etcd runs at {} and can be reached from here", etcd.endpoints.join(", "))
        }
        (StoreConfig::Consul(consul), e) if e.is_inaccessible() => format!(
            ". Check that a Consul agent runs at {}, can be reached from here, and that Consul has a leader",
            consul.endpoints.join(", ")
        ),
        (StoreConfig::ZooKeeper(zookeeper), e) if e.is_inaccessible() => {
            format!(". Check that ZooKeeper runs at {} and has a quorum", zookeeper.hosts.join(", "))
        }
        _ => String::new(),
    };
    Failure::Message(format!("{error}{advice}"))
}

/// `[SCHEME://][HOST][:PORT][/NAMESPACE]` in place of the configured store (`spec/cli.md §1.2`).
pub fn apply_dcs_url(config: &mut ClientConfig, url: &str) -> Outcome {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (address, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let port = port.map(|p| p.parse::<u16>().or_fail_with(format!("\"{p}\" in the DCS URL is no port"))).transpose()?;
    let host = if host.is_empty() { "localhost" } else { host };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let scheme = match (scheme, port) {
        ("", Some(8500)) => "consul",
        ("", Some(2181)) => "zookeeper",
        ("", Some(8181)) => "exhibitor",
        ("", _) => "etcd3",
        (scheme, _) => scheme,
    };
    config.store = Some(match scheme {
        "etcd3" => {
            let address = HostPort { host, port: port.unwrap_or(2379) };
            StoreConfig::Etcd3(Etcd3Config {
                endpoints: vec![format!("http://{address}")],
                srv: None,
                srv_suffix: None,
                protocol: "http".to_owned(),
                use_proxies: false,
                username: None,
                password: None,
                cacert: None,
                cert: None,
                key: None,
            })
        }
        "raft" => {
            let Some(port) = port else { return failed("the DCS URL needs a port: raft://host:port") };
            // Secret and certificates stay those of the configuration: an address alone opens nothing.
            let mut raft = match config.store.take() {
                Some(StoreConfig::Raft(raft)) => raft,
                _ => unconfigured_raft(),
            };
            raft.self_addr = Some(HostPort { host, port });
            raft.partner_addrs.clear();
            StoreConfig::Raft(raft)
        }
        "etcd" => {
            return failed(
                "the v2 interface of etcd is not supported; use etcd3:// if the members use the etcd3 section",
            );
        }
        "consul" => {
            let address = HostPort { host, port: port.unwrap_or(8500) };
            // As above: the token and the certificates stay those of the configuration.
            if let Some(StoreConfig::Consul(mut consul)) = config.store.take() {
                let tls = consul.endpoints.iter().any(|url| url.starts_with("https:"));
                consul.endpoints = vec![format!("{}://{address}", if tls { "https" } else { "http" })];
                config.store = Some(StoreConfig::Consul(consul));
                return namespace(config, path);
            }
            StoreConfig::Consul(ConsulConfig {
                endpoints: vec![format!("http://{address}")],
                token: None,
                verify: true,
                cacert: None,
                cert: None,
                key: None,
                dc: None,
                consistency: "consistent".to_owned(),
                checks: Vec::new(),
                service: ConsulService::default(),
            })
        }
        "zookeeper" => {
            let address = HostPort { host, port: port.unwrap_or(2181) }.to_string();
            // Credentials and certificates stay those of the configuration.
            let configured = match config.store.take() {
                Some(StoreConfig::ZooKeeper(zookeeper)) => zookeeper,
                _ => unconfigured_zookeeper(),
            };
            StoreConfig::ZooKeeper(ZooKeeperConfig { hosts: vec![address], ..configured })
        }
        "exhibitor" => {
            return failed("Exhibitor is not supported; give the address of a ZooKeeper server: zookeeper://host:2181");
        }
        other => return failed(format!("Unknown dcs scheme: {other}")),
    });
    namespace(config, path)
}

fn namespace(config: &mut ClientConfig, path: &str) -> Outcome {
    if path.len() > 1 {
        config.namespace = path.to_owned();
    }
    Ok(())
}
