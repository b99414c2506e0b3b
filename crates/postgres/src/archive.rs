//! The archive of a stopped server: what it has not archived yet, and what it needs back from there.
//!
//! The commands are the user's and may hang for ever. Each run has a limit and ends with all it started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::control::{redo_segment, wal_segment_size};
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::{Instance, PROBE_LIMIT};
use crate::tool::Tool;
use crate::{ErrorKind, PgError, Result};

/// What PostgreSQL calls it too, and removes when it starts.
const RESTORED: &str = "pg_wal/RECOVERYXLOG";

impl Instance {
    /// A setting as the stopped server would have it.
    pub(crate) async fn configured(&self, name: &str) -> Result<String> {
        let config = self.config();
        let mut tool = self.tool("postgres").await?.arg("-D").arg(&config.data_dir).args(["-C", name]);
        if config.separate_config_dir() {
            let mut arg = std::ffi::OsString::from("--config-file=");
            arg.push(config.conf());
            tool = tool.arg(arg);
        }
        let output = tool.run(Some(PROBE_LIMIT), None).await?.success(&format!("postgres -C {name}"))?;
        Ok(output.stdout.trim().to_owned())
    }

    /// Runs `archive_command` for the segments that wait for it, as the server would, each for at most `limit`. The first
    /// failure ends it, in the server's order none is skipped. Returns how many were archived; an error tells how many
    /// were not.
    pub async fn archive_pending(&self, limit: Duration, cancel: &CancellationToken) -> Result<usize> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot archive for the server").await?;
        let dir = self.config().data_dir.clone();
        let wal = dir.join("pg_wal");
        let ready = blocking("listing pg_wal/archive_status", IO_LIMIT, move || Ok(waiting(&wal))).await?;
        if ready.is_empty() {
            return Ok(0);
        }
        let Some(command) = self.archive_command().await? else { return Ok(0) };
        for (done, name) in ready.iter().enumerate() {
            if let Err(e) = self.archive(&command, name, limit, cancel).await {
                let left = ready.len() - done;
                return Err(PgError::new(
                    e.kind.clone(),
                    format!("{left} of {} segments were not archived: {e}; the archive lacks them", ready.len()),
                ));
            }
            let status = dir.join("pg_wal/archive_status");
            let (from, to) = (status.join(format!("{name}.ready")), status.join(format!("{name}.done")));
            blocking("marking a segment as archived", IO_LIMIT, move || {
                std::fs::rename(&from, &to).map_err(|e| PgError::io("rename", &from, &e))
            })
            .await?;
        }
        Ok(ready.len())
    }

    /// Has the archive get the segment with the checkpoint of a clean shutdown as far as it is written, which the server
    /// leaves behind. Its name, if there is an archive.
    pub async fn archive_shutdown(&self, limit: Duration, cancel: &CancellationToken) -> Result<Option<String>> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot archive for the server").await?;
        let Some(command) = self.archive_command().await? else { return Ok(None) };
        let text = self.controldata_text().await?;
        let Some(name) = redo_segment(&text) else {
            return Err(PgError::new(
                ErrorKind::Tool,
                "pg_controldata does not tell the segment of the last checkpoint",
            ));
        };
        let name = name.to_owned();
        self.archive(&command, &name, limit, cancel).await?;
        Ok(Some(name))
    }

    async fn archive(&self, command: &str, name: &str, limit: Duration, cancel: &CancellationToken) -> Result<()> {
        let text = expand(command, &format!("pg_wal/{name}"), name);
        let run = self.shell(&text).await?.run(Some(limit), Some(cancel)).await;
        run.and_then(|o| o.success(&format!("archive_command for {name}"))).map(|_| ())
    }

    /// `archive_command`, if the server archives.
    async fn archive_command(&self) -> Result<Option<String>> {
        if !matches!(self.configured("archive_mode").await?.as_str(), "on" | "always") {
            return Ok(None);
        }
        let command = self.configured("archive_command").await?;
        Ok(Some(command).filter(|c| !c.is_empty() && c != "(disabled)"))
    }

    /// `restore_command`, if there is one.
    pub(crate) async fn restore_command(&self) -> Option<String> {
        let configured = self.config().recovery_conf.get("restore_command").cloned();
        let command = match configured {
            Some(command) => Ok(command),
            None => self.configured("restore_command").await,
        };
        command
            .map_err(|e| tracing::warn!("whether there is a restore_command is not known: {e}"))
            .ok()
            .filter(|c| !c.trim().is_empty())
    }

    /// Fetches a segment from the archive: whole, or not at all.
    pub(crate) async fn restore_segment(
        &self,
        command: &str,
        name: &str,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let size = wal_segment_size(&self.controldata_text().await?).unwrap_or(16 << 20);
        let dir = self.config().data_dir.clone();
        let text = expand(command, RESTORED, name);
        let run = self.shell(&text).await?.run(Some(limit), Some(cancel)).await;
        let fetched = run.and_then(|o| o.success(&format!("restore_command for {name}")));
        let (from, to) = (dir.join(RESTORED), dir.join("pg_wal").join(name));
        let ended = fetched.err();
        blocking("putting a fetched segment in place", IO_LIMIT, move || {
            let done = match (ended, std::fs::metadata(&from)) {
                (Some(e), _) => Err(e),
                (None, Ok(meta)) if meta.len() == size => {
                    return std::fs::rename(&from, &to).map_err(|e| PgError::io("rename", &from, &e));
                }
                (None, found) => {
                    let found = found.map_or_else(|_| "nothing".into(), |m| format!("{} bytes", m.len()));
                    let text =
                        format!("restore_command succeeded and left {found} instead of a segment of {size} bytes");
                    Err(PgError::new(ErrorKind::Tool, text))
                }
            };
            let _ = std::fs::remove_file(&from);
            done
        })
        .await
    }

    /// As the server runs its commands: by the shell, in the data directory.
    async fn shell(&self, command: &str) -> Result<Tool> {
        let dir: PathBuf = self.config().data_dir.clone();
        Ok(Tool::new("/bin/sh".into(), self.user().await?).own_locale().in_dir(dir).args(["-c", command]))
    }
}

