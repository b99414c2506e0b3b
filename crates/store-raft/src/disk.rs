//! The one file of a node: identity, vote, log, snapshot.
//!
//! Every change is one transaction that is on the disk when the call returns. A write or read that fails
//! ends the process: after a failed sync nobody knows what the disk holds, and a node that goes on
//! guessing can break the group's promises. An existing file that cannot be read is never replaced.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::Ordering;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::StartError;
use crate::format::FIRST;
use crate::host;
use crate::records::Identity;
#[cfg(test)]
use crate::simulated;
use crate::types::random_id;

pub const FILE: &str = "raft.redb";
const CACHE: usize = 1 << 20;

pub const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
pub const SNAPSHOT: TableDefinition<&str, &[u8]> = TableDefinition::new("snapshot");

const IDENTITY: &str = "identity";
const ADVICE: &str = "If this is a damaged log, move the directory away and start again: the node then joins the group \
                      as a new one and copies everything from the others. If it is something else, give another data_dir";

#[derive(Clone)]
pub struct Disk {
    db: Arc<Database>,
    path: Arc<PathBuf>,
    identity: Identity,
}

impl Disk {
    /// Opens the file in `dir`, creating both if they are not there.
    pub fn open(dir: &Path) -> Result<Disk, StartError> {
        #[cfg(test)]
        if let Some(here) = simulated::here() {
            return Disk::open_simulated(&here);
        }
        let unusable = |what: &str, e: &dyn std::fmt::Display| StartError::DataDir {
            path: dir.to_owned(),
            reason: format!("{what}: {e}"),
        };
        if !dir.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|e| unusable("it cannot be created", &e))?;
        }
        let path = dir.join(FILE);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => create(dir, &path)?,
            Err(e) => return Err(unusable("it cannot be read", &e)),
        }
        let db = open_database(&path)?;
        let identity = read_identity(&db, &path)?;
        Ok(Disk { db: Arc::new(db), path: Arc::new(path), identity })
    }

    #[cfg(test)]
    fn open_simulated(here: &simulated::Here) -> Result<Disk, StartError> {
        let path = PathBuf::from(FILE);
        let open = |file: simulated::Open| {
            let db = Database::builder().set_cache_size(CACHE).create_with_backend(file);
            db.map_err(|e| StartError::Damaged { path: path.clone(), reason: e.to_string(), advice: ADVICE })
        };
        let disk = here.file().disk;
        if disk.is_empty() {
            let draft = Arc::new(simulated::Disk::default());
            draft.full.store(disk.full.load(Ordering::Relaxed), Ordering::Relaxed);
            let db = open(here.open(draft.clone()))?;
            let filled = fill(&db);
            filled.map_err(|e| StartError::DataDir { path: path.clone(), reason: e.to_string() })?;
            drop(db);
            if here.is_dead() {
                host::abort();
            }
            disk.replace(&draft);
        }
        let db = open(here.file())?;
        let identity = read_identity(&db, &path)?;
        Ok(Disk { db: Arc::new(db), path: Arc::new(path), identity })
    }

    pub fn node_id(&self) -> u64 {
        self.identity.node
    }

    /// Runs `change` in one durable transaction.
    pub async fn write<F>(&self, what: &'static str, change: F)
    where
        F: FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send + 'static,
    {
        let this = self.clone();
        // A failed join means that the closure panicked: same consequence as a failed write.
        if host::beside(move || this.write_blocking(what, change)).await.is_err() {
            fatal(what, &self.path, &"internal failure");
        }
    }

    pub fn write_blocking<F>(&self, what: &'static str, change: F)
    where
        F: FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    {
        let done = (|| -> Result<(), redb::Error> {
            let txn = self.db.begin_write()?;
            change(&txn)?;
            txn.commit()?;
            Ok(())
        })();
        if let Err(e) = done {
            fatal(what, &self.path, &e);
        }
    }

    pub fn read<T, F>(&self, what: &'static str, look: F) -> T
    where
        F: FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    {
        match self.db.begin_read().map_err(redb::Error::from).and_then(|txn| look(&txn)) {
            Ok(value) => value,
            Err(e) => fatal(what, &self.path, &e),
        }
    }

    pub fn meta<T: DeserializeOwned>(&self, key: &'static str) -> Option<T> {
        let bytes = self.read(key, |txn| Ok(txn.open_table(META)?.get(key)?.map(|v| v.value().to_vec())));
        bytes.map(|b| self.decode(key, &b))
    }

    pub async fn set_meta<T: Serialize>(&self, key: &'static str, value: &T) {
        let bytes = self.encode(key, value);
        self.write(key, move |txn| {
            txn.open_table(META)?.insert(key, bytes.as_slice())?;
            Ok(())
        })
        .await;
    }

    pub fn encode<T: Serialize>(&self, what: &str, value: &T) -> Vec<u8> {
        match serde_json::to_vec(value) {
            Ok(bytes) => bytes,
            Err(e) => fatal(what, &self.path, &e),
        }
    }

    pub fn decode<T: DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> T {
        match serde_json::from_slice(bytes) {
            Ok(value) => value,
            Err(e) => fatal(what, &self.path, &e),
        }
    }
}

/// Ends the process. Returning an error instead would leave the consensus library running on a log
/// of unknown content.
fn fatal(what: &str, path: &Path, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(
        "the embedded store's file {} failed ({what}): {error}. Stopping at once: going on could lose what was \
         acknowledged. Check the disk; then start again, or move the directory away to rejoin with an empty one",
        path.display()
    );
    host::abort()
}

/// Makes the file complete under another name first: a crash leaves no half-made log behind.
fn create(dir: &Path, path: &Path) -> Result<(), StartError> {
    let fail = |e: &dyn std::fmt::Display| StartError::DataDir {
        path: dir.to_owned(),
        reason: format!("{FILE} cannot be created in it: {e}"),
    };
    let draft = dir.join(format!("{FILE}.new"));
    let db = match Database::builder().set_cache_size(CACHE).create(&draft) {
        Ok(db) => db,
        Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StartError::InUse { path: dir.to_owned() }),
        Err(_) => {
            // Left half-made by a crash; nothing was ever promised from it.
            fs::remove_file(&draft).map_err(|e| fail(&e))?;
            Database::builder().set_cache_size(CACHE).create(&draft).map_err(|e| fail(&e))?
        }
    };
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(|e| fail(&e))?;
    fill(&db).map_err(|e| fail(&e))?;
    // A process that was faster has the name already, and may have voted from that file.
    fs::hard_link(&draft, path).or_else(|e| if path.exists() { Ok(()) } else { Err(e) }).map_err(|e| fail(&e))?;
    drop(db);
    fs::remove_file(&draft).map_err(|e| fail(&e))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| fail(&e))
}

