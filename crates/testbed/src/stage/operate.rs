//! What operators ask for, over REST.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use surus_scenario::{Operation, Trouble};

use super::Stage;
use crate::http;

impl Stage {
    pub(super) async fn request(
        &mut self,
        node: usize,
        method: &'static str,
        path: &'static str,
        body: Value,
        wait: bool,
    ) -> Result<(), Trouble> {
        let address = self.running()?.nodes[node].rest.address();
        let text = body.to_string();
        let request = async move {
            let patience = Duration::from_secs(120);
            let answer = http::request(&address, method, path, Some(text.as_bytes()), patience).await?;
            ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
            Ok(())
        };
        if wait {
            return request.await.map_err(Trouble::failed);
        }
        tokio::spawn(request);
        Ok(())
    }

    pub(super) async fn operation(&mut self, operation: &Operation<String>, wait: bool) -> Result<(), Trouble> {
        let leader = self.primary().await.map_err(Trouble::failed)?;
        let name = self.running()?.nodes[leader].name.clone();
        match operation {
            Operation::SwitchOver { to } => {
                let mut body = json!({"leader": name});
                if let Some(to) = to {
                    body["candidate"] = json!(to);
                }
                self.request(leader, "POST", "/switchover", body, wait).await?;
                if let (true, Some(clients)) = (wait, &self.clients) {
                    clients.switched_over(leader);
                }
                Ok(())
            }
            Operation::FailOver { to } => {
                self.request(leader, "POST", "/failover", json!({"candidate": to}), wait).await
            }
            Operation::Pause => self.request(leader, "PATCH", "/config", json!({"pause": true}), wait).await,
            Operation::Resume => self.request(leader, "PATCH", "/config", json!({"pause": null}), wait).await,
            Operation::Restart(who) => {
                let node = self.node(who)?;
                self.request(node, "POST", "/restart", json!({}), wait).await
            }
            Operation::Reinit(who) => {
                let node = self.node(who)?;
                self.request(node, "POST", "/reinitialize", json!({"force": true}), wait).await
            }
            Operation::Set { key, value } => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
                self.request(leader, "PATCH", "/config", json!({ (key.as_str()): value }), wait).await
            }
        }
    }
}
