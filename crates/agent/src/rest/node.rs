//! Actions on this member alone: reload, restart, reinitialise (`spec/rest-api.md §7`).

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Map, Value};
use surus_api::ReinitRequest;
use surus_config::{TimeUnit, parse_time};
use surus_core::cluster::ScheduledRestart;

use super::app::App;
use super::body::kind;
use super::respond::{Refusal, text};
use super::schedule;
use crate::handle::{Reply, Request, RestartFilters};

pub async fn reload(app: &App) -> Result<Response, Refusal> {
    Ok(match app.ask_briefly(Request::Reload).await? {
        Reply::Ok(_) => text(StatusCode::ACCEPTED, "reload scheduled"),
        Reply::Refused(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    })
}

#[derive(Debug, Default, PartialEq)]
struct RestartOrder {
    filters: RestartFilters,
    schedule: Option<String>,
    /// As submitted, without the schedule: published with a scheduled restart.
    submitted: Map<String, Value>,
}

pub async fn restart(app: &App, body: Map<String, Value>) -> Result<Response, Refusal> {
    let published = app.handle.read();
    if body.contains_key("schedule") {
        // A restart must be possible while the store is away, hence the last known setting then.
        let paused = match app.fresh_view().await {
            Ok(view) => app.settings(&view).pause,
            Err(_) => published.settings.pause,
        };
        if paused {
            return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "Can't schedule restart in the paused state"));
        }
    }
    let order = read_order(body, Timestamp::now())?;
    let Some(schedule) = order.schedule else {
        return Ok(match app.ask(Request::Restart(order.filters)).await? {
            Reply::Ok(done) => text(StatusCode::OK, done),
            Reply::Refused(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        });
    };
    let scheduled = ScheduledRestart {
        schedule,
        postmaster_start_time: published.observed.as_ref().map(|o| o.postmaster_start_time.clone()),
        filters: order.submitted,
    };
    Ok(match app.ask_briefly(Request::ScheduleRestart(scheduled, order.filters)).await? {
        Reply::Ok(_) => text(StatusCode::ACCEPTED, "Restart scheduled"),
        Reply::Refused(why) => text(StatusCode::CONFLICT, why),
    })
}

pub async fn cancel_restart(app: &App) -> Result<Response, Refusal> {
    Ok(match app.ask_briefly(Request::CancelScheduledRestart).await? {
        Reply::Ok(_) => text(StatusCode::OK, "scheduled restart deleted"),
        Reply::Refused(why) => text(StatusCode::NOT_FOUND, why),
    })
}

