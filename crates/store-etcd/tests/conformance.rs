//! The store suite against a real etcd.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;

use common::{EtcdServer, client};
use surus_store::conformance::{self, Harness};
use surus_store::{Fut, Kv};

struct Etcd(Vec<EtcdServer>);

impl Harness for Etcd {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        Box::pin(async {
            let urls: Vec<&str> = self.0.iter().map(|s| s.url.as_str()).collect();
            client(&urls) as Arc<dyn Kv>
        })
    }
    fn prefix(&self) -> String {
        "/conformance/".into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server() {
    conformance::run(&Etcd(vec![EtcdServer::start("http", &[]).await])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three() {
    let servers = EtcdServer::cluster(3, "http", &[]);
    for server in &servers {
        server.wait_ready().await;
    }
    conformance::run(&Etcd(servers)).await;
}
