//! As whom PostgreSQL and its programs run.
//!
//! PostgreSQL refuses to run as root, so an agent that is root starts everything as the owner of the data directory,
//! or as `postgres`. The switch happens on a thread of its own: credentials belong to a thread on Linux and a new
//! process inherits those of the thread that starts it, so no code has to run between fork and exec.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::process::{Child, Command};

use crate::{ErrorKind, PgError, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OsUser {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: Option<String>,
    pub home: Option<PathBuf>,
}

/// Whom to become for this data directory; `None` when we are not root and stay who we are. Blocking.
pub(crate) fn run_as(data_dir: &Path) -> Result<Option<OsUser>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    let owner = match fs::metadata(data_dir) {
        Ok(meta) if meta.uid() != 0 => Some((meta.uid(), meta.gid())),
        Ok(_) => None,
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(PgError::io("look at", data_dir, &e)),
    };
    let found = match owner {
        Some((uid, gid)) => {
            Some(by_uid(&passwd, &group, uid).unwrap_or(OsUser { uid, gid, groups: vec![gid], name: None, home: None }))
        }
        None => by_name(&passwd, &group, "postgres"),
    };
    found.map(Some).ok_or_else(|| {
        PgError::new(
            ErrorKind::Refused,
            format!(
                "running as root, and there is neither a user \"postgres\" nor a data directory {} owned by another \
                 user; PostgreSQL does not run as root: create the user, or the directory with its owner",
                data_dir.display()
            ),
        )
    })
}

fn by_name(passwd: &str, group: &str, name: &str) -> Option<OsUser> {
    entries(passwd).find(|f| f[0] == name).and_then(|f| user(&f, group))
}

fn by_uid(passwd: &str, group: &str, uid: u32) -> Option<OsUser> {
    entries(passwd).find(|f| f[2].parse() == Ok(uid)).and_then(|f| user(&f, group))
}

fn entries(passwd: &str) -> impl Iterator<Item = Vec<&str>> {
    passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 6)
}

fn user(fields: &[&str], group: &str) -> Option<OsUser> {
    let (uid, gid) = (fields[2].parse().ok()?, fields[3].parse().ok()?);
    let mut groups = vec![gid];
    for line in group.lines() {
        let f: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members, ..] = f[..]
            && members.split(',').any(|m| m == fields[0])
            && let Ok(id) = id.parse()
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    let home = Some(fields[5]).filter(|h| !h.is_empty()).map(PathBuf::from);
    Some(OsUser { uid, gid, groups, name: Some(fields[0].to_owned()), home })
}

/// Starts `command` as `user`. Must be called inside a tokio runtime.
pub(crate) async fn spawn(command: Command, user: Option<OsUser>) -> io::Result<Child> {
    spawn_held(command, user, |child| child).await
}

/// As [`spawn`], with the child in the hands of `hold` from its first moment: whoever waits for this may be gone by then.
pub(crate) async fn spawn_held<T: Send + 'static>(
    mut command: Command,
    user: Option<OsUser>,
    hold: impl FnOnce(Child) -> T + Send + 'static,
) -> io::Result<T> {
    let Some(user) = user else { return command.spawn().map(hold) };
    let runtime = tokio::runtime::Handle::current();
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("spawn".into()).spawn(move || {
        let _entered = runtime.enter();
        let result = become_user(&user).and_then(|()| command.spawn()).map(hold);
        // The kernel marks the whole process "not dumpable" when a thread changes its user; undone, so that
        // /proc/self stays readable to whoever could read it before.
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        let _ = tx.send(result);
    })?;
    rx.await.unwrap_or_else(|_| Err(io::Error::other("the thread that starts programs ended early")))
}

/// Does something short as `user`, on a thread of its own.
pub(crate) fn as_user<T: Send + 'static>(user: OsUser, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("as-user".into()).spawn(move || {
        let done = become_user(&user).map(|()| work());
        let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        done
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that acts as another user ended early")))
}

fn become_user(user: &OsUser) -> io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    set_thread_groups(&groups)?;
    let (gid, uid) = (Gid::from_raw(user.gid), Uid::from_raw(user.uid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\npostgres:x:105:113:PG:/var/lib/postgresql:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nssl-cert:x:112:postgres,www\npostgres:x:113:\nbad:x:y:postgres\n";

    #[test]
    fn finds_user_and_all_groups() {
        let user = by_name(PASSWD, GROUP, "postgres").unwrap();
        assert_eq!((user.uid, user.gid, user.groups.clone()), (105, 113, vec![113, 112]));
        assert_eq!(by_uid(PASSWD, GROUP, 105), Some(user));
        assert_eq!(by_name(PASSWD, GROUP, "broken"), None);
        assert_eq!(by_uid(PASSWD, GROUP, 4), None);
    }
}
