//! A real browser: Chromium without a window, driven through its WebDriver.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::observe::wait_for;
use crate::ports::Port;
use crate::{http, procs};

pub struct Browser {
    pub client: Client,
    port: Port,
    driver: Child,
    /// Its profile; both it and the processes that work in it go with this.
    home: TempDir,
}

impl Browser {
    pub async fn start() -> Result<Browser> {
        let (port, home) = (Port::free()?, tempfile::tempdir()?);
        let driver = Command::new("chromedriver")
            .arg(format!("--port={}", port.number))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver is missing: apt-get install chromium chromium-driver")?;
        let address = port.address();
        wait_for("chromedriver answers", Duration::from_secs(30), async || {
            ensure!(http::get(&address, "/status").await?.status == 200, "not ready");
            Ok(())
        })
        .await?;
        let profile = format!("--user-data-dir={}/profile", home.path().display());
        let arguments = [
            "--headless=new",
            // Root may not have one.
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            // It would look for hosts on the internet.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            &profile,
        ];
        let capabilities = json!({
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is written as an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&format!("http://{address}")).await;
        let client = client.context("Chromium does not start: apt-get install chromium chromium-driver")?;
        Ok(Browser { client, port, driver, home })
    }

    /// What the pages complained of: errors of scripts, and what the content security policy forbids.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let session = self.client.session_id().await?.context("the browser is gone")?;
        let path = format!("/session/{session}/se/log");
        let body = br#"{"type":"browser"}"#;
        let answer = http::request(&self.port.address(), "POST", &path, Some(body), Duration::from_secs(10)).await?;
        let rows = answer.json()?["value"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().filter_map(|row| row["message"].as_str().map(str::to_owned)).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        procs::sweep(self.home.path(), Duration::from_secs(10));
    }
}
