use std::sync::Arc;

use surus_store::conformance::{Harness, run};
use surus_store::{Fut, Kv};
use surus_store_raft::RaftClient;

use crate::harness::Group;

/// Clients take the nodes in turn, so that what one wrote is looked for at another.
struct Nodes {
    group: Group,
    next: std::sync::atomic::AtomicUsize,
}

impl Harness for Nodes {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.group.nodes.len();
        let node: Arc<dyn Kv> = self.group.node(turn).clone();
        Box::pin(async move { node })
    }

    fn prefix(&self) -> String {
        "/service/test/".into()
    }
}

struct Clients(Group);

impl Harness for Clients {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        Box::pin(async {
            let client = RaftClient::connect(&self.0.addrs, Some("herd".into()), None).await.unwrap();
            Arc::new(client) as Arc<dyn Kv>
        })
    }

    fn prefix(&self) -> String {
        "/service/test/".into()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_conforms() {
    run(&Nodes { group: Group::formed(1).await, next: Default::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_conform() {
    run(&Nodes { group: Group::formed(3).await, next: Default::default() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_conform() {
    run(&Clients(Group::formed(3).await)).await;
}
