//! Changing the slots of the running server, and bringing logical ones over from the leader (`spec/ha.md §17.4`).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use surus_core::cluster::Upstream;
use surus_core::slots::{Action, LogicalSlot, SlotCopy, Xmins};
use tokio::time::Instant;

use crate::disk::{IO_LIMIT, blocking, give_to, make_dirs};
use crate::instance::Instance;
use crate::os_user::{OsUser, run_as};
use crate::sql::{Endpoint, Profile, Row, Session, literal};
use crate::{ErrorKind, PgError, Result};

const LIMIT: Duration = Duration::from_secs(10);
/// Moving a logical slot reads the log from where it stands.
const ADVANCE: Duration = Duration::from_secs(600);

/// How each of the changes went.
#[derive(Debug)]
pub struct Changed {
    pub action: Action,
    pub outcome: Result<()>,
}

impl Instance {
    /// One that cannot be had does not keep the others from being there.
    pub async fn change_slots(&self, actions: Vec<Action>) -> Result<Vec<Changed>> {
        let deadline = Instant::now() + LIMIT;
        let session = self.session(&Profile::WORK, deadline).await?;
        let mut changed = Vec::new();
        for action in actions {
            let outcome = match &action {
                Action::AdvanceLogical { slot, to } => {
                    let sql = format!("SELECT pg_replication_slot_advance({}, '{to}')", literal(&slot.name));
                    self.in_database(&slot.database, &sql, ADVANCE).await
                }
                Action::CreateLogical { slot, failover } => {
                    let failover = if *failover { ", failover => true" } else { "" };
                    let sql = format!(
                        "SELECT pg_create_logical_replication_slot({0}, {1}{failover}) \
                         WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {0})",
                        literal(&slot.name),
                        literal(&slot.plugin)
                    );
                    self.in_database(&slot.database, &sql, LIMIT).await
                }
                Action::SetFailover { slot, on } => self.set_failover(&slot.name, *on).await,
                _ => session.rows(&statement(&action), Instant::now() + LIMIT).await.map(|_| ()),
            };
            changed.push(Changed { action, outcome });
        }
        Ok(changed)
    }

    async fn set_failover(&self, slot: &str, on: bool) -> Result<()> {
        self.local_walsender(Instant::now() + LIMIT).await?.set_failover(slot, on).await
    }

    /// A logical slot belongs to its database: elsewhere it can be neither made nor moved.
    async fn in_database(&self, database: &str, sql: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.session_in(database, &Profile::WORK, deadline).await?.rows(sql, deadline).await.map(|_| ())
    }

    /// Reads logical slots of a primary as files. Those it does not have, or has otherwise, are left out.
    pub async fn fetch_slots(&self, from: &Upstream, wanted: &[LogicalSlot], limit: Duration) -> Result<Vec<SlotCopy>> {
        let deadline = Instant::now() + limit;
        let session = self.session_at(from, deadline).await?;
        let names: Vec<String> = wanted.iter().map(|slot| literal(&slot.name)).collect();
        let sql = format!(
            "SELECT slot_name, database, plugin, \
             translate(encode(pg_read_binary_file('pg_replslot/' || slot_name || '/state'), 'base64'), E'\\n', '') \
             FROM pg_replication_slots WHERE slot_type = 'logical' AND NOT pg_is_in_recovery() AND slot_name IN ({})",
            names.join(", ")
        );
        let mut copies = Vec::new();
        for row in session.rows(&sql, deadline).await? {
            let cell = |i: usize| row.get(i).cloned().flatten();
            let (Some(name), Some(database), Some(plugin), Some(text)) = (cell(0), cell(1), cell(2), cell(3)) else {
                continue;
            };
            let slot = LogicalSlot { name, database, plugin };
            let state = BASE64.decode(text).map_err(|e| {
                PgError::new(ErrorKind::Tool, format!("{}: slot {} has no readable state: {e}", from.name, slot.name))
            })?;
            if wanted.contains(&slot) {
                copies.push(SlotCopy { slot, state });
            }
        }
        Ok(copies)
    }

    /// The oldest transaction whose catalog rows each slot of a primary needs.
    pub async fn catalog_xmins_at(&self, at: &Upstream, limit: Duration) -> Result<Xmins> {
        let deadline = Instant::now() + limit;
        let sql = "SELECT slot_name, catalog_xmin::text FROM pg_replication_slots WHERE NOT pg_is_in_recovery()";
        Ok(xmins(&self.session_at(at, deadline).await?.rows(sql, deadline).await?))
    }

