//! What only shows beside the cluster: values that are ignored because it is initialised, and members that differ.

use std::time::Duration;

use serde_json::Value;
use surus_api::MemberSettings;
use surus_config::{ClientConfig, DynamicConfig, Effective, Finding, LocalConfig, Place, Severity, Source};

use crate::commands::plan;
use crate::context::{Context, Reading};
use crate::failure::Outcome;

/// The cluster need not run yet: nobody is to wait long for that.
const LIMIT: Duration = Duration::from_secs(4);

/// `Err`: why nothing could be compared.
pub fn check(local: &LocalConfig, client: ClientConfig) -> Result<Vec<Finding>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("the runtime cannot be started: {e}"))?;
    let looked = runtime.block_on(async { tokio::time::timeout(LIMIT, look(client)).await });
    runtime.shutdown_background();
    let (reading, members) = match looked {
        Ok(Ok(found)) => found,
        Ok(Err(failure)) => return Err(failure.text().unwrap_or_default()),
        Err(_) => return Err(format!("the store did not answer within {} s", LIMIT.as_secs())),
    };
    let mut findings = Vec::new();
    same_name(local, &reading, &mut findings);
    limits(local, &members, &mut findings);
    if let Some(config) = &reading.view.config {
        ignored(local, &config.value, &mut findings);
        let dynamic = DynamicConfig::read(&config.value).0;
        drift(local, &dynamic, &members, &mut findings);
    }
    Ok(findings)
}

async fn look(client: ClientConfig) -> Outcome<(Reading, Vec<MemberSettings>)> {
    let context = Context::of(client, false).await?;
    let reading = context.cluster(None, None)?.read().await?;
    let members = plan::member_settings(&context, &reading).await;
    let members = members.into_iter().filter_map(|(_, settings)| settings.ok()).collect();
    Ok((reading, members))
}

fn warning(local: &LocalConfig, path: &str, message: String) -> Finding {
    let place = local.source_of(path).or_else(|| local.source_of("")).cloned();
    Finding {
        severity: Severity::Warning,
        place: place.unwrap_or_else(|| Place::of(Source::Default)),
        path: path.to_owned(),
        message,
    }
}

fn same_name(local: &LocalConfig, reading: &Reading, findings: &mut Vec<Finding>) {
    let Some(member) = reading.view.members.get(&local.name) else { return };
    let mine = local.restapi.api_url();
    if let Some(theirs) = member.api_url.as_deref().filter(|theirs| *theirs != mine) {
        let message = format!(
            "a member of this name is in the cluster already, at {theirs}, and this one would be at {mine}; if that is \
             another machine, choose another name"
        );
        findings.push(warning(local, "name", message));
    }
}

/// A standby whose limit is lower than its primary's stops replaying.
fn limits(local: &LocalConfig, members: &[MemberSettings], findings: &mut Vec<Finding>) {
    let value = |m: &MemberSettings, name: &str| -> Option<i64> {
        surus_config::parse_int(m.server.as_ref()?.get(name)?.value.as_deref()?)
    };
    let leads = |m: &&MemberSettings| matches!(m.role.as_str(), "primary" | "promoted" | "standby_leader");
    let Some(leader) = members.iter().find(leads) else { return };
    for name in plan::LIMITS {
        let Some(most) = value(leader, name) else { continue };
        for member in members.iter().filter(|m| !leads(m)) {
            if let Some(less) = value(member, name).filter(|less| *less < most) {
                let message = format!(
                    "{} runs with {name} {less} and the leader {} with {most}: a standby must not have less, and stops \
                     replaying when it matters; restart {}",
                    member.name, leader.name, member.name
                );
                findings.push(warning(local, "", message));
            }
        }
    }
}

/// `bootstrap.dcs` counted when the cluster was initialised.
fn ignored(local: &LocalConfig, stored: &Value, findings: &mut Vec<Finding>) {
    let Some(bootstrap) = &local.bootstrap else { return };
    differing(&bootstrap.dcs, Some(stored), "", &mut |path, now| {
        let now = now.map_or_else(|| "does not have it".to_owned(), |now| format!("has {now}"));
        let message = format!(
            "is ignored, because the cluster is initialised: its dynamic configuration {now}; change it there with `surus \
             edit-config -s {path}=...`"
        );
        findings.push(warning(local, &format!("bootstrap.dcs.{path}"), message));
    });
}

fn differing(written: &Value, stored: Option<&Value>, path: &str, visit: &mut impl FnMut(&str, Option<&Value>)) {
    match (written, stored) {
        (Value::Object(written), _) => {
            for (key, value) in written {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differing(value, stored.and_then(|s| s.get(key)), &below, visit);
            }
        }
        (Value::Null, None) => {}
        (written, Some(stored)) if surus_config::deep_equal(written, stored) => {}
        _ => visit(path, stored),
    }
}

/// Of one machine by nature.
const OWN: [&str; 6] =
    ["listen_addresses", "port", "cluster_name", "hba_file", "ident_file", "unix_socket_directories"];