/// What every file has, and the node's identity, drawn here and once.
fn fill(db: &Database) -> Result<(), redb::Error> {
    let identity = Identity { format: FIRST, node: random_id() };
    let bytes = serde_json::to_vec(&identity).map_err(std::io::Error::other)?;
    let txn = db.begin_write()?;
    txn.open_table(META)?.insert(IDENTITY, bytes.as_slice())?;
    txn.open_table(LOG)?;
    txn.open_table(SNAPSHOT)?;
    txn.commit()?;
    Ok(())
}

fn open_database(path: &Path) -> Result<Database, StartError> {
    let damaged =
        |reason: String| StartError::Damaged { path: path.to_owned(), reason: in_one_line(&reason), advice: ADVICE };
    match Database::builder().set_cache_size(CACHE).open(path) {
        Ok(db) => Ok(db),
        Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) => {
            Err(StartError::InUse { path: path.to_owned() })
        }
        Err(DatabaseError::Storage(redb::StorageError::Io(e)))
            if e.kind() != std::io::ErrorKind::InvalidData && e.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            Err(StartError::DataDir { path: path.to_owned(), reason: e.to_string() })
        }
        Err(e) => Err(damaged(e.to_string())),
    }
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

fn read_identity(db: &Database, path: &Path) -> Result<Identity, StartError> {
    let damaged = |reason: String| StartError::Damaged { path: path.to_owned(), reason, advice: ADVICE };
    let bytes = (|| -> Result<Option<Vec<u8>>, redb::Error> {
        let txn = db.begin_read()?;
        Ok(txn.open_table(META)?.get(IDENTITY)?.map(|v| v.value().to_vec()))
    })();
    let bytes =
        bytes.map_err(|e| damaged(e.to_string()))?.ok_or_else(|| damaged("it has no identity record".into()))?;
    let identity: Identity =
        serde_json::from_slice(&bytes).map_err(|e| damaged(format!("its identity record: {e}")))?;
    let newest = host::newest_format();
    if !(FIRST..=newest).contains(&identity.format) {
        return Err(StartError::Damaged {
            path: path.to_owned(),
            reason: format!("it has format {}, this program reads formats up to {newest}", identity.format),
            advice: "Use the version of the program that wrote it",
        });
    }
    Ok(identity)
}

