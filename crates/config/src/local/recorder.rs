//! `recorder`: the journal of decisions that every member keeps. Not known to peers.

use std::path::{Path, PathBuf};

use crate::reader::{Reader, Section};
use crate::value::parse_bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorder {
    pub enabled: bool,
    /// Absent: beside the data directory.
    pub directory: Option<PathBuf>,
    /// Bytes that the journal takes at the most.
    pub max_size: u64,
}

/// Holds months of an idle member and hundreds of failovers.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
const LEAST: u64 = 1024 * 1024;

impl Default for Recorder {
    fn default() -> Self {
        Recorder { enabled: true, directory: None, max_size: MAX_SIZE }
    }
}

impl Recorder {
    /// Where the journal of a member with this data directory is.
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| {
            let mut name = data_dir.as_os_str().to_owned();
            name.push(".surus.journal");
            PathBuf::from(name)
        })
    }
}

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader, data_dir: Option<&Path>) -> Recorder {
    let mut s = root.section(r, "recorder");
    let default = Recorder::default();
    let recorder = Recorder {
        enabled: s.bool(r, "enabled").unwrap_or(default.enabled),
        directory: s.path(r, "directory"),
        max_size: size(&mut s, r).unwrap_or(default.max_size),
    };
    if let (Some(dir), Some(data)) = (&recorder.directory, data_dir)
        && dir.starts_with(data)
        && let Some(node) = s.take("directory")
    {
        r.fault(
            &node.place,
            "recorder.directory",
            "is inside of the data directory, which is copied and replaced as a whole; choose another place",
        );
    }
    s.finish(r);
    recorder
}

fn size(s: &mut Section<'_>, r: &mut Reader) -> Option<u64> {
    let node = s.take("max_size")?;
    let text = node.scalar_text().filter(|t| !t.trim().is_empty())?;
    let bytes = parse_bytes(text.trim()).and_then(|n| u64::try_from(n).ok()).filter(|n| *n >= LEAST);
    if bytes.is_none() {
        r.fault(
            &node.place,
            &s.below("max_size"),
            format!("expected a size of at least 1MB, such as 16MB, found {text:?}"),
        );
    }
    bytes
}
