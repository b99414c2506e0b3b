//! A real browser: Chromium without a window, driven through its WebDriver.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::observe::wait_for;
use crate::ports::Port;
use crate::procs;

pub struct Browser {
    pub client: Client,
    _port: Port,
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
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it is written as an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let address = format!("http://{}", port.address());
        let connect = async || Ok(builder.connect(&address).await?);
        let client = wait_for("Chromium starts", Duration::from_secs(60), connect).await;
        let client = client.context("apt-get install chromium chromium-driver")?;
        Ok(Browser { client, driver, home, _port: port })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        procs::sweep(self.home.path(), Duration::from_secs(10));
    }
}
