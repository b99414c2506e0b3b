//! What members promise each other, so that a primary can go on without the store (`spec/rest-api.md §9.1`).

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use surus_api::{ConsentRequest, FailsafeRequest};
use surus_core::MemberName;
use surus_core::cluster::MemberRole;
use surus_core::failsafe::{CONSENT, Kind};

use super::app::App;
use super::respond::{self, Refusal};

pub fn off() -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, "failsafe mode is off on this member")
}

/// A primary that lost the store asks whether it may go on.
pub fn vouch(app: &App, body: Map<String, Value>) -> Result<Response, Refusal> {
    let request: FailsafeRequest = parse(body)?;
    let published = app.handle.read();
    // Patroni says no how long it counts on the answer: as long as the ttl that both have.
    let length = request.ttl_ms.map_or(published.settings.timing.ttl, Duration::from_millis);
    promise(app, &request.name.clone(), Kind::Vouch, length)?;
    published.failsafe.hears(request);
    app.wake();
    let mut response = respond::text(StatusCode::OK, "Accepted");
    if let Some(at) = published.position() {
        response.headers_mut().insert("lsn", HeaderValue::from(at.0));
    }
    Ok(response)
}

/// A member asks whether it may take a lead that a primary without the store may rely on.
pub fn consent(app: &App, body: Map<String, Value>) -> Result<Response, Refusal> {
    let request: ConsentRequest = parse(body)?;
    let length = Duration::from_millis(request.length_ms);
    if length > CONSENT {
        return Err(Refusal::bad_request(format!("length_ms: a consent lasts {} ms at the most", CONSENT.as_millis())));
    }
    promise(app, &request.name, Kind::Consent, length)?;
    Ok(respond::text(StatusCode::OK, "Accepted"))
}

fn promise(app: &App, to: &MemberName, kind: Kind, length: Duration) -> Result<(), Refusal> {
    let published = app.handle.read();
    if matches!(published.role, MemberRole::Primary | MemberRole::Promoted) || *to == published.name {
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Running as a leader"));
    }
    published.failsafe.give(to, kind, length).map_err(|why| {
        let leads = why == "Running as a leader";
        let code = if leads { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CONFLICT };
        Refusal::new(code, why)
    })
}

fn parse<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, Refusal> {
    serde_json::from_value(Value::Object(body)).map_err(|e| Refusal::bad_request(format!("the request body: {e}")))
}
