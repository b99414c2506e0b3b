//! The store suite against a real Consul.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use common::{ConsulServer, client};
use surus_store::conformance::{self, Harness, Shows};
use surus_store::{Fut, Kv};

struct Consul(Vec<ConsulServer>);

impl Harness for Consul {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        Box::pin(async {
            let urls: Vec<&str> = self.0.iter().map(|s| s.url.as_str()).collect();
            client(&urls) as Arc<dyn Kv>
        })
    }
    fn prefix(&self) -> String {
        "/conformance/".into()
    }
    fn shows(&self) -> Shows {
        Shows::States
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server() {
    conformance::run(&Consul(vec![ConsulServer::start().await])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three() {
    let servers = ConsulServer::cluster(3, &[]);
    for server in &servers {
        server.wait_ready().await;
    }
    conformance::run(&Consul(servers)).await;
}
