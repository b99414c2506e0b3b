//! What others may know of the settings of this member: `GET /settings`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_api::{Configured, MemberSettings, ServerSetting};
use surus_config::Source;
use surus_core::BootTime;
use surus_core::cluster::MemberRole;
use surus_postgres::{Instance, Setting};
use surus_store::clock::boot_now;
use tokio::sync::Mutex;
use tracing::debug;

use crate::settings::Settings;

const LIMIT: Duration = Duration::from_secs(2);

/// What is known without asking the server, values included.
pub fn configured(settings: &Settings) -> MemberSettings {
    let effective = &settings.effective;
    let told = |(name, value): (&String, &String)| {
        let place = effective.source_of(name);
        let configured = Configured {
            value: Some(value.clone()),
            from: place.map_or_else(String::new, ToString::to_string),
            local: place.is_some_and(|p| matches!(p.source, Source::File(_) | Source::Environment(_))),
        };
        (name.clone(), configured)
    };
    let local = settings.local.postgresql_keys().into_iter();
    MemberSettings {
        name: settings.local.name.to_string(),
        role: String::new(),
        server_version: settings.server_version,
        server: None,
        configured: effective.file.iter().map(told).collect(),
        local: local.map(|(key, place)| (key.to_owned(), place.to_string())).collect(),
        member: BTreeMap::from([
            ("namespace".to_owned(), settings.local.namespace.clone()),
            ("fence".to_owned(), settings.local.fence.word().to_owned()),
            ("postgresql.use_pg_rewind".to_owned(), effective.settings.use_pg_rewind.to_string()),
            ("restapi tls".to_owned(), settings.local.restapi.tls.is_some().to_string()),
            ("restapi authentication".to_owned(), settings.local.restapi.authentication.is_some().to_string()),
        ]),
    }
}

/// The latest answer, for anybody and for who may change something. Anybody may ask, and the server is asked on the session that the agent looks at it by: at most
/// once a second, however many ask.
pub type Latest = Arc<Mutex<Option<(BootTime, [String; 2])>>>;

/// In place of file, line and column, or a variable.
const OWN: &str = "the member's own configuration";

const FRESH: Duration = Duration::from_secs(1);

/// With what the server says, as JSON.
pub async fn document(
    mut told: MemberSettings,
    role: MemberRole,
    instance: &Instance,
    latest: &Latest,
    trusted: bool,
) -> String {
    let mut latest = latest.lock().await;
    let asked = boot_now();
    if let Some((at, texts)) = &*latest
        && asked.since(*at) < FRESH
    {
        return texts[usize::from(trusted)].clone();
    }
    role.as_str().clone_into(&mut told.role);
    let server = match instance.settings(LIMIT).await {
        Ok(server) => Some(server),
        Err(e) => {
            debug!("the server's settings are left out: {e}");
            None
        }
    };
    let texts = [false, true]
        .map(|trusted| serde_json::to_string(&beside(told.clone(), server.as_ref(), trusted)).unwrap_or_default());
    let text = texts[usize::from(trusted)].clone();
    *latest = Some((boot_now(), texts));
    text
}

/// To anybody a value is told only if the server knows it for something else than a text, and no path of a file.
fn beside(mut told: MemberSettings, server: Option<&BTreeMap<String, Setting>>, trusted: bool) -> MemberSettings {
    if !trusted {
        for (name, configured) in &mut told.configured {
            let harmless = server.and_then(|s| s.get(name)).is_some_and(|setting| setting.vartype != "string");
            configured.value = configured.value.take().filter(|_| harmless);
            if configured.local {
                OWN.clone_into(&mut configured.from);
            }
        }
        for place in told.local.values_mut() {
            OWN.clone_into(place);
        }
    }
    told.server = server.map(|server| server.iter().map(|(name, setting)| (name.clone(), shown(setting))).collect());
    told
}

fn shown(setting: &Setting) -> ServerSetting {
    let setting = setting.clone();
    let altered = setting.source_file.is_some_and(|file| file.ends_with("/postgresql.auto.conf"));
    ServerSetting {
        value: Some(setting.value).filter(|_| setting.vartype != "string"),
        unit: setting.unit,
        vartype: setting.vartype,
        context: setting.context,
        altered,
        pending_restart: setting.pending_restart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_not_told() {
        let setting = |value: &str, vartype: &str, file: Option<&str>| Setting {
            value: value.into(),
            unit: None,
            vartype: vartype.into(),
            context: "sighup".into(),
            source: "configuration file".into(),
            source_file: file.map(str::to_owned),
            pending_restart: false,
        };
        let server = BTreeMap::from([
            ("archive_command".to_owned(), setting("curl -u me:secret %p", "string", None)),
            ("max_wal_size".to_owned(), setting("1024", "integer", Some("/data/postgresql.auto.conf"))),
        ]);
        let configured =
            |value: &str| Configured { value: Some(value.into()), from: "/etc/x.yml:3:4".into(), local: true };
        let told = MemberSettings {
            configured: [
                ("archive_command", configured("curl -u me:secret %p")),
                ("max_wal_size", configured("1GB")),
                ("my.token", configured("secret")),
            ]
            .map(|(name, c)| (name.to_owned(), c))
            .into(),
            local: BTreeMap::from([("x".to_owned(), "/etc/x.yml:1:2".to_owned())]),
            ..MemberSettings::default()
        };
        for server in [Some(server), None] {
            let running = server.is_some();
            let all = beside(told.clone(), server.as_ref(), true);
            assert_eq!(
                (all.configured["my.token"].value.as_deref(), &*all.local["x"]),
                (Some("secret"), "/etc/x.yml:1:2")
            );
            let told = beside(told.clone(), server.as_ref(), false);
            let text = serde_json::to_string(&told).unwrap();
            assert!(!text.contains("secret") && !text.contains("/etc"), "{text}");
            assert_eq!(told.configured["max_wal_size"].value.is_some(), running);
            assert!(told.server.is_none_or(|s| s["max_wal_size"].altered && !s["archive_command"].altered));
        }
    }
}
