//! A new cluster: `initdb`, its users, and what runs once at the end (`spec/postgres.md §13`).

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::conf_write::read_if_there;
use crate::config::{Credentials, beside};
use crate::disk::{IO_LIMIT, blocking, file_mode, replace_file};
use crate::instance::Instance;
use crate::sql::{Endpoint, Profile, literal};
use crate::staging::Staging;
use crate::tool::Tool;
use crate::user_command::UserCommand;
use crate::{ErrorKind, PgError, Result};

const SQL_LIMIT: Duration = Duration::from_secs(30);
/// A data directory that is forced to a slow disk.
pub(crate) const SYNC_LIMIT: Duration = Duration::from_secs(600);

/// What `pg_rewind` calls on its source.
pub(crate) const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

impl Instance {
    /// Creates the data directory, whole or not at all.
    pub async fn initdb(&self, cancel: &CancellationToken) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot run initdb").await?;
        self.kill_orphans().await?;
        self.binaries_version().await?;
        let (config, user) = (self.config(), self.user().await?);
        let staging = {
            let (dir, user) = (config.data_dir.clone(), user.clone());
            blocking("preparing the data directory", SYNC_LIMIT, move || Staging::begin(&dir, user)).await?
        };
        let password_file = beside(&config.data_dir, ".surus.pwfile");
        let mut tool = Tool::new(config.bin("initdb"), user.clone()).own_locale().args(&config.initdb_options);
        if !config.superuser.username.is_empty() {
            tool = tool.arg(format!("--username={}", config.superuser.username));
        }
        if let Some(password) = &config.superuser.password {
            let (file, text, user) = (password_file.clone(), format!("{password}\n"), user.clone());
            blocking("writing initdb's password file", IO_LIMIT, move || {
                replace_file(&file, &text, 0o600, user.as_ref()).map(|_| ())
            })
            .await?;
            let mut arg = std::ffi::OsString::from("--pwfile=");
            arg.push(&password_file);
            tool = tool.arg(arg);
        }
        // Forced to disk in one go at the end instead of file by file.
        let tool = tool.arg("--no-sync").arg(&staging.work);
        let result = tokio::select! {
            result = tool.run(None, Some(cancel)) => result,
            () = staging.keep_marked() => Err(PgError::new(ErrorKind::Cancelled, "initdb was given up")),
        };
        let _ = tokio::fs::remove_file(&password_file).await;
        let result = result.and_then(|o| o.success("initdb"));
        if let Err(e) = result {
            blocking("removing an unfinished data directory", SYNC_LIMIT, move || staging.abort()).await?;
            return Err(e);
        }
        let lines = if config.pg_hba.is_some() { Vec::new() } else { config.bootstrap_pg_hba.clone() };
        blocking("putting the data directory in place", SYNC_LIMIT, move || {
            if !lines.is_empty() {
                let hba = staging.work.join("pg_hba.conf");
                let mut text = read_if_there(&hba)?.unwrap_or_default();
                for line in &lines {
                    text.push_str(line);
                    text.push('\n');
                }
                replace_file(&hba, &text, file_mode(&staging.work), user.as_ref())?;
            }
            staging.commit()
        })
        .await
    }

    /// Superuser, replication and rewind users. Idempotent.
    pub async fn create_roles(&self) -> Result<()> {
        let config = self.config();
        let version = self.major_version().await?;
        let deadline = Instant::now() + SQL_LIMIT;
        let session = self.session(&Profile::WORK, deadline).await?;
        // On their own and first: a statement is logged before it runs, and passwords follow.
        for quiet in [
            "SET log_statement = none",
            "SET log_min_duration_statement = -1",
            "SET log_min_error_statement = log",
            "SET pg_stat_statements.track_utility = off",
            "SET pgaudit.log = none",
            "SET synchronous_commit = local",
        ] {
            session.rows(quiet, deadline).await?;
        }
        let mut sql = String::new();
        if !config.superuser.username.is_empty() && config.superuser.password.is_some() {
            sql.push_str(&role_block(&config.superuser, "SUPERUSER LOGIN"));
        }
        if !config.replication.username.is_empty() {
            sql.push_str(&role_block(&config.replication, "REPLICATION LOGIN"));
        }
        if let Some(rewind) = config
            .rewind
            .as_ref()
            .filter(|r| version >= 110_000 && !r.username.is_empty() && r.username != config.superuser.username)
        {
            sql.push_str(&role_block(rewind, "LOGIN"));
            for function in REWIND_FUNCTIONS {
                let _ =
                    writeln!(sql, "GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {};", ident(&rewind.username));
            }
        }
        if !sql.is_empty() {
            session.rows(&sql, deadline).await.map_err(|e| {
                // The statement's text is part of the error, and passwords are part of the text.
                PgError::new(e.kind.clone(), format!("cannot create the users: {}", without_statement(&e)))
            })?;
        }
        Ok(())
    }

    /// Runs the user's command once with a connection string of the superuser.
    pub async fn post_bootstrap(&self, command: &str, cancel: &CancellationToken) -> Result<()> {
        let config = self.config();
        let command = UserCommand { setting: "bootstrap.post_bootstrap".into(), text: command.into() };
        command.words()?;
        let way = self.endpoints().await?.into_iter().next();
        let (host, port) = match way {
            Some(Endpoint::Socket { dir, port }) => (dir.to_string_lossy().into_owned(), port),
            Some(Endpoint::Tcp { host, port }) => (host, port),
            None => return Err(self.no_server()),
        };
        let mut values: std::collections::BTreeMap<&str, String> =
            config.superuser.options.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        values.insert("dbname", config.database.clone());
        values.insert("host", host.clone());
        values.insert("port", port.to_string());
        if !config.superuser.username.is_empty() {
            values.insert("user", config.superuser.username.clone());
        }
        let dsn = crate::conninfo::format(&values, self.major_version().await?);
        let user = self.user().await?;
        let mut tool = self
            .user_tool(&command)
            .await?
            .arg(dsn)
            .env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
        let file = beside(&config.pgpass, ".bootstrap");
        if let Some(text) = crate::conninfo::pgpass(&config.superuser, &host, &port.to_string()) {
            let (path, user) = (file.clone(), user.clone());
            blocking("writing a password file", IO_LIMIT, move || {
                if let Some(dir) = path.parent() {
                    crate::disk::make_dirs(dir, user.as_ref())?;
                }
                replace_file(&path, &text, 0o600, user.as_ref()).map(|_| ())
            })
            .await?;
            tool = tool.env("PGPASSFILE", file.clone());
        }
        let result = tool.run(None, Some(cancel)).await;
        let _ = tokio::fs::remove_file(&file).await;
        result?.of(&command).map(|_| ())
    }
}

fn role_block(who: &Credentials, attributes: &str) -> String {
    let password = who.password.as_ref().map(|p| format!(" PASSWORD {}", literal(p))).unwrap_or_default();
    let (name, role) = (ident(&who.username), literal(&who.username));
    let body = format!(
        "BEGIN IF EXISTS (SELECT 1 FROM pg_catalog.pg_authid WHERE rolname = {role}) THEN \
         ALTER ROLE {name} WITH {attributes}{password}; ELSE CREATE ROLE {name} WITH {attributes}{password}; END IF; END"
    );
    format!("DO {};\n", literal(&body))
}

pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn without_statement(error: &PgError) -> String {
    let text = error.to_string();
    text.split_once("\" failed: ").map_or(text.as_str(), |(_, rest)| rest).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_quoted_twice() {
        let who = Credentials { username: "o\"x".into(), password: Some("it's\\".into()), ..Credentials::default() };
        let block = role_block(&who, "LOGIN");
        assert!(block.starts_with("DO  E'"), "{block}");
        assert!(block.contains("\"o\"\"x\""));
        assert!(block.contains("E''it''''s\\\\\\\\''"), "{block}");
    }
}
