//! A lease: one session, on one connection after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::ensemble::{Ensemble, Link};
use crate::wire::{Lost, Password, Request};

pub(crate) struct Lease {
    pub(crate) session: i64,
    password: Password,
    ttl: Duration,
    link: Mutex<Option<Arc<Link>>>,
    gone: AtomicBool,
}

#[derive(Clone, Copy)]
enum Asked {
    Renewal,
    End,
}

/// What is asked of the ensemble for a lease that is relied on for `ttl`.
///
/// The server one is connected to tells the leader only every half tick (1 s by default) which sessions were heard of. If
/// it is lost just then, the leader counts from up to so much earlier. A tenth of the ttl is the lease keeper's margin
/// anyway: what that lacks of a second is added.
fn session_timeout(ttl: Duration) -> Duration {
    ttl + Duration::from_secs(1).saturating_sub(ttl / 10)
}

/// A session that the server lets live for less may not be relied on for `ttl`.
fn long_enough(link: &Link, ttl: Duration) -> Result<(), Lost> {
    let given = link.connection.established.timeout;
    if given < ttl {
        return Err(Lost::Refused(format!(
            "{} gives sessions {given:.1?} at most, and `ttl` is {ttl:.1?}: set `maxSessionTimeout` of ZooKeeper to at \
             least the ttl (it is 20 ticks unless set), or lower the ttl",
            link.host()
        )));
    }
    if given > session_timeout(ttl) + Duration::from_secs(1) {
        tracing::warn!(
            "{} gives sessions {given:.1?} at least, so that a lost member is noticed after that time, and not after \
             the ttl of {ttl:.1?}: lower `minSessionTimeout` of ZooKeeper (it is 2 ticks unless set)",
            link.host()
        );
    }
    Ok(())
}

impl Lease {
    pub(crate) async fn grant(ensemble: &Arc<Ensemble>, ttl: Duration, end: Instant) -> Result<Lease, Lost> {
        let link = ensemble.open(None, session_timeout(ttl), false, end).await?;
        if let Err(lost) = long_enough(&link, ttl) {
            let _ = link.ask_patiently(Request::close(), end).await;
            return Err(lost);
        }
        let established = link.connection.established;
        Ok(Lease {
            session: established.session,
            password: established.password,
            ttl,
            link: Mutex::new(Some(Arc::new(link))),
            gone: AtomicBool::new(false),
        })
    }

    /// Its connection; a new one if need be.
    pub(crate) async fn link(&self, ensemble: &Arc<Ensemble>, end: Instant) -> Result<Arc<Link>, Lost> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Lost::Expired);
        }
        let late = |_| Lost::Unsent("the connection is still being made".into());
        let mut slot = timeout_at(end, self.link.lock()).await.map_err(late)?;
        if let Some(link) = slot.as_ref().filter(|link| link.is_open()) {
            return Ok(link.clone());
        }
        let resume = Some((self.session, self.password));
        let link = ensemble.open(resume, session_timeout(self.ttl), false, end).await;
        let link = Arc::new(link.inspect_err(|lost| self.note(lost))?);
        // A server with another limit than the one before may have taken it over.
        long_enough(&link, self.ttl)?;
        *slot = Some(link.clone());
        Ok(link)
    }

    /// An answer that says that it has ended is final.
    pub(crate) fn note(&self, lost: &Lost) {
        if *lost == Lost::Expired {
            self.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Starts its time again: a transaction of this session, agreed on by the ensemble. Less would not do: a server that
    /// is cut off from the leader answers readings while the leader lets the session expire.
    pub(crate) async fn renew(&self, ensemble: &Arc<Ensemble>, end: Instant) -> Result<(), Lost> {
        self.until_answered(ensemble, end, Asked::Renewal).await
    }

    /// Ends it, and with it its keys.
    pub(crate) async fn close(&self, ensemble: &Arc<Ensemble>, end: Instant) -> Result<(), Lost> {
        match self.until_answered(ensemble, end, Asked::End).await {
            Ok(()) | Err(Lost::Expired) => {
                self.gone.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(lost) => Err(lost),
        }
    }

    /// For requests that may be sent again, on another connection.
    async fn until_answered(&self, ensemble: &Arc<Ensemble>, end: Instant, asked: Asked) -> Result<(), Lost> {
        loop {
            let link = self.link(ensemble, end).await?;
            let answer = match asked {
                Asked::Renewal => link.barrier(end).await,
                Asked::End => link.ask_patiently(Request::close(), end).await.map(drop),
            };
            match answer {
                Err(lost @ (Lost::Unsent(_) | Lost::Unknown(_))) if Instant::now() >= end => return Err(lost),
                // A server may give a session and close the connection at once.
                Err(Lost::Unsent(_) | Lost::Unknown(_)) => sleep(Duration::from_millis(50)).await,
                other => return other.inspect_err(|lost| self.note(lost)),
            }
        }
    }
}
