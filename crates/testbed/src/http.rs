//! The few lines of HTTP that talking to agents and to etcd takes. Speaks 1.0 so that bodies end with the connection.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON (status {}): {:?}", self.status, self.body))
    }
}

pub async fn get(address: &str, path: &str) -> Result<Response> {
    request(address, "GET", path, None, Duration::from_secs(3)).await
}

/// `body` is sent as it is, with its length.
pub async fn request(
    address: &str,
    method: &str,
    path: &str,
    body: Option<&[u8]>,
    patience: Duration,
) -> Result<Response> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n");
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        if let Some(body) = body {
            // A server may answer and close before it read all of a body it does not want; the answer counts.
            let _ = stream.write_all(body).await;
        }
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        if answer.is_empty() {
            read?;
        }
        anyhow::Ok(answer)
    };
    let answer = match timeout(patience, exchange).await {
        Ok(answer) => answer.with_context(|| format!("{method} http://{address}{path}"))?,
        Err(_) => bail!("{method} http://{address}{path}: no answer within {patience:?}"),
    };
    parse(&answer).with_context(|| format!("{method} http://{address}{path}"))
}

fn parse(answer: &[u8]) -> Result<Response> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("the connection closed before an answer")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
    Ok(Response { status, body: body.to_owned() })
}
