//! Services of the agent at hand: the one that is configured first, whichever answers for the store meanwhile. An agent
//! knows only what was registered with itself.

use std::time::Duration;

use reqwest::Method;
use surus_store::{StoreError, StoreResult};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::endpoint::Ask;
use crate::fault::Fault;
use crate::kv::encode;
use crate::store::ConsulStore;

impl ConsulStore {
    /// `service` is Consul's JSON for it.
    pub async fn register_service(&self, name: &str, service: String, deadline: Duration) -> StoreResult<()> {
        self.service("register", Method::PUT, "/v1/agent/service/register".to_owned(), Some(service), name, deadline)
            .await
    }

    /// One that is not there is no error.
    pub async fn deregister_service(&self, name: &str, id: &str, deadline: Duration) -> StoreResult<()> {
        let path = format!("/v1/agent/service/deregister/{}", encode(id));
        self.service("deregister", Method::PUT, path, None, name, deadline).await
    }

    /// Counts the exchanges of token and certificates: Consul keeps the token a service was registered with.
    pub fn access_exchanged(&self) -> watch::Receiver<u64> {
        self.inner.pool.exchanged()
    }

    async fn service(
        &self,
        what: &str,
        method: Method,
        path: String,
        body: Option<String>,
        name: &str,
        deadline: Duration,
    ) -> StoreResult<()> {
        let right = format!("service_prefix \"{name}\" {{ policy = \"write\" }}");
        let ask = Ask { method, path, body, right };
        let live = self.inner.pool.live();
        let home = &self.inner.home;
        let asked = timeout(deadline, home.ask(&ask, &live)).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(_) => Err(Fault::Unknown(format!("no answer within {deadline:.1?}"))),
        };
        let told = |fault: Fault| format!("{what} service {name} at {}: {}", home.url, fault.text());
        match answer {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) if answer.status == 404 && answer.text().contains("Unknown service") => Ok(()),
            Ok(answer) => Err(StoreError::Refused(told(answer.fault(&ask.right)))),
            Err(fault) => Err(StoreError::Unavailable(told(fault))),
        }
    }
}
