//! A new cluster (`spec/ha.md §5.2`).

use std::time::Duration;

use surus_core::cluster::Initialize;
use surus_core::facts::TaskDone;
use surus_core::postgres::DataDir;
use surus_postgres::StartAs;
use surus_store::{StoreError, TxnOutcome};
use tracing::{error, info, warn};

use super::{Outcome, TaskContext, demote, text};

const STORE_LIMIT: Duration = Duration::from_secs(5);

pub async fn bootstrap(cx: &TaskContext) -> Outcome {
    let claim = match cx.store.claim_cluster(STORE_LIMIT).await.map_err(text)? {
        TxnOutcome::Applied(version) => version,
        TxnOutcome::Conflict => {
            info!("failed to acquire initialize lock: another member creates the cluster");
            return Ok(TaskDone::LostRace);
        }
    };
    match create(cx, claim).await {
        Ok(done) => Ok(done),
        Err(why) => {
            error!("failed to bootstrap cluster: {why}");
            info!("removing initialize key after failed attempt to bootstrap the cluster");
            if let Err(e) = cx.store.abandon_claim(claim, STORE_LIMIT).await {
                warn!("the initialize key could not be removed, it ends with this member's session: {e}");
            }
            give_up_data(cx).await;
            Err(why)
        }
    }
}

async fn create(cx: &TaskContext, claim: u64) -> Outcome {
    cx.tell("running initdb");
    let begun = std::time::Instant::now();
    cx.instance.initdb(&cx.cancel).await.map_err(text)?;
    info!("initdb took {} ms", begun.elapsed().as_millis());
    cx.tell("starting the new cluster");
    cx.instance.start(&StartAs::Primary, cx.start_timeout).await.map_err(text)?;
    cx.tell("creating users");
    cx.instance.create_roles().await.map_err(text)?;
    if let Some(command) = &cx.post_bootstrap {
        cx.tell("running post_bootstrap");
        cx.instance.post_bootstrap(command, &cx.cancel).await.map_err(text)?;
    }
    let DataDir::Present { control, .. } = cx.instance.data_dir().await else {
        return Err("the data directory is not there after initdb".into());
    };
    let document = cx.founding_document.to_string();
    let mut founded = cx.store.found_cluster(claim, &control.system_id, document.clone(), STORE_LIMIT).await;
    // A lost answer must not cost a cluster that others already see: look until the truth is known.
    while let Err(StoreError::OutcomeUnknown(_)) = founded {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            // Whether the store knows it or not: with its data it can be taken over as it is.
            () = cx.cancel.cancelled() => return Ok(TaskDone::Done),
        }
        if let Ok(view) = cx.store.read(STORE_LIMIT).await {
            founded = match (&view.initialize, &view.leader) {
                (Initialize::Done(id), Some(leader)) if *id == control.system_id && leader.name == cx.me => {
                    Ok(TxnOutcome::Applied(leader.version))
                }
                (Initialize::Done(id), _) if *id == control.system_id => return Ok(TaskDone::Done),
                // The request was lost, and my claim would keep everybody from trying.
                (Initialize::InProgress, None) if view.initialize_version == claim => {
                    cx.store.found_cluster(claim, &control.system_id, document.clone(), STORE_LIMIT).await
                }
                _ => Ok(TxnOutcome::Conflict),
            };
        }
    }
    match founded {
        Ok(TxnOutcome::Applied(_)) => {
            // Confirms the lead for the lease keeper; if that fails now, the rules do it.
            if let Err(e) = cx.lease.take().await {
                warn!("the lead of the new cluster could not be confirmed yet: {e}");
            }
            info!("initialized a new cluster {} in {:.1} s", control.system_id, begun.elapsed().as_secs_f64());
            Ok(TaskDone::Done)
        }
        Ok(TxnOutcome::Conflict) => {
            warn!("another member created the cluster meanwhile, giving this one up");
            give_up_data(cx).await;
            Ok(TaskDone::LostRace)
        }
        Err(e) => Err(format!("the new cluster could not be registered: {e}")),
    }
}

/// Nothing of an unfinished cluster may be taken for a finished one.
async fn give_up_data(cx: &TaskContext) {
    if let Err(e) = demote::stop_now(cx).await {
        warn!("PostgreSQL could not be stopped: {e}");
        return;
    }
    match cx.instance.move_data_dir_aside().await {
        Ok(path) => warn!("the unfinished data directory was moved to {}", path.display()),
        Err(e) => warn!("the unfinished data directory could not be moved aside: {e}"),
    }
}
