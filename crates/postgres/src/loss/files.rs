//! Receipts on disk: `<data_dir>.surus.loss/<id>/receipt.json`, with the log that was kept in `wal/` beside it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use surus_core::loss::Receipt;

use crate::config::beside;
use crate::disk::{clear_dir, give_to, make_dirs, replace_file, sync_parent};
use crate::os_user::OsUser;
use crate::{ErrorKind, PgError, Result};

const RECEIPT: &str = "receipt.json";
pub(super) const WAL: &str = "wal";
/// One line for each row.
pub(super) const ROWS: &str = "rows.jsonl";
/// Before the id of one that was acknowledged: an empty directory, until the store has forgotten it too.
const ACKNOWLEDGED: &str = ".acknowledged-";
/// What is being written: no receipt yet.
const UNFINISHED: &str = ".unfinished";

/// Where the receipts of a data directory are unless the configuration names another place.
pub fn directory(data_dir: &Path) -> PathBuf {
    beside(data_dir, ".surus.loss")
}

/// What is not acknowledged, oldest first, and what cannot be read of it. Blocking.
pub fn receipts(dir: &Path) -> Result<(Vec<Receipt>, Vec<String>)> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((vec![], vec![])),
        Err(e) => return Err(PgError::io("list", dir, &e)),
    };
    let mut names = vec![];
    for entry in entries {
        let name = entry.map_err(|e| PgError::io("list", dir, &e))?.file_name();
        names.extend(name.into_string().ok().filter(|n| !n.starts_with('.')));
    }
    names.sort_unstable();
    let (mut all, mut odd) = (vec![], vec![]);
    for name in names {
        let path = dir.join(&name).join(RECEIPT);
        let read = fs::read_to_string(&path).map_err(|e| e.to_string());
        match read.and_then(|text| serde_json::from_str::<Receipt>(&text).map_err(|e| e.to_string())) {
            Ok(receipt) => all.push(Receipt { id: name, ..receipt }),
            Err(e) => odd.push(format!("{} cannot be read: {e}", path.display())),
        }
    }
    Ok((all, odd))
}

/// Removes a receipt and the log kept with it. Blocking.
pub fn acknowledge(dir: &Path, id: &str) -> Result<()> {
    let path = dir.join(id);
    // An id is a name in that directory and nothing else.
    if id.is_empty() || id.starts_with('.') || id.contains('/') || !path.join(RECEIPT).exists() {
        return Err(PgError::new(
            ErrorKind::Refused,
            format!("there is no loss receipt {id} in {}; `surus loss list` shows those there are", dir.display()),
        ));
    }
    let gone = dir.join(format!("{ACKNOWLEDGED}{id}"));
    // In one step: what is left of an interrupted removal is no receipt any more.
    fs::rename(&path, &gone).map_err(|e| PgError::io("rename", &path, &e))?;
    sync_parent(&gone);
    clear_dir(&gone)
}

/// Ids of receipts that were acknowledged here and that the store may still tell of. Blocking.
pub fn acknowledged(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter_map(|n| n.strip_prefix(ACKNOWLEDGED).map(str::to_owned)).collect()
}

/// The store does not tell of them any more. Blocking.
pub fn forgotten(dir: &Path, ids: &[String]) -> Result<()> {
    ids.iter().try_for_each(|id| {
        let path = dir.join(format!("{ACKNOWLEDGED}{id}"));
        fs::remove_dir_all(&path).map_err(|e| PgError::io("remove", &path, &e))
    })
}

/// A directory for the receipt's parts.
pub(super) fn begin(dir: &Path, user: Option<&OsUser>) -> Result<PathBuf> {
    make_dirs(dir, user)?;
    // Left by an attempt or an acknowledgement that was interrupted.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(ACKNOWLEDGED) {
            clear_dir(&entry.path())?;
        } else if name.to_string_lossy().starts_with('.') {
            fs::remove_dir_all(entry.path()).map_err(|e| PgError::io("remove", &entry.path(), &e))?;
        }
    }
    let work = dir.join(UNFINISHED);
    for made in [work.clone(), work.join(WAL)] {
        fs::DirBuilder::new().mode(0o700).create(&made).map_err(|e| PgError::io("create directory", &made, &e))?;
        give_to(&made, user)?;
    }
    Ok(work)
}

/// From here on it counts.
pub(super) fn finish(dir: &Path, work: &Path, receipt: &mut Receipt, user: Option<&OsUser>) -> Result<()> {
    let wanted = receipt.id.clone();
    let free = (1..).map(|n| if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") });
    receipt.id = free.into_iter().find(|id| !dir.join(id).exists()).unwrap_or(wanted);
    let text = serde_json::to_string_pretty(receipt)
        .map_err(|e| PgError::new(ErrorKind::Io, format!("a loss receipt cannot be written as JSON: {e}")))?;
    replace_file(&work.join(RECEIPT), &(text + "\n"), 0o600, user)?;
    let to = dir.join(&receipt.id);
    fs::rename(work, &to).map_err(|e| PgError::io("rename into place", work, &e))?;
    sync_parent(&to);
    sync_parent(dir);
    Ok(())
}

/// Changes a receipt that is there.
pub(super) fn amend(dir: &Path, change: impl FnOnce(&mut Receipt), user: Option<&OsUser>) -> Result<()> {
    let path = dir.join(RECEIPT);
    let text = fs::read_to_string(&path).map_err(|e| PgError::io("read", &path, &e))?;
    let broken = |e: serde_json::Error| PgError::new(ErrorKind::Io, format!("{}: {e}", path.display()));
    let mut receipt = serde_json::from_str(&text).map_err(broken)?;
    change(&mut receipt);
    let text = serde_json::to_string_pretty(&receipt).map_err(broken)?;
    replace_file(&path, &(text + "\n"), 0o600, user).map(drop)
}

/// The rows that lie beside a receipt, each a JSON object. Blocking.
pub fn rows(dir: &Path, id: &str) -> Result<Vec<serde_json::Value>> {
    let path = dir.join(id).join(ROWS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(PgError::io("read", &path, &e)),
    };
    let parsed = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    parsed.map_err(|e| PgError::new(ErrorKind::Io, format!("{}: {e}", path.display())))
}
