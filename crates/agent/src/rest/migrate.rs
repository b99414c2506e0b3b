//! `/migrate`: a member's part in a move to another store.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};

use super::app::App;
use super::respond::{Refusal, json, text};
use crate::handle::{Reply, Request};
use crate::migrate::Migrator;

fn migrator(app: &App) -> Result<&Migrator, Refusal> {
    app.handle.migrator.as_deref().ok_or_else(|| Refusal::unavailable("the agent is starting"))
}

fn id(body: &Map<String, Value>) -> Result<&str, Refusal> {
    let id = body.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    id.ok_or_else(|| Refusal::bad_request("expected an object with the id of a move as a text, `id`"))
}

pub async fn status(app: &App) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, &migrator(app)?.status().await))
}

/// Opens the new store here.
pub async fn prepare(app: &App, body: &Map<String, Value>) -> Result<Response, Refusal> {
    let section = body.get("section").filter(|section| section.as_object().is_some_and(|o| o.len() == 1));
    let Some(section) = section else {
        return Err(Refusal::bad_request("expected `section`: an object with the one section of the new store in it"));
    };
    Ok(match migrator(app)?.prepare(id(body)?, section).await {
        Ok(()) => text(StatusCode::OK, "prepared"),
        Err(why) => text(StatusCode::PRECONDITION_FAILED, why),
    })
}

/// The leader moves the cluster.
pub async fn make(app: &App, body: &Map<String, Value>) -> Result<Response, Refusal> {
    Ok(match app.ask(Request::MoveStore(id(body)?.to_owned())).await? {
        Reply::Ok(done) => text(StatusCode::OK, done),
        Reply::Refused(why) => text(StatusCode::PRECONDITION_FAILED, why),
    })
}

/// Closes it again.
pub async fn forget(app: &App, body: &Map<String, Value>) -> Result<Response, Refusal> {
    Ok(match migrator(app)?.forget(id(body)?, &app.handle.store).await {
        Ok(()) => text(StatusCode::OK, "forgotten"),
        Err(why) => text(StatusCode::PRECONDITION_FAILED, why),
    })
}