pub async fn reinitialize(app: &App, body: &Map<String, Value>) -> Result<Response, Refusal> {
    let view = app.fresh_view().await?;
    let refusal = match view.leader_name() {
        None => Some("Cluster has no leader, can not reinitialize"),
        Some(leader) if *leader == app.handle.read().name => Some("I am the leader, can not reinitialize"),
        Some(_) => None,
    };
    if let Some(refusal) = refusal {
        return Ok(text(StatusCode::SERVICE_UNAVAILABLE, refusal));
    }
    let ReinitRequest { force, from_leader } = ReinitRequest::read(body);
    Ok(match app.ask_briefly(Request::Reinitialize { force, from_leader }).await? {
        Reply::Ok(_) => text(StatusCode::OK, "reinitialize started"),
        Reply::Refused(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    })
}

/// Key by key in the order given: the first that is wrong is answered.
fn read_order(body: Map<String, Value>, now: Timestamp) -> Result<RestartOrder, Refusal> {
    let bad = |message: String| Refusal::bad_request(message);
    let mut order = RestartOrder::default();
    for (key, value) in body {
        match key.as_str() {
            "schedule" => {
                order.schedule = Some(schedule::parse(&value, "restart", now)?);
                continue;
            }
            "role" => match value.as_str() {
                Some(role @ ("primary" | "standby_leader" | "replica")) => order.filters.role = Some(role.to_owned()),
                _ => return Err(bad("PostgreSQL role should be either primary, standby_leader, or replica".into())),
            },
            "postgres_version" => order.filters.older_than = Some(version(&value).map_err(bad)?),
            "timeout" => {
                let seconds = seconds(&value).filter(|s| *s > 0);
                let seconds = seconds.ok_or_else(|| bad("Timeout should be a positive number of seconds".into()))?;
                order.filters.timeout = Some(Duration::from_secs(seconds));
            }
            "restart_pending" => order.filters.pending_only = true,
            other => return Err(bad(format!("Unknown filter for the scheduled restart: {other}"))),
        }
        order.submitted.insert(key, value);
    }
    Ok(order)
}

/// `server_version_num` of `16.4`, or of `9.6.24`.
fn version(value: &Value) -> Result<u32, String> {
    let Some(given) = value.as_str() else {
        return Err(format!("Invalid PostgreSQL version: expected a string, found {}", kind(value)));
    };
    let parts: Vec<u32> = given
        .split('.')
        .map(|part| part.parse().ok().filter(|n| *n < 1000))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("Invalid PostgreSQL version: {given}"))?;
    match parts[..] {
        [major, minor] if major >= 10 => Ok(major * 10_000 + minor),
        [major, minor, patch] if minor < 100 && patch < 100 => Ok(major * 10_000 + minor * 100 + patch),
        _ => Err(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {given}")),
    }
}

fn seconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Number(number) => parse_time(&number.to_string(), TimeUnit::Seconds),
        Value::String(given) => parse_time(given, TimeUnit::Seconds),
        _ => None,
    };
    u64::try_from(seconds?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order(body: &Value) -> Result<RestartOrder, Refusal> {
        read_order(body.as_object().cloned().unwrap(), "2026-10-01T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn filters_are_read() {
        let given = json!({
            "schedule": "2026-10-01T13:00:00Z", "role": "replica", "postgres_version": "16.4",
            "timeout": "2min", "restart_pending": false,
        });
        let got = order(&given).unwrap();
        assert_eq!(got.schedule.as_deref(), Some("2026-10-01T13:00:00+00:00"));
        assert_eq!(
            got.filters,
            RestartFilters {
                role: Some("replica".into()),
                older_than: Some(160_004),
                pending_only: true,
                timeout: Some(Duration::from_secs(120)),
            }
        );
        assert_eq!(
            got.submitted.keys().collect::<Vec<_>>(),
            ["role", "postgres_version", "timeout", "restart_pending"]
        );
        let old = order(&json!({"postgres_version": "9.6.24", "timeout": 10.4})).unwrap().filters;
        assert_eq!((old.older_than, old.timeout), (Some(90_624), Some(Duration::from_secs(10))));
    }

    #[test]
    fn the_first_wrong_key_is_named() {
        for (body, code, part) in [
            (json!({"role": "x"}), 400, "PostgreSQL role should be either primary, standby_leader, or replica"),
            (json!({"role": 5}), 400, "PostgreSQL role"),
            (json!({"postgres_version": "a.b"}), 400, "Invalid PostgreSQL version: a.b"),
            (json!({"postgres_version": "9.6"}), 400, "X.Y or X.Y.Z is accepted: 9.6"),
            (json!({"postgres_version": "16"}), 400, "X.Y or X.Y.Z is accepted: 16"),
            (json!({"postgres_version": 16.4}), 400, "expected a string, found a number"),
            (json!({"timeout": 0}), 400, "Timeout should be a positive number of seconds"),
            (json!({"timeout": "-5"}), 400, "Timeout should be"),
            (json!({"timeout": []}), 400, "Timeout should be"),
            (json!({"x": 1, "role": "x"}), 400, "Unknown filter for the scheduled restart: x"),
            (
                json!({"schedule": "2026-10-01T13:00:00"}),
                400,
                "Timezone information is mandatory for the scheduled restart",
            ),
            (json!({"schedule": "2026-10-01T11:00:00Z"}), 422, "Cannot schedule restart in the past"),
            (json!({"schedule": 7, "x": 1}), 422, "Unable to parse scheduled timestamp"),
        ] {
            let refusal = order(&body).unwrap_err();
            let (got, message) = refusal.parts();
            assert!(got == code && message.contains(part), "{body}: {got} {message}");
        }
    }
}
