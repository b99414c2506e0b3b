//! `loss`: what is kept of log that only one member had. Not known to peers.

use std::path::{Path, PathBuf};

use crate::reader::{Reader, Section};
use crate::value::parse_bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Absent: beside the data directory.
    pub directory: Option<PathBuf>,
    /// Bytes of log that are kept with all receipts that are not acknowledged.
    pub keep_wal: u64,
}

/// Hours of log of a busy primary that nobody followed.
const KEEP_WAL: u64 = 1024 * 1024 * 1024;

impl Default for Loss {
    fn default() -> Self {
        Loss { directory: None, keep_wal: KEEP_WAL }
    }
}

impl Loss {
    /// Where the receipts of a member with this data directory are.
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| {
            let mut name = data_dir.as_os_str().to_owned();
            name.push(".surus.loss");
            PathBuf::from(name)
        })
    }
}

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader, data_dir: Option<&Path>) -> Loss {
    let mut s = root.section(r, "loss");
    let loss = Loss { directory: s.path(r, "directory"), keep_wal: size(&mut s, r).unwrap_or(KEEP_WAL) };
    if let (Some(dir), Some(data)) = (&loss.directory, data_dir)
        && dir.starts_with(data)
        && let Some(node) = s.take("directory")
    {
        r.fault(
            &node.place,
            "loss.directory",
            "is inside of the data directory, which is what is replaced; choose another place",
        );
    }
    s.finish(r);
    loss
}

fn size(s: &mut Section<'_>, r: &mut Reader) -> Option<u64> {
    let node = s.take("keep_wal")?;
    let text = node.scalar_text().filter(|t| !t.trim().is_empty())?;
    let bytes = parse_bytes(text.trim()).and_then(|n| u64::try_from(n).ok());
    if bytes.is_none() {
        let wanted = format!("expected a size, such as 1GB, or 0 to keep none, found {text:?}");
        r.fault(&node.place, &s.below("keep_wal"), wanted);
    }
    bytes
}
