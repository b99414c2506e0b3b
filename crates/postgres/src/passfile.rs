//! The password file of the WAL receiver: PostgreSQL's user reads it, whoever the agent runs as.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::config::beside;
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::Instance;
use crate::os_user::{OsUser, as_user, run_as};
use crate::{ErrorKind, PgError, Result};

/// `~/pgpass` of the user that PostgreSQL runs as; beside the data directory for one without a home. Blocking.
pub fn default_passfile(data_dir: &Path) -> PathBuf {
    let home = match run_as(data_dir) {
        Ok(Some(user)) => user.home,
        _ => std::env::home_dir(),
    };
    let home = home.filter(|home| home.is_absolute() && home.is_dir());
    home.map_or_else(|| beside(data_dir, ".surus.pgpass"), |home| home.join("pgpass"))
}

impl Instance {
    pub async fn check_passfile(&self) -> Result<()> {
        let config = self.config();
        if config.replication.password.is_none() {
            return Ok(());
        }
        let check = move || check_passfile(&config.data_dir, &config.pgpass);
        blocking("looking at the password file's directory", IO_LIMIT, check).await
    }
}

/// That a standby will be able to log in with it: the server itself only says that no password was supplied. Blocking.
pub fn check_passfile(data_dir: &Path, file: &Path) -> Result<()> {
    let user = run_as(data_dir)?;
    fault(file, user.as_ref()).map_or(Ok(()), |text| Err(PgError::new(ErrorKind::Refused, text)))
}

fn fault(file: &Path, user: Option<&OsUser>) -> Option<String> {
    let to_do = "set postgresql.pgpass to a file in a directory of PostgreSQL's user";
    if fs::metadata(file).is_ok_and(|m| !m.is_file()) {
        return Some(format!("postgresql.pgpass: {} is there and no file; {to_do}", file.display()));
    }
    // Missing directories are made, and handed to PostgreSQL's user.
    let dir = file.ancestors().skip(1).find(|dir| dir.is_dir())?.to_owned();
    let (who, wanted, does) = match user {
        // Written by root, read by the user.
        Some(user) => {
            let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
            (format!("user {name}"), Access::EXEC_OK, "read files in")
        }
        None => ("the user Surus runs as".to_owned(), Access::WRITE_OK | Access::EXEC_OK, "write to"),
    };
    let (path, asked) = (dir.clone(), move || access(&dir, wanted).is_ok());
    // Asked as that user: only the kernel knows of access lists.
    let may = match user {
        Some(user) => as_user(user.clone(), asked).unwrap_or(true),
        None => asked(),
    };
    (!may).then(|| {
        let path = path.display();
        format!("postgresql.pgpass: {who} cannot {does} {path}, so a standby could not log in at its primary; {to_do}")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_the_server_cannot_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        // As whom a data directory would be used; the uid needs no name.
        let root = rustix::process::geteuid().is_root();
        let user = root.then(|| OsUser { uid: 12_345, gid: 12_345, groups: vec![12_345], name: None, home: None });
        let fault = |file: &str| fault(&dir.path().join(file), user.as_ref());
        let set = |mode: u32| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o755);
        assert_eq!(fault("pgpass"), None);
        assert_eq!(fault("a/b/pgpass"), None, "directories are made");
        fs::create_dir(dir.path().join("taken")).unwrap();
        assert!(fault("taken").unwrap().contains("no file"));
        set(0o600);
        let text = fault("pgpass").unwrap();
        assert!(text.contains(&dir.path().display().to_string()) && text.contains("postgresql.pgpass"), "{text}");
        set(0o700);
    }

    #[test]
    fn nobody_is_sent_to_the_home_of_root() {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let file = default_passfile(&dir.path().join("data"));
        assert!(file.ends_with("pgpass") && !file.starts_with("/root"), "{}", file.display());
        std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
        assert_eq!(default_passfile(dir.path()), beside(dir.path(), ".surus.pgpass"), "a user without a home");
    }
}
