//! Takes up new certificates when their files change, and tells before one ends. Connections that exist go on with the
//! certificate they began with.

use std::time::Duration;

use jiff::Timestamp;
use surus_config::RestTls;
use tokio::time::Instant;
use tracing::{info, warn};

use super::app::Policy;
use super::reloader::Reloader;
use super::tls;
use crate::files::Watched;

/// Between two lines in the log about one certificate.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// Goes on for ever.
pub async fn keep(reloader: Reloader) {
    let mut reminder = Reminder::default();
    loop {
        let Some(files) = reloader.files().await else {
            reloader.reloaded().await;
            continue;
        };
        let on = [Some(&files.certfile), files.keyfile.as_ref(), files.cafile.as_ref()];
        let watched = Watched::on(on.into_iter().flatten().cloned().collect()).await;
        // Only now: what changed before the watch was there is seen here, what changes later is seen by the watch.
        look(&reloader, files).await;
        reminder.tell(&reloader.policy());
        tokio::select! {
            () = watched.touched() => {}
            () = reloader.reloaded() => {}
        }
    }
}

async fn look(reloader: &Reloader, files: RestTls) {
    let found = tls::read(Some(files.clone())).await;
    let Some(mut current) = reloader.changed_since(&files, tls::fingerprint(&found)).await else { return };
    current.contents = tls::fingerprint(&found);
    let loaded = found.and_then(|contents| contents.map(|c| tls::load(&files, &c)).transpose());
    match loaded {
        Ok(tls) => {
            let until =
                tls.as_ref().and_then(|tls| tls.validity.as_ref()).map(|v| format!(", good until {}", v.until()));
            let policy = Policy { tls, ..(*reloader.policy()).clone() };
            reloader.replace(policy);
            let path = files.certfile.display();
            info!("the REST API takes up the certificate that is in {path} now{}", until.unwrap_or_default());
        }
        Err(e) => warn!(
            "the certificate files of the REST API have changed and cannot be used, so that it goes on with what they \
             held before: {e}"
        ),
    }
}

/// One line for a certificate that ends, and one a day after it.
#[derive(Default)]
struct Reminder {
    told: Option<(Timestamp, Instant)>,
}

impl Reminder {
    fn tell(&mut self, policy: &Policy) {
        let Some(validity) = policy.validity() else { return };
        let Some(warning) = validity.warning(Timestamp::now()) else { return };
        let known = self.told.is_some_and(|(until, at)| until == validity.until() && at.elapsed() < REMIND);
        if !known {
            warn!("{warning}");
            self.told = Some((validity.until(), Instant::now()));
        }
    }
}