impl Disk {
    /// What this transaction puts into the file is of that format: a program that would misread it refuses the file.
    pub fn raise_format(&self, txn: &WriteTransaction, format: u32) -> Result<(), redb::Error> {
        let mut table = txn.open_table(META)?;
        let known = table.get(IDENTITY)?.map(|v| self.decode::<Identity>(IDENTITY, v.value()));
        let before = known.as_ref().map_or(FIRST, |known| known.format);
        if format > before {
            let identity = Identity { format, node: self.identity.node };
            table.insert(IDENTITY, self.encode(IDENTITY, &identity).as_slice())?;
        }
        Ok(())
    }
}

/// The last record of the log table.
pub fn last_log(txn: &redb::ReadTransaction) -> Result<Option<Vec<u8>>, redb::Error> {
    Ok(txn.open_table(LOG)?.last()?.map(|(_, v)| v.value().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(dir: &Path) -> String {
        match Disk::open(dir) {
            Ok(_) => panic!("{} was opened", dir.display()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn an_identity_is_drawn_once_per_directory() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Disk::open(a.path()).unwrap().node_id();
        assert_eq!(Disk::open(a.path()).unwrap().node_id(), first);
        assert_ne!(Disk::open(b.path()).unwrap().node_id(), first);
    }

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let first = Disk::open(dir.path()).unwrap();
        assert!(refused(dir.path()).contains("in use by another process"));
        drop(first);
        Disk::open(dir.path()).unwrap();
    }

    #[test]
    fn a_foreign_or_damaged_file_is_refused_and_kept() {
        for content in [&b""[..], b"not a database", &[0x41; 100_000]] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE);
            fs::write(&path, content).unwrap();
            let text = refused(dir.path());
            assert!(text.contains(FILE) && text.contains("move the directory away"), "{text}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn a_database_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::create(dir.path().join(FILE)).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(TableDefinition::<u64, u64>::new("x")).unwrap().insert(1, 1).unwrap();
        txn.commit().unwrap();
        drop(db);
        assert!(refused(dir.path()).contains("no log of the embedded store"));
    }

    #[test]
    fn a_later_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        disk.write_blocking("test", |txn| {
            txn.open_table(META)?.insert(IDENTITY, br#"{"format":99,"node":1}"#.as_slice())?;
            Ok(())
        });
        drop(disk);
        assert!(refused(dir.path()).contains("format 99"));
    }

    #[test]
    fn a_half_made_draft_does_not_stop_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("{FILE}.new")), b"torn").unwrap();
        Disk::open(dir.path()).unwrap();
        assert!(!dir.path().join(format!("{FILE}.new")).exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let text = refused(Path::new("/proc/nope"));
        assert!(text.contains("/proc/nope"), "{text}");
    }
}
