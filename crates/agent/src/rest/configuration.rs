//! `/config`: the dynamic configuration (`spec/rest-api.md §5.3, §6`).

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};
use surus_store::TxnOutcome;

use super::app::{App, not_written};
use super::respond::{Refusal, json, text};
use crate::handle::{Reply, Request};

const KEY: &str = "config";

pub async fn get(app: &App) -> Result<Response, Refusal> {
    let view = app.view().await?;
    Ok(match &view.config {
        Some(config) => json(StatusCode::OK, &config.value),
        None => text(StatusCode::BAD_GATEWAY, "the store holds no valid dynamic configuration of this cluster"),
    })
}

/// What the server here is set to, and where from: `surus plan` and `surus check` compare members by it.
pub async fn settings(app: &App, trusted: bool) -> Result<Response, Refusal> {
    match app.ask_briefly(Request::Settings { trusted }).await? {
        Reply::Ok(document) => {
            let document: Value = serde_json::from_str(&document)
                .map_err(|e| Refusal::unavailable(format!("the settings could not be put into words: {e}")))?;
            Ok(json(StatusCode::OK, &document))
        }
        Reply::Refused(why) => Err(Refusal::unavailable(why)),
    }
}

/// Values are not judged: each member uses what it can of them, as its peers do.
pub async fn patch(app: &App, changes: Map<String, Value>) -> Result<Response, Refusal> {
    let view = app.fresh_view().await?;
    let Some(config) = view.config else {
        return Ok(text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the store holds no valid dynamic configuration to change; PUT a whole one",
        ));
    };
    let mut document = config.value;
    if surus_config::patch(&mut document, &Value::Object(changes)) {
        let written = app
            .handle
            .store
            .compare_and_put(KEY, Some(config.version), document.to_string(), app.store_deadline())
            .await
            .map_err(|e| not_written("the dynamic configuration", &e))?;
        if written == TxnOutcome::Conflict {
            return Ok(text(StatusCode::CONFLICT, "the dynamic configuration was changed meanwhile; try again"));
        }
    }
    app.wake();
    Ok(json(StatusCode::OK, &document))
}

pub async fn put(app: &App, document: Map<String, Value>) -> Result<Response, Refusal> {
    let document = Value::Object(document);
    let view = app.fresh_view().await?;
    if !view.config.is_some_and(|config| surus_config::deep_equal(&config.value, &document)) {
        app.handle
            .store
            .put(KEY, document.to_string(), app.store_deadline())
            .await
            .map_err(|e| not_written("the dynamic configuration", &e))?;
        app.wake();
    }
    Ok(json(StatusCode::OK, &document))
}
