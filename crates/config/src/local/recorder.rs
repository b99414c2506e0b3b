//! `recorder`: the journal of decisions that every member keeps. Not known to peers.

use std::path::{Path, PathBuf};

use crate::reader::{Reader, Section};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorder {
    pub enabled: bool,
    /// Absent: beside the data directory.
    pub directory: Option<PathBuf>,
    /// Bytes that the journal takes at the most.
    pub max_size: u64,
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

pub(super) fn read(root: &Section<'_>, r: &mut Reader, data_dir: Option<&Path>) -> Recorder {
    let s = root.section("recorder");
    let recorder = Recorder {
        enabled: s.bool("enabled"),
        directory: s.path("directory"),
        max_size: s.size("max_size").unwrap_or_default(),
    };
    if let (Some(dir), Some(data)) = (&recorder.directory, data_dir)
        && dir.starts_with(data)
    {
        r.fault(
            &s.place_of("directory"),
            "recorder.directory",
            "is inside of the data directory, which is copied and replaced as a whole; choose another place",
        );
    }
    recorder
}
