//! The cluster in a real browser: what the page shows, and that it does nothing without being asked and let.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fantoccini::Client;
use fantoccini::key::Key;
use serde_json::{Value, json};
use surus_testbed::{Browser, Cluster, wait_for};

const LONG: Duration = Duration::from_secs(60);

struct Page<'a> {
    browser: &'a Browser,
}

impl Page<'_> {
    fn client(&self) -> &Client {
        &self.browser.client
    }

    async fn js(&self, script: &str) -> Result<Value> {
        Ok(self.client().execute(script, vec![]).await?)
    }

    async fn text(&self, selector: &str) -> Result<String> {
        let script = format!("return document.querySelector({})?.textContent ?? ''", json!(selector));
        Ok(self.js(&script).await?.as_str().unwrap_or_default().to_owned())
    }

    async fn wait_text(&self, selector: &str, wanted: &str) -> Result<()> {
        wait_for(&format!("{selector} says {wanted:?}"), LONG, async || {
            let text = self.text(selector).await?;
            ensure!(text.contains(wanted), "{text:?}");
            Ok(())
        })
        .await
    }

    /// To whatever has the focus.
    async fn press(&self, keys: &str) -> Result<()> {
        Ok(self.client().active_element().await?.send_keys(keys).await?)
    }

    async fn focus(&self) -> Result<String> {
        let script = "const a = document.activeElement; return a.id || a.textContent.trim()";
        Ok(self.js(script).await?.as_str().unwrap_or_default().to_owned())
    }

    /// By the keyboard alone.
    async fn go_to(&self, what: &str) -> Result<()> {
        for _ in 0..60 {
            if self.focus().await?.starts_with(what) {
                return Ok(());
            }
            self.press(&Key::Tab.to_string()).await?;
        }
        bail!("the keyboard does not reach {what:?}")
    }

    /// For the documentation, where a directory for it is named.
    async fn picture(&self, name: &str, width: u32, height: u32) -> Result<()> {
        let Some(place) = std::env::var_os("SURUS_SCREENSHOTS") else { return Ok(()) };
        self.client().set_window_size(width, height).await?;
        std::fs::write(Path::new(&place).join(name), self.client().screenshot().await?)?;
        Ok(())
    }
}

fn rest_of(cluster: &Cluster, node: usize) -> String {
    format!("http://{}", cluster.node(node).rest.address())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_in_a_browser() -> Result<()> {
    let authentication = json!({"username": "operator", "password": "grün & 1 % of it"});
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .nodes(3)
        .settings(json!({"restapi": {"authentication": authentication}}))
        .healthy()
        .await?;
    let browser = Browser::start().await?;
    let page = Page { browser: &browser };
    let leader = cluster.leader().await?;
    let names: Vec<String> = (0..3).map(|node| cluster.node(node).name.clone()).collect();
    let other = cluster.others(leader)[0];
    page.client().goto(&format!("{}/ui", rest_of(&cluster, leader))).await?;

    // What it shows.
    wait_for("all members", LONG, async || {
        let rows = page.js("return [...document.querySelectorAll('#rows tr')].map(r => r.innerText)").await?;
        let rows: Vec<&str> = rows.as_array().context("no rows")?.iter().filter_map(Value::as_str).collect();
        ensure!(rows.len() == 3 && rows[leader].contains("leader"), "{rows:?}");
        ensure!(names.iter().zip(&rows).all(|(name, row)| row.contains(name.as_str())), "{rows:?}");
        ensure!(rows[other].contains("streaming"), "{rows:?}");
        Ok(())
    })
    .await?;
    let picture = page.js("return document.querySelector('#topology svg').getAttribute('aria-label')").await?;
    let arrow = format!("{}: replica, streaming, from {}", names[other], names[leader]);
    ensure!(picture.as_str().is_some_and(|label| label.contains(&arrow)), "{picture} lacks {arrow}");
    page.wait_text("#ready", "of 2 members would take over").await?;
    page.wait_text("#goal", "the leader with the lock").await?;
    page.wait_text("#events", "bootstrap").await?;
    for (width, height) in [(360, 640), (1280, 900)] {
        page.client().set_window_size(width, height).await?;
        let wider = page.js("return document.documentElement.scrollWidth - window.innerWidth").await?;
        ensure!(wider.as_i64().is_some_and(|by| by <= 0), "at {width} pixels it is wider than the screen by {wider}");
    }

    // Nothing happens by opening and leaving a question, which the keyboard alone can do.
    page.go_to("Switchover").await?;
    page.press(&Key::Enter.to_string()).await?;
    page.wait_text("#ask-title", "Hand the lead over").await?;
    ensure!(page.focus().await? == "ask-no", "the harmless answer has the focus, not {}", page.focus().await?);
    page.press(&Key::Escape.to_string()).await?;
    ensure!(page.js("return document.querySelector('#ask').open").await? == json!(false), "it is still open");

    // Nor without the password.
    page.press(&Key::Enter.to_string()).await?;
    page.js(&format!("document.querySelector('#candidate').value = {}", json!(names[other]))).await?;
    page.js("document.querySelector('#ask-yes').click()").await?;
    page.wait_text("#ask-answer", "no auth header received").await?;
    for (password, answer) in [("wrong", "not authenticated"), ("grün & 1 % of it", "Successfully switched over")] {
        ensure!(page.js("return document.querySelector('#credentials').hidden").await? == json!(false), "not asked");
        ensure!(cluster.leader().await? == leader, "it was done without the password");
        let fill = "document.querySelector('#user').value = 'operator'; document.querySelector('#password').value = ";
        page.js(&format!("{fill}{}", json!(password))).await?;
        page.js("document.querySelector('#ask-yes').click()").await?;
        page.wait_text("#ask-answer", answer).await?;
    }
    ensure!(cluster.wait_leader_other_than(leader).await? == other, "somebody else leads");
    page.press(&Key::Escape.to_string()).await?;
    page.wait_text("#events", &format!("{} became the leader", names[other])).await?;
    page.wait_text(&format!("#rows [data-member={}]", names[other]), "leader").await?;
    page.picture("page.png", 1280, 1000).await?;
    page.picture("page-small.png", 400, 900).await?;

    // The other page is the leader's now; a paused cluster says so.
    page.client().goto(&format!("{}/ui", rest_of(&cluster, other))).await?;
    page.wait_text("#ready", "would take over").await?;
    cluster.wait_healthy().await?;
    ensure!(cluster.surus(other, &["pause", "--wait"]).await?.status.success(), "not paused");
    page.wait_text("#notices", "The cluster is paused").await?;
    ensure!(cluster.surus(other, &["resume", "--wait"]).await?.status.success(), "not resumed");

    // A member that ends is said to be old news, not to be well.
    cluster.freeze_agent(other)?;
    page.wait_text("#link", "What is shown is old").await?;
    cluster.thaw(other);

    cluster.passed();
    Ok(())
}
