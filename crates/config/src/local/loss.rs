//! `loss`: what is kept of log that only one member had. Not known to peers.

use std::path::{Path, PathBuf};

use crate::reader::{Reader, Section};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Absent: beside the data directory.
    pub directory: Option<PathBuf>,
    /// Bytes of log that are kept with all receipts that are not acknowledged.
    pub keep_wal: u64,
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

pub(super) fn read(root: &Section<'_>, r: &mut Reader, data_dir: Option<&Path>) -> Loss {
    let s = root.section("loss");
    let loss = Loss { directory: s.path("directory"), keep_wal: s.size("keep_wal").unwrap_or_default() };
    if let (Some(dir), Some(data)) = (&loss.directory, data_dir)
        && dir.starts_with(data)
    {
        r.fault(
            &s.place_of("directory"),
            "loss.directory",
            "is inside of the data directory, which is what is replaced; choose another place",
        );
    }
    loss
}
