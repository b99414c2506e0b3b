//! Telling a running server about its files.

use rustix::process::Signal;
use surus_core::cluster::Upstream;
use surus_core::server::{FollowOutcome, StartAs};

use crate::Result;
use crate::conf_text::needs_restart;
use crate::conf_write::{Writing, Written};
use crate::config::InstanceConfig;
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::{Instance, lock};
use crate::timeline::clear_placeholders;

impl Instance {
    /// Writes the files for a role, markers included, without starting or telling anybody.
    pub async fn write_config(&self, role: &StartAs) -> Result<()> {
        self.write_files(Some(role.clone()), true).await.map(|_| ())
    }

    /// Rewrites the files and has the server read them. `true`: some were not as they are now.
    pub async fn reload(&self) -> Result<bool> {
        let process = self.process().await.ok_or_else(|| self.no_server())?;
        let written = self.write_files(None, false).await?;
        process.signal(Signal::HUP)?;
        Ok(written.changed)
    }

    /// Points a standby to another upstream, without a restart where the server allows it.
    pub async fn follow(&self, upstream: Option<&Upstream>, slot: Option<&str>) -> Result<FollowOutcome> {
        let role = StartAs::Standby { upstream: upstream.cloned(), slot: slot.map(str::to_owned) };
        let process = self.process().await;
        if let Some(upstream) = upstream.filter(|_| process.is_some())
            && self.follows_by_itself().await
        {
            self.lets_in(upstream).await?;
        }
        let dir = self.config().data_dir.clone();
        let was_standby = blocking("looking at standby.signal", IO_LIMIT, move || {
            clear_placeholders(&dir)?;
            Ok(dir.join("standby.signal").exists())
        })
        .await?;
        let written = self.write_files(Some(role), true).await?;
        let Some(process) = process else { return Ok(FollowOutcome::RestartNeeded) };
        let version = self.major_version().await?;
        let (before, after) = (&written.recovery_before, &written.recovery_after);
        let differs = |name: &&String| before.get(*name) != after.get(*name);
        let restart = before.keys().chain(after.keys()).filter(differs).any(|name| needs_restart(name, version));
        // A server that was promoted, or whose recovery settings came from elsewhere, has no block to compare with.
        if !was_standby || (restart && !before.is_empty()) {
            return Ok(FollowOutcome::RestartNeeded);
        }
        if !written.changed {
            return Ok(FollowOutcome::Unchanged);
        }
        process.signal(Signal::HUP)?;
        Ok(FollowOutcome::Reloaded)
    }

    /// `role: None`: for the role that they were written for last.
    async fn write_files(&self, role: Option<StartAs>, markers: bool) -> Result<Written> {
        let (user, version) = (self.user().await?, self.major_version().await?);
        let known = lock(&self.inner.overrides).clone();
        let overrides = match known {
            Some(overrides) => overrides,
            None => self.socket_override(&self.config()).await?,
        };
        let (instance, judged) = (self.clone(), self.judged(version).await);
        blocking("writing the configuration", IO_LIMIT, move || {
            let _alone = lock(&instance.inner.writing);
            // Looked at only now: what was true while another writer was at work may be of the past.
            let (mut config, names) = (InstanceConfig::clone(&instance.config()), lock(&instance.inner.names).clone());
            judged.apply(&mut config);
            let role = role.or_else(|| lock(&instance.inner.role).clone());
            let writing = Writing { config: &config, user: user.as_ref(), version, raised: &overrides, names };
            let role_now = role.as_ref();
            let written = if markers { writing.all(role_now)? } else { writing.while_running(role_now)? };
            if let Some(role) = role.as_ref().filter(|_| markers) {
                writing.markers(role)?;
            }
            if role.is_some() {
                *lock(&instance.inner.role) = role;
            }
            Ok(written)
        })
        .await
    }
}
