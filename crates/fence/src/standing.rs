//! How well the fence stands: what keeps it running when the machine is short of everything.

use serde::{Deserialize, Serialize};
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};

/// What was permitted, or why it was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub memory_not_locked: Option<String>,
    pub not_realtime: Option<String>,
    pub not_oom_protected: Option<String>,
}

impl Standing {
    /// Takes whatever this process is permitted to have.
    pub fn take() -> Standing {
        let not_realtime = realtime().err();
        let not_oom_protected = std::fs::write("/proc/self/oom_score_adj", "-1000").err().map(|e| e.to_string());
        // Last: what only the beginning needs is not to stay in memory.
        Standing { memory_not_locked: crate::memory::lock().err(), not_realtime, not_oom_protected }
    }

    /// What is missing, in words; empty when nothing is.
    pub fn missing(&self) -> Vec<String> {
        let parts = [
            ("its memory is not locked", &self.memory_not_locked),
            ("it has no real-time priority", &self.not_realtime),
            ("it is not protected from the out-of-memory killer", &self.not_oom_protected),
        ];
        parts.into_iter().filter_map(|(what, why)| why.as_ref().map(|why| format!("{what} ({why})"))).collect()
    }
}

fn realtime() -> Result<(), String> {
    // The lowest real-time priority is above everything that a database runs with.
    let lowest = ThreadPriorityValue::try_from(1_u8).map_err(|e| e.to_string())?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(lowest), policy).map_err(|e| {
        match e {
            thread_priority::Error::OS(code) => std::io::Error::from_raw_os_error(code).to_string(),
            other => format!("{other:?}"),
        }
    })
}
