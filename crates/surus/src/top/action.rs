//! What the keys can do, asked of the members in the background.

use std::time::Duration;

use serde_json::json;
use surus_api::{Answer, Client, ClientError, ReinitRequest, RestartRequest, SwitchoverRequest};
use surus_core::MemberName;
use surus_core::cluster::Member;

use crate::context::Reading;

/// A switchover is answered when it is done, and a restart too.
const LONG: Duration = Duration::from_secs(360);
const SHORT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Switchover { leader: MemberName, candidate: MemberName },
    Restart(Vec<MemberName>),
    Reload(MemberName),
    Pause(bool),
    Reinit(MemberName),
}

/// Whom to ask, by name, and where.
pub type Addresses = Vec<(MemberName, Option<String>)>;

impl Action {
    pub fn question(&self) -> String {
        match self {
            Action::Switchover { leader, candidate } => {
                format!("Hand the lead over from {leader} to {candidate}? Sessions on {leader} end.")
            }
            Action::Restart(names) => format!("Restart PostgreSQL on {}? Sessions there end.", joined(names)),
            Action::Reload(name) => format!("Make {name} read its configuration again?"),
            Action::Pause(true) => "Pause the cluster? Until it is resumed nobody fails over.".to_owned(),
            Action::Pause(false) => "Resume the cluster? Members act on their own again.".to_owned(),
            Action::Reinit(name) => format!("Throw the data of {name} away and copy it anew?"),
        }
    }

    pub fn short(&self) -> String {
        match self {
            Action::Switchover { candidate, .. } => format!("switchover to {candidate}"),
            Action::Restart(names) => format!("restart of {}", joined(names)),
            Action::Reload(name) => format!("reload of {name}"),
            Action::Pause(true) => "pause".to_owned(),
            Action::Pause(false) => "resume".to_owned(),
            Action::Reinit(name) => format!("reinit of {name}"),
        }
    }

    /// Those who are asked, in this order; of a pause the first who answers.
    pub fn addresses(&self, reading: &Reading) -> Addresses {
        let of = |name: &MemberName| (name.clone(), reading.view.members.get(name).and_then(|m| m.api_url.clone()));
        match self {
            Action::Switchover { leader, .. } => vec![of(leader)],
            Action::Restart(names) => names.iter().map(of).collect(),
            Action::Reload(name) | Action::Reinit(name) => vec![of(name)],
            Action::Pause(_) => reading
                .askable()
                .into_iter()
                .map(|(member, url): (&Member, &str)| (member.name.clone(), Some(url.to_owned())))
                .collect(),
        }
    }

    /// One line for each who was asked.
    pub async fn carry_out(&self, api: &Client, addresses: &Addresses) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, url) in addresses {
            let Some(url) = url else {
                lines.push(format!("{}: {name} has not said where its REST API is", self.short()));
                continue;
            };
            let answer = self.ask(api, url).await;
            let unreachable = matches!(answer, Err(ClientError::Unreachable { .. }));
            lines.push(self.told(name, answer));
            if matches!(self, Action::Pause(_)) && !unreachable {
                break;
            }
        }
        if lines.is_empty() {
            lines.push(format!("{}: there is nobody to ask", self.short()));
        }
        lines
    }

    async fn ask(&self, api: &Client, url: &str) -> Result<Answer, ClientError> {
        match self {
            Action::Switchover { leader, candidate } => {
                let request = SwitchoverRequest {
                    leader: Some(leader.0.clone()),
                    candidate: Some(candidate.0.clone()),
                    ..SwitchoverRequest::default()
                };
                api.post(url, "/switchover", &request, LONG).await
            }
            Action::Restart(_) => {
                let request = RestartRequest { restart_pending: Some(true), ..RestartRequest::default() };
                api.post(url, "/restart", &request, LONG).await
            }
            Action::Reload(_) => api.post(url, "/reload", &json!({}), SHORT).await,
            Action::Pause(true) => api.patch(url, "/config", &json!({"pause": true}), SHORT).await,
            Action::Pause(false) => api.patch(url, "/config", &json!({"pause": null}), SHORT).await,
            Action::Reinit(_) => {
                api.post(url, "/reinitialize", &ReinitRequest { force: false, from_leader: false }, SHORT).await
            }
        }
    }

    fn told(&self, name: &MemberName, answer: Result<Answer, ClientError>) -> String {
        let what = self.short();
        match answer {
            // The body is the whole configuration.
            Ok(answer) if answer.is_success() && matches!(self, Action::Pause(_)) => format!("{what}: done"),
            Ok(answer) if answer.is_success() => format!("{what}: {name}: {}", answer.body.trim()),
            Ok(answer) => format!("{what} failed: {name} answers {}: {}", answer.code, answer.body.trim()),
            Err(error) => format!("{what} failed: {error}"),
        }
    }
}

fn joined(names: &[MemberName]) -> String {
    names.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}
