//! The store suite against a real ZooKeeper.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use common::{Server, client};
use surus_store::conformance::{self, Harness, Shows};
use surus_store::{Fut, Kv};

struct ZooKeeper(Vec<Server>);

impl Harness for ZooKeeper {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        Box::pin(async {
            let hosts: Vec<&str> = self.0.iter().map(|s| s.host.as_str()).collect();
            client(&hosts) as Arc<dyn Kv>
        })
    }
    fn prefix(&self) -> String {
        "/conformance/".into()
    }
    fn shows(&self) -> Shows {
        Shows::States
    }
    fn shared_leases(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server() {
    conformance::run(&ZooKeeper(vec![Server::start("").await])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_of_three() {
    let servers = Server::ensemble(3, "");
    for server in &servers {
        server.wait_ready().await;
    }
    conformance::run(&ZooKeeper(servers)).await;
}
