//! Filling the data directory of a replica by one of the configured methods (`spec/postgres.md §14`).

use surus_core::cluster::Upstream;
use surus_core::facts::TaskDone;
use surus_core::postgres::DataDir;
use tracing::{info, warn};

use super::{Hands, Outcome, TaskContext};

/// How a replica can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaMethod {
    pub name: String,
    /// It needs nobody to copy from.
    pub no_leader: bool,
    /// It makes what it finds into a copy, so that nothing of that is removed before.
    pub keep_data: bool,
}

pub const BASEBACKUP: &str = "basebackup";

impl ReplicaMethod {
    pub fn basebackup() -> ReplicaMethod {
        ReplicaMethod { name: BASEBACKUP.into(), no_leader: false, keep_data: false }
    }
}

/// One method after the other until one succeeds. No server runs. `replace`: what is here was given up.
pub async fn create(
    cx: &TaskContext,
    hands: &impl Hands,
    from: Option<&Upstream>,
    all: &[ReplicaMethod],
    replace: bool,
) -> Outcome {
    let methods: Vec<&ReplicaMethod> =
        all.iter().filter(|m| from.is_some() || (m.no_leader && m.name != BASEBACKUP)).collect();
    if methods.is_empty() {
        return Err("no replica creation method works without a running member (no_leader)".into());
    }
    let source = from.map_or_else(|| "without a leader".to_owned(), |from| format!("from {}", from.name));
    let mut failures = Vec::new();
    for method in methods {
        hands.tell(format!("creating a replica {source} with {}", method.name));
        if replace && !method.keep_data {
            remove(cx, hands, &source).await?;
        }
        let begun = hands.now();
        match hands.create_replica(method, from).await {
            Ok(()) => {
                let took = hands.now().since(begun).as_secs_f64();
                info!("replica has been created {source} with {} in {took:.1} s", method.name);
                return Ok(TaskDone::Done);
            }
            Err(why) if hands.is_cancelled() => return Err(why),
            Err(why) => {
                warn!("creating a replica {source} with {} failed: {why}", method.name);
                failures.push(format!("{}: {why}", method.name));
            }
        }
    }
    Err(format!("no replica creation method succeeded; {}", failures.join("; ")))
}

/// What is here may be the last copy, so the log says what it was.
async fn remove(cx: &TaskContext, hands: &impl Hands, source: &str) -> Result<(), String> {
    match hands.data_dir().await {
        DataDir::Empty => return Ok(()),
        DataDir::Present { control, .. } => warn!(
            "removing the data directory {} (system identifier {}, timeline {}, checkpoint {}) for a copy {source}",
            cx.data_dir, control.system_id, control.checkpoint_timeline, control.checkpoint_lsn
        ),
        DataDir::Foreign(why) | DataDir::Unreadable(why) => {
            warn!("removing the data directory {} ({why}) for a copy {source}", cx.data_dir);
        }
    }
    hands.remove_data_dir().await
}
