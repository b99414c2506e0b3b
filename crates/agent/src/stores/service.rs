//! This member as a service in Consul (`spec/dcs.md §7`): what is registered follows from the member's own key.

use std::time::Duration;

use serde_json::{Value, json};
use surus_conduct::publish::Desired;
use surus_config::ConsulService;
use surus_core::cluster::{Member, MemberRole, MemberState};
use surus_store_consul::ConsulStore;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

const DEADLINE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The settings it rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub service: ConsulService,
    pub ttl: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Registered(Value),
    Gone,
    /// In between two states nothing is changed: Consul's own check tells what is the matter.
    AsItIs,
}

pub fn wanted(settings: &ConsulService, ttl: Duration, scope: &str, member: &Member) -> Wanted {
    if !settings.register || member.state == MemberState::Stopped {
        return Wanted::Gone;
    }
    let known = matches!(member.role, MemberRole::Primary | MemberRole::Replica | MemberRole::StandbyLeader);
    let (Some((host, port)), Some(api)) = (
        member.conn_url.as_deref().and_then(address),
        member.api_url.as_deref().and_then(|url| url.strip_suffix("/patroni")),
    ) else {
        return Wanted::AsItIs;
    };
    if member.state != MemberState::Running || !known {
        return Wanted::AsItIs;
    }
    let role = member.role.as_str().replace('_', "-");
    let mut tags = settings.tags.clone();
    tags.push(role.clone());
    if member.role == MemberRole::Primary {
        tags.push("master".to_owned());
    }
    let mut check = json!({
        "HTTP": format!("{api}/{role}"),
        "Interval": settings.check_interval,
        "DeregisterCriticalServiceAfter": format!("{}s", (ttl * 5).as_secs()),
    });
    if let Some(name) = &settings.check_tls_server_name {
        check["TLSServerName"] = json!(name);
    }
    Wanted::Registered(json!({
        "ID": id(scope, &member.name.0),
        "Name": name(scope),
        "Address": host,
        "Port": port,
        "Tags": tags,
        "EnableTagOverride": true,
        "Check": check,
    }))
}

pub fn id(scope: &str, member: &str) -> String {
    format!("{scope}/{member}")
}

/// A name that is good for DNS.
pub fn name(scope: &str) -> String {
    let mut name = String::new();
    for c in scope.to_lowercase().chars() {
        match c {
            '.' | '_' | ' ' => name.push('-'),
            'a'..='z' | '0'..='9' | '-' => name.push(c),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.chars().take(230).collect()
}

fn address(conn_url: &str) -> Option<(String, u16)> {
    let authority = conn_url.split_once("://")?.1.split('/').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse().ok()?))
}

