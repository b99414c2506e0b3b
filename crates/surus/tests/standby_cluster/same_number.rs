//! Two sites that both had a primary, and gave one number to two timelines.

use anyhow::{Result, ensure};
use serde_json::json;
use surus_testbed::{Cluster, wait_for};

use super::{LONG, SURUS, flows, following, standby_healthy};

async fn surus(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let done = cluster.surus(0, args).await?;
    ensure!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

async fn timeline(cluster: &Cluster) -> Result<String> {
    cluster.sql(0, "select timeline_id from pg_control_checkpoint()").await
}

/// The next timeline, with nobody else knowing of it.
async fn promoted_again(cluster: &Cluster) -> Result<()> {
    surus(cluster, &["demote-cluster", "--force", "--restore-command", "false"]).await?;
    surus(cluster, &["promote-cluster", "--force"]).await?;
    cluster.wait_healthy().await?;
    cluster.sql(0, "checkpoint").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeline_of_the_same_number_is_not_followed() -> Result<()> {
    let slots = json!({"slots": {"site_2": {"type": "physical"}}});
    let main = Cluster::builder(SURUS).nodes(1).dynamic(slots).healthy().await?;
    main.sql(0, "create table t (n int)").await?;
    let section = json!({"standby_cluster": following(&main, 0)});
    let site = Cluster::builder(SURUS).nodes(1).dynamic(section).start().await?;
    assert_eq!(standby_healthy(&site).await?, 0);
    flows((&main, 0), &site, 1).await?;

    surus(&site, &["promote-cluster", "--force"]).await?;
    site.wait_healthy().await?;
    site.sql(0, "insert into t values (-1)").await?;
    main.sql(0, "insert into t values (2)").await?;
    promoted_again(&main).await?;
    assert_eq!((timeline(&main).await?, timeline(&site).await?), ("2".to_owned(), "2".to_owned()));

    let answer = site.send(0, "PATCH", "/config", &json!({"standby_cluster": following(&main, 0)})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    wait_for("the site to say why it follows nobody", LONG, async || {
        let explained = site.surus(0, &["explain"]).await?;
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        ensure!(explained.contains("each has a timeline 2 of its own"), "{explained}");
        Ok(())
    })
    .await?;
    assert_eq!(main.sql(0, "select count(*) from pg_stat_replication").await?, "0");
    assert!(!site.node(0).log().contains("running pg_rewind"), "{}", site.node(0).log());

    // What only the site has was there all the time, and goes with a receipt once it can be told apart.
    promoted_again(&main).await?;
    assert_eq!(standby_healthy(&site).await?, 0);
    flows((&main, 0), &site, 3).await?;
    assert_eq!(site.sql(0, "select string_agg(n::text, ' ' order by n) from t").await?, "1 2 3");
    let lost = site.surus(0, &["loss", "list"]).await?;
    let lost = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert!(lost.lines().count() > 1, "what was rewound is written down: {lost}");
    site.passed();
    main.passed();
    Ok(())
}
