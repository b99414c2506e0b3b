//! `GET /loss` and `DELETE /loss/<id>`: the receipts of this member.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use surus_postgres::{ErrorKind, loss};

use super::app::App;
use super::respond::{self, Refusal};

/// Removing much log takes its time.
const LIMIT: Duration = Duration::from_secs(30);

pub async fn list(app: &App) -> Result<Response, Refusal> {
    let directory = app.handle.loss.clone();
    let shown = directory.display().to_string();
    let read = on_disk(move || Ok((loss::receipts(&directory)?, loss::acknowledged(&directory)))).await?;
    let ((mut receipts, problems), acknowledged) = read;
    let published = app.handle.read();
    crate::loss::keep_own(&mut receipts, &published.name, published.view.as_ref().map(|(view, _)| &**view));
    let document =
        json!({"directory": shown, "receipts": receipts, "acknowledged": acknowledged, "problems": problems});
    Ok(respond::json(StatusCode::OK, &document))
}

pub async fn acknowledge(app: &App, path: &str) -> Result<Response, Refusal> {
    let id = path.trim_start_matches('/').split('/').nth(1).unwrap_or_default().to_owned();
    let (directory, named) = (app.handle.loss.clone(), id.clone());
    on_disk(move || loss::acknowledge(&directory, &named)).await?;
    tracing::warn!("loss receipt {id} was acknowledged and removed with the log kept for it");
    Ok(respond::text(StatusCode::OK, format!("acknowledged {id}")))
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> surus_postgres::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(e))) if e.kind == ErrorKind::Refused => Err(Refusal::new(StatusCode::NOT_FOUND, e.to_string())),
        Ok(Ok(Err(e))) => Err(Refusal::unavailable(e.to_string())),
        Ok(Err(e)) => {
            Err(Refusal::unavailable(format!("looking at the receipts broke: {e}; please report it as a BUG")))
        }
        Err(_) => Err(Refusal::unavailable(format!("the disk did not answer within {LIMIT:?}"))),
    }
}
