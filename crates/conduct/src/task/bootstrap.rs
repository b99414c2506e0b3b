//! A new cluster (`spec/ha.md §5.2`).

use std::time::Duration;

use futures_util::future::Either;
use surus_core::cluster::{Initialize, MemberRole};
use surus_core::facts::TaskDone;
use surus_core::postgres::DataDir;
use surus_core::server::{StartAs, StopMode, Stopped};
use surus_core::store::{StoreError, TxnOutcome};
use surus_core::{BootTime, SystemId};
use tracing::{error, info, warn};

use super::{Hands, Happened, Launched, Outcome, TaskContext, demote, methods, ms_since};
use crate::race::first;

const STORE_LIMIT: Duration = Duration::from_secs(5);

pub async fn bootstrap(cx: &TaskContext, hands: &impl Hands) -> Outcome {
    let claim = match hands.claim_cluster(STORE_LIMIT).await.map_err(|e| e.to_string())? {
        TxnOutcome::Applied(version) => version,
        TxnOutcome::Conflict => {
            info!("failed to acquire initialize lock: another member creates the cluster");
            return Ok(TaskDone::LostRace);
        }
    };
    match create(cx, hands, claim).await {
        Ok(done) => Ok(done),
        Err(why) => {
            error!("failed to bootstrap cluster: {why}");
            info!("removing initialize key after failed attempt to bootstrap the cluster");
            if let Err(e) = hands.abandon_claim(claim, STORE_LIMIT).await {
                warn!("the initialize key could not be removed, it ends with this member's session: {e}");
            }
            give_up_data(hands).await;
            Err(why)
        }
    }
}

async fn create(cx: &TaskContext, hands: &impl Hands, claim: u64) -> Outcome {
    let begun = hands.now();
    if cx.settings.standby_cluster {
        // It has everything from the remote node, and is started by the rules once it leads.
        methods::create(cx, hands, cx.settings.remote.as_ref(), &hands.remote_methods(), false).await?;
    } else {
        fill(cx, hands).await?;
    }
    let DataDir::Present { control, .. } = hands.data_dir().await else {
        return Err("the data directory of the new cluster is not there".into());
    };
    found(cx, hands, claim, &control.system_id, begun).await
}

/// A primary that runs, with its users.
async fn fill(cx: &TaskContext, hands: &impl Hands) -> Result<(), String> {
    let begun = hands.now();
    let custom = hands.custom_bootstrap();
    match &custom {
        Some(method) => {
            hands.tell(format!("running custom bootstrap script ({method})"));
            hands.run_custom_bootstrap().await?;
            info!("the bootstrap method {method} took {:.1} s", hands.now().since(begun).as_secs_f64());
            hands.tell("waiting for end of recovery after bootstrap".into());
            hands.recover_new_cluster().await?;
        }
        None => {
            hands.tell("running initdb".into());
            hands.initdb().await?;
            info!("initdb took {} ms", ms_since(hands, begun));
            hands.tell("starting the new cluster".into());
            if let Launched::Starting(why) = hands.start(&StartAs::Primary, cx.start_timeout).await? {
                return Err(why);
            }
        }
    }
    hands.tell("creating users".into());
    hands.create_roles().await?;
    if let Some(command) = &cx.post_bootstrap {
        hands.tell("running post_bootstrap".into());
        hands.post_bootstrap(command).await?;
    }
    if custom.is_some() {
        hands.end_custom_bootstrap().await?;
        restart(cx, hands).await?;
    }
    Ok(())
}

async fn found(cx: &TaskContext, hands: &impl Hands, claim: u64, id: &SystemId, begun: BootTime) -> Outcome {
    let mut founded = hands.found_cluster(claim, id, &cx.founding_document, STORE_LIMIT).await;
    // A lost answer must not cost a cluster that others already see: look until the truth is known.
    while let Err(StoreError::OutcomeUnknown(_)) = founded {
        if let Either::Left(()) = first(hands.cancelled(), hands.sleep(Duration::from_millis(200))).await {
            // Whether the store knows it or not: with its data it can be taken over as it is.
            return Ok(TaskDone::Done);
        }
        if let Ok(view) = hands.read_store(STORE_LIMIT).await {
            founded = match (&view.initialize, &view.leader) {
                (Initialize::Done(found), Some(leader)) if found == id && leader.name == cx.me => {
                    Ok(TxnOutcome::Applied(leader.version))
                }
                (Initialize::Done(found), _) if found == id => return Ok(TaskDone::Done),
                // The request was lost, and my claim would keep everybody from trying.
                (Initialize::InProgress, None) if view.initialize_version == claim => {
                    hands.found_cluster(claim, id, &cx.founding_document, STORE_LIMIT).await
                }
                _ => Ok(TxnOutcome::Conflict),
            };
        }
    }
    match founded {
        Ok(TxnOutcome::Applied(_)) => {
            // Confirms the lead for the lease keeper; if that fails now, the rules do it.
            if let Err(e) = hands.take_lead().await {
                warn!("the lead of the new cluster could not be confirmed yet: {e}");
            } else if !cx.settings.standby_cluster
                && let Err(e) = hands.arm_fence().await
            {
                // Nobody else has this cluster's data yet, so nobody else can lead it.
                warn!("the new cluster's primary is not fenced yet: {e}");
            }
            if !cx.settings.standby_cluster {
                hands.happened(Happened::Up { role: MemberRole::Primary });
            }
            info!("initialized a new cluster {id} in {:.1} s", hands.now().since(begun).as_secs_f64());
            Ok(TaskDone::Done)
        }
        Ok(TxnOutcome::Conflict) => {
            warn!("another member created the cluster meanwhile, giving this one up");
            give_up_data(hands).await;
            Ok(TaskDone::LostRace)
        }
        Err(e) => Err(format!("the new cluster could not be registered: {e}")),
    }
}

/// A server keeps what it recovered with until it is started anew: the target, and limits that its backup asked for.
async fn restart(cx: &TaskContext, hands: &impl Hands) -> Result<(), String> {
    hands.tell("restarting the new cluster".into());
    while let Stopped::TimedOut = demote::stop(hands, StopMode::Fast, Duration::from_secs(1)).await? {
        if hands.is_cancelled() {
            return Err("given up on request".into());
        }
    }
    match hands.start(&StartAs::Primary, cx.start_timeout).await? {
        Launched::Up { .. } => Ok(()),
        Launched::Starting(why) => Err(why),
    }
}

/// Nothing of an unfinished cluster may be taken for a finished one.
async fn give_up_data(hands: &impl Hands) {
    if let Err(e) = demote::stop_now(hands).await {
        warn!("PostgreSQL could not be stopped: {e}");
        return;
    }
    match hands.give_up_new_data().await {
        Ok(what) => warn!("the unfinished data directory was {what}"),
        Err(e) => warn!("the unfinished data directory could not be moved aside: {e}"),
    }
}
