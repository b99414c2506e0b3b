//! Looks at the cluster again and again. Every look has a limit and a task of its own: who does not answer delays
//! nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::model::Seen;
use crate::commands::explain::candidates;
use crate::commands::list::progresses;
use crate::context::{Cluster, Context};
use crate::failure::Failure;

const EVERY: Duration = Duration::from_secs(1);
/// Asking every member costs each of them a request.
const CANDIDATES_EVERY: Duration = Duration::from_secs(3);
const READ_LIMIT: Duration = Duration::from_secs(2);

pub fn start(context: Arc<Context>, cluster: Arc<Cluster>, updates: UnboundedSender<Seen>) {
    tokio::spawn(weigh(context.clone(), cluster.clone(), updates.clone()));
    tokio::spawn(async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let seen = match timeout(READ_LIMIT, cluster.read()).await {
                Ok(Ok(reading)) => {
                    let progresses = progresses(&context, &reading).await;
                    Seen::Cluster(Box::new(reading), progresses)
                }
                Ok(Err(Failure::Message(problem))) => Seen::NoStore(problem),
                Ok(Err(_)) => Seen::NoStore("it refuses".to_owned()),
                Err(_) => Seen::NoStore(format!("no answer for {} s", READ_LIMIT.as_secs())),
            };
            if updates.send(seen).is_err() {
                return;
            }
        }
    });
}

async fn weigh(context: Arc<Context>, cluster: Arc<Cluster>, updates: UnboundedSender<Seen>) {
    let mut tick = interval(CANDIDATES_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // What is wrong with the store the other task tells.
        let Ok(Ok(reading)) = timeout(READ_LIMIT, cluster.read()).await else { continue };
        if updates.send(Seen::Candidates(candidates::weigh(&context, &reading).await)).is_err() {
            return;
        }
    }
}