/// Segments with a `.ready` file that are there, oldest first. Blocking.
fn waiting(wal: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(wal.join("archive_status")).into_iter().flatten().flatten();
    let ready = entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".ready")?.to_owned()));
    let segment = |name: &str| {
        let digits = name.strip_suffix(".partial").unwrap_or(name);
        digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let mut names: Vec<String> = ready.filter(|name| segment(name) && wal.join(name).exists()).collect();
    names.sort_unstable();
    names
}

/// `%p`, `%f`, `%r` and `%%` as PostgreSQL means them; anything else stays.
fn expand(command: &str, path: &str, name: &str) -> String {
    let mut out = String::new();
    let mut rest = command;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (text, taken) = match rest.as_bytes().get(at + 1) {
            Some(b'p') => (path, 2),
            Some(b'f') => (name, 2),
            // The oldest that may be needed: nobody may take older ones out of the archive on our word.
            Some(b'r') => ("000000010000000000000001", 2),
            Some(b'%') => ("%", 2),
            _ => ("%", 1),
        };
        out.push_str(text);
        rest = &rest[at + taken..];
    }
    out + rest
}

/// The segment that `pg_rewind` missed in the data directory.
pub(crate) fn missing_segment(words: &str) -> Option<String> {
    let line = words.lines().find(|l| l.contains("No such file") || l.contains("could not find file"))?;
    let (_, rest) = line.split_once("pg_wal/")?;
    let name: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    (name.len() == 24).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        for (command, want) in [
            ("cp %p /a/%f", "cp pg_wal/X /a/X"),
            ("date +%%s; get %f %p %r %x 100%", "date +%s; get X pg_wal/X 000000010000000000000001 %x 100%"),
            ("", ""),
        ] {
            assert_eq!(expand(command, "pg_wal/X", "X"), want);
        }
    }

    #[test]
    fn what_waits_for_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("archive_status")).unwrap();
        let names = ["000000010000000000000003", "000000010000000000000002", "000000010000000000000004.partial"];
        for name in names {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let gone = "000000010000000000000009";
        for name in names.iter().copied().chain([gone, "00000002.history", "x"]) {
            std::fs::write(dir.path().join(format!("archive_status/{name}.ready")), "").unwrap();
        }
        std::fs::write(dir.path().join("archive_status/000000010000000000000001.done"), "").unwrap();
        assert_eq!(waiting(dir.path()), [names[1], names[0], names[2]]);
    }

    #[test]
    fn what_pg_rewind_misses() {
        let words = "pg_rewind: servers diverged at WAL location 0/3000000 on timeline 1\n\
                     pg_rewind: error: could not open file \"/d/pg_wal/000000010000000000000002\": No such file or directory\n\
                     pg_rewind: fatal: could not find previous WAL record at 0/2000100";
        assert_eq!(missing_segment(words).as_deref(), Some("000000010000000000000002"));
        assert_eq!(missing_segment("could not open file \"/d/pg_wal/0000\": No such file or directory"), None);
        assert_eq!(missing_segment("permission denied"), None);
    }
}