/// Keeps the registration as it should be, until it is aborted.
pub async fn keep(
    store: ConsulStore,
    scope: String,
    mut member: watch::Receiver<Desired>,
    mut settings: watch::Receiver<Settings>,
) {
    let name = name(&scope);
    let mut access = store.access_exchanged();
    let mut done: Option<(Wanted, Settings, u64)> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let now = settings.borrow_and_update().clone();
        let exchanged = *access.borrow_and_update();
        let own = member.borrow_and_update().member.clone();
        let want = own.as_ref().map(|own| (wanted(&now.service, now.ttl, &scope, own), own.name.0.clone()));
        let mut again = None;
        match want {
            // Once it runs again it is registered anew: Consul may have removed it meanwhile.
            Some((Wanted::AsItIs, _)) => done = done.filter(|(was, ..)| *was == Wanted::Gone),
            // What was never registered by anybody is not to be asked about.
            Some((Wanted::Gone, _)) if done.is_none() && !now.service.register => {}
            Some((want, own)) if done.as_ref() != Some(&(want.clone(), now.clone(), exchanged)) => {
                match carry_out(&store, &name, &id(&scope, &own), &want).await {
                    Ok(()) => {
                        match &want {
                            Wanted::Registered(service) => {
                                info!("registered in Consul as service {name}, {}", service["Tags"])
                            }
                            _ => info!("deregistered from Consul as service {name}"),
                        }
                        done = Some((want, now, exchanged));
                        pause = FIRST_PAUSE;
                    }
                    Err(e) => {
                        warn!("the registration of this member in Consul is tried again in {} s: {e}", pause.as_secs());
                        again = Some(pause);
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
            _ => {}
        }
        let changed = tokio::select! {
            changed = member.changed(), if again.is_none() => changed,
            changed = settings.changed() => changed,
            changed = access.changed() => changed,
            () = sleep(again.unwrap_or_default()), if again.is_some() => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn carry_out(store: &ConsulStore, name: &str, id: &str, want: &Wanted) -> surus_store::StoreResult<()> {
    match want {
        Wanted::Registered(service) => store.register_service(name, service.to_string(), DEADLINE).await,
        _ => store.deregister_service(name, id, DEADLINE).await,
    }
}

/// When the agent ends. The check would find it gone, but only in a while.
pub async fn leave(store: &ConsulStore, scope: &str, member: &str) {
    if let Err(e) = store.deregister_service(&name(scope), &id(scope, member), Duration::from_secs(2)).await {
        debug!("still registered in Consul: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(role: MemberRole, state: MemberState) -> Member {
        Member {
            name: "node1".into(),
            role,
            state,
            conn_url: Some("postgres://[fe80::1]:5433/postgres".into()),
            api_url: Some("https://10.0.0.1:8008/patroni".into()),
            ..Member::default()
        }
    }

    fn on() -> ConsulService {
        ConsulService { register: true, tags: vec!["a".into(), "b".into()], ..ConsulService::default() }
    }

    const TTL: Duration = Duration::from_secs(30);

    #[test]
    fn what_is_registered() {
        let service =
            |role, settings: &ConsulService| match wanted(settings, TTL, "Demo", &member(role, MemberState::Running)) {
                Wanted::Registered(service) => service,
                other => panic!("{role:?}: {other:?}"),
            };
        assert_eq!(
            service(MemberRole::Primary, &on()),
            json!({
                "ID": "Demo/node1", "Name": "demo", "Address": "fe80::1", "Port": 5433,
                "Tags": ["a", "b", "primary", "master"], "EnableTagOverride": true,
                "Check": {
                    "HTTP": "https://10.0.0.1:8008/primary", "Interval": "5s", "DeregisterCriticalServiceAfter": "150s",
                },
            })
        );
        let standby = service(MemberRole::StandbyLeader, &on());
        assert_eq!(standby["Tags"], json!(["a", "b", "standby-leader"]));
        assert_eq!(standby["Check"]["HTTP"], "https://10.0.0.1:8008/standby-leader");
        let named = ConsulService { check_tls_server_name: Some("db".into()), check_interval: "1m".into(), ..on() };
        let replica = service(MemberRole::Replica, &named);
        assert_eq!((&replica["Check"]["TLSServerName"], &replica["Check"]["Interval"]), (&json!("db"), &json!("1m")));
    }

    #[test]
    fn when_it_is_not() {
        let off = ConsulService::default();
        for (settings, role, state, want) in [
            (&on(), MemberRole::Replica, MemberState::Stopped, Wanted::Gone),
            (&off, MemberRole::Primary, MemberState::Running, Wanted::Gone),
            (&on(), MemberRole::Replica, MemberState::Starting, Wanted::AsItIs),
            (&on(), MemberRole::Primary, MemberState::Stopping, Wanted::AsItIs),
            (&on(), MemberRole::Promoted, MemberState::Running, Wanted::AsItIs),
            (&on(), MemberRole::Demoted, MemberState::Running, Wanted::AsItIs),
            (&on(), MemberRole::Uninitialized, MemberState::Running, Wanted::AsItIs),
        ] {
            assert_eq!(wanted(settings, TTL, "demo", &member(role, state)), want, "{role:?} {state:?}");
        }
        let nowhere = Member { conn_url: None, ..member(MemberRole::Primary, MemberState::Running) };
        assert_eq!(wanted(&on(), TTL, "demo", &nowhere), Wanted::AsItIs);
    }

    #[test]
    fn names_are_good_for_dns() {
        for (scope, want) in [
            ("My_Cluster.1 x", "my-cluster-1-x"),
            ("a/b", "au0047b"),
            ("größe", "gru0246u0223e"),
            (&"x".repeat(300), &"x".repeat(230)),
        ] {
            assert_eq!(name(scope), want, "{scope}");
        }
    }
}
