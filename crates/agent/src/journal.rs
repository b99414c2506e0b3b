//! The journal of this agent's decisions: where it is, and how it is read while it is being written.

use std::time::Duration;

use surus_journal::{Handle, Header, Options, Reader, Recorder, account};

use crate::inherited::boot_id;
use crate::settings::Settings;

/// An ending agent waits so long for its last words to be written.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// What is held back is asked for first, but not for longer.
const FLUSH: Duration = Duration::from_millis(500);
/// Events in one answer: a week of quiet or dozens of failovers, and half a megabyte.
const EVENTS: usize = 1000;

pub fn start(settings: &Settings) -> Recorder {
    let (local, recorder) = (&settings.local, &settings.local.recorder);
    if !recorder.enabled {
        return Recorder::off();
    }
    let header = Header {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scope: local.scope.clone(),
        member: local.name.clone(),
        boot: boot_id(),
        pid: std::process::id(),
        at: jiff::Timestamp::now().as_millisecond(),
        ..Header::now()
    };
    let directory = recorder.directory(&settings.data_dir());
    Recorder::start(Options { directory, max_size: recorder.max_size }, header)
}

pub async fn finish(recorder: &Recorder) {
    if let Some(handle) = recorder.handle() {
        let _ = tokio::task::spawn_blocking(move || handle.flush(LAST_WORDS)).await;
    }
}

/// What the journal tells since then (Unix milliseconds), as JSON. Takes as long as the disk takes.
pub fn read(handle: &Handle, since: i64) -> std::io::Result<Vec<u8>> {
    handle.flush(FLUSH);
    let account = account(Reader::open_since(handle.directory(), since)?, since, EVENTS);
    Ok(serde_json::to_vec(&account)?)
}
