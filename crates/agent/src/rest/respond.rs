//! Responses. JSON is laid out as peers lay it out: scripts search these answers for texts such as
//! `"role": "primary"`.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use surus_api::to_python_json;

pub fn status(code: StatusCode) -> Response {
    with_body(code, None, Vec::new())
}

pub fn json(code: StatusCode, document: &Value) -> Response {
    with_body(
        code,
        Some("application/json"),
        to_python_json(document).unwrap_or_else(|_| document.to_string()).into_bytes(),
    )
}

/// JSON that is written already.
pub fn document(body: Vec<u8>) -> Response {
    with_body(StatusCode::OK, Some("application/json"), body)
}

/// Not `text/html`, as peers say: these answers may repeat what the client sent.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response {
    with_body(code, Some("text/plain; charset=utf-8"), text.into().into_bytes())
}

pub fn file(kind: &'static str, body: &'static str) -> Response {
    with_body(StatusCode::OK, Some(kind), body)
}

pub fn metrics(body: String) -> Response {
    with_body(StatusCode::OK, Some("text/plain"), body.into_bytes())
}

/// The request was not read to its end: what follows on the connection is not another request.
pub fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Why a request is not carried out, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: StatusCode,
    text: String,
    closing: bool,
}

impl Refusal {
    pub fn new(code: StatusCode, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into(), closing: false }
    }

    pub fn bad_request(text: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, text)
    }

    pub fn unavailable(text: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    /// See [`closing`].
    pub fn closing(self) -> Refusal {
        Refusal { closing: true, ..self }
    }

    #[cfg(test)]
    pub fn parts(&self) -> (u16, &str) {
        (self.code.as_u16(), &self.text)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let response = text(self.code, self.text);
        if self.closing { closing(response) } else { response }
    }
}

fn with_body(code: StatusCode, content_type: Option<&'static str>, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}
