//! Lease renewals over one stream that stays open: one message, one answer.

use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Client, Error, LeaseKeepAliveStream, LeaseKeeper};

use crate::endpoint::Endpoint;

#[derive(Default)]
pub(crate) struct KeepAlive {
    open: Mutex<Option<Open>>,
}

struct Open {
    endpoint: Arc<Endpoint>,
    lease: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl KeepAlive {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        *self.slot() = None;
    }

    pub(crate) async fn renew(&self, endpoint: Arc<Endpoint>, client: Client, lease: i64) -> Result<(), Error> {
        // Taken out for the duration of the exchange: if this call is given up half way, its late
        // answer must not be taken for the answer to the next renewal.
        let open = self.slot().take().filter(|o| o.lease == lease && Arc::ptr_eq(&o.endpoint, &endpoint));
        if let Some(mut open) = open {
            match open.exchange().await {
                Ok(true) => {
                    *self.slot() = Some(open);
                    return Ok(());
                }
                Ok(false) => return Err(Error::LeaseKeepAliveError("lease not found".into())),
                // The stream ended, perhaps long ago: one more try on a new one.
                Err(_) => {}
            }
        }
        let (keeper, answers) = client.lease_client().keep_alive(lease).await?;
        *self.slot() = Some(Open { endpoint, lease, keeper, answers });
        Ok(())
    }
}

impl Open {
    /// Whether the lease lives. etcd answers for a lease it does not know with no time left.
    async fn exchange(&mut self) -> Result<bool, Error> {
        self.keeper.keep_alive().await?;
        match self.answers.message().await? {
            Some(answer) => Ok(answer.ttl() > 0),
            None => Err(Error::LeaseKeepAliveError("the stream ended".into())),
        }
    }
}