    /// The logical slots of a primary, and whether standbys synchronise each. PostgreSQL 17 and newer.
    pub async fn failover_slots_at(&self, at: &Upstream, limit: Duration) -> Result<BTreeMap<String, bool>> {
        let deadline = Instant::now() + limit;
        let sql = "SELECT slot_name, failover::text FROM pg_replication_slots \
                   WHERE slot_type = 'logical' AND NOT temporary AND NOT pg_is_in_recovery()";
        let rows = self.session_at(at, deadline).await?.rows(sql, deadline).await?;
        let failover = |row: &Row| row.get(1).is_some_and(|cell| cell.as_deref() == Some("true"));
        Ok(rows.iter().filter_map(|row| Some((row.first()?.clone()?, failover(row)))).collect())
    }

    /// The same for the slots here.
    pub async fn catalog_xmins(&self, limit: Duration) -> Result<Xmins> {
        let sql = "SELECT slot_name, catalog_xmin::text FROM pg_replication_slots";
        Ok(xmins(&self.kept_rows(sql, Instant::now() + limit).await?))
    }

    async fn session_at(&self, at: &Upstream, deadline: Instant) -> Result<Session> {
        let config = self.config();
        let profile = &Profile::HEARTBEAT;
        Session::connect(&Endpoint::from(at), config.rewind_credentials(), &config.database, profile, deadline).await
    }

    /// Puts copies into the data directory of a server that does not run.
    pub async fn put_slots(&self, copies: Vec<SlotCopy>) -> Result<()> {
        if self.process().await.is_some() {
            return Err(PgError::new(ErrorKind::Refused, "PostgreSQL runs; slots cannot be put below it"));
        }
        let data_dir = self.config().data_dir.clone();
        blocking("copying replication slots", IO_LIMIT, move || {
            let user = run_as(&data_dir)?;
            let dir = data_dir.join("pg_replslot");
            copies.iter().try_for_each(|copy| put(&dir, copy, user.as_ref()))
        })
        .await
    }
}

fn xmins(rows: &[Row]) -> Xmins {
    let xmin = |row: &Row| row.get(1)?.as_ref()?.parse().ok();
    rows.iter().filter_map(|row| Some((row.first()?.clone()?, xmin(row)))).collect()
}

/// Whole or not at all: a server does not start over a slot that is cut off.
fn put(dir: &Path, copy: &SlotCopy, user: Option<&OsUser>) -> Result<()> {
    let (target, staged) = (dir.join(&copy.slot.name), dir.join(format!("{}.tmp", copy.slot.name)));
    let io = |what: &str, path: &Path| {
        let (what, path) = (what.to_owned(), path.to_owned());
        move |e: std::io::Error| PgError::io(&what, &path, &e)
    };
    if staged.exists() {
        fs::remove_dir_all(&staged).map_err(io("remove", &staged))?;
    }
    make_dirs(&staged, user)?;
    let file = staged.join("state");
    let write = || {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        out.write_all(&copy.state)?;
        out.sync_all()
    };
    write().map_err(io("write", &file))?;
    give_to(&file, user)?;
    if target.exists() {
        fs::remove_dir_all(&target).map_err(io("remove", &target))?;
    }
    fs::rename(&staged, &target).map_err(io("rename", &staged))?;
    for path in [target.as_path(), dir] {
        fs::File::open(path).and_then(|d| d.sync_all()).map_err(io("sync", path))?;
    }
    Ok(())
}

fn statement(action: &Action) -> String {
    match action {
        Action::Drop { name, .. } => format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {} AND NOT active",
            literal(name)
        ),
        // It may have been promoted since this was decided, and then somebody needs it.
        Action::GiveWay(name) => format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = {} AND NOT active AND NOT synced AND pg_is_in_recovery()",
            literal(name)
        ),
        Action::CreatePhysical(name) => format!(
            "SELECT pg_create_physical_replication_slot({0}, true) \
             WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {0})",
            literal(name)
        ),
        Action::AdvancePhysical(name, to) => format!("SELECT pg_replication_slot_advance({}, '{to}')", literal(name)),
        Action::CreateLogical { slot, .. } | Action::AdvanceLogical { slot, .. } | Action::SetFailover { slot, .. } => {
            unreachable!("{} is changed in its database or by a replication command", slot.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let slot = LogicalSlot { name: "changes".into(), database: "app".into(), plugin: "pgoutput".into() };
        let mut copy = SlotCopy { slot, state: vec![1, 2, 3] };
        // What an earlier try left behind, and what was there before.
        fs::create_dir_all(dir.path().join("changes.tmp/x")).unwrap();
        put(dir.path(), &copy, None).unwrap();
        copy.state = vec![4];
        put(dir.path(), &copy, None).unwrap();
        assert_eq!(fs::read(dir.path().join("changes/state")).unwrap(), [4]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let in_the_way = dir.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let error = put(&in_the_way, &copy, None).unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
    }
}
