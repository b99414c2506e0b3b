//! What members say when the store does not answer: that is when operators want to know most. Asked are those that the agent
//! on this machine knows.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use crate::commands::explain::failsafe::failsafe_line;
use crate::context::Context;
use crate::failure::Outcome;
use crate::terminal::{Terminal, say};

const LIMIT: Duration = Duration::from_secs(3);

pub const HEAD: &str = "The store does not answer. What the members say that the agent of this configuration knows:";

/// Each member's `GET /explain`. Empty: this is not the configuration of an agent.
pub async fn accounts(context: &Context) -> Vec<(String, Result<Value, String>)> {
    let Some(own) = &context.config.own_api else { return vec![] };
    let me = context.config.name.as_ref().map_or("this member".to_owned(), ToString::to_string);
    let listed = match context.api.get(own, "/failsafe", LIMIT).await {
        Ok(answer) if answer.code == 200 => answer.json::<BTreeMap<String, String>>().unwrap_or_default(),
        _ => BTreeMap::new(),
    };
    let mut whom = listed;
    whom.entry(me).or_insert_with(|| own.clone());
    let asked = whom.into_iter().map(|(name, url)| async move {
        let account = match context.api.get(&url, "/explain", LIMIT).await {
            Ok(answer) if answer.code == 200 => {
                answer.json::<Value>().map_err(|e| format!("its answer is no JSON ({e})"))
            }
            Ok(answer) => Err(format!("it answers with status {}", answer.code)),
            Err(error) => Err(error.to_string()),
        };
        (name, account)
    });
    join_all(asked).await
}

/// A line for each, for `list`.
pub async fn tell(context: &Context, terminal: &mut Terminal) -> Outcome {
    let accounts = accounts(context).await;
    if accounts.is_empty() {
        return Ok(());
    }
    say!(terminal, "{HEAD}");
    for (name, account) in accounts {
        say!(terminal, " {name}: {}", line(&account));
    }
    Ok(())
}

fn line(account: &Result<Value, String>) -> String {
    let account = match account {
        Ok(account) => account,
        Err(why) => return format!("does not answer: {why}"),
    };
    let text = |key: &str| account.get(key).and_then(Value::as_str).unwrap_or("unknown");
    let failsafe = account.get("failsafe").and_then(failsafe_line).map(|line| format!("; {line}"));
    format!("{}, {}{}", text("role"), text("state"), failsafe.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_each() {
        let vouching = json!({"state": "vouching", "for": "a", "seconds_left": 6.0});
        let account = json!({"role": "replica", "state": "running", "failsafe": vouching});
        assert_eq!(line(&Ok(account)), "replica, running; failsafe mode: vouches for a for another 6.0 s");
        assert_eq!(line(&Ok(json!({"role": "primary", "state": "running"}))), "primary, running");
        assert_eq!(line(&Err("timeout".into())), "does not answer: timeout");
    }
}
