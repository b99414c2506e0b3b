//! Request bodies: a JSON object, of limited size, within a limited time (`spec/rest-api.md §1.5`).

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::limits::{BODY_BYTES, Limits};
use super::respond::Refusal;

pub async fn optional(request: Request, limits: &Limits) -> Result<Map<String, Value>, Refusal> {
    let bytes = read(request, limits).await?;
    if bytes.is_empty() { Ok(Map::new()) } else { parse(&bytes) }
}

pub async fn required(request: Request, limits: &Limits) -> Result<Map<String, Value>, Refusal> {
    let headers = request.headers();
    if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "the request has no body; expected a JSON object"));
    }
    let bytes = read(request, limits).await?;
    if bytes.is_empty() {
        return Err(Refusal::bad_request("the request body is empty; expected a JSON object"));
    }
    let object = parse(&bytes)?;
    if object.is_empty() {
        return Err(Refusal::bad_request("the JSON object in the request body has no fields"));
    }
    Ok(object)
}

async fn read(request: Request, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES) {
        return Err(too_large());
    }
    let mut stream = request.into_body().into_data_stream();
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|e| Refusal::bad_request(format!("the request body broke off: {e}")).closing())?;
            if bytes.len() + chunk.len() > BODY_BYTES {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    tokio::time::timeout(limits.body_time, whole).await.unwrap_or_else(|_| {
        let message = format!("the request body did not arrive within {:?}", limits.body_time);
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message).closing())
    })
}

fn too_large() -> Refusal {
    let message = format!("the request body is larger than {BODY_BYTES} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message).closing()
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let wrong = |problem: String| Refusal::bad_request(format!("expected a JSON object, but {problem}"));
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(wrong(format!("the request body is {}", kind(&other)))),
        Err(e) => Err(wrong(format!("the request body is not JSON: {e}"))),
    }
}

pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
