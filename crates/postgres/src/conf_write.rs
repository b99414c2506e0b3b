//! Putting configuration files in place. Everything here blocks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use surus_core::cluster::Upstream;

use crate::conf_text::{listed, needs_restart, postgresql_conf, read_recovery, recovery_settings, without_recovery};
use crate::config::{InstanceConfig, beside};
use crate::conninfo;
use crate::disk::{file_mode, make_dirs, replace_file};
use crate::os_user::OsUser;
use crate::synchronous::Chosen;
use crate::{PgError, Result};
use surus_core::server::StartAs;

/// Ending of a file that is out of force for a while.
const RESTORED: &str = ".restored";
pub(crate) const BASE: &str = "postgresql.base.conf";

pub(crate) struct Writing<'a> {
    pub config: &'a InstanceConfig,
    pub user: Option<&'a OsUser>,
    /// Of the data directory.
    pub version: u32,
    /// Wins over `config.parameters`.
    pub raised: &'a BTreeMap<String, String>,
    pub names: Chosen,
}

/// What the recovery block of `postgresql.conf` was and is.
pub(crate) struct Written {
    pub changed: bool,
    pub recovery_before: BTreeMap<String, String>,
    pub recovery_after: BTreeMap<String, String>,
}

impl Writing<'_> {
    /// For a server that is to be started or re-pointed. `role: None` keeps the recovery block that is there.
    pub fn all(&self, role: Option<&StartAs>) -> Result<Written> {
        self.write(role, false)
    }

    /// For a server that goes on running, whatever it was started as.
    pub fn while_running(&self, role: Option<&StartAs>) -> Result<Written> {
        self.write(role, true)
    }

    fn write(&self, role: Option<&StartAs>, running: bool) -> Result<Written> {
        let (config, mode) = (self.config, file_mode(&self.config.data_dir));
        make_dirs(&config.config_dir, self.user)?;
        let include = self.base(mode)?;
        let conf = config.conf();
        let recovery_before = read_recovery(&read_if_there(&conf)?.unwrap_or_default());
        let recovery_after = match role {
            // What a standby was started with and cannot change stays while it runs, also promoted: the server would
            // complain about each at every reload.
            Some(StartAs::Primary) if running => {
                let fixed = |name: &str| needs_restart(name, self.version);
                recovery_before.iter().filter(|(n, _)| fixed(n)).map(|(n, v)| (n.clone(), v.clone())).collect()
            }
            Some(role) => recovery_settings(config, role, self.version),
            None => recovery_before.clone(),
        };
        if let Some(StartAs::Standby { upstream: Some(upstream), .. }) = role {
            self.pgpass(upstream)?;
        }
        let mut parameters = config.parameters.clone();
        parameters.extend(self.raised.iter().map(|(k, v)| (k.clone(), v.clone())));
        self.names.apply(config, &mut parameters)?;
        let text = postgresql_conf(config, &parameters, &include, &recovery_after);
        let mut changed = replace_file(&conf, &text, mode, self.user)?;

        for (lines, setting, file) in
            [(&config.pg_hba, "hba_file", "pg_hba.conf"), (&config.pg_ident, "ident_file", "pg_ident.conf")]
        {
            let path = config.config_dir.join(file);
            let elsewhere = parameters.get(setting).is_some_and(|p| Path::new(p) != path);
            if file == "pg_hba.conf" && !elsewhere && matches!(role, Some(StartAs::Recovery { .. })) {
                changed |= self.trusting_hba(&path, mode)?;
                continue;
            }
            match lines {
                Some(lines) if !lines.is_empty() && !elsewhere => {
                    changed |= replace_file(&path, &listed(lines), mode, self.user)?;
                }
                // The server does not start without the file we name to it.
                _ if !elsewhere && !path.exists() => {
                    let from = config.data_dir.join(file);
                    let text = read_if_there(&from)?.unwrap_or_default();
                    changed |= replace_file(&path, &text, mode, self.user)?;
                }
                _ => {}
            }
        }
        let auto = config.data_dir.join("postgresql.auto.conf");
        // Without a role nothing takes the place of what a standby that is being taken over streams by.
        let keep = matches!(role, None | Some(StartAs::Recovery { keep_existing: true, .. }));
        if let Some(text) = read_if_there(&auto)?.as_deref().and_then(without_recovery).filter(|_| !keep) {
            changed |= replace_file(&auto, &text, mode, self.user)?;
        }
        Ok(Written { changed, recovery_before, recovery_after })
    }

    /// The passwords of a restored cluster are not known: they are set once it has recovered. Until then its superuser
    /// comes in from this machine without one, and nobody else does.
    fn trusting_hba(&self, path: &Path, mode: u32) -> Result<bool> {
        let restored = beside(path, RESTORED);
        if path.exists() && !restored.exists() {
            fs::rename(path, &restored).map_err(|e| PgError::io("rename", path, &e))?;
        }
        let user = format!("\"{}\"", self.config.superuser.username.replace('"', "\"\""));
        let user = if self.config.superuser.username.is_empty() { "all" } else { &user };
        let lines = [
            format!("local all {user} trust"),
            format!("host all {user} 127.0.0.1/32 trust"),
            format!("host all {user} ::1/128 trust"),
        ];
        replace_file(path, &listed(&lines), mode, self.user)
    }

    /// After [`StartAs::Recovery`]: the file that came with the data, for where none is configured.
    pub fn restore_hba(&self) -> Result<()> {
        let path = self.config.config_dir.join("pg_hba.conf");
        let restored = beside(&path, RESTORED);
        match fs::rename(&restored, &path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PgError::io("rename", &restored, &e)),
            _ => Ok(()),
        }
    }

    /// Keeps the original `postgresql.conf` under another name and returns what ours includes.
    fn base(&self, mode: u32) -> Result<String> {
        if let Some(custom) = &self.config.custom_conf {
            return Ok(custom.to_string_lossy().into_owned());
        }
        let base = self.config.config_dir.join(BASE);
        if !base.exists() {
            let (conf, shipped) = (self.config.conf(), self.config.data_dir.join("postgresql.conf"));
            if conf.exists() {
                fs::rename(&conf, &base).map_err(|e| PgError::io("rename", &conf, &e))?;
            } else {
                let text = read_if_there(&shipped)?.unwrap_or_default();
                replace_file(&base, &text, mode, self.user)?;
            }
        }
        Ok(BASE.to_owned())
    }

    pub fn pgpass(&self, upstream: &Upstream) -> Result<()> {
        let port = upstream.port.to_string();
        let Some(text) = conninfo::pgpass(&self.config.replication, &upstream.host, &port) else { return Ok(()) };
        if let Some(dir) = self.config.pgpass.parent() {
            make_dirs(dir, self.user)?;
        }
        replace_file(&self.config.pgpass, &text, 0o600, self.user).map(|_| ())
    }

    /// `standby.signal` and its like (`spec/postgres.md §7.3`).
    pub fn markers(&self, role: &StartAs) -> Result<()> {
        let dir = &self.config.data_dir;
        let standby = dir.join("standby.signal");
        // A promotion ordered and never seen would be carried out at the next start.
        for name in ["promote", "recovery.conf"] {
            remove_if_there(&dir.join(name))?;
        }
        let recovery = dir.join("recovery.signal");
        if let StartAs::Recovery { settings, keep_existing } = role {
            if *keep_existing {
                return Ok(());
            }
            let stands_by = settings.iter().any(|(k, v)| {
                k.eq_ignore_ascii_case("standby_mode") && matches!(v.as_str(), "on" | "true" | "yes" | "1")
            });
            let [wanted, other] = if stands_by { [&standby, &recovery] } else { [&recovery, &standby] };
            remove_if_there(other)?;
            return if settings.is_empty() {
                remove_if_there(wanted)
            } else {
                replace_file(wanted, "", file_mode(dir), self.user).map(|_| ())
            };
        }
        remove_if_there(&recovery)?;
        if role.is_primary() {
            remove_if_there(&standby)
        } else if standby.exists() {
            Ok(())
        } else {
            replace_file(&standby, "", file_mode(dir), self.user).map(|_| ())
        }
    }

    /// Copies into the data directory, so that a clone elsewhere has them too (`spec/postgres.md §7.5`).
    pub fn back_up(&self) -> Result<()> {
        if !self.config.separate_config_dir() {
            return Ok(());
        }
        for name in ["postgresql.conf", BASE, "pg_hba.conf", "pg_ident.conf"] {
            if let Some(text) = read_if_there(&self.config.config_dir.join(name))? {
                let to = self.config.data_dir.join(format!("{name}.backup"));
                replace_file(&to, &text, file_mode(&self.config.data_dir), self.user)?;
            }
        }
        Ok(())
    }

    /// After a copy: configuration files that are missing here come from its backups.
    pub fn restore_missing(&self) -> Result<()> {
        make_dirs(&self.config.config_dir, self.user)?;
        for name in ["postgresql.conf", BASE, "pg_hba.conf", "pg_ident.conf"] {
            let path = self.config.config_dir.join(name);
            if path.exists() {
                continue;
            }
            if let Some(text) = read_if_there(&self.config.data_dir.join(format!("{name}.backup")))? {
                replace_file(&path, &text, file_mode(&self.config.data_dir), self.user)?;
            }
        }
        Ok(())
    }
}

pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(PgError::io("read", path, &e)),
    }
}

pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PgError::io("remove", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, InstanceConfig) {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("postgresql.conf"), "shared_buffers = 1MB\n").unwrap();
        fs::write(data_dir.join("pg_hba.conf"), "local all all trust\n").unwrap();
        let mut config = InstanceConfig { config_dir: data_dir.clone(), data_dir, ..InstanceConfig::default() };
        config.pgpass = dir.path().join("pass/pgpass");
        config.replication.password = Some("secret".into());
        (dir, config)
    }

    #[test]
    fn the_original_is_kept_and_rewriting_changes_nothing() {
        let (_dir, config) = files();
        let raised = BTreeMap::new();
        let writing =
            Writing { config: &config, user: None, version: 150_000, raised: &raised, names: Chosen::Unknown };
        let role = StartAs::standby_of(
            Upstream { name: "a".into(), host: "h".into(), port: 1, remote: false },
            Some("s".into()),
        );
        assert!(writing.all(Some(&role)).unwrap().changed);
        let base = fs::read_to_string(config.data_dir.join(BASE)).unwrap();
        assert_eq!(base, "shared_buffers = 1MB\n");
        assert!(!writing.all(Some(&role)).unwrap().changed);
        assert!(!writing.all(None).unwrap().changed, "the recovery block is kept");
        assert!(fs::read_to_string(&config.pgpass).unwrap().starts_with("h:1:*:"));
        let kept = writing.while_running(Some(&StartAs::Primary)).unwrap();
        assert!(kept.changed && kept.recovery_after.keys().all(|name| name.starts_with("recovery_target")));
        assert_eq!(kept.recovery_after.len(), 6, "it was started with them");
        assert!(!writing.while_running(Some(&StartAs::Primary)).unwrap().changed);
        let written = writing.all(Some(&StartAs::Primary)).unwrap();
        assert!(written.changed && written.recovery_after.is_empty() && !written.recovery_before.is_empty());
        // Not configured: what initdb wrote stays.
        assert_eq!(fs::read_to_string(config.data_dir.join("pg_hba.conf")).unwrap(), "local all all trust\n");
    }

    #[test]
    fn a_separate_configuration_directory() {
        let (dir, mut config) = files();
        config.config_dir = dir.path().join("etc/pg");
        config.pg_hba = Some(vec!["host all all all md5".into()]);
        let raised = BTreeMap::new();
        let writing =
            Writing { config: &config, user: None, version: 150_000, raised: &raised, names: Chosen::Unknown };
        writing.all(Some(&StartAs::Primary)).unwrap();
        assert!(fs::read_to_string(config.config_dir.join(BASE)).unwrap().contains("shared_buffers"));
        assert!(config.data_dir.join("postgresql.conf").exists());
        writing.back_up().unwrap();
        fs::remove_dir_all(&config.config_dir).unwrap();
        writing.restore_missing().unwrap();
        assert!(fs::read_to_string(config.config_dir.join("pg_hba.conf")).unwrap().contains("md5"));
    }

    #[test]
    fn a_recovery_keeps_or_replaces_what_it_finds() {
        let (_dir, mut config) = files();
        config.superuser.username = "pg".into();
        let raised = BTreeMap::new();
        let data = config.data_dir.clone();
        let auto = data.join("postgresql.auto.conf");
        let recovery = |settings: &[(&str, &str)], keep_existing| StartAs::Recovery {
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            keep_existing,
        };
        let write = |config: &InstanceConfig, role: &StartAs| {
            fs::write(&auto, "recovery_target_time = 'x'\n").unwrap();
            fs::write(data.join("recovery.signal"), "").unwrap();
            let writing = Writing { config, user: None, version: 150_000, raised: &raised, names: Chosen::Unknown };
            let written = writing.all(Some(role)).unwrap();
            writing.markers(role).unwrap();
            let there = |name: &str| data.join(name).exists();
            let found = read_recovery(&fs::read_to_string(&auto).unwrap()).len();
            (written.recovery_after.len(), found, there("recovery.signal"), there("standby.signal"))
        };
        let settings = [("restore_command", "cp x"), ("Recovery_Target_Time", "now"), ("nonsense", "1")];
        assert_eq!(write(&config, &recovery(&settings, false)), (2, 0, true, false));
        assert_eq!(
            write(&config, &recovery(&[("standby_mode", "on"), ("restore_command", "x")], false)),
            (1, 0, false, true)
        );
        assert_eq!(write(&config, &recovery(&[], true)), (0, 1, true, true));
        assert_eq!(write(&config, &recovery(&[], false)), (0, 0, false, false));
        let hba = || fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        assert!(hba().contains("local all \"pg\" trust") && !hba().contains("local all all"));
        let writing =
            Writing { config: &config, user: None, version: 150_000, raised: &raised, names: Chosen::Unknown };
        writing.restore_hba().unwrap();
        assert_eq!(hba(), "local all all trust\n");
        writing.restore_hba().unwrap();
        writing.all(Some(&StartAs::Primary)).unwrap();
        assert_eq!(hba(), "local all all trust\n");
    }

    #[test]
    fn markers_follow_the_role() {
        let (_dir, config) = files();
        let raised = BTreeMap::new();
        let writing =
            Writing { config: &config, user: None, version: 150_000, raised: &raised, names: Chosen::Unknown };
        fs::write(config.data_dir.join("promote"), "").unwrap();
        writing.markers(&StartAs::Standby { upstream: None, slot: None }).unwrap();
        assert!(config.data_dir.join("standby.signal").exists() && !config.data_dir.join("promote").exists());
        writing.markers(&StartAs::Primary).unwrap();
        assert!(!config.data_dir.join("standby.signal").exists());
    }
}