fn drift(local: &LocalConfig, dynamic: &DynamicConfig, members: &[MemberSettings], findings: &mut Vec<Finding>) {
    let others = || members.iter().filter(|m| m.name != local.name.as_str());
    let version = others().find_map(|m| m.server_version);
    let effective = Effective::build(local, dynamic, version);
    let is_local = |place: &Place| matches!(place.source, Source::File(_) | Source::Environment(_));
    for (name, mine) in effective.file.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
        let place = effective.source_of(name);
        let own = place.is_some_and(is_local);
        let differs = |m: &&MemberSettings| {
            m.configured.get(name).is_some_and(|theirs| {
                (own || theirs.local) && theirs.value.as_ref().is_some_and(|value| !same(value, mine))
            })
        };
        let said: Vec<String> = others()
            .filter(differs)
            .filter_map(|m| {
                Some(format!("{} has {} ({})", m.name, m.configured[name].value.as_ref()?, m.configured[name].from))
            })
            .collect();
        if said.is_empty() {
            continue;
        }
        let message = format!(
            "is {mine} here and not the same on all members: {}; after a failover the cluster would run with the other",
            said.join(", ")
        );
        let mut finding = warning(local, &format!("postgresql.parameters.{name}"), message);
        if let Some(place) = place.filter(|place| is_local(place)) {
            finding.place = place.clone();
        }
        findings.push(finding);
    }
    for (path, mine) in [
        ("fence", local.fence.word().to_owned()),
        ("postgresql.use_pg_rewind", effective.settings.use_pg_rewind.to_string()),
        ("restapi.certfile", local.restapi.tls.is_some().to_string()),
        ("restapi.authentication", local.restapi.authentication.is_some().to_string()),
    ] {
        let key = match path {
            "restapi.certfile" => "restapi tls",
            "restapi.authentication" => "restapi authentication",
            other => other,
        };
        let said: Vec<String> = others()
            .filter_map(|m| Some((m, m.member.get(key)?)))
            .filter(|(_, theirs)| **theirs != mine)
            .map(|(m, theirs)| format!("{}: {theirs}", m.name))
            .collect();
        if !said.is_empty() {
            let message = format!("{key} is {mine} here and not the same on all members ({})", said.join(", "));
            findings.push(warning(local, path, message));
        }
    }
}

fn same(a: &str, b: &str) -> bool {
    let bool = surus_config::parse_bool;
    a.eq_ignore_ascii_case(b) || (bool(a).is_some() && bool(a) == bool(b))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use surus_api::Configured;

    use super::*;

    fn local(text: &str) -> (tempfile::TempDir, LocalConfig) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patroni.yml");
        std::fs::write(&path, text).unwrap();
        let local = LocalConfig::load(Some(&path), &BTreeMap::new()).unwrap();
        (dir, local)
    }

    const FILE: &str = "\
scope: demo
name: node1
restapi: {listen: '127.0.0.1:8008'}
raft: {self_addr: '127.0.0.1:7001'}
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 10
    postgresql: {parameters: {max_connections: 300}}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data
  parameters:
    work_mem: 8MB
    log_connections: on
    archive_command: cp %p /a/%f
  authentication: {superuser: {username: a}, replication: {username: b}}
";

    #[test]
    fn what_counted_once_is_told_where_it_differs() {
        let (_dir, local) = local(FILE);
        let mut findings = Vec::new();
        let stored = json!({"ttl": "30", "loop_wait": 5, "postgresql": {"parameters": {}}});
        ignored(&local, &stored, &mut findings);
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:#?}");
        assert!(
            said[0].contains("patroni.yml:8:16: bootstrap.dcs.loop_wait: is ignored") && said[0].contains("has 5"),
            "{said:#?}"
        );
        assert!(said[1].contains("max_connections: is ignored") && said[1].contains("does not have it"), "{said:#?}");
    }

    #[test]
    fn a_standby_with_less_than_its_primary_is_told() {
        let (_dir, local) = local(FILE);
        let member = |name: &str, role: &str, connections: &str| MemberSettings {
            name: name.into(),
            role: role.into(),
            server: Some(BTreeMap::from([(
                "max_connections".to_owned(),
                surus_api::ServerSetting { value: Some(connections.into()), ..Default::default() },
            )])),
            ..MemberSettings::default()
        };
        let mut findings = Vec::new();
        let members = [member("a", "primary", "200"), member("b", "replica", "100"), member("c", "replica", "300")];
        limits(&local, &members, &mut findings);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].message.contains("b runs with max_connections 100 and the leader a with 200"),
            "{findings:?}"
        );
    }

    #[test]
    fn members_that_differ_are_told() {
        let (_dir, local) = local(FILE);
        let configured = |value: &str| Configured { value: Some(value.into()), from: "x.yml:1:1".into(), local: true };
        let other = MemberSettings {
            name: "node2".into(),
            server_version: Some(150_004),
            configured: [
                ("work_mem", configured("4MB")),
                ("log_connections", configured("true")),
                // Told to who may change something, and to nobody else.
                ("archive_command", configured("cp %p /b/%f")),
                ("port", configured("1")),
            ]
            .map(|(name, c)| (name.to_owned(), c))
            .into(),
            member: [("fence", "off")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..MemberSettings::default()
        };
        let mut findings = Vec::new();
        let dynamic = DynamicConfig::read(&json!({})).0;
        drift(&local, &dynamic, &[other], &mut findings);
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(said[0].contains("archive_command: is cp %p /a/%f here") && said[0].contains("/b/%f"), "{said:#?}");
        assert!(said[1].contains("patroni.yml:14:15: postgresql.parameters.work_mem: is 8MB here"), "{said:#?}");
        assert!(said[1].contains("node2 has 4MB (x.yml:1:1)"), "{said:#?}");
        assert!(said[2].contains("fence is required here") && said[2].contains("node2: off"), "{said:#?}");
    }
}
